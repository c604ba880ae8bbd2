"""`export`: from a manifest and teachers to a tracked, verified soft-label bundle."""

import click

from fer_mlflow.commands.options import (
    Text,
    benchmark_options,
    compute_options,
    ensemble_options,
    option,
    preprocessing_options,
    run_options,
    typed_options,
)


@click.command("export")
@benchmark_options
@ensemble_options
@preprocessing_options
@compute_options
@run_options
@option("out", "", Text(), "Also put the bundle into this folder.")
def command(**options) -> None:
    """Ask teachers about a benchmark's images, fuse their answers, and log the soft labels as an MLflow run.

    Teachers that were asked before on the same rows with the same preprocessing are not asked again.
    """
    from fer_mlflow.commands.exporting import export

    export(options, typed_options())
