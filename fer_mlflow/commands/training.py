"""What `train` does, apart from its options, so that `--help` imports nothing heavy."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.ensemble import warn
from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.files import cache_folder, sha256_of_file, written_file
from fer_mlflow.data.images import Clahe
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import ContractError
from fer_mlflow.teachers.recipe import Recipe
from fer_mlflow.teachers.shards import held_keys
from fer_mlflow.teachers.training import (
    check_recipe,
    check_training_rows,
    train_teacher,
    training_key,
    write_checkpoint,
)
from fer_mlflow.teachers.training_state import Epoch
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.store import describe_way_to_ui

FOLDER = "teacher"  # the artifact folder of a train run


@dataclass(frozen=True)
class Plan:
    """The input of `train`, read and checked."""

    train: Benchmark
    val: Benchmark
    recipe: Recipe
    init: Path | None
    key: str


def read_plan(options: Mapping[str, Any]) -> Plan:
    """Read and check everything that can be checked before a run is opened.

    Raises
    ------
    FerError
        whatever is wrong with the manifest, its splits, the classes or the checkpoint to start from
    """
    classes = ClassOrder.read(options["classes"]) if options["classes"] else FER7
    train, val = (
        read_benchmark(
            options["manifest"], classes, root=options["root"], split=split, verify_paths=options["verify_paths"]
        )
        for split in (options["train_split"], options["val_split"])
    )
    check_training_rows(train, val)
    names = set(Recipe.__dataclass_fields__) - {"clahe"}
    recipe = Recipe(
        **{name: options[name] for name in names},
        clahe=Clahe(options["clahe_clip"], options["clahe_tile"]) if options["clahe"] else None,
    )
    check_recipe(recipe)
    init = Path(options["init"]) if options["init"] else None
    if init is not None and not init.is_file():
        raise ContractError(f"--init {init}: no such file")
    return Plan(train, val, recipe, init, training_key(recipe, train, val, init))


def train(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    plan = read_plan(options)
    cache = cache_folder()
    folder = cache / "training" / plan.key
    name = options["name"] or f"{plan.recipe.arch} · {plan.recipe.img_size} px · {plan.train.name}"
    with open_run("train", name, options["experiment"] or "") as run:
        run.log_params({**typed, "benchmark": plan.train.name, "rows": len(plan.train), "val_rows": len(plan.val)})
        for part, context in ((plan.train, "training"), (plan.val, "validation")):
            run.log_benchmark(part.name, part.selection_sha256, part.manifest_sha256, len(part), context)
        with held_keys(cache, [plan.key], on_wait=_say_waiting):
            trained = train_teacher(
                plan.train,
                plan.val,
                plan.recipe,
                folder / "last.pt",
                device=options["device"],
                workers=options["workers"],
                init=plan.init,
                on_epoch=_Reporter(run, plan.recipe.epochs),
                warn=warn,
            )
            checkpoint = folder / f"{plan.recipe.arch}.pt"
            write_checkpoint(trained, checkpoint)
            if options["out"]:
                _copy(checkpoint, Path(options["out"]))
            _publish(run, plan, trained.best, checkpoint)
            shutil.rmtree(folder, ignore_errors=True)
    _print_result(plan, trained.best, run, options["out"])


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


def _copy(checkpoint: Path, out: Path) -> None:
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
    click.echo("another process is training the same teacher; waiting for it", err=True)


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
