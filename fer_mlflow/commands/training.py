"""What `train` does, apart from its options, so that `--help` imports nothing heavy."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.images import Clahe
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.files import cache_folder, sha256_of_file, written_file
from fer_mlflow.teachers.shards import held_keys
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.store import describe_way_to_ui
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
from fer_mlflow.workflows.ensemble import warn

FOLDER = "teacher"  # the artifact folder of a train run


@dataclass(frozen=True)
class Plan:
    """The input of a training, read and checked.

    Attributes
    ----------
    objective : what is minimised; None for the cross-entropy with the labels
    distilled : what the checkpoint says of it
    """

    train: Benchmark
    val: Benchmark
    recipe: Recipe
    init: Path | None
    key: str
    objective: Objective | None = None
    distilled: Mapping[str, Any] | None = None


def read_plan(options: Mapping[str, Any]) -> Plan:
    """Read and check everything that can be checked before a run is opened.

    Raises
    ------
    FerError
        whatever is wrong with the manifest, its splits, the classes or the checkpoint to start from
    """
    train, val = read_parts(options)
    recipe, init = read_recipe(options)
    return Plan(train, val, recipe, init, training_key(recipe, train, val, init))


def read_parts(options: Mapping[str, Any]) -> tuple[Benchmark, Benchmark]:
    """Read and check the training and the validation rows."""
    train, val = (read_split(options, options[name]) for name in ("train_split", "val_split"))
    check_training_rows(train, val)
    return train, val


def read_split(options: Mapping[str, Any], split: str) -> Benchmark:
    """Read the rows of a split."""
    classes = ClassOrder.read(options["classes"]) if options["classes"] else FER7
    verify_paths = options["verify_paths"]
    return read_benchmark(options["manifest"], classes, root=options["root"], split=split, verify_paths=verify_paths)


def read_recipe(options: Mapping[str, Any]) -> tuple[Recipe, Path | None]:
    """Read and check how to train, and the checkpoint to start from."""
    names = set(Recipe.__dataclass_fields__) - {"clahe"}
    recipe = Recipe(
        **{name: options[name] for name in names},
        clahe=Clahe(options["clahe_clip"], options["clahe_tile"]) if options["clahe"] else None,
    )
    check_recipe(recipe)
    init = Path(options["init"]) if options["init"] else None
    if init is not None and not init.is_file():
        raise ContractError(f"--init {init}: no such file")
    return recipe, init


def train(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    plan = read_plan(options)
    name = options["name"] or f"{plan.recipe.arch} · {plan.recipe.img_size} px · {plan.train.name}"
    with open_run("train", name, options["experiment"] or "") as run:
        run.log_params(typed)
        best = carry_out(run, plan, options)
    _print_result(plan, best, run, options["out"])


def carry_out(run: TrackedRun, plan: Plan, options: Mapping[str, Any]) -> Epoch:
    """Train as planned, or go on where an earlier attempt stopped, log all of it, and return the best epoch.

    Raises
    ------
    FerError
        images or the checkpoint to start from cannot be used
    JobError
        the training came to numbers that are not finite; the best checkpoint so far is logged and named
    """
    cache = cache_folder()
    folder = cache / "training" / plan.key
    checkpoint = folder / f"{plan.recipe.arch}.pt"
    run.log_params({"benchmark": plan.train.name, "rows": len(plan.train), "val_rows": len(plan.val)})
    for part, context in ((plan.train, "training"), (plan.val, "validation")):
        run.log_benchmark(part.name, part.selection_sha256, part.manifest_sha256, len(part), context)
    with held_keys(cache, [plan.key], on_wait=_say_waiting):
        try:
            trained = train_teacher(
                plan.train,
                plan.val,
                plan.recipe,
                folder / "last.pt",
                objective=plan.objective,
                device=options["device"],
                workers=options["workers"],
                init=plan.init,
                on_epoch=_Reporter(run, plan.recipe.epochs),
                warn=warn,
            )
        except NotFiniteError as error:
            if error.kept is None:
                raise
            write_checkpoint(_with_origin(error.kept, plan), checkpoint)
            run.log_file(checkpoint, FOLDER)
            raise JobError(f"{error}, and the checkpoint of epoch {error.kept.best.number} is {checkpoint}") from error
        write_checkpoint(_with_origin(trained, plan), checkpoint)
        if options["out"]:
            copy_checkpoint(checkpoint, Path(options["out"]))
        _publish(run, plan, trained.best, checkpoint)
        shutil.rmtree(folder, ignore_errors=True)
    return trained.best


def _with_origin(trained: Trained, plan: Plan) -> Trained:
    """Return a training whose checkpoint says what else than labels it learned from."""
    if plan.distilled is None:
        return trained
    return replace(trained, checkpoint={**trained.checkpoint, "distilled": dict(plan.distilled)})


class _Reporter:
    """Logs each epoch and says it, on stderr."""

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
        click.echo(
            f"epoch {epoch.number:>{len(str(self.epochs))}}/{self.epochs}  loss {epoch.train_loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  accuracy {epoch.val_accuracy:.3f}  macro-F1 {epoch.val_macro_f1:.3f}"
            + ("  best" if is_best else ""),
            err=True,
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
    click.echo("another process is training the same; waiting for it", err=True)


def _print_result(plan: Plan, best: Epoch, run: TrackedRun, out: str | None) -> None:
    """Print the best epoch and what to write into teachers.yaml."""
    where = Path(out).absolute() if out else f"{run.artifact_location(FOLDER)}/{plan.recipe.arch}.pt"
    click.echo(
        f"{plan.recipe.arch} at {plan.recipe.img_size} px, trained on {plan.train.name}, {len(plan.train):,} rows\n"
    )
    click.echo(f"  best epoch    {best.number} of {plan.recipe.epochs}")
    click.echo(f"  val_accuracy  {best.val_accuracy:.4f}")
    click.echo(f"  val_macro_f1  {best.val_macro_f1:.4f}\n")
    click.echo(f"  run         {run.run_id}")
    click.echo(f"  checkpoint  {where}")
    click.echo(f"  look        {describe_way_to_ui(run.experiment_id, run.run_id)}")
