"""`evaluate`: how good soft labels are, and how sure that is."""

import click

from fer_mlflow.commands.options import AboveZero, option, run_options, source_options, typed_options


@click.command("evaluate")
@source_options
@option("by", "source", str, "Columns whose values are scored on their own, comma-separated.")
@option("temperature", "1", AboveZero(), "Evaluate logits divided by this.")
@run_options
def command(**options) -> None:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows."""
    from fer_mlflow.commands.evaluating import evaluate

    evaluate(options, typed_options())
