"""What triage makes of every run: the evidence of its bundle, its verdict, and the tags that follow from it."""

import sys
import time
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from fer_mlflow.tracking.evidence import Evidence, EvidenceStore
from fer_mlflow.tracking.judgement import Judgement, judge, parse_reasons, wanted_tags
from fer_mlflow.tracking.leaderboard import Board, difference_p_value
from fer_mlflow.tracking.rules import Surroundings, survey
from fer_mlflow.tracking.run_table import RunRecord
from fer_mlflow.tracking.searching import BUNDLED_KINDS
from fer_mlflow.tracking.triage_tags import GOOD, REASONS, STATUS, is_by_person

RANKS = 10  # runs of a benchmark that get a tag for their rank: one more run moves no more than these


def judge_runs(runs: Sequence[RunRecord], store: EvidenceStore, options) -> tuple[dict[str, Judgement], Surroundings]:
    """Gather evidence where it is asked for, and judge every run."""
    bundled = [run for run in runs if run.kind in BUNDLED_KINDS and run.status == "FINISHED"]
    evidence = {run.run_id: found for run in bundled if (found := store.kept(run)) is not None}
    # A run that was never judged is held against the others of its benchmark, so what those say has to be known, too.
    new = {run.selection for run in bundled if STATUS not in run.tags}
    asked = [
        run
        for run in bundled
        if "fer.bundle_sha256" in run.tags
        and (
            options["deep"] == "true"
            or (options["deep"] == "auto" and run.selection in new and run.run_id not in evidence)
            or (options["deep"] == "auto" and _is_disputed(run, evidence.get(run.run_id)))
        )
    ]
    for run in tqdm(asked, desc="reading bundles", unit=" runs", disable=not sys.stderr.isatty()):
        evidence[run.run_id] = store.gather(run)
    around = survey(runs, evidence, int(time.time() * 1000), options["stale_after"])
    around.worse_than_teacher = _worse_than_teacher(bundled, evidence)
    return judge(runs, around), around


def _is_disputed(run: RunRecord, kept: Evidence | None) -> bool:
    """Return whether another machine found of a run's bundle what is not remembered here, or the other way round."""
    if kept is None or STATUS not in run.tags or is_by_person(run.tags):
        return False
    said = dict(parse_reasons(run.tags.get(REASONS, "")))
    return bool(kept.problem) != bool(said.keys() & {"bundle broken", "bundle incomplete"})


def _worse_than_teacher(bundled: Sequence[RunRecord], evidence: Mapping[str, Evidence]) -> dict[str, str]:
    """Return run id -> sentence for ensembles whose macro-F1 is significantly below a teacher's of their own."""
    by_id = {run.run_id: run for run in bundled}
    found = {}
    for run in bundled:
        own = evidence.get(run.run_id)
        ids = [text for tag, text in run.tags.items() if tag.startswith("fer.teacher_run/")]
        teachers = [by_id[each] for each in ids if each in by_id and each in evidence]
        best = max(teachers, key=lambda each: each.metrics.get("macro_f1", 0.0), default=None)
        if own is None or own.problem or best is None or len(ids) < 2:
            continue
        ours, theirs = run.metrics.get("macro_f1", 1.0), best.metrics.get("macro_f1", 0.0)
        p_value = difference_p_value(evidence[best.run_id], own, "macro_f1") if ours < theirs else None
        if p_value is not None and p_value < 0.05:
            name = best.params.get("ensemble", best.run_id).partition("=")[0]
            found[run.run_id] = f"macro-F1 {ours:.4f}, {name} alone has {theirs:.4f} (p = {p_value:.4f})"
    return found


def tags_of_runs(runs, judgements, boards: Sequence[Board], around: Surroundings) -> dict[str, dict]:
    """Return run id -> triage's tags as they should be."""
    good = ([entry.run_id for entry in board.entries if entry.status == GOOD] for board in boards)
    ranks = {run_id: rank for ids in good for rank, run_id in enumerate(ids[:RANKS], start=1)}
    wanted: dict[str, dict] = {}
    for run in runs:
        if run.kind == "triage" and judgements[run.run_id].status == GOOD:
            wanted[run.run_id] = {}  # our own runs: tagging them would give every triage something to write
            continue
        clash = len(around.selections_of.get(run.benchmark, ())) > 1
        benchmark = f"{run.benchmark} ({run.selection[:8]})" if clash else run.benchmark
        wanted[run.run_id] = wanted_tags(run, judgements[run.run_id], benchmark, ranks.get(run.run_id))
    return wanted
