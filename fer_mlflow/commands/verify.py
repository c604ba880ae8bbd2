"""`verify`: every check of a bundle with its verdict, and, on request, the teachers asked again."""

import click

from fer_mlflow.commands.options import Count, Text, local_rows_options, option, typed_argument, typed_options


@click.command("verify")
@typed_argument("run_or_folder")
@local_rows_options
@option("recompute", "", Count(1, ""), "Ask the teachers again about so many random rows.")
@option("teachers", "", Text(), "YAML file of the teachers, for --recompute.")
@option("seed", "0", click.IntRange(min=0), "Draws the rows.")
@option("device", "auto", str, "auto, cpu, cuda or cuda:N.")
def command(**options) -> None:
    """Check all of a run's soft labels, or a folder's, and print every check with its verdict.

    With --manifest, the rows too; with --recompute N and --teachers, N random rows are asked again. The exit status is
    1 where a check fails.
    """
    from fer_mlflow.commands.verifying import verify

    verify(options, typed_options())
