"""`train`: a teacher from a manifest, ready for teachers.yaml."""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import settings_command
from fer_mlflow.progress import show_progress
from fer_mlflow.settings.training import TrainSettings


@settings_command("train", TrainSettings)
def command(settings: TrainSettings) -> None:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path.
    """
    from fer_mlflow.workflows.train import train

    click.echo("\n".join(lines(train.of(settings, progress=show_progress))))


def lines(result) -> Iterator[str]:
    """Yield the best epoch, and where the checkpoint is."""
    plan, settings = result.plan, result.plan.settings
    yield f"{settings.arch} at {settings.img_size} px, trained on {plan.train.name}, {len(plan.train):,} rows\n"
    yield from epoch_lines(plan, result.best)
    yield f"\n  run         {result.run_id}"
    yield f"  checkpoint  {result.checkpoint}"
    yield f"  ui          {result.ui}"


def epoch_lines(plan, best) -> Iterator[str]:
    """Yield the best epoch's number and scores."""
    yield f"  best epoch    {best.number} of {plan.settings.epochs}"
    yield f"  val_accuracy  {best.val_accuracy:.4f}"
    yield f"  val_macro_f1  {best.val_macro_f1:.4f}"
