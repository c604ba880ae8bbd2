"""`inspect`: how peaked soft labels are at each temperature."""

import click

from fer_mlflow.commands.options import RisingNumbers, option, run_options, source_options, typed_options


@click.command("inspect")
@source_options
@option("temperatures", "1,2,3,4,5,6,8", RisingNumbers(), "Temperatures to look at, comma-separated.")
@option("band", "0.5,0.8", RisingNumbers(2), "Mean top probability that suits distillation: lowest, highest.")
@run_options
def command(**options) -> None:
    """Show how peaked softmax(z / T) is over temperatures, and which of them suit distillation."""
    from fer_mlflow.commands.inspecting import inspect

    inspect(options, typed_options())
