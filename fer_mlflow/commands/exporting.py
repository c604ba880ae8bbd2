"""What `export` does, apart from its options, so that `--help` imports nothing heavy."""

import time
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.options import fusion_settings
from fer_mlflow.errors import BundleError, ContractError, TrackingError
from fer_mlflow.files import cache_folder
from fer_mlflow.progress import show_progress
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.tracking.bundles import publish_bundle
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.tracking.store import describe_way_to_ui
from fer_mlflow.workflows.ensemble import (
    copy_bundle,
    forget,
    gathered_outputs,
    publish_teachers,
    read_ensemble,
    warn,
    write_bundle,
)


def export(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them.

    Everything is computed and on disk before the first file is uploaded, so that a server that goes away costs
    nothing but the upload.
    """
    ensemble = read_ensemble(fusion_settings(options))
    out = _check_out(options["out"], ensemble)
    cache, started_s = cache_folder(), time.time()
    with open_run("export", options["name"] or ensemble.name, options["experiment"] or "") as run:
        run.log_params(typed)
        with gathered_outputs(ensemble, run.client, cache, show_progress) as gathered:
            bundle = write_bundle(ensemble, gathered, cache)
            if out is not None:
                copy_bundle(bundle, out)
            try:
                publish_teachers(ensemble, gathered, cache, run, typed, started_s)
                teacher_runs = {f"fer.teacher_run/{name}": run_id for name, run_id in gathered.run_ids.items()}
                publish_bundle(run, bundle, ensemble.config_key, teacher_runs)
            except TrackingError as error:
                raise TrackingError(
                    f"{error}; the finished bundle is kept in {bundle.folder}: "
                    "run the same command again to upload it, nothing is computed twice"
                ) from error
            forget(ensemble, gathered, cache)
    for check in bundle.report["checks"]:
        if check["verdict"] == "warn":
            warn(f"{check['name']}: {check['detail']}")
    _print_result(ensemble, bundle, run, gathered, out)


def _check_out(folder: str | None, ensemble) -> Path | None:
    """Return the folder for a copy; refuse one that holds anything but this very bundle from an earlier run."""
    if folder is None:
        return None
    out = Path(folder).absolute()
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    try:
        there = SoftLabels.open(out)
    except BundleError as error:
        raise ContractError(f"--out {out} holds other things; name a new folder") from error
    same = (
        there.report["ensemble"] == ensemble.fusion
        and there.report["preprocessing"] == ensemble.preprocessing
        and there.report["benchmark"]["selected_sha256"] == ensemble.benchmark.selection_sha256
        and there.checkpoints == ensemble.checkpoints
    )
    if not same:
        raise ContractError(f"--out {out} holds the bundle of another configuration; name a new folder")
    return out


def _print_result(ensemble, bundle, run, gathered, out: Path | None) -> None:
    """Print the numbers, and where everything is."""
    benchmark = bundle.report["benchmark"]
    click.echo(f"{ensemble.name}  on  {benchmark['name']}, {benchmark['rows']:,} rows\n")
    if unreadable := len(bundle.report["unreadable"]):
        warn(f"{unreadable:,} images could not be decoded and are left out; the alignment report names them")
    if bundle.metrics:
        unlabelled = benchmark["rows"] - benchmark["labelled_rows"]
        if unlabelled:
            warn(f"{unlabelled:,} rows have no label; the metrics are of the other {benchmark['labelled_rows']:,}")
        for line in metrics_table(bundle.metrics):
            click.echo(f"  {line}")
    else:
        click.echo("  no row has a label: soft labels are exported, metrics are left out")
    click.echo()
    for name in ensemble.weights:
        how = "computed, kept as" if name in gathered.computed else "reused from"
        click.echo(f"  teacher  {name} {how} run {gathered.run_ids[name]}")
    click.echo(f"  run      {run.run_id}")
    click.echo(f"  bundle   {run.artifact_location(FOLDER)}")
    if out is not None:
        click.echo(f"  copy     {out}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")


def metrics_table(metrics: dict[str, float]) -> list[str]:
    """Return metrics in lines of two columns: scores on the left, F1 of each class on the right."""
    left = [(name, value) for name, value in metrics.items() if not name.startswith("f1/")]
    right = [(name, value) for name, value in metrics.items() if name.startswith("f1/")]
    width = max(map(len, metrics))
    return [
        "    ".join(f"{name:<{width}} {value:7.4f}" for name, value in pair if name).rstrip()
        for pair in zip_longest(left, right, fillvalue=("", 0.0))
    ]
