"""What `triage` does, apart from its options, so that `--help` imports nothing heavy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fer_mlflow.commands.board_views import bad_runs_csv, board_csv, board_markdown, board_page
from fer_mlflow.commands.triage_judging import judge_runs, tags_of_runs
from fer_mlflow.commands.triage_report import print_boards, print_changes, print_summary
from fer_mlflow.commands.triage_writing import clear, overrule, reap, write_changes
from fer_mlflow.errors import ContractError, RunError
from fer_mlflow.files import cache_folder
from fer_mlflow.tracking.leaderboard import Board, across, build_boards, with_significance
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.tracking.searching import BUNDLED_KINDS
from fer_mlflow.tracking.store import connect, run_address, ui_address
from fer_mlflow.tracking.triage.evidence import EvidenceStore
from fer_mlflow.tracking.triage.judgement import changes
from fer_mlflow.tracking.triage.records import RunRecord, read_records
from fer_mlflow.tracking.triage.rules import Context
from fer_mlflow.tracking.triage.tags import GOOD, STATUSES
from fer_mlflow.tracking.ui_views import furnish_experiment
from fer_mlflow.workflows.ensemble import warn


def triage(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    _check_options(options)
    client = connect()
    if options["bad"] or options["keep"]:
        overrule(client, options)
        return
    runs = read_records(client)
    if not runs:
        raise RunError("the tracking store has no run of ours yet; export some soft labels first")
    if options["clear"]:
        clear(client, runs, options["dry_run"])
        return
    _check_benchmark(options["benchmark"], runs)
    store = EvidenceStore(client, cache_folder())
    judgements, context = judge_runs(runs, store, options)
    boards = build_boards(runs, judgements, options["metric"], STATUSES if options["even_bad"] else (GOOD,))
    wanted = tags_of_runs(runs, judgements, boards, context)
    if options["reap"]:
        reap(client, runs, judgements, options["dry_run"])
    changed = {run.run_id: found for run in runs if (found := changes(run, wanted[run.run_id]))}
    if options["dry_run"]:
        print_changes(runs, changed)
    else:
        write_changes(client, changed)
    shown = [board for board in boards if _is_of(board.selection, board.benchmark, options["benchmark"])]
    shown = [_tested(_cut(board, options["top"]), context, store, options["deep"]) for board in shown]
    fair = [board for board in boards if not board.is_trained_on]
    rows = across(fair) if options["across"] else []
    view = None
    if not options["dry_run"]:
        view = _log(client, runs, judgements, shown, fair, rows, options, typed)
    print_boards(shown, boards, rows, options)
    print_summary(runs, judgements, len(changed), options["dry_run"], view)


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other."""
    alone = [name for name in ("bad", "keep", "clear") if options[name]]
    if len(alone) > 1:
        raise ContractError(f"--{alone[0]} and --{alone[1]} do one thing each; give one of them")
    if options["reason"] and not (options["bad"] or options["keep"]):
        raise ContractError("--reason says why a run is bad or kept; give --bad RUN_ID or --keep RUN_ID with it")


def _check_benchmark(asked: str | None, runs: Sequence[RunRecord]) -> None:
    """Refuse a benchmark that no run has, naming those that there are."""
    there = {(run.benchmark, run.selection) for run in runs if run.kind in BUNDLED_KINDS and run.selection}
    if asked and not any(_is_of(selection, name, asked) for name, selection in there):
        known = ", ".join(f"{name} ({selection[:8]})" for name, selection in sorted(there)) or "none"
        raise ContractError(f"--benchmark {asked}: no run has it; there are {known}")


def _is_of(selection: str, name: str, asked: str | None) -> bool:
    """Return whether a benchmark is the one that was asked for: its name, or 6 or more first digits of its digest."""
    plain = name.removesuffix(f" ({selection[:8]})")  # boards of one name are told apart by their digest
    return (
        not asked or asked in (plain, f"{plain} ({selection[:8]})") or (len(asked) >= 6 and selection.startswith(asked))
    )


def _cut(board: Board, top: int | None) -> Board:
    return replace(board, entries=board.entries[:top])


def _tested(board: Board, context: Context, store: EvidenceStore, deep: str) -> Board:
    """Return a board with intervals and p-values; bundles that were not read yet are read now unless deep is false."""
    evidence = {}
    for entry in board.entries:
        known = context.evidence.get(entry.run_id)
        if known is None and deep != "false":
            known = store.read(context.runs[entry.run_id])
        if known is not None:
            evidence[entry.run_id] = known
    return with_significance(board, evidence)


def _log(client, runs, judgements, shown, fair, rows, options, typed) -> str:
    """Log leaderboards and bad runs to a triage run, and make the UI show them; return the view's address."""
    name = options["name"] or f"triage · {len(runs):,} runs"
    files = {
        "leaderboard.md": board_markdown(shown, rows, fair),
        "leaderboard.csv": board_csv(shown),
        "leaderboard.html": board_page(shown, rows, fair, run_address),
        "bad_runs.csv": bad_runs_csv(runs, judgements),
    }
    with open_run("triage", name, options["experiment"] or "") as run:
        run.log_params({key: text for key, text in typed.items() if text})
        counts = Counter(found.status for found in judgements.values())
        run.log_metrics({f"runs/{status}": float(counts[status]) for status in STATUSES})
        for file, text in files.items():
            run.log_text(file, text)
        experiments = sorted({each.experiment_id for each in runs})
        for experiment in experiments:
            own = {each.run_id for each in runs if each.experiment_id == experiment}
            mine = [board for board in shown if any(entry.run_id in own for entry in board.entries)]
            note = None if options["benchmark"] else board_markdown(mine, [], [])  # a part would replace the whole
            furnish_experiment(client, experiment, note, options["metric"], warn)
    return ui_address(run.experiment_id, "leaderboard")
