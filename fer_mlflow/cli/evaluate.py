"""`evaluate`: how good soft labels are, and how sure that is."""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import settings_command
from fer_mlflow.progress import show_progress
from fer_mlflow.settings.scoring import EvaluateSettings


@settings_command("evaluate", EvaluateSettings)
def command(settings: EvaluateSettings) -> None:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows."""
    from fer_mlflow.workflows.evaluate import evaluate

    click.echo("\n".join(lines(evaluate.of(settings, progress=show_progress))))


def lines(result) -> Iterator[str]:
    """Yield the numbers with their intervals, and where everything is."""
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
    yield f"\n  run      {result.run_id}"
    yield f"  figures  {', '.join(result.figures)}"
    yield f"  rows     {result.predictions_location}"
    yield f"  ui       {result.ui}"


def _slice_lines(column: str, parts) -> Iterator[str]:
    """Yield the scores of each value of a column."""
    from fer_mlflow.scoring.metrics import metric_names

    shown = metric_names(having=lambda metric: "slices" in metric.shown)
    width = max(map(len, [column, *parts]))
    yield f"\n  {column:<{width}}     rows" + "".join(f"  {name:>8}" for name in shown)
    for value, metrics in parts.items():
        numbers = "".join(f"  {metrics[name]:8.4f}" for name in shown)
        yield f"  {value or '(empty)':<{width}}  {metrics['rows']:7,.0f}{numbers}"
