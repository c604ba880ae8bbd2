"""What `triage` does, apart from its options, so that `--help` imports nothing heavy."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
from tqdm import tqdm

from fer_mlflow.commands.board_views import (
    across_table,
    bad_runs_csv,
    board_csv,
    board_lines,
    board_markdown,
    board_page,
)
from fer_mlflow.commands.ensemble import warn
from fer_mlflow.commands.sources import warn_of_experiment
from fer_mlflow.data.files import cache_folder
from fer_mlflow.errors import ContractError, RunError, TrackingError
from fer_mlflow.tracking.bundles import read_run
from fer_mlflow.tracking.evidence import Evidence, EvidenceStore
from fer_mlflow.tracking.judgement import Judgement, changes, judge, parse_reasons, wanted_tags
from fer_mlflow.tracking.leaderboard import Board, across, build_boards, difference_p_value, one_line, with_significance
from fer_mlflow.tracking.rules import RULES, Surroundings, last_alive_ms, survey
from fer_mlflow.tracking.run_table import RunRecord, RunTable, record_of
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.tracking.searching import BUNDLED_KINDS
from fer_mlflow.tracking.store import connect, run_address, tracking_errors, ui_address
from fer_mlflow.tracking.tagging import write_tags
from fer_mlflow.tracking.triage_tags import (
    BAD,
    GOOD,
    OVERRULED,
    REASONS,
    STATUS,
    SUPERSEDED,
    TAGS,
    WARN,
    WRITTEN,
    is_by_person,
)
from fer_mlflow.tracking.ui_views import furnish_experiment

RANKS = 10  # runs of a benchmark that get a tag for their rank: one more run moves no more than these
_STATUSES = (GOOD, WARN, BAD, SUPERSEDED)


def triage(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    _check_options(options)
    client, cache = connect(options["experiment"] or ""), cache_folder()
    table = RunTable(client, cache)
    if options["bad"] or options["keep"]:
        _overrule(client, options)
        return
    runs = table.read(afresh=options["refresh"])
    if not runs:
        raise RunError("the tracking store has no run of ours yet; export some soft labels first")
    if options["clear"]:
        _clear(client, table, runs, options["dry_run"])
        return
    warn_of_experiment(options["experiment"])
    _check_benchmark(options["benchmark"], runs)
    store = EvidenceStore(client, cache)
    judgements, around = _judge(runs, store, options)
    boards = build_boards(runs, judgements, options["metric"], _STATUSES if options["even_bad"] else (GOOD,))
    wanted = _wanted_tags(runs, judgements, boards, around)
    if options["reap"]:
        runs = _reap(client, table, runs, judgements, options["dry_run"])
    changed = {run.run_id: found for run in runs if (found := changes(run, wanted[run.run_id]))}
    if options["dry_run"]:
        table.save()
        _print_changes(runs, changed)
    else:
        _write(client, table, runs, changed)
    shown = [board for board in boards if _is_of(board.selection, board.benchmark, options["benchmark"])]
    shown = [_tested(_cut(board, options["top"]), runs, store, options["deep"]) for board in shown]
    fair = [board for board in boards if not board.is_trained_on]
    rows = across(fair) if options["across"] else []
    view = None
    if not options["dry_run"]:
        view = _log(client, runs, judgements, shown, fair, rows, options, typed)
    _print_boards(shown, boards, rows, options)
    _print_summary(runs, judgements, len(changed), options["dry_run"], view)


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


def _overrule(client, options: Mapping[str, Any]) -> None:
    """Set a run's status as a person said it; no rule changes it any more."""
    run_id, status = (options["bad"], BAD) if options["bad"] else (options["keep"], GOOD)
    run = read_run(client, run_id)
    tags = {STATUS: status, WRITTEN: status, OVERRULED: "bad" if status == BAD else "keep", REASONS: options["reason"]}
    if options["dry_run"]:
        click.echo(f"would tag run {run.info.run_id}: {status}")
        return
    write_tags(client, {run.info.run_id: tags})  # another table finds it by the tag `triage.overruled`
    click.echo(f"run {run.info.run_id} is {status} from now on; `triage --clear true` takes it back")


def _clear(client, table: RunTable, runs: Sequence[RunRecord], dry_run: bool) -> None:
    """Take triage's tags back; a status that a person set by hand stays."""
    changed = {}
    for run in runs:
        foreign = STATUS in run.tags and run.tags.get(WRITTEN) != run.tags[STATUS]
        tags = {name: None for name in TAGS if name in run.tags and not (foreign and name == STATUS)}
        if tags:
            changed[run.run_id] = tags
    if not dry_run:
        _write(client, table, runs, changed)
    click.echo(f"{'would take' if dry_run else 'took'} triage's tags back from {len(changed):,} of {len(runs):,} runs")


def _judge(runs: Sequence[RunRecord], store: EvidenceStore, options) -> tuple[dict[str, Judgement], Surroundings]:
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


def _wanted_tags(runs, judgements, boards: Sequence[Board], around: Surroundings) -> dict[str, dict]:
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


