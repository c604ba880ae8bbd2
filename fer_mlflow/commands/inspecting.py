"""What `inspect` does, apart from its options, so that `--help` imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

import click
import numpy as np
import pandas as pd

from fer_mlflow.commands.sources import opened_source, read_source, source_name, warn_of_experiment
from fer_mlflow.figures import draw_sharpness
from fer_mlflow.scoring.sharpness import Sharpness, measure_sharpness, recommended_temperatures
from fer_mlflow.tracking.runs import metric_key, open_run
from fer_mlflow.tracking.store import describe_way_to_ui

_COLUMNS = ("mean", "median", "p90", "p99", "entropy", "nearly_sure")


def inspect(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    found = read_source(options, typed)
    warn_of_experiment(options["experiment"])
    name = options["name"] or f"inspect · {source_name(found)}"
    with open_run("inspect", name, options["experiment"] or "") as run, opened_source(found, run, typed) as source:
        bundle, band = source.bundle, tuple(options["band"])
        range_ = recommended_temperatures(bundle.logits, band)
        sharpness = measure_sharpness(bundle.logits, np.array(options["temperatures"]))
        run.log_params(source.params_with(typed))
        benchmark = bundle.report["benchmark"]["name"]
        run.log_benchmark(benchmark, bundle.selection_sha256, bundle.manifest_sha256, len(bundle))
        table = sharpness_table(sharpness, bundle.classes)
        run.log_metrics(_metrics(table, range_))
        run.log_table("sharpness", table)
        figure = draw_sharpness(
            sharpness.temperatures,
            {name: getattr(sharpness, name) for name in ("mean", "median", "p90", "p99")},
            sharpness.entropy,
            sharpness.nearly_sure,
            classes=bundle.classes,
            mean_by_class=sharpness.mean_by_class,
            band=band,
            recommended=range_,
        )
        run.log_figure("sharpness.png", figure)
        run.set_tags(source.tags())
    _print_result(source, sharpness, band, range_, run)


def sharpness_table(sharpness: Sharpness, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return a row for each temperature: the top probability over all rows, then its mean by predicted class."""
    table = pd.DataFrame({"temperature": sharpness.temperatures})
    for name in _COLUMNS:
        table[name] = getattr(sharpness, name)
    for name, column in zip(classes, sharpness.mean_by_class.T, strict=True):
        table[f"mean/{name}"] = column
    return table


def _metrics(table: pd.DataFrame, range_: tuple[float, float] | None) -> dict[str, float]:
    """Return every number of the table under `T <temperature>/<name>`, and the recommended range."""
    metrics: dict[str, float] = {}
    for row in table.to_dict("records"):
        at = f"T {row.pop('temperature'):g}"
        metrics |= {metric_key(at, *str(name).split("/")): v for name, v in row.items() if not np.isnan(v)}
    if range_ is not None:
        metrics |= {"recommended_temperature_low": range_[0], "recommended_temperature_high": range_[1]}
    return metrics


def _print_result(source, sharpness: Sharpness, band, range_, run) -> None:
    """Print the table, the rule and what it gives."""
    bundle = source.bundle
    click.echo(f"{source.name}, {len(bundle):,} rows: top probability of softmax(z / T)\n")
    click.echo("  T         mean  median     p90     p99  entropy  above 0.99")
    for at, *values, entropy, sure in zip(
        sharpness.temperatures, *(getattr(sharpness, name) for name in _COLUMNS), strict=True
    ):
        click.echo(f"  {at:<6g}" + "".join(f"  {v:6.4f}" for v in values) + f"   {entropy:6.4f}  {sure:10.2%}")
    width = max(map(len, [*bundle.classes, "predicted class"]))
    click.echo(
        f"\n  {'predicted class':<{width}}     rows"
        + "".join(f"  T {at:<4g}" for at in sharpness.temperatures).rstrip()
    )
    for k, name in enumerate(bundle.classes):
        means = "".join("       –" if np.isnan(v) else f"  {v:6.4f}" for v in sharpness.mean_by_class[:, k])
        click.echo(f"  {name:<{width}}  {sharpness.rows_by_class[k]:7,}{means}")
    click.echo(
        f"\n  rule: a mean top probability from {band[0]:g} to {band[1]:g}; above it targets are nearly one-hot,"
    )
    click.echo("        below it nearly uniform, and a student learns little from either")
    if range_ is None:
        click.echo("  no temperature gives that: the logits are constant or tied")
    else:
        click.echo(f"  recommended  T from {range_[0]:.2f} to {range_[1]:.2f}")
    calibration = bundle.report.get("calibration", {})
    if "temperature" in calibration:
        click.echo(f"  the logits are calibrated with T = {calibration['temperature']:.4g}, which is in them already")
    click.echo(f"\n  run      {run.run_id}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")
