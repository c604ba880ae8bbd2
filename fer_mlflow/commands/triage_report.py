"""What triage says in the terminal: changes, leaderboards, and how many runs are what."""

from collections import Counter
from collections.abc import Sequence

import click

from fer_mlflow.commands.board_views import across_table, board_lines
from fer_mlflow.commands.options import split_names
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.leaderboard import Board
from fer_mlflow.tracking.triage.rules import RULES
from fer_mlflow.tracking.triage.tags import BAD, STATUSES, WARN, is_by_person


def print_changes(runs, changed) -> None:
    """Print what a dry run would tag."""
    by_id = {run.run_id: run for run in runs}
    for run_id, tags in changed.items():
        said = ", ".join(f"{name.removeprefix('triage.')} {text or 'removed'}" for name, text in tags.items())
        click.echo(one_line(f"would tag {run_id[:8]} {by_id[run_id].name}: {said}"))


def print_boards(shown: Sequence[Board], boards: Sequence[Board], rows, options) -> None:
    """Print the leaderboards, and the table across benchmarks where there is one."""
    classes = split_names(options["classes"])
    for board in shown:
        whole = next(each for each in boards if each.selection == board.selection)
        click.echo("\n".join(board_lines(board, classes, len(whole.entries))) + "\n")
    if rows:
        fair = [board for board in boards if not board.is_trained_on]
        click.echo("\n".join(across_table(rows, fair)))
        if left_out := [board.benchmark for board in boards if board.is_trained_on]:
            click.echo(f"  left out, since teachers were trained on these rows: {', '.join(left_out)}")
        click.echo()


def print_summary(runs, judgements, changed: int, dry_run: bool, view: str | None) -> None:
    """Print how many runs are what, why the bad ones are bad, and what was done."""
    counts = Counter(judgements[run.run_id].status for run in runs)
    click.echo(f"{len(runs):,} runs: " + ", ".join(f"{counts[status]:,} {status}" for status in STATUSES))
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
