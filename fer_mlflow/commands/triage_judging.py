"""What triage makes of every run: the evidence on its bundle, its judgement, and the tags that follow from it."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from fer_mlflow.tracking.leaderboard import Board
from fer_mlflow.tracking.searching import BUNDLED_KINDS
from fer_mlflow.tracking.triage.evidence import EvidenceStore
from fer_mlflow.tracking.triage.judgement import Judgement, judge, parse_reasons, wanted_tags
from fer_mlflow.tracking.triage.records import RunRecord
from fer_mlflow.tracking.triage.rules import Context, build_context
from fer_mlflow.tracking.triage.tags import GOOD, REASONS, STATUS, is_by_person

RANKS = 10  # runs of a benchmark that get a tag for their rank: one more run moves no more than these


def judge_runs(runs: Sequence[RunRecord], store: EvidenceStore, options) -> tuple[dict[str, Judgement], Context]:
    """Read bundles where needed, and judge every run."""
    bundled = [run for run in runs if run.kind in BUNDLED_KINDS and run.status == "FINISHED"]
    evidence = {run.run_id: known for run in bundled if (known := store.load(run)) is not None}
    # A run that was never judged is compared with the others of its benchmark, so their bundles have to be known, too.
    new = {run.selection for run in bundled if STATUS not in run.tags}
    wanted = {
        "true": lambda run: True,
        "auto": lambda run: (run.selection in new) if run.run_id not in evidence else _is_called_broken(run),
        "false": lambda run: False,
    }[options["deep"]]
    due = [run for run in bundled if "fer.bundle_sha256" in run.tags and wanted(run)]
    for run in tqdm(due, desc="reading bundles", unit=" runs", disable=not sys.stderr.isatty()):
        evidence[run.run_id] = store.read(run)
    context = build_context(runs, evidence, int(time.time() * 1000), options["stale_after"])
    return judge(runs, context), context


def _is_called_broken(run: RunRecord) -> bool:
    """Return whether another triage has called a run's bundle broken, which was sound when it was read here."""
    reasons = dict(parse_reasons(run.tags.get(REASONS, "")))
    return not is_by_person(run.tags) and bool(reasons.keys() & {"bundle broken", "bundle incomplete"})


def tags_of_runs(runs, judgements, boards: Sequence[Board], context: Context) -> dict[str, dict]:
    """Return run id -> triage's tags as they should be."""
    good = ([entry.run_id for entry in board.entries if entry.status == GOOD] for board in boards)
    ranks = {run_id: rank for ids in good for rank, run_id in enumerate(ids[:RANKS], start=1)}
    wanted: dict[str, dict] = {}
    for run in runs:
        if run.kind == "triage" and judgements[run.run_id].status == GOOD:
            wanted[run.run_id] = {}  # our own runs: tagging them would give every triage something to write
            continue
        clash = len(context.selections_of.get(run.benchmark, ())) > 1
        benchmark = f"{run.benchmark} ({run.selection[:8]})" if clash else run.benchmark
        wanted[run.run_id] = wanted_tags(run, judgements[run.run_id], benchmark, ranks.get(run.run_id))
    return wanted
