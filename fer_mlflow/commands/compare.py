"""`compare`: may two results be compared, and is the difference real?"""

import click

from fer_mlflow.commands.options import run_options, typed_argument, typed_options


@click.command("compare")
@typed_argument("run_a")
@typed_argument("run_b")
@run_options
def command(**options) -> None:
    """Set two runs' soft labels side by side: first how they were made, then, where that allows it, their scores.

    RUN_A and RUN_B are export or teacher runs, by their id or its first digits, or folders of bundles. The exit
    status is 3 where they cannot be compared.
    """
    from fer_mlflow.commands.comparing import compare

    compare(options, typed_options())
