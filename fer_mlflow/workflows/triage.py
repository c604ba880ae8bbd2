"""`triage`: which runs to use. Judges and tags every run, and ranks the good ones on each benchmark."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import pandas as pd

from fer_mlflow.errors import ContractError, RunError
from fer_mlflow.files import cache_folder
from fer_mlflow.progress import Progress, no_progress, track
from fer_mlflow.settings.scoring import TriageSettings
from fer_mlflow.tables import one_line
from fer_mlflow.tracking import bundles, store, triage as rules
from fer_mlflow.tracking.records import ENTRY, Evidence, EvidenceStore, Judgement, RunRecord, read_records, record_of
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.workflows import RunResult, leaderboards, warn, workflow

_AT_ONCE = 50  # runs that are read again just before their tags are written: another person may have set their status
Changes = dict[str, dict[str, str | None]]  # run id -> tag -> its new text, or None where it is to be deleted
RANKS = 10  # runs of a benchmark that get a tag for their rank: one more run moves no more than these


@dataclass(frozen=True, kw_only=True, repr=False)
class TriageResult(RunResult):
    """What triage found and did; `run_id` and `ui` are empty where it logged no run.

    Attributes
    ----------
    action : what was done: judge all runs, clear their tags, or set the status of one run
    dry_run : whether nothing was changed
    runs : run id -> record of every run, as it was read
    judgements : run id -> status and reasons
    changes : run id -> tag -> new text, or None where it was deleted
    ended : ids of the dead runs that were ended -> FAILED where the command never started, else KILLED
    leaderboard : the runs shown, by benchmark, best first, with intervals and paired tests; see `build_leaderboard`
    left_out : selection digest -> ids of the bad and doubtful runs that are not shown, newest first
    across : configurations × benchmarks, see `rank_across`; None where it was not requested
    in_sample : benchmarks left out of `across`, since teachers were trained on their rows
    metric : ranks the leaderboard
    classes : those whose F1 the leaderboard shows
    replaced : the status that another person, or the same one earlier, had set of the run whose status is set
    """

    action: Literal["judge", "clear", "bad", "keep"]
    dry_run: bool
    changes: Mapping[str, Mapping[str, str | None]]
    runs: Mapping[str, RunRecord] = field(default_factory=dict)
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    leaderboard: pd.DataFrame = field(default_factory=pd.DataFrame)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    across: pd.DataFrame | None = None
    in_sample: tuple[str, ...] = ()
    metric: str = ""
    classes: tuple[str, ...] = ()
    replaced: str = ""
    not_in_json = ("runs",)

    @property
    def left_out_lines(self) -> dict[str, list[str]]:
        """Selection digest -> the lines about the runs that are not on its leaderboard."""
        return {
            selection: leaderboards.left_out_lines([self.runs[each] for each in ids], self.judgements)
            for selection, ids in self.left_out.items()
        }


@workflow(TriageSettings)
def triage(settings: TriageSettings, progress: Progress = no_progress) -> TriageResult:
    """Judge every run on the tracking server, tag it, and rank the good ones benchmark by benchmark.

    Nothing is moved or deleted, and every tag can be removed again.

    Raises RunError: there is no run, or the run whose status is to be set is unknown. Raises ContractError: no run is
    on the benchmark, or has the metric.
    """
    client = store.connect()
    if settings.bad or settings.keep:
        return _overrule(client, settings)
    runs = read_records(client)
    if not runs:
        raise RunError("the tracking store has no run of this package yet; export some soft labels first")
    by_id = {run.run_id: run for run in runs}
    if settings.clear:
        if settings.clear != "true":
            run_id = bundles.read_run(client, settings.clear).info.run_id
            by_id = {each: run for each, run in by_id.items() if each == run_id}
        changed = {each: tags for each, run in by_id.items() if (tags := _own_tags(run, settings.clear != "true"))}
        changed = _write(client, changed, by_id, settings, progress)
        return TriageResult(action="clear", dry_run=settings.dry_run, changes=changed, runs=by_id)
    _check_benchmark(settings.benchmark, runs)
    kept = EvidenceStore(client, cache_folder())
    evidence = _read_evidence(runs, kept, settings.deep, progress)
    context = rules.build_context(runs, evidence, int(time.time() * 1000), settings.stale_after)
    judgements = rules.judge(runs, context)
    statuses = store.STATUSES if settings.even_bad else (store.GOOD,)
    whole = leaderboards.build_leaderboard(runs, judgements, settings.metric, statuses)
    names = zip(whole[leaderboards.BOARD], whole["benchmark"], strict=True)
    shown = whole.loc[[_is_of(*each, settings.benchmark) for each in names]]
    shown = shown[shown["rank"] <= (settings.top or len(whole))]
    if settings.deep != "false":
        evidence |= {each: kept.read(by_id[each]) for each in shown["run_id"] if each not in evidence}
    shown = leaderboards.add_significance(shown, settings.metric, evidence)
    # What is shown must not change what is tagged: only the usual number of good runs is tested for descriptions.
    tested = shown if settings.top == TriageSettings.top and not settings.even_bad else shown[:0]
    texts = {line["run_id"]: leaderboards.significance_text(line) for line in tested.to_dict("records")}
    changed = _changed_tags(judgements, whole, texts, context)
    ended = _reap(client, runs, judgements, settings.dry_run) if settings.reap else {}
    changed = _write(client, changed, by_id, settings, progress)
    left_out = leaderboards.find_left_out(runs, judgements, statuses).items()
    result = TriageResult(
        action="judge",
        dry_run=settings.dry_run,
        changes=changed,
        runs=by_id,
        judgements=judgements,
        ended=ended,
        leaderboard=shown,
        left_out={each: ids for each, ids in left_out if _is_of(each, by_id[ids[0]].benchmark, settings.benchmark)},
        across=leaderboards.rank_across(whole, settings.metric) if settings.across else None,
        metric=settings.metric,
        classes=settings.classes,
        in_sample=tuple(whole.loc[whole["in_sample"].astype(bool), "benchmark"].unique()),
    )
    return result if settings.dry_run else _log(client, settings, result)


def _overrule(client, settings: TriageSettings) -> TriageResult:
    """Set a run's status for a person; no rule changes it any more."""
    action: Literal["bad", "keep"] = "bad" if settings.bad else "keep"
    run = bundles.read_run(client, settings.bad or settings.keep or "")
    before, status = run.data.tags, store.BAD if settings.bad else store.GOOD
    replaced = ""
    if person := store.person_of(before):
        word = f"{before[store.STATUS]} {person}" if person == "by hand" else before[store.OVERRULED]
        replaced = f"{word} (“{before[store.REASONS]}”)" if store.REASONS in before else word
    word = f"{status} by {one_line(store.user_name()).strip()} at {datetime.now(UTC):%Y-%m-%dT%H:%MZ}"
    tags = {store.STATUS: status, store.WRITTEN: status, store.OVERRULED: word, store.REASONS: settings.reason}
    tags[store.NOTE] = rules.noted(before.get(store.NOTE, ""), Judgement(status, (settings.reason or "",)))
    changes = {run.info.run_id: tags}
    if not settings.dry_run:
        store.write_tags(client, changes)
    return TriageResult(action=action, dry_run=settings.dry_run, changes=changes, replaced=replaced)


