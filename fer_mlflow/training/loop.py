"""Train a teacher, or a student, on a manifest's split: the images come by the same path as in an export.

An epoch depends on the seed, its number and the state after the one before, and that state is kept after every epoch:
a run that was killed goes on from its last epoch and ends with the same weights.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.files import sha256_of_file, sha256_of_json, written_file
from fer_mlflow.scoring.metrics import score
from fer_mlflow.teachers.checkpoint import Teacher, build_model, load_weights, usual_channels
from fer_mlflow.teachers.forward import predict_shards
from fer_mlflow.teachers.predictor import ForwardSettings, choose_device
from fer_mlflow.training.epoch import DivergedError, choose_precision, seed_generators, train_epoch
from fer_mlflow.training.images import check_val_images, make_loader, read_images
from fer_mlflow.training.objective import LabelObjective, Objective
from fer_mlflow.training.recipe import Recipe
from fer_mlflow.training.state import TRAINING_VERSION, Epoch, TrainingState


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that was finished, or stopped: the checkpoint of the best epoch, and how it went."""

    checkpoint: dict[str, Any]
    best: Epoch
    history: tuple[Epoch, ...]


class NotFiniteError(JobError):
    """A training that came to a loss or to weights that are not finite; `kept` is what it had come to before."""

    def __init__(self, message: str, kept: Trained | None):
        super().__init__(message)
        self.kept = kept


def check_training_rows(train: Benchmark, val: Benchmark) -> None:
    """Check that both parts can be used before anything is read.

    Raises
    ------
    ContractError
        rows without a label, a training part of one class, or rows that are in both parts
    """
    for part, name in ((train, "training"), (val, "validation")):
        if (part.labels < 0).any():
            row = int(np.argmax(part.labels < 0))
            raise ContractError(f"{part.name}: row {row + 1} has no label; {name} needs one for every row")
    present = np.unique(train.labels)
    if len(present) < 2:
        only = train.classes.names[present[0]]
        raise ContractError(f"{train.name}: all {len(train)} rows are {only}; training needs two or more classes")
    shared = set(train.paths) & set(val.paths)
    if shared:
        raise ContractError(
            f"{len(shared)} images are both in {train.name} and in {val.name}, {min(shared)} for one; use another split"
        )


def check_recipe(recipe: Recipe) -> None:
    """Check that timm knows the model and the optimizer.

    Raises
    ------
    TeacherError, ContractError
        it does not
    """
    build_model(recipe.arch, recipe.img_size, 2, "--arch")
    known = list_optimizers()
    if recipe.optimizer.lower() not in known:
        near = difflib.get_close_matches(recipe.optimizer, known, n=3)
        raise ContractError(
            f"--optimizer: timm has no {recipe.optimizer!r}; near are {', '.join(map(str, near)) or 'none'}"
        )


def training_key(
    recipe: Recipe, train: Benchmark, val: Benchmark, init: Path | None, objective: Mapping[str, Any] | None = None
) -> str:
    """Return the key of a training: benchmark's digest first, then everything that shapes the weights.

    `objective` is JSON-able and says what else than the labels is learned; None for the labels alone.
    """
    settings: dict[str, Any] = {
        "training": TRAINING_VERSION,
        "recipe": asdict(recipe),
        "val": val.selection_sha256,
        "classes": list(train.classes.names),
        "init": sha256_of_file(init) if init else None,
    }
    if objective is not None:
        settings["objective"] = dict(objective)
    return f"{train.selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"


