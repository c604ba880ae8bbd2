"""`inspect`: how peaked soft labels are at each temperature."""

from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.scoring import InspectSettings


@workflow_command("inspect", InspectSettings)
def command(result) -> Iterator[str]:
    """Show how peaked softmax(z / T) is over temperatures, and which of them suit distillation."""
    from fer_mlflow.workflows.inspect import COLUMNS

    soft_labels, sharpness = result.soft_labels, result.sharpness
    yield f"{result.name}, {len(soft_labels):,} rows: top probability of softmax(z / T)\n"
    yield "  T         mean  median     p90     p99  entropy  above 0.99"
    for at, *values, entropy, sure in zip(
        sharpness.temperatures, *(getattr(sharpness, name) for name in COLUMNS), strict=True
    ):
        yield f"  {at:<6g}" + "".join(f"  {v:6.4f}" for v in values) + f"   {entropy:6.4f}  {sure:10.2%}"
    width = max(map(len, [*soft_labels.classes, "predicted class"]))
    temperatures = "".join(f"  T {at:<4g}" for at in sharpness.temperatures).rstrip()
    yield f"\n  {'predicted class':<{width}}     rows{temperatures}"
    for k, name in enumerate(soft_labels.classes):
        means = "".join("       –" if v != v else f"  {v:6.4f}" for v in sharpness.mean_by_class[:, k])
        yield f"  {name:<{width}}  {sharpness.rows_by_class[k]:7,}{means}"
    low, high = result.band
    yield f"\n  rule: a mean top probability from {low:g} to {high:g}; above it targets are nearly one-hot,"
    yield "        below it nearly uniform, and a student learns little from either"
    if result.recommended is None:
        yield "  no temperature gives that: the logits are constant or tied"
    else:
        yield f"  recommended  T from {result.recommended[0]:.2f} to {result.recommended[1]:.2f}"
    calibration = soft_labels.report.get("calibration", {})
    if "temperature" in calibration:
        yield f"  the logits are calibrated with T = {calibration['temperature']:.4g}, which is in them already"
    yield ""
    yield from where_lines(result)