def _own_tags(run: RunRecord, is_named: bool) -> dict[str, str | None]:
    """Return triage's tags of a run, to be deleted, and its description without triage's line.

    A status set by hand stays unless the run is named.
    """
    by_hand = not is_named and store.STATUS in run.tags and run.tags.get(store.WRITTEN) != run.tags[store.STATUS]
    tags = {name: None for name in store.TRIAGE_TAGS if name in run.tags and not (by_hand and name == store.STATUS)}
    return tags | rules.changes(run, {store.NOTE: rules.noted(run.tags.get(store.NOTE, ""))})


def _write(client, changed: Changes, runs: Mapping[str, RunRecord], settings: TriageSettings, progress) -> Changes:
    """Write tags unless this is a dry run; return them without those of runs whose status a person set meanwhile."""
    if settings.dry_run or not changed:
        return changed
    written: Changes = {}
    ids = list(changed)
    with progress("tagging runs", len(ids)) as count:
        for start in range(0, len(ids), _AT_ONCE):
            names = ", ".join(f"'{each}'" for each in ids[start : start + _AT_ONCE])
            for now in store.search_runs(client, f"attributes.run_id IN ({names})"):
                run_id = now.info.run_id
                if store.person_of(now.data.tags) and not store.person_of(runs[run_id].tags):
                    warn(f"run {run_id}: a person has set its status meanwhile, which stays")
                else:
                    if now.data.tags.get(store.NOTE) != runs[run_id].tags.get(store.NOTE):
                        changed[run_id].pop(store.NOTE, None)  # somebody writes there now
                    store.write_tags(client, {run_id: changed[run_id]}, count)
                    written[run_id] = changed[run_id]
    return written


