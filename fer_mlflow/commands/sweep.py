"""`sweep`: every weighting, fusion space and preprocessing, from logits that are there."""

import click

from fer_mlflow.commands.options import (
    Count,
    Text,
    TrueFalse,
    option,
    run_options,
    teacher_set_options,
    typed_options,
    weightings_options,
)


@click.command("sweep")
@teacher_set_options(clahe="false")
@weightings_options
@option("metric", "macro_f1", str, "Ranks configurations: accuracy, macro_f1, nll, brier or f1/CLASS.")
@option("optimize", "", Text(), "Search beyond the grid: macro_f1, accuracy (greedy selection) or nll (convex).")
@option("fit-split", "", Text(), "Choose weights on this split …")
@option("report-split", "", Text(), "… and say on this one what the choice is worth.")
@option("crossfit", "5", Count(2, ""), "Else choose on all parts but one of so many, and judge on that one.")
@option("in-sample", "false", TrueFalse(), "Else judge on the rows of the choice; the run is tagged so.")
@option("pareto", "macro_f1,ece", str, "Two metrics whose trade-off is drawn.")
@option("log-top", "5", click.IntRange(min=0), "Log so many of the best as nested runs with all metrics.")
@option("export-top", "0", click.IntRange(min=0), "Export so many of the best, and what was chosen, as soft labels.")
@option("seed", "0", click.IntRange(min=0), "Deals rows into parts.")
@run_options
def command(**options) -> None:
    """Score every weighting of teachers in each space, choose one, and say what the choice is worth on other rows."""
    from fer_mlflow.commands.sweeping import sweep

    sweep(options, typed_options())
