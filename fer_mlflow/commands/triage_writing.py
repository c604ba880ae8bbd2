"""What triage changes in the store: tags, set and taken back, and dead runs, ended."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
from tqdm import tqdm

from fer_mlflow.errors import TrackingError
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.bundles import read_run
from fer_mlflow.tracking.rules import last_alive_ms
from fer_mlflow.tracking.run_table import RunRecord, RunTable, record_of
from fer_mlflow.tracking.store import tracking_errors
from fer_mlflow.tracking.tagging import write_tags
from fer_mlflow.tracking.triage_tags import BAD, GOOD, OVERRULED, REASONS, STATUS, TAGS, WRITTEN


def overrule(client, options: Mapping[str, Any]) -> None:
    """Set a run's status as a person said it; no rule changes it any more."""
    run_id, status = (options["bad"], BAD) if options["bad"] else (options["keep"], GOOD)
    run = read_run(client, run_id)
    tags = {STATUS: status, WRITTEN: status, OVERRULED: "bad" if status == BAD else "keep", REASONS: options["reason"]}
    if options["dry_run"]:
        click.echo(f"would tag run {run.info.run_id}: {status}")
        return
    write_tags(client, {run.info.run_id: tags})  # another table finds it by the tag `triage.overruled`
    click.echo(f"run {run.info.run_id} is {status} from now on; `triage --clear true` takes it back")


def clear(client, table: RunTable, runs: Sequence[RunRecord], dry_run: bool) -> None:
    """Take triage's tags back; a status that a person set by hand stays."""
    changed = {}
    for run in runs:
        foreign = STATUS in run.tags and run.tags.get(WRITTEN) != run.tags[STATUS]
        tags = {name: None for name in TAGS if name in run.tags and not (foreign and name == STATUS)}
        if tags:
            changed[run.run_id] = tags
    if not dry_run:
        write_changes(client, table, runs, changed)
    click.echo(f"{'would take' if dry_run else 'took'} triage's tags back from {len(changed):,} of {len(runs):,} runs")


def reap(client, table: RunTable, runs, judgements, dry_run: bool) -> list[RunRecord]:
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


def write_changes(
    client, table: RunTable, runs: Sequence[RunRecord], changed: Mapping[str, Mapping[str, str | None]]
) -> None:
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