def _check_benchmark(named: str | None, runs: Sequence[RunRecord]) -> None:
    """Refuse a benchmark that no run has, naming those that there are."""
    known = {(run.benchmark, run.selection) for run in runs if run.kind in store.BUNDLED_KINDS and run.selection}
    if named and not any(_is_of(selection, name, named) for name, selection in known):
        names = ", ".join(f"{name} ({selection[:8]})" for name, selection in sorted(known)) or "none"
        raise ContractError(f"--benchmark {named}: no run has it; there are {names}")


def _is_of(selection: str, name: str, named: str | None) -> bool:
    """Return whether a benchmark is the named one: by its name, or by 6 or more first digits of its digest."""
    plain = name.removesuffix(f" ({selection[:8]})")  # leaderboards of one name differ in this
    names = (plain, f"{plain} ({selection[:8]})")
    return not named or named in names or (len(named) >= 6 and selection.startswith(named))


def _read_evidence(runs: Sequence[RunRecord], kept: EvidenceStore, deep: str, progress) -> dict[str, Evidence]:
    """Return the evidence on runs, from the cache folder, and from the bundles that `deep` has read now."""
    bundled = [run for run in runs if run.is_bundled]
    evidence = {run.run_id: known for run in bundled if (known := kept.load(run)) is not None}
    # A run that was never judged is compared with the others of its benchmark, so their bundles have to be known, too.
    new = {run.selection for run in bundled if store.STATUS not in run.tags}

    def is_due(run: RunRecord) -> bool:
        if deep != "auto" or run.run_id not in evidence:
            return deep == "true" or (deep == "auto" and run.selection in new)
        # Another triage has called the bundle broken, which was sound when it was read here.
        reasons = rules.parse_reasons(run.tags.get(store.REASONS, ""))
        return not store.person_of(run.tags) and bool(reasons.keys() & {"bundle broken", "bundle incomplete"})

    due = [run for run in bundled if "fer.bundle_sha256" in run.tags and is_due(run)]
    for run in track(due, "reading bundles", len(due), progress):
        evidence[run.run_id] = kept.read(run)
    return evidence


def _changed_tags(
    judgements: Mapping[str, Judgement], whole: pd.DataFrame, tested: Mapping[str, str], context: rules.Context
) -> Changes:
    """Return the tags of triage, and the description with its line, that are not as they should be."""
    good = whole[whole["status"] == store.GOOD]
    counts, best = good[leaderboards.BOARD].value_counts(), good.groupby(leaderboards.BOARD).head(RANKS)
    ranks = dict(zip(best["run_id"], best.groupby(leaderboards.BOARD).cumcount() + 1, strict=True))
    changed = {}
    for run in context.runs.values():
        judgement, rank = judgements[run.run_id], ranks.get(run.run_id)
        if run.kind == "triage" and judgement.status == store.GOOD:
            continue  # else every triage would have something to write
        clash = len(context.selections_of.get(run.benchmark, ())) > 1
        benchmark = f"{run.benchmark} ({run.selection[:8]})" if clash else run.benchmark
        wanted = rules.wanted_tags(run, judgement, benchmark, rank)
        place = f"rank {rank} of {counts[run.selection]} on {store.split_first(run.benchmark)}" if rank else ""
        known = tested.get(run.run_id, "") if rank else ""
        wanted[store.NOTE] = rules.noted(run.tags.get(store.NOTE, ""), judgement, place, known)
        if tags := rules.changes(run, wanted):
            changed[run.run_id] = tags
    return changed


