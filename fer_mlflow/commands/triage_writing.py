"""What triage changes in the store: tags, set and taken back, and dead runs, ended."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from tqdm import tqdm

from fer_mlflow.tables import one_line
from fer_mlflow.tracking.bundles import read_run
from fer_mlflow.tracking.store import tracking_errors
from fer_mlflow.tracking.triage.records import RunRecord, record_of
from fer_mlflow.tracking.triage.rules import last_alive_ms
from fer_mlflow.tracking.triage.tags import BAD, GOOD, OVERRULED, REASONS, STATUS, TAGS, WRITTEN, write_tags


def overrule(client, options: Mapping[str, Any]) -> None:
    """Set a run's status for a person; no rule changes it any more."""
    run_id, status = (options["bad"], BAD) if options["bad"] else (options["keep"], GOOD)
    run = read_run(client, run_id)
    tags = {STATUS: status, WRITTEN: status, OVERRULED: "bad" if status == BAD else "keep", REASONS: options["reason"]}
    if options["dry_run"]:
        click.echo(f"would tag run {run.info.run_id}: {status}")
        return
    write_tags(client, {run.info.run_id: tags})
    click.echo(f"run {run.info.run_id} is {status} from now on; `triage --clear true` takes it back")


def clear(client, runs: Sequence[RunRecord], dry_run: bool) -> None:
    """Take triage's tags back; a status that a person set by hand stays."""
    changed = {}
    for run in runs:
        foreign = STATUS in run.tags and run.tags.get(WRITTEN) != run.tags[STATUS]
        tags = {name: None for name in TAGS if name in run.tags and not (foreign and name == STATUS)}
        if tags:
            changed[run.run_id] = tags
    if not dry_run:
        write_changes(client, changed)
    click.echo(f"{'would take' if dry_run else 'took'} triage's tags back from {len(changed):,} of {len(runs):,} runs")


def reap(client, runs, judgements, dry_run: bool) -> None:
    """End dead runs as KILLED."""
    for run in runs:
        judgement = judgements[run.run_id]
        is_stale = not judgement.by_person and any(reason.startswith("stale: ") for reason in judgement.reasons)
        if is_stale and run.status in ("RUNNING", "SCHEDULED"):
            if not dry_run:
                with tracking_errors(f"ending run {run.run_id}"):
                    if not _end_if_dead(client, run):
                        continue
            ended = "would end" if dry_run else "ended"
            click.echo(f"{ended} dead run {run.run_id} ({one_line(run.name)}) as KILLED")


def _end_if_dead(client, run: RunRecord) -> bool:
    """End a run as KILLED unless it gave a sign of life since it was read, which may be a while."""
    now = record_of(client.get_run(run.run_id))
    if now.status != run.status or last_alive_ms(now) != last_alive_ms(run):
        return False
    client.set_terminated(run.run_id, "KILLED")
    return True


def write_changes(client, changed: Mapping[str, Mapping[str, str | None]]) -> None:
    """Write the tags that changed."""
    with tqdm(total=len(changed), desc="tagging", unit=" runs", disable=not sys.stderr.isatty()) as bar:
        write_tags(client, changed, bar.update)
