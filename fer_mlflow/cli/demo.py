"""`demo`: the tour of the product, from nothing to a leaderboard."""

import importlib

import click

from fer_mlflow.cli.options import LINES, settings_command
from fer_mlflow.progress import show_progress
from fer_mlflow.settings.training import DemoSettings


@settings_command("demo", DemoSettings)
def command(settings: DemoSettings) -> None:
    """Draw faces, train three teachers, export four ensembles on two splits, judge the best, show the leaderboard.

    A second run reuses everything that the first one made.
    """
    from fer_mlflow.tour.demo import run_demo

    def show(name: str, result) -> None:
        importlib.import_module(f"fer_mlflow.cli.{name}")
        click.echo("\n".join(LINES[name](result)))

    run_demo(settings, announce=lambda text: click.echo(f"\n== {text}", err=True), show=show, progress=show_progress)
