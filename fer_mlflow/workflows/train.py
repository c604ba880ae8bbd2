"""`train`: train a teacher on a manifest's split, and log its best checkpoint."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.files import cache_folder, sha256_of_file, written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.training import TrainingRowsSettings, TrainSettings
from fer_mlflow.teachers.shards import held_keys
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.training.loop import (
    NotFiniteError,
    Trained,
    check_recipe,
    check_training_rows,
    train_teacher,
    training_key,
    write_checkpoint,
)
from fer_mlflow.training.objective import Objective
from fer_mlflow.training.recipe import Recipe
from fer_mlflow.training.state import Epoch
from fer_mlflow.workflows import RunResult, workflow

FOLDER = "teacher"  # the artifact folder of a train run
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The input of a training, read and checked.

    Attributes
    ----------
    objective : what is minimised; None for the cross-entropy with the labels
    distilled : how it was distilled, for the checkpoint
    """

    train: Benchmark
    val: Benchmark
    recipe: Recipe
    init: Path | None
    key: str
    objective: Objective | None = None
    distilled: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult(RunResult):
    """A teacher that was trained.

    Attributes
    ----------
    best : the epoch whose weights the checkpoint has
    checkpoint : where it is
    """

    plan: Plan
    best: Epoch
    checkpoint: str


