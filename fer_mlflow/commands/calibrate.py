"""`calibrate`: confidence that means what it says."""

import click

from fer_mlflow.commands.options import Count, Text, TrueFalse, option, run_options, source_options, typed_options


@click.command("calibrate")
@source_options
@option("method", "temperature", click.Choice(["temperature", "bias-corrected", "vector"]), "What is fitted.")
@option("per-teacher", "false", TrueFalse(), "Fit a temperature for each teacher, before fusion.")
@option("fit-run", "", Text(), "Fit on the soft labels of this run (or folder), such as the validation split's.")
@option("crossfit", "5", Count(2, ""), "Else fit on all parts but one of so many, and measure on that one.")
@option("in-sample", "false", TrueFalse(), "Else measure on the rows that were fitted on; the run is tagged so.")
@option("by", "source", str, "Columns whose values get a temperature of their own, comma-separated.")
@option("seed", "0", click.IntRange(min=0), "Deals rows into parts.")
@option("export", "false", TrueFalse(), "Log the calibrated soft labels as an export run.")
@run_options
def command(**options) -> None:
    """Fit a temperature by maximum likelihood, and measure what it changes on rows that it was not fitted on."""
    from fer_mlflow.commands.calibrating import calibrate

    calibrate(options, typed_options())