def _reap(client, runs: Sequence[RunRecord], judgements: Mapping[str, Judgement], dry_run: bool) -> dict[str, str]:
    """End dead runs, and return their ids and new statuses."""
    ended = {}
    for run in runs:
        judgement = judgements[run.run_id]
        is_stale = not judgement.by_person and any(reason.startswith("stale: ") for reason in judgement.reasons)
        if is_stale and run.status in ("RUNNING", "SCHEDULED") and (dry_run or _end_if_dead(client, run)):
            ended[run.run_id] = "KILLED" if run.kind else "FAILED"
    return ended


def _end_if_dead(client, run: RunRecord) -> bool:
    """End a run unless it had a heartbeat, or its command started, since it was read, which may be a while ago."""
    with store.tracking_errors(f"ending run {run.run_id}"):
        now = record_of(client.get_run(run.run_id))
        if (now.status, now.kind, rules.last_alive_ms(now)) != (run.status, run.kind, rules.last_alive_ms(run)):
            return False
        if run.kind:
            client.set_terminated(run.run_id, "KILLED")
        else:
            store.record_failure(run.run_id, run.tags[ENTRY], rules.NEVER_STARTED, client=client)
    return True


def _log(client, settings: TriageSettings, result: TriageResult) -> TriageResult:
    """Log leaderboards and bad runs to a triage run, and make the UI show them."""
    runs, frame, across = list(result.runs.values()), result.leaderboard, result.across
    files = {
        "leaderboard.md": leaderboards.as_markdown(frame, settings.metric, across, result.left_out_lines),
        "leaderboard.csv": leaderboards.as_csv(frame),
        "leaderboard.html": leaderboards.as_page(frame, settings.metric, across, store.run_address),
    }
    with open_run("triage", settings.name or f"triage · {len(runs):,} runs", settings.experiment) as run:
        counts = Counter(judgement.status for judgement in result.judgements.values())
        run.log(settings.params, {f"runs_{status}": float(counts[status]) for status in store.STATUSES})
        best = {each["benchmark"]: each for each in frame.drop_duplicates(leaderboards.BOARD).to_dict("records")}
        metric, verdict = settings.metric, ", ".join(f"**{counts[status]:,}** {status}" for status in store.STATUSES)
        about = [f"best on {name}: {each['configuration']}, {metric} {each[metric]:.4f}" for name, each in best.items()]
        run.describe(verdict, "; ".join(about), {name: each["run_id"] for name, each in best.items()})
        for name, text in files.items():
            run.log_text(name, text)
        for experiment in sorted({each.experiment_id for each in runs}):
            own = [board for board in leaderboards.boards_of(frame) if (board["experiment_id"] == experiment).any()]
            note = None  # leaderboards of one benchmark would replace those of all
            if not settings.benchmark:
                note = leaderboards.as_note(pd.concat(own) if own else frame[:0], settings.metric)
            bundled = [each for each in runs if each.is_bundled and each.selection and each.experiment_id == experiment]
            benchmarks = {each.selection: each.benchmark for each in bundled}
            store.furnish_experiment(client, experiment, benchmarks, settings.metric, is_judged=True, note=note)
    first = frame[:1].to_dict("records") or [{"experiment_id": run.experiment_id, leaderboards.BOARD: ""}]
    ui = store.ui_address(first[0]["experiment_id"], first[0][leaderboards.BOARD])
    return replace(result, run_id=run.run_id, ui=ui)
