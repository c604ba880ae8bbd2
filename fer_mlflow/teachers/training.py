"""Train a teacher on a manifest's split: the images come by the same path as in an export.

An epoch depends on the seed, its number and the state after the one before, and that state is kept after every epoch:
a run that was killed goes on from its last epoch and ends with the same weights.
"""

import difflib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from fer_mlflow.data.files import sha256_of_file, sha256_of_json, written_file
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.scoring.metrics import score
from fer_mlflow.teachers.asking import Settings, choose_device
from fer_mlflow.teachers.checkpoint import Teacher, build_model, load_weights, usual_channels
from fer_mlflow.teachers.inference import infer
from fer_mlflow.teachers.recipe import Recipe
from fer_mlflow.teachers.training_images import check_val_images, class_weights, make_loader, read_images
from fer_mlflow.teachers.training_state import TRAINING_VERSION, Epoch, TrainingState


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training: the checkpoint of the best epoch, and how it went."""

    checkpoint: dict[str, Any]
    best: Epoch
    history: tuple[Epoch, ...]


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


def training_key(recipe: Recipe, train: Benchmark, val: Benchmark, init: Path | None) -> str:
    """Return the key of a training: benchmark's digest first, then everything that shapes the weights."""
    settings = {
        "training": TRAINING_VERSION,
        "recipe": asdict(recipe),
        "val": val.selection_sha256,
        "classes": list(train.classes.names),
        "init": sha256_of_file(init) if init else None,
    }
    return f"{train.selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"


def train_teacher(
    train: Benchmark,
    val: Benchmark,
    recipe: Recipe,
    state_path: Path,
    *,
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
    init : checkpoint to start from; a head of another size is left at random
    on_epoch : called after each epoch, those of an earlier attempt first

    Raises
    ------
    FerError
        rows, recipe or `init` cannot be used; images that cannot be decoded are all named first
    JobError
        the loss is not finite
    """
    check_training_rows(train, val)
    where = choose_device(device)
    mean, std = (usual_channels(recipe.arch, key) for key in ("mean", "std"))
    _seed(recipe.seed)
    model = build_model(recipe.arch, recipe.img_size, len(train.classes), "train")
    if init is not None and (left := load_weights(model, init)):
        warn(f"{init}: {left} is not taken over, and starts at random")
    rows = read_images(train, recipe, workers)
    check_val_images(val, rows.image_prefixes, recipe, workers, warn)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    scaler = torch.amp.GradScaler(where.type, enabled=_precision(recipe, where) == "fp16")
    for number in range(len(state.history), recipe.epochs):
        _seed(recipe.seed + 1000 * (number + 1))
        loss = _train_epoch(model, loader, optimizer, schedule, scaler, recipe, train, number, where)
        epoch = _validate(model, val, recipe, mean, std, number, optimizer.param_groups[0]["lr"], loss, device, workers)
        state.add(epoch)
        state.write(state_path)
        on_epoch(epoch)
    return Trained(_checkpoint(state, train, recipe, mean, std, rows.image_prefixes), state.best, tuple(state.history))


def _seed(seed: int) -> None:
    """Seed every generator that augmentation and initialisation draw from."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (timm's augmentation draws from it)
    torch.manual_seed(seed)


def _precision(recipe: Recipe, device: torch.device) -> str:
    """Return the precision to train in: mixed where the device has it."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _train_epoch(model, loader, optimizer, schedule, scaler, recipe, part, number, device) -> float:
    """Run one epoch and return its mean loss."""
    weight = None
    if recipe.balance == "loss":
        weight = torch.tensor(class_weights(part), dtype=torch.float32, device=device)
    criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.label_smoothing)
    precision = _precision(recipe, device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    model.train()
    total = rows = 0.0
    for step, (images, labels) in enumerate(loader):
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = criterion(model(images), labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobError(
                f"epoch {number + 1}, step {step + 1}: the loss is {value}; lower --lr, or use --precision fp32. "
                "The state after the last whole epoch is kept"
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step_update(number * len(loader) + step + 1)
        total += value * len(labels)
        rows += len(labels)
    return total / rows


def _validate(model, val, recipe, mean, std, number, rate, loss, device, workers) -> Epoch:
    """Score the model on the validation rows, through the same forward pass as an export."""
    teacher = Teacher("train", model.eval(), recipe.img_size, mean, std, np.arange(len(val.classes)), {}, ())
    settings = Settings(clahe=recipe.clahe, device=device, batch_size=recipe.batch_size, workers=workers)
    (shard,) = infer(val.root, val.paths.to_numpy(object), [(0, len(val))], [teacher], settings)
    metrics = score(shard.logits["train"], val.labels)
    return Epoch(number + 1, float(rate), loss, metrics.nll, metrics.accuracy, metrics.macro_f1)


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