@workflow(TrainSettings)
def train(settings: TrainSettings, progress: Progress = no_progress) -> TrainResult:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path. Each epoch
    is reported through `logging`. A training that was stopped goes on from its last epoch.

    Raises
    ------
    FerError
        the rows, the recipe or the checkpoint to start from cannot be used
    JobError
        the loss or the weights are not finite; the best checkpoint so far is logged
    TrackingError
        the server cannot be reached
    """
    plan = read_plan(settings)
    name = settings.name or f"{plan.recipe.arch} · {plan.recipe.img_size} px · {plan.train.name}"
    with open_run("train", name, settings.experiment) as run:
        run.log_params(params_of(settings))
        best = run_plan(run, plan, settings)
    return TrainResult(
        run_id=run.run_id,
        ui=run.ui,
        plan=plan,
        best=best,
        checkpoint=checkpoint_location(run, plan, settings.out),
    )


def read_plan(settings: TrainSettings) -> Plan:
    """Read and check everything that can be checked before a run is opened.

    Raises
    ------
    FerError
        whatever is wrong with the manifest, its splits, the classes or the checkpoint to start from
    """
    train_rows, val_rows = read_training_rows(settings)
    recipe, init = read_recipe(settings)
    return Plan(train_rows, val_rows, recipe, init, training_key(recipe, train_rows, val_rows, init))


def read_training_rows(settings: TrainingRowsSettings) -> tuple[Benchmark, Benchmark]:
    """Read and check the training and the validation rows."""
    rows = read_split(settings, settings.train_split), read_split(settings, settings.val_split)
    check_training_rows(*rows)
    return rows


def read_split(settings: TrainingRowsSettings, split: str) -> Benchmark:
    """Read the rows of a split."""
    classes = ClassOrder.read(settings.classes) if settings.classes else FER7
    return read_benchmark(
        settings.manifest, classes, root=settings.root, split=split, verify_paths=settings.verify_paths
    )


def read_recipe(settings: TrainSettings) -> tuple[Recipe, Path | None]:
    """Read and check the recipe, and the checkpoint to start from."""
    recipe = Recipe.of(settings)
    check_recipe(recipe)
    init = Path(settings.init) if settings.init else None
    if init is not None and not init.is_file():
        raise ContractError(f"--init {init}: no such file")
    return recipe, init


def checkpoint_location(run: TrackedRun, plan: Plan, out: str | None) -> str:
    """Return where a run's checkpoint is: the file of the caller's, else the artifact."""
    return str(Path(out).absolute()) if out else f"{run.artifact_location(FOLDER)}/{plan.recipe.arch}.pt"


def run_plan(run: TrackedRun, plan: Plan, settings: TrainSettings) -> Epoch:
    """Train as planned, or go on where an earlier attempt stopped, log all of it, and return the best epoch.

    Raises
    ------
    FerError
        images or the checkpoint to start from cannot be used
    JobError
        the loss or the weights are not finite; the best checkpoint so far is logged and named
    """
    cache = cache_folder()
    folder = cache / "training" / plan.key
    checkpoint = folder / f"{plan.recipe.arch}.pt"
    run.log_params({"benchmark": plan.train.name, "rows": len(plan.train), "val_rows": len(plan.val)})
    for part, context in ((plan.train, "training"), (plan.val, "validation")):
        run.log_benchmark(part.name, part, context)
    with held_keys(cache, [plan.key], on_wait=_say_waiting):
        try:
            trained = train_teacher(
                plan.train,
                plan.val,
                plan.recipe,
                folder / "last.pt",
                objective=plan.objective,
                device=settings.device,
                workers=settings.workers,
                init=plan.init,
                on_epoch=_Reporter(run, plan.recipe.epochs),
                warn=logger.warning,
            )
        except NotFiniteError as error:
            if error.kept is None:
                raise
            write_checkpoint(_with_origin(error.kept, plan), checkpoint)
            run.log_file(checkpoint, FOLDER)
            raise JobError(f"{error}, and the checkpoint of epoch {error.kept.best.number} is {checkpoint}") from error
        write_checkpoint(_with_origin(trained, plan), checkpoint)
        if settings.out:
            copy_checkpoint(checkpoint, Path(settings.out))
        _publish(run, plan, trained.best, checkpoint)
        shutil.rmtree(folder, ignore_errors=True)
    return trained.best


def _with_origin(trained: Trained, plan: Plan) -> Trained:
    """Return a training whose checkpoint says how it was distilled."""
    if plan.distilled is None:
        return trained
    return replace(trained, checkpoint={**trained.checkpoint, "distilled": dict(plan.distilled)})


class _Reporter:
    """Logs each epoch, to the run and as a line."""

    def __init__(self, run: TrackedRun, epochs: int):
        self.run, self.epochs = run, epochs
        self.best: Epoch | None = None

    def __call__(self, epoch: Epoch) -> None:
        self.run.log_metrics(
            {
                "train_loss": epoch.train_loss,
                "val_loss": epoch.val_loss,
                "val_accuracy": epoch.val_accuracy,
                "val_macro_f1": epoch.val_macro_f1,
                "learning_rate": epoch.learning_rate,
            },
            step=epoch.number,
        )
        is_best = self.best is None or epoch.rank > self.best.rank
        if is_best:
            self.best = epoch
        logger.info(
            f"epoch {epoch.number:>{len(str(self.epochs))}}/{self.epochs}  loss {epoch.train_loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  accuracy {epoch.val_accuracy:.3f}  macro-F1 {epoch.val_macro_f1:.3f}"
            + ("  best" if is_best else "")
        )


def copy_checkpoint(checkpoint: Path, out: Path) -> None:
    """Put the checkpoint where the user wants it, whole or not at all."""
    with written_file(out) as target, checkpoint.open("rb") as source:
        shutil.copyfileobj(source, target)


def _publish(run: TrackedRun, plan: Plan, best: Epoch, checkpoint: Path) -> None:
    """Log the best epoch and its checkpoint, and last the tags by which it is found."""
    run.log_metrics(
        {"best_epoch": best.number, "best_val_accuracy": best.val_accuracy, "best_val_macro_f1": best.val_macro_f1}
    )
    run.log_file(checkpoint, FOLDER)
    run.set_tags(
        {
            "fer.benchmark": plan.train.name,
            "fer.selection_sha256": plan.train.selection_sha256,
            "fer.config_key": plan.key,
            "fer.checkpoint_sha256": sha256_of_file(checkpoint),
        }
    )


def _say_waiting() -> None:
    logger.info("another process trains the same; waiting for it")