def train_teacher(
    train: Benchmark,
    val: Benchmark,
    recipe: Recipe,
    state_path: Path,
    *,
    objective: Objective | None = None,
    device: str = "auto",
    workers: int | None = None,
    init: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Trained:
    """Train, or go on where `state_path` left off, and return the best epoch's checkpoint.

    Parameters
    ----------
    state_path : file that holds the state after each epoch, written whole or not at all
    objective : what is minimised; None for the cross-entropy with the labels
    init : checkpoint to start from; a head of another size is left at random
    on_epoch : called after each epoch, those of an earlier attempt first

    Raises
    ------
    FerError
        rows, recipe or `init` cannot be used; images that cannot be decoded are all named first
    NotFiniteError
        the loss of a step, or the weights after an epoch; the error names it and has what was kept
    """
    check_training_rows(train, val)
    objective = objective or LabelObjective(train, recipe)
    where = choose_device(device)
    mean, std = (usual_channels(recipe.arch, key) for key in ("mean", "std"))
    seed_generators(recipe.seed)
    model = build_model(recipe.arch, recipe.img_size, len(train.classes), "train")
    if init is not None and (left := load_weights(model, init)):
        warn(f"{init}: {left} is not taken over, and starts at random")
    rows = read_images(train, recipe, workers)
    objective.check_images(rows.image_prefixes)
    check_val_images(val, rows.image_prefixes, recipe, workers, warn)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.move_to(where)
    loader = make_loader(train, rows, recipe, mean, std, where, workers)
    optimizer = create_optimizer_v2(model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs - 1),
        warmup_lr=recipe.lr / 20,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    state = TrainingState(model, optimizer, sha256_of_json(rows.image_prefixes.tolist()))
    if state_path.exists() and not state.read(state_path):
        warn(f"{state_path}: not of these images and this version; starting from the first epoch")
    for epoch in state.history:
        on_epoch(epoch)
    scaler = torch.amp.GradScaler(where.type, enabled=choose_precision(recipe, where) == "fp16")

    def trained() -> Trained:
        checkpoint = _checkpoint(state, train, recipe, mean, std, rows.image_prefixes)
        return Trained(checkpoint, state.best, tuple(state.history))

    for number in range(len(state.history), recipe.epochs):
        seed_generators(recipe.seed + 1000 * (number + 1))
        try:
            loss = train_epoch(model, loader, optimizer, schedule, scaler, recipe, objective, number, where)
        except DivergedError as what:
            if not state.history:
                raise NotFiniteError(str(what), None) from None
            raise NotFiniteError(f"{what}. The state after epoch {number} is kept", trained()) from None
        epoch = _validate(model, val, recipe, mean, std, number, optimizer.param_groups[0]["lr"], loss, device, workers)
        state.add(epoch)
        state.write(state_path)
        on_epoch(epoch)
    return trained()


def _validate(model, val, recipe, mean, std, number, rate, loss, device, workers) -> Epoch:
    """Score the model on the validation rows, through the same forward pass as an export."""
    preprocessing = replace(recipe.preprocessing, mean=tuple(mean), std=tuple(std))
    teacher = Teacher("train", model.eval(), preprocessing, np.arange(len(val.classes)), {}, ())
    settings = ForwardSettings(device=device, batch_size=recipe.batch_size, workers=workers)
    (shard,) = predict_shards(val.root, val.paths.to_numpy(object), [(0, len(val))], [teacher], settings)
    metrics = score(shard.logits["train"], val.labels, val.classes.names)
    return Epoch(number + 1, float(rate), loss, metrics["nll"], metrics["accuracy"], metrics["macro_f1"])


def write_checkpoint(trained: Trained, path: Path) -> None:
    """Write the best epoch's checkpoint, whole or not at all."""
    with written_file(path) as file:
        torch.save(trained.checkpoint, file)


def _checkpoint(state: TrainingState, train: Benchmark, recipe: Recipe, mean, std, prefixes) -> dict[str, Any]:
    """Return what `teachers.yaml` needs only the path of."""
    return {
        "model": state.best_weights,
        "arch": recipe.arch,
        "img_size": recipe.img_size,
        "mean": list(mean),
        "std": list(std),
        "classes": list(train.classes.names),
        "clahe": asdict(recipe.clahe) if recipe.clahe else None,
        "epoch": state.best.number,
        "val_accuracy": state.best.val_accuracy,
        "val_macro_f1": state.best.val_macro_f1,
        "recipe": _plain(asdict(recipe)),
        "trained_on": {
            "benchmark": train.name,
            "rows": len(train),
            "selection_sha256": train.selection_sha256,
            "image_prefixes": torch.from_numpy(np.sort(prefixes)),
        },
        "timm": timm.__version__,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that holds nothing but what a checkpoint may be loaded with."""
    return {key: value for key, value in values.items() if isinstance(value, int | float | str | dict | None)}
