"""Triage rules, and the judgement of runs by them. Each rule is a function of a run and its context."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from fer_mlflow.tables import escape_markdown
from fer_mlflow.tracking import store
from fer_mlflow.tracking.records import SIGNIFICANT, Evidence, Judgement, RunRecord, difference_p_value
from fer_mlflow.tracking.runs import metric_key
from fer_mlflow.tracking.store import BAD, BUNDLED_KINDS, GOOD, TEACHER_RUN, WARN

BETWEEN = "; "  # two reasons
ONE_CLASS = 0.95
METRIC_TOLERANCE = 1e-6
_LINE = "triage: "  # begins triage's line in a description
NEVER_STARTED = (
    "the command never started: `mlflow run` refused a parameter, such as a path that does not exist, "
    "or could not make the environment"
)


@dataclass(frozen=True)
class Context:
    """What a triage rule may read besides the run."""

    now_ms: int
    stale_after_s: float
    runs: Mapping[str, RunRecord]  # by run id, all of them
    evidence: Mapping[str, Evidence]  # by run id, of the bundles that were read
    usual_rows: Mapping[str, str]  # selection digest -> the most common row count among its runs
    usual_classes: Mapping[str, tuple[str, ...]]  # selection digest -> the most common class order
    selections_of: Mapping[str, set[str]]  # benchmark name -> selection digests of the runs on it
    majority: Mapping[str, float]  # selection digest -> share of the most frequent label

    def sound_evidence(self, run: RunRecord) -> Evidence | None:
        """Return what a run's bundle contains, where it was read and verifies."""
        evidence = self.evidence.get(run.run_id)
        return None if evidence is None or evidence.problem else evidence


def build_context(
    runs: Iterable[RunRecord], evidence: Mapping[str, Evidence], now_ms: int, stale_after_s: float
) -> Context:
    """Return the context of runs: the most common row count and class order of each benchmark, and its majority."""
    by_id = {run.run_id: run for run in runs}
    rows: dict[str, Counter] = defaultdict(Counter)
    classes: dict[str, Counter] = defaultdict(Counter)
    selections_of: dict[str, set[str]] = defaultdict(set)
    majority: dict[str, float] = {}
    for run in by_id.values():
        if run.kind not in BUNDLED_KINDS or not run.selection:
            continue
        selections_of[run.benchmark].add(run.selection)
        own = evidence.get(run.run_id)
        if own is not None and not own.problem and own.selection in ("", run.selection):
            rows[run.selection][str(own.rows)] += 1
            classes[run.selection][own.classes] += 1
            if len(own.labels):
                majority[run.selection] = float(np.bincount(own.labels).max() / len(own.labels))
        elif run.is_bundled and "rows" in run.params:
            rows[run.selection][run.params["rows"]] += 1
    usual_rows, usual_classes = ({key: _most_common(each) for key, each in found.items()} for found in (rows, classes))
    return Context(now_ms, stale_after_s, by_id, evidence, usual_rows, usual_classes, selections_of, majority)


def _most_common(counts: Counter):
    """Return the most common value, of several the first in order, so that the order of runs has no effect."""
    return min(counts, key=lambda value: (-counts[value], value))


@dataclass(frozen=True)
class Rule:
    """A triage rule."""

    name: str
    severity: str
    explanation: str  # what it means, for the user
    needs_bundle: bool  # its last reason stays where the bundle is not read again
    check: Callable[[RunRecord, Context], str | None]


def _ended_badly(run: RunRecord, _: Context) -> str | None:
    if "fer.verdict" in run.tags:  # a comparison that cannot be made: `mlflow run` takes its exit status for a failure
        return None
    if run.status not in ("FAILED", "KILLED"):
        return None
    return ": ".join(filter(None, (run.status, run.tags.get("fer.error", ""))))


def _stale(run: RunRecord, context: Context) -> str | None:
    alive_ms = last_alive_ms(run)
    if run.status not in ("RUNNING", "SCHEDULED") or context.now_ms - alive_ms <= context.stale_after_s * 1000:
        return None
    at = datetime.fromtimestamp(alive_ms / 1000, UTC)  # an age would be another text every time
    if not run.kind:
        return f"{run.status} since {at:%Y-%m-%d %H:%M} UTC, {NEVER_STARTED}"
    return f"{run.status}, last alive at {at:%Y-%m-%d %H:%M} UTC"


def last_alive_ms(run: RunRecord) -> int:
    """Return the time of a run's last heartbeat, else of its start."""
    try:
        at = datetime.fromisoformat(json.loads(run.tags["fer.heartbeat"])["at"])
        return int(at.timestamp() * 1000)
    except (KeyError, ValueError, TypeError):
        return run.start_ms


def _no_bundle(run: RunRecord, _: Context) -> str | None:
    return "no bundle was logged" if run.is_bundled and "fer.bundle_sha256" not in run.tags else None


def _bundle_incomplete(run: RunRecord, context: Context) -> str | None:
    evidence = context.evidence.get(run.run_id)
    return evidence.problem if evidence is not None and evidence.is_missing else None


