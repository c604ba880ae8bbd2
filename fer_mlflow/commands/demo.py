"""`demo`: the tour of the product, from nothing to a leaderboard."""

import click

from fer_mlflow.commands.options import option, typed_options


@click.command("demo")
@option("out", "demo", str, "Folder for faces, checkpoints and bundles.")
@option("faces", "2500", click.IntRange(min=200), "Faces to draw.")
@option("epochs", "8", click.IntRange(min=1), "Epochs of each teacher.")
@option("seed", "0", click.IntRange(min=0), "Everything random follows from it.")
def command(**options) -> None:
    """Draw faces, train three teachers, export four ensembles on two splits, judge the best, show the leaderboard.

    A second run reuses everything that the first one made.
    """
    from fer_mlflow.commands.touring import demo

    demo(options, typed_options())
