"""`reproduce`: where an old number came from."""

import click

from fer_mlflow.commands.options import (
    AboveZero,
    Count,
    Number,
    option,
    run_options,
    teacher_set_options,
    typed_options,
    weightings_options,
)


@click.command("reproduce")
@teacher_set_options(clahe="both")
@weightings_options
@option("accuracy", "", Number(most=1), "The number that is to be given again, a share of 1.")
@option("macro-f1", "", Number(most=1), "The same for macro-F1.")
@option("f1", "", str, "The same for classes: CLASS=number,…")
@option("balanced-accuracy", "", Number(most=1), "The same for balanced accuracy, the mean recall over classes.")
@option("nll", "", Number(), "The same for the NLL, nats.")
@option("ece", "", Number(most=1), "The same for the ECE with 15 bins.")
@option("brier", "", Number(most=2), "The same for the Brier score.")
@option("tolerance", "0.005", AboveZero(), "How far a match may be from each number.")
@option("temperature", "", Number(least=1e-6), "T that logits were divided by.  [default: sought where it matters]")
@option("rows", "", Count(1, ""), "Labelled rows that were scored.  [default: any part of a benchmark]")
@option("show", "10", click.IntRange(min=1), "Print so many matches; the table has all.")
@run_options
def command(**options) -> None:
    """Search benchmarks, parts of them, preprocessing, spaces, weights and temperatures for a row of an old table."""
    from fer_mlflow.commands.reproducing import reproduce

    reproduce(options, typed_options())