def _bundle_broken(run: RunRecord, context: Context) -> str | None:
    evidence = context.evidence.get(run.run_id)
    return evidence.problem or None if evidence is not None and not evidence.is_missing else None


def _other_rows(run: RunRecord, context: Context) -> str | None:
    usual = context.usual_rows.get(run.selection)
    if not run.is_bundled or usual is None or run.params.get("rows", "") == usual:
        return None
    return f"{run.params.get('rows') or 'no'} rows, the benchmark has {usual}"


def _rows_differ(run: RunRecord, context: Context) -> str | None:
    evidence = context.sound_evidence(run)
    if evidence is None:
        return None
    if str(evidence.rows) != run.params.get("rows"):
        return f"the bundle has {evidence.rows:,} rows, the run's param is {run.params.get('rows', 'missing')}"
    if evidence.selection not in ("", run.selection):
        tag = run.selection[:12] or "missing"
        return f"the bundle is of selection {evidence.selection[:12]}, the run's tag is {tag}"
    return None


def _rows_left_out(run: RunRecord, context: Context) -> str | None:
    evidence = context.sound_evidence(run)
    if evidence is None or evidence.rows >= evidence.selected_rows:
        return None
    left_out = evidence.selected_rows - evidence.rows
    return f"{left_out:,} of {evidence.selected_rows:,} rows were left out as unreadable"


def _not_finite(run: RunRecord, _: Context) -> str | None:
    largest = np.finfo(float).max  # which MLflow stores for infinity
    return ", ".join(sorted(name for name, value in run.metrics.items() if not abs(value) < largest)) or None


def _class_order(run: RunRecord, context: Context) -> str | None:
    evidence, usual = context.sound_evidence(run), context.usual_classes.get(run.selection)
    if evidence is None or usual is None or evidence.classes == usual:
        return None
    return f"{', '.join(evidence.classes)}; the benchmark's other runs have {', '.join(usual)}"


def _metrics_differ(run: RunRecord, context: Context) -> str | None:
    evidence = context.sound_evidence(run)
    if evidence is None:
        return None
    keys = {name: metric_key(*name.split("/")) for name in evidence.metrics}
    wrong = [
        f"{name} {run.metrics[keys[name]]:.6g} for {value:.6g}"
        for name, value in evidence.metrics.items()
        if keys[name] in run.metrics and not abs(run.metrics[keys[name]] - value) <= METRIC_TOLERANCE
    ]
    return ", ".join(wrong[:5]) or None


def _below_majority(run: RunRecord, context: Context) -> str | None:
    majority, accuracy = context.majority.get(run.selection), run.metrics.get("accuracy")
    if not run.is_bundled or majority is None or accuracy is None or not accuracy <= majority:
        return None
    return f"accuracy {accuracy:.4f}, always predicting the most frequent class gives {majority:.4f}"


def _one_class(run: RunRecord, context: Context) -> str | None:
    evidence = context.sound_evidence(run)
    if evidence is None or not len(evidence.predictions) or context.majority.get(run.selection, 1.0) > ONE_CLASS:
        return None
    counts = np.bincount(evidence.predictions, minlength=len(evidence.classes))
    share = counts.max() / len(evidence.predictions)
    return f"{evidence.classes[int(counts.argmax())]} takes {share:.1%} of predictions" if share > ONE_CLASS else None


def _worse_than_a_teacher(run: RunRecord, context: Context) -> str | None:
    evidence = context.sound_evidence(run)
    ids = [text for tag, text in run.tags.items() if tag.startswith(TEACHER_RUN)]
    teachers = [context.runs[each] for each in ids if each in context.runs and each in context.evidence]
    best = max(teachers, key=lambda each: each.metrics.get("macro_f1", 0.0), default=None)
    if evidence is None or best is None or len(ids) < 2:
        return None
    ours, theirs = run.metrics.get("macro_f1", 1.0), best.metrics.get("macro_f1", 0.0)
    p_value = difference_p_value(context.evidence[best.run_id], evidence, "macro_f1") if ours < theirs else None
    if p_value is None or p_value >= SIGNIFICANT:
        return None
    name = best.params.get("ensemble", best.run_id).partition("=")[0]
    return f"macro-F1 {ours:.4f}, {name} alone has {theirs:.4f} (p = {p_value:.4f})"


def _alignment(run: RunRecord, _: Context) -> str | None:
    verdict = run.tags.get("fer.alignment", "pass")
    return verdict.removeprefix("warn: ") if verdict.startswith("warn") else None


def _name_clash(run: RunRecord, context: Context) -> str | None:
    selections = context.selections_of.get(run.benchmark, set())
    if not run.is_bundled or len(selections) < 2:
        return None
    others = ", ".join(sorted(each[:12] for each in selections - {run.selection}))
    return f"{run.benchmark} is {run.selection[:12]} here and {others} in other runs"


