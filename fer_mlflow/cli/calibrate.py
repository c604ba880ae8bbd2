"""`calibrate`: fit a temperature, or biases, and measure what it changes on rows that it was not fitted on."""

from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.scoring import CalibrateSettings


@workflow_command("calibrate", CalibrateSettings)
def command(result) -> Iterator[str]:
    """Fit a temperature by maximum likelihood, and measure what it changes on rows that it was not fitted on."""
    from fer_mlflow.scoring.metrics import CALIBRATION_METRICS, metric_names

    calibration, fit, described = result.calibration, result.calibration.fit, result.calibration.fitted
    yield f"{result.name}, {len(calibration.before.predictions):,} labelled rows"
    yield f"{result.method}, {calibration.protocol}\n"
    yield f"  status  {fit.status}: {fit.explanation}"
    if calibration.fitted_on["classes"] == 1:
        yield "          all rows have one label, so this fits the confidence in that class alone"
    if "temperature" in described:
        error = f" ± {described['temperature_se']:.4f} (standard error)" if "temperature_se" in described else ""
        yield f"  T       {described['temperature']:.4f}{error}"
    for name, values in described.items():
        if isinstance(values, dict):
            yield f"  {name.replace('_', ' '):<7} " + ", ".join(f"{part} {v:.4f}" for part, v in values.items())
    before = calibration.before.named()
    after = calibration.after.named() if calibration.after is not None else {}
    losses = metric_names(having=lambda metric: metric.direction == "lower")
    compared = [*losses, *CALIBRATION_METRICS, *metric_names(having=lambda metric: metric.from_counts)]
    width = max(map(len, compared))
    yield f"\n  {'':<{width}}   before" + "     after" * bool(after)
    for name in compared:
        yield f"  {name:<{width}} {before[name]:8.4f}" + (f"  {after[name]:8.4f}" if after else "")
    for column, values in calibration.by_slice.items():
        yield from _slice_lines(column, values)
    yield ""
    yield from where_lines(result, export=result.exported_run)


def _slice_lines(column: str, values) -> Iterator[str]:
    """Yield each slice's own temperature, and its scores before and after the common calibration."""
    from fer_mlflow.calibration.temperature import OK

    width = max(map(len, [column, *values]))
    names = "".join(f"  {name:>10}" for name in next(iter(values.values()))[1] if name != "rows")
    yield f"\n  {column:<{width}}     rows         T  {'':>8}{names}"
    for value, (fit, numbers) in values.items():
        found = f"{fit.temperature:8.4f}  ± {fit.standard_error:<6.4f}" if fit.status == OK else f"{fit.status:>18}"
        cells = "".join(f"  {number:10.4f}" for name, number in numbers.items() if name != "rows")
        yield f"  {value or '(empty)':<{width}}  {numbers['rows']:7,.0f}  {found}{cells}"
