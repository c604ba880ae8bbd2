"""What `calibrate` says of a calibration: as metrics, in a bundle's report, and on the screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fer_mlflow.calibration.affine import AffineFit
from fer_mlflow.calibration.coefficients import CoefficientsFit
from fer_mlflow.calibration.temperature import OK, TemperatureFit
from fer_mlflow.scoring.calibration_error import expected_calibration_error
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.calibration import PooledFit
from fer_mlflow.tracking.runs import TrackedRun, metric_key
from fer_mlflow.tracking.store import describe_way_to_ui
from fer_mlflow.workflows.sources import Source

if TYPE_CHECKING:
    from fer_mlflow.commands.calibrating import Calibration

_COMPARED = ("nll", "brier", "ece", "ece_null_p95", "ece_adaptive", "ece_classwise", "accuracy", "macro_f1")


def describe_fit(fit: Any, bundle: SoftLabels) -> dict[str, Any]:
    """Return what was fitted as JSON-able values: temperatures, scales and biases, or coefficients."""
    if fit.status != OK:
        return {}
    teachers, classes = sorted(bundle.report["ensemble"]["weights"]), bundle.classes
    if isinstance(fit, TemperatureFit):
        return {"temperature": fit.temperature, "temperature_se": fit.standard_error}
    if isinstance(fit, AffineFit):
        one = {"temperature": float(1 / fit.scale[0])} if (fit.scale == fit.scale[0]).all() else {}
        scale = {} if one else {"scale": dict(zip(classes, fit.scale.tolist(), strict=True))}
        return {**one, **scale, "bias": dict(zip(classes, fit.bias.tolist(), strict=True))}
    if isinstance(fit, CoefficientsFit):
        shares = bundle.report["ensemble"]["weights"]
        each = dict(zip(teachers, fit.coefficients.tolist(), strict=True))
        return {
            "temperature": float(1 / fit.coefficients.sum()),
            "coefficient": each,
            "teacher_temperature": {name: shares[name] / a for name, a in each.items() if a > 0},
        }
    if isinstance(fit, PooledFit):
        return {
            "temperature": fit.pool.temperature,
            "teacher_temperature": dict(zip(teachers, fit.temperatures.tolist(), strict=True)),
        }
    raise TypeError(f"no description of a {type(fit).__name__}")


def calibration_metrics(result: "Calibration", bundle: SoftLabels) -> dict[str, float]:
    """Return the run's metrics: what was fitted, `before/` and `after/` of every score, and slices."""
    metrics: dict[str, float] = {}
    for name, value in describe_fit(result.fit, bundle).items():
        if isinstance(value, dict):
            metrics |= {metric_key(name, part): number for part, number in value.items()}
        else:
            metrics[name] = value
    for when in ("before", "after"):
        evaluation = getattr(result, when)
        if evaluation is not None:
            named = evaluation.named(bundle.classes)
            metrics |= {f"{when}/{name}": value for name, value in named.items() if not name.startswith("ci95/")}
    for column, value, rows, fit, numbers in slice_numbers(result, bundle):
        metrics[metric_key(column, value or "none", "rows")] = float(rows)
        if fit.status == OK:
            metrics[metric_key(column, value or "none", "temperature")] = fit.temperature
            metrics[metric_key(column, value or "none", "temperature_se")] = fit.standard_error
        for name, number in numbers.items():
            metrics[metric_key(column, value or "none", *name.split("/"))] = number
    return metrics


def slice_numbers(result: "Calibration", bundle: SoftLabels):
    """Yield column, value, rows, fit, and nll and ece before and after of every slice.

    What is after is the common calibration on the slice's rows, not the slice's own temperature.
    """
    for column, values in result.by_slice.items():
        for value, (rows, fit) in values.items():
            numbers = {}
            for when in ("before", "after"):
                evaluation = getattr(result, when)
                if evaluation is not None:
                    numbers[f"{when}/nll"] = float(evaluation.losses[rows].mean())
                    numbers[f"{when}/ece"] = expected_calibration_error(
                        evaluation.confidence[rows], evaluation.correct[rows]
                    )
            yield column, value, int(rows.sum()), fit, numbers


def print_result(
    source: Source, result: "Calibration", options: Mapping[str, Any], run: TrackedRun, exported: str | None
) -> None:
    """Print what was fitted, what it changed, and where everything is."""
    bundle, fit = source.bundle, result.fit
    click.echo(f"{source.name}, {len(result.before.predictions):,} labelled rows")
    click.echo(f"{options['method']}, {result.protocol}\n")
    click.echo(f"  status  {fit.status}: {fit.explanation}")
    if result.fitted_on["classes"] == 1:
        click.echo("          all rows have one label, so this fits how sure the teachers are of that class alone")
    described = describe_fit(fit, bundle)
    if "temperature" in described:
        error = f" ± {described['temperature_se']:.4f} (standard error)" if "temperature_se" in described else ""
        click.echo(f"  T       {described['temperature']:.4f}{error}")
    for name, values in described.items():
        if isinstance(values, dict):
            click.echo(f"  {name.replace('_', ' '):<7} " + ", ".join(f"{part} {v:.4f}" for part, v in values.items()))
    _print_scores(result, bundle)
    _print_slices(result, bundle)
    click.echo(f"\n  run      {run.run_id}")
    if exported:
        click.echo(f"  export   {exported}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")


def _print_scores(result: "Calibration", bundle: SoftLabels) -> None:
    before = result.before.named(bundle.classes)
    after = result.after.named(bundle.classes) if result.after is not None else {}
    click.echo(f"\n  {'':<13}   before" + "     after" * bool(after))
    for name in _COMPARED:
        last = f"  {after[name]:8.4f}" if after else ""
        click.echo(f"  {name:<13} {before[name]:8.4f}{last}")


def _print_slices(result: "Calibration", bundle: SoftLabels) -> None:
    shown = None
    for column, value, rows, fit, numbers in slice_numbers(result, bundle):
        width = max(map(len, [column, *result.by_slice[column]]))
        if column != shown:
            names = "".join(f"  {name:>10}" for name in numbers)
            click.echo(f"\n  {column:<{width}}     rows         T  {'':>8}{names}")
            shown = column
        temperature = (
            f"{fit.temperature:8.4f}  ± {fit.standard_error:<6.4f}" if fit.status == OK else f"{fit.status:>18}"
        )
        cells = "".join(f"  {number:10.4f}" for number in numbers.values())
        click.echo(f"  {value or '(empty)':<{width}}  {rows:7,}  {temperature}{cells}")