RULES = (
    Rule("ended badly", BAD, "the run failed or was killed", False, _ended_badly),
    Rule("stale", BAD, "the run never ended and its process is silent", False, _stale),
    Rule("no bundle", BAD, "an export without soft labels", False, _no_bundle),
    Rule("bundle incomplete", BAD, "files of the bundle are not in the artifact store", True, _bundle_incomplete),
    Rule("bundle broken", BAD, "the bundle does not verify, or is not the one that was logged", True, _bundle_broken),
    Rule("other rows", BAD, "the run does not have the benchmark's rows", False, _other_rows),
    Rule("rows differ", BAD, "the bundle does not have the rows of the run's params", True, _rows_differ),
    Rule("not finite", BAD, "a metric is NaN or infinite", False, _not_finite),
    Rule("class order", BAD, "columns follow another class order than those of the other runs", True, _class_order),
    Rule("metrics differ", BAD, "logged metrics are not those of the bundle", True, _metrics_differ),
    Rule("below majority", BAD, "always predicting the most frequent class is as good", True, _below_majority),
    Rule("one class", BAD, "one class takes nearly all predictions", True, _one_class),
    Rule("rows left out", WARN, "unreadable images make it another benchmark", True, _rows_left_out),
    Rule("worse than a teacher", WARN, "significantly worse than a teacher of its own", True, _worse_than_a_teacher),
    Rule("alignment", WARN, "statistics doubt that logits and labels belong together", False, _alignment),
    Rule("name clash", WARN, "one name for several benchmarks", False, _name_clash),
)


def judge(runs: Sequence[RunRecord], context: Context) -> dict[str, Judgement]:
    """Return run id -> judgement.

    `superseded` are runs whose configuration a newer run has, unless that one is bad.
    """
    judgements = {run.run_id: judge_one(run, context) for run in runs}
    newest: dict[tuple[str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda each: (each.start_ms, each.run_id), reverse=True):
        key = run.kind, run.tags.get("fer.config_key", "")
        if not key[1] or run.status != "FINISHED" or judgements[run.run_id].status == BAD:
            continue
        newer = newest.setdefault(key, run)
        if newer is not run and not judgements[run.run_id].by_person:
            reason = f"superseded: run {newer.run_id} has the same configuration and is newer"
            judgements[run.run_id] = Judgement(store.SUPERSEDED, (reason,))
    return judgements


def judge_one(run: RunRecord, context: Context) -> Judgement:
    """Return the judgement of one run, apart from newer runs of its configuration."""
    before = run.tags.get(store.REASONS, "")
    if store.person_of(run.tags):
        return Judgement(run.tags[store.STATUS], (before,) if before else (), by_person=True)
    earlier = parse_reasons(before)
    reasons: list[str] = []
    severities = set()
    for rule in RULES:
        reason = rule.check(run, context)
        if reason is None and rule.needs_bundle and run.run_id not in context.evidence:
            reason = earlier.get(rule.name)  # the bundle was read before, or elsewhere, and not now
        if reason is not None:
            reasons.append(f"{rule.name}: {reason}".replace(BETWEEN, ", "))
            severities.add(rule.severity)
    status = BAD if BAD in severities else WARN if WARN in severities else GOOD
    return Judgement(status, tuple(reasons))


def parse_reasons(text: str) -> dict[str, str]:
    """Return rule -> reason of a tag's text."""
    parts = (part.partition(": ") for part in text.split(BETWEEN) if part)
    return {name: reason for name, _, reason in parts}


def wanted_tags(run: RunRecord, judgement: Judgement, benchmark: str, rank: int | None) -> dict[str, str | None]:
    """Return triage's tags of a run as they should be; None for one that should not be there."""
    ranked = str(rank) if rank is not None else None
    if judgement.by_person:
        return {store.RANK: ranked}
    return {
        store.STATUS: judgement.status,
        store.REASONS: BETWEEN.join(judgement.reasons)[: store.TAG_LENGTH] or None,
        store.BENCHMARK: benchmark or None,
        store.RANK: ranked,
        store.WRITTEN: judgement.status,
    }


def noted(note: str, judgement: Judgement | None = None, place: str = "", tested: str = "") -> str | None:
    """Return a description with triage's line in place of the one there (removed without a judgement); None if empty.

    What a person wrote stays. A line that goes on after the same `place` stays where nothing is `tested` now. Where the
    text would be too long for a tag, the line is left out.

    >>> noted("mine", Judgement("good")), noted("triage: bad")
    ('mine\\n\\ntriage: good', None)
    >>> noted("triage: good · rank 1 of 2 · ≈", Judgement("good"), "rank 1 of 2")
    'triage: good · rank 1 of 2 · ≈'
    """
    paragraphs, line = note.split("\n\n"), ""
    if judgement is not None:
        reasons = BETWEEN.join(judgement.reasons).removeprefix(f"{judgement.status}: ")[:500]
        line = escape_markdown(_LINE + " · ".join(filter(None, [judgement.status, reasons, place, tested])))
        if place and not tested:
            line = next((each for each in paragraphs if each.startswith(f"{line} · ")), line)
    others = [each for each in paragraphs if not each.startswith(_LINE)]
    text = "\n\n".join(filter(None, [*others, line]))
    return (text if len(text) <= store.TAG_LENGTH else "\n\n".join(others)) or None


def changes(run: RunRecord, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return those of the wanted tags that differ from the run's."""
    return {name: text for name, text in wanted.items() if run.tags.get(name) != text}
