"""`train`: a teacher from a manifest, ready for teachers.yaml."""

from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.training import TrainSettings


@workflow_command("train", TrainSettings)
def command(result) -> Iterator[str]:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path.
    """
    plan, settings = result.plan, result.plan.settings
    yield f"{settings.arch} at {settings.img_size} px, trained on {plan.train.name}, {len(plan.train):,} rows\n"
    yield from epoch_lines(plan, result.best)
    yield ""
    yield from where_lines(result, checkpoint=result.checkpoint)


def epoch_lines(plan, best) -> Iterator[str]:
    """Yield the best epoch's number and scores."""
    yield f"  best epoch    {best.number} of {plan.settings.epochs}"
    yield f"  val_accuracy  {best.val_accuracy:.4f}"
    yield f"  val_macro_f1  {best.val_macro_f1:.4f}"