def _reap(client, table: RunTable, runs, judgements, dry_run: bool) -> list[RunRecord]:
    """End dead runs as KILLED."""
    after = []
    for run in runs:
        verdict = judgements[run.run_id]
        is_stale = not verdict.by_person and any(reason.startswith("stale: ") for reason in verdict.reasons)
        if is_stale and run.status in ("RUNNING", "SCHEDULED"):
            if not dry_run:
                with tracking_errors(f"ending run {run.run_id}"):
                    run = _ended_if_dead(client, run)
                table.put(run)
            if dry_run or run.status == "KILLED":
                click.echo(
                    f"{'would end' if dry_run else 'ended'} dead run {run.run_id} ({one_line(run.name)}) as KILLED"
                )
        after.append(run)
    return after


def _ended_if_dead(client, run: RunRecord) -> RunRecord:
    """End a run as KILLED unless it gave a sign of life since it was read, which may be a while; return it as it is."""
    now = record_of(client.get_run(run.run_id))
    if now.status != run.status or last_alive_ms(now) != last_alive_ms(run):
        return now
    client.set_terminated(run.run_id, "KILLED")
    return record_of(client.get_run(run.run_id))


def _write(client, table: RunTable, runs: Sequence[RunRecord], changed: Mapping[str, Mapping[str, str | None]]) -> None:
    """Write the tags that changed, and remember that they are written."""
    by_id = {run.run_id: run for run in runs}
    if changed:
        table.mark_changed()  # before, too: others are to look even where this process is killed in the middle
    with tqdm(total=len(changed), desc="tagging", unit=" runs", disable=not sys.stderr.isatty()) as bar:

        def remember(run_id: str) -> None:
            tags = {**by_id[run_id].tags, **changed[run_id]}
            table.put(replace(by_id[run_id], tags={name: text for name, text in tags.items() if text is not None}))
            bar.update()

        try:
            write_tags(client, changed, on_written=remember)
        except TrackingError:
            table.forget()  # it may know of runs that are gone for good (`mlflow gc`)
            raise
    if changed:
        table.mark_changed()
    table.save()


def _cut(board: Board, top: int | None) -> Board:
    return replace(board, entries=board.entries[:top])


def _tested(board: Board, runs: Sequence[RunRecord], store: EvidenceStore, deep: str) -> Board:
    """Return a board with intervals and p-values; bundles that were not read yet are read now unless deep is false."""
    by_id = {run.run_id: run for run in runs}
    evidence = {}
    for entry in board.entries:
        found = store.kept(by_id[entry.run_id])
        if found is None and deep != "false":
            found = store.gather(by_id[entry.run_id])
        if found is not None:
            evidence[entry.run_id] = found
    return with_significance(board, evidence)


def _print_changes(runs, changed) -> None:
    """Print what a dry run would tag."""
    by_id = {run.run_id: run for run in runs}
    for run_id, tags in changed.items():
        said = ", ".join(f"{name.removeprefix('triage.')} {text or 'removed'}" for name, text in tags.items())
        click.echo(one_line(f"would tag {run_id[:8]} {by_id[run_id].name}: {said}"))


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
        run.log_metrics({f"runs/{status}": float(counts[status]) for status in _STATUSES})
        for file, text in files.items():
            run.log_text(file, text)
        experiments = sorted({each.experiment_id for each in runs})
        for experiment in experiments:
            own = {each.run_id for each in runs if each.experiment_id == experiment}
            mine = [board for board in shown if any(entry.run_id in own for entry in board.entries)]
            note = None if options["benchmark"] else board_markdown(mine, [], [])  # a part would replace the whole
            furnish_experiment(client, experiment, note, options["metric"], warn)
    return ui_address(run.experiment_id, "leaderboard")


def _print_boards(shown: Sequence[Board], boards: Sequence[Board], rows, options) -> None:
    classes = [name.strip() for name in (options["classes"] or "").split(",") if name.strip()]
    for board in shown:
        whole = next(each for each in boards if each.selection == board.selection)
        click.echo("\n".join(board_lines(board, classes, len(whole.entries))) + "\n")
    if rows:
        fair = [board for board in boards if not board.is_trained_on]
        click.echo("\n".join(across_table(rows, fair)))
        if left_out := [board.benchmark for board in boards if board.is_trained_on]:
            click.echo(f"  left out, since teachers were trained on these rows: {', '.join(left_out)}")
        click.echo()


def _print_summary(runs, judgements, changed: int, dry_run: bool, view: str | None) -> None:
    """Print how many runs are what, why the bad ones are bad, and what was done."""
    counts = Counter(judgements[run.run_id].status for run in runs)
    click.echo(f"{len(runs):,} runs: " + ", ".join(f"{counts[status]:,} {status}" for status in _STATUSES))
    explained = {rule.name: rule.explanation for rule in RULES}
    reasons = Counter(
        reason.partition(": ")[0]
        for run in runs
        if judgements[run.run_id].status in (BAD, WARN) and not is_by_person(run.tags)
        for reason in judgements[run.run_id].reasons
    )
    for name, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"  {count:5,}  {name}: {explained.get(name, '')}")
    by_person = sum(found.by_person for found in judgements.values())
    if by_person:
        click.echo(f"  {by_person:5,}  as a person said")
    click.echo(f"tags {'to change' if dry_run else 'changed'} on {changed:,} runs")
    if view:
        click.echo(f"look  {view}")
