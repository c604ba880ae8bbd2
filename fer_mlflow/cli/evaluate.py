"""`evaluate`: how good soft labels are, and how sure that is."""

from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.scoring import EvaluateSettings


@workflow_command("evaluate", EvaluateSettings)
def command(result) -> Iterator[str]:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows."""
    evaluation, classes = result.evaluation, result.soft_labels.classes
    at = f", T = {result.temperature:g}" if result.temperature != 1 else ""
    yield f"{result.name}, {len(evaluation.predictions):,} labelled rows{at}\n"
    intervals, values = evaluation.intervals, evaluation.named()
    notes = {"ece": f"a calibrated model stays below {evaluation.ece_null_p95:.4f} in 95 of 100 benchmarks"}
    names = [name for name in values if not name.startswith(("ci95/", "ece_null"))]
    width = max(map(len, names))
    for name in sorted(names, key=lambda name: name.startswith("f1/")):
        interval = intervals.get(name)
        note = f"[{interval.low:.4f}, {interval.high:.4f}]" if interval else notes.get(name, "")
        yield f"  {name:<{width}}  {values[name]:7.4f}  {note}".rstrip()
    absent = [name for name in classes if f"f1/{name}" not in values]
    if absent:
        yield f"  no labelled row of {', '.join(absent)}: not in macro_f1"
    for column, parts in result.slices.items():
        if parts:
            yield from _slice_lines(column, parts)
    yield ""
    yield from where_lines(result, figures=", ".join(result.figures), rows=result.predictions_location)


def _slice_lines(column: str, parts) -> Iterator[str]:
    """Yield the scores of each value of a column."""
    from fer_mlflow.scoring.metrics import metric_names

    shown = metric_names(having=lambda metric: "slices" in metric.shown)
    width = max(map(len, [column, *parts]))
    yield f"\n  {column:<{width}}     rows" + "".join(f"  {name:>8}" for name in shown)
    for value, metrics in parts.items():
        numbers = "".join(f"  {metrics[name]:8.4f}" for name in shown)
        yield f"  {value or '(empty)':<{width}}  {metrics['rows']:7,.0f}{numbers}"
