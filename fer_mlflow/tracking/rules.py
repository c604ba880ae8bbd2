"""What makes a run bad, or worth a warning: one small rule each, with the sentence that a user reads."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from fer_mlflow.tracking.evidence import Evidence
from fer_mlflow.tracking.run_table import RunRecord, infinite_metrics
from fer_mlflow.tracking.runs import metric_key
from fer_mlflow.tracking.searching import BUNDLED_KINDS
from fer_mlflow.tracking.triage_tags import BAD, WARN

ONE_CLASS = 0.95
METRIC_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rule:
    """A rule: `check` returns what was found, or nothing.

    Attributes
    ----------
    explanation : what it means, for the user
    needs_bundle : whether it looks into the bundle; its verdict stays where the bundle is not read again
    """

    name: str
    severity: str
    explanation: str
    needs_bundle: bool
    check: Callable[[RunRecord, "Surroundings"], str | None]


@dataclass
class Surroundings:
    """What a rule may look at besides the run itself.

    Attributes
    ----------
    usual_rows, usual_classes : selection digest -> what most of its runs have
    selections_of : benchmark name -> selection digests that runs call so
    evidence : run id -> what its bundle says
    majority : selection digest -> share of the most frequent label
    worse_than_teacher : run id -> sentence, for ensembles that are significantly worse than a teacher of theirs
    """

    now_ms: int
    stale_after_s: float
    usual_rows: dict[str, str] = field(default_factory=dict)
    usual_classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    selections_of: dict[str, set[str]] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    majority: dict[str, float] = field(default_factory=dict)
    worse_than_teacher: dict[str, str] = field(default_factory=dict)


def survey(
    runs: Iterable[RunRecord], evidence: Mapping[str, Evidence], now_ms: int, stale_after_s: float
) -> Surroundings:
    """Return what is usual among runs."""
    around = Surroundings(now_ms, stale_after_s, evidence=dict(evidence))
    rows: dict[str, Counter] = {}
    classes: dict[str, Counter] = {}
    for run in runs:
        if run.kind not in BUNDLED_KINDS or not run.selection:
            continue
        around.selections_of.setdefault(run.benchmark, set()).add(run.selection)
        found = evidence.get(run.run_id)
        if found is not None and (found.problem or found.selection not in ("", run.selection)):
            found = None  # it says nothing of this benchmark
        if found is not None or (_bundled(run) and "rows" in run.params):
            said = run.params["rows"] if found is None else str(found.rows)
            rows.setdefault(run.selection, Counter())[said] += 1
        if found is not None:
            classes.setdefault(run.selection, Counter())[found.classes] += 1
            if len(found.labels):
                around.majority[run.selection] = float(np.bincount(found.labels).max() / len(found.labels))
    around.usual_rows = {key: _most_common(counts) for key, counts in rows.items()}
    around.usual_classes = {key: _most_common(counts) for key, counts in classes.items()}
    return around


def _most_common(counts: Counter):
    """Return the value with the most runs, of several the first in order, so that the order of runs is no matter."""
    return min(counts, key=lambda value: (-counts[value], value))


def _ended_badly(run: RunRecord, _: Surroundings) -> str | None:
    if "fer.verdict" in run.tags:  # a comparison that cannot be made: `mlflow run` takes its exit status for a failure
        return None
    if run.status in ("FAILED", "KILLED"):
        said = run.tags.get("fer.error", "")
        return f"{run.status}: {said}" if said else run.status
    return None


def _stale(run: RunRecord, around: Surroundings) -> str | None:
    if run.status not in ("RUNNING", "SCHEDULED"):
        return None
    alive_ms = last_alive_ms(run)
    if around.now_ms - alive_ms <= around.stale_after_s * 1000:
        return None
    at = datetime.fromtimestamp(alive_ms / 1000, UTC)  # how long ago would be another text every time
    return f"{run.status}, last alive at {at:%Y-%m-%d %H:%M} UTC"


def last_alive_ms(run: RunRecord) -> int:
    """Return when a run's process last said that it is alive: its heartbeat, else when it started."""
    try:
        at = datetime.fromisoformat(json.loads(run.tags["fer.heartbeat"])["at"])
        return int(at.timestamp() * 1000)
    except (KeyError, ValueError, TypeError):
        return run.start_ms


def _bundled(run: RunRecord) -> bool:
    return run.kind in BUNDLED_KINDS and run.status == "FINISHED"


def _no_bundle(run: RunRecord, around: Surroundings) -> str | None:
    if not _bundled(run):
        return None
    if "fer.bundle_sha256" not in run.tags:
        return "no bundle was logged"
    return None


def _missing_files(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    return found.problem if found is not None and found.is_missing else None


def _does_not_verify(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    return found.problem if found is not None and found.problem and not found.is_missing else None


def _other_rows(run: RunRecord, around: Surroundings) -> str | None:
    usual = around.usual_rows.get(run.selection)
    if not _bundled(run) or usual is None or run.params.get("rows", "") == usual:
        return None
    return f"{run.params.get('rows') or 'no'} rows, the benchmark has {usual}"


def _rows_of_bundle(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    if found is None or found.problem:
        return None
    if str(found.rows) != run.params.get("rows"):
        return f"the bundle has {found.rows:,} rows, the run says {run.params.get('rows', 'nothing')}"
    if found.selection not in ("", run.selection):
        return f"the bundle is of selection {found.selection[:12]}, the run says {run.selection[:12] or 'nothing'}"
    return None


def _incomplete(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    if found is None or found.problem or found.rows >= found.selected_rows:
        return None
    return f"{found.selected_rows - found.rows:,} of {found.selected_rows:,} rows were left out as unreadable"


def _not_finite(run: RunRecord, _: Surroundings) -> str | None:
    return ", ".join(infinite_metrics(run)) or None


def _other_classes(run: RunRecord, around: Surroundings) -> str | None:
    found, usual = around.evidence.get(run.run_id), around.usual_classes.get(run.selection)
    if found is None or found.problem or usual is None or found.classes == usual:
        return None
    return f"{', '.join(found.classes)}; the benchmark's other runs have {', '.join(usual)}"


def _other_metrics(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    if found is None or found.problem:
        return None
    logged = {name: run.metrics.get(metric_key(*name.split("/")), float("nan")) for name in found.metrics}
    wrong = [
        f"{name} {logged[name]:.6g} for {value:.6g}"
        for name, value in found.metrics.items()
        if not abs(logged[name] - value) <= METRIC_TOLERANCE
    ]
    return ", ".join(wrong[:5]) if wrong else None


def _below_majority(run: RunRecord, around: Surroundings) -> str | None:
    majority, accuracy = around.majority.get(run.selection), run.metrics.get("accuracy")
    if not _bundled(run) or majority is None or accuracy is None or not accuracy <= majority:
        return None
    return f"accuracy {accuracy:.4f}, always saying the most frequent class gives {majority:.4f}"


def _one_class(run: RunRecord, around: Surroundings) -> str | None:
    found = around.evidence.get(run.run_id)
    if found is None or not len(found.predictions) or around.majority.get(run.selection, 1.0) > ONE_CLASS:
        return None
    counts = np.bincount(found.predictions, minlength=len(found.classes))
    share = counts.max() / len(found.predictions)
    return f"{found.classes[int(counts.argmax())]} takes {share:.1%} of predictions" if share > ONE_CLASS else None


def _worse_than_teacher(run: RunRecord, around: Surroundings) -> str | None:
    return around.worse_than_teacher.get(run.run_id)


def _alignment(run: RunRecord, _: Surroundings) -> str | None:
    said = run.tags.get("fer.alignment", "pass")
    return said.removeprefix("warn: ") if said.startswith("warn") else None


def _name_clash(run: RunRecord, around: Surroundings) -> str | None:
    selections = around.selections_of.get(run.benchmark, set())
    if not _bundled(run) or len(selections) < 2:
        return None
    others = ", ".join(sorted(each[:12] for each in selections - {run.selection}))
    return f"{run.benchmark} is {run.selection[:12]} here and {others} in other runs"


RULES = (
    Rule("ended badly", BAD, "the run failed or was killed", False, _ended_badly),
    Rule("stale", BAD, "the run never ended and its process is silent", False, _stale),
    Rule("no bundle", BAD, "an export without soft labels", False, _no_bundle),
    Rule("bundle incomplete", BAD, "files of the bundle are not in the artifact store", True, _missing_files),
    Rule("bundle broken", BAD, "the bundle does not verify, or is not the one that was logged", True, _does_not_verify),
    Rule("other rows", BAD, "the run has not the benchmark's rows", False, _other_rows),
    Rule("rows differ", BAD, "the bundle has not the rows that the run claims", True, _rows_of_bundle),
    Rule("not finite", BAD, "a metric is NaN or infinite", False, _not_finite),
    Rule("class order", BAD, "columns follow another class order than those of the other runs", True, _other_classes),
    Rule("metrics differ", BAD, "logged metrics are not what the bundle gives", True, _other_metrics),
    Rule("below majority", BAD, "always saying the most frequent class is as good", True, _below_majority),
    Rule("one class", BAD, "one class takes nearly all predictions", True, _one_class),
    Rule("rows left out", WARN, "unreadable images make it another benchmark", True, _incomplete),
    Rule(
        "worse than a teacher",
        WARN,
        "the ensemble is significantly worse than a teacher of its own",
        True,
        _worse_than_teacher,
    ),
    Rule("alignment", WARN, "statistics doubt that logits and labels belong together", False, _alignment),
    Rule("name clash", WARN, "one name for several benchmarks", False, _name_clash),
)
