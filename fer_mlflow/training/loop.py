"""Train a teacher, or a student, on a manifest's split: the images come by the same path as in an export.

An epoch depends on the seed, its number and the state after the one before, and that state is kept after every epoch:
a run that was killed goes on from its last epoch and ends with the same weights.
"""

import difflib
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm import optim, scheduler

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.files import sha256_of_file, sha256_of_json, written_file
from fer_mlflow.scoring.metrics import score
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.settings.training import Recipe, RecipeSettings
from fer_mlflow.teachers.checkpoint import Teacher, build_model, load_weights
from fer_mlflow.teachers.forward import choose_device, predict_shards
from fer_mlflow.training.images import class_weights, make_loader, preprocessing_of, read_images

TRAINING_VERSION = 1  # raised when the same options would give other weights than before


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch; losses in nats, `learning_rate` at its end."""

    number: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float

    @property
    def rank(self) -> tuple[float, float]:
        """Order of merit: macro-F1, then the lower loss."""
        return self.val_macro_f1, -self.val_loss


class TrainingState:
    """What a training needs to go on after a kill: weights, optimizer, and the best epoch so far."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, images: str):
        self.model, self.optimizer, self.images = model, optimizer, images
        self.history: list[Epoch] = []
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def best(self) -> Epoch:
        """The epoch with the best rank, the first of equals."""
        return max(self.history, key=lambda epoch: epoch.rank)

    def add(self, epoch: Epoch, path: Path) -> None:
        """Add an epoch, keep its weights where it is the best, and write the state in the place of the last one."""
        self.history.append(epoch)
        weights = self.model.state_dict()
        if self.best is epoch:
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        content = {
            "training": TRAINING_VERSION,
            "images": self.images,
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "history": [asdict(each) for each in self.history],
        }
        with written_file(path) as file:
            torch.save(content, file)

    def read(self, path: Path) -> bool:
        """Take over a state of the same images; return whether there was one."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if (content["training"], content["images"]) != (TRAINING_VERSION, self.images):
                return False
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
        except Exception:  # whatever is wrong with the file, starting over is right
            return False
        self.best_weights = content["best_weights"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        return True


class LabelObjective:
    """Cross-entropy with the labels. A batch comes with its rows, so that a subclass may look up targets for them."""

    def __init__(self, part: Benchmark, recipe: Recipe):
        self.label_smoothing = recipe.label_smoothing
        self.weight = None
        if recipe.balance == "loss":
            self.weight = torch.tensor(class_weights(part), dtype=torch.float32)

    @property
    def settings(self) -> dict[str, Any]:
        """What a training's key needs to know, as JSON; nothing for the labels alone."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of the loss, beside the recipe."""
        return {}

    def check_images(self, prefixes: np.ndarray) -> None:
        """Refuse images that are not those of the targets; (N,) `image_prefixes`. Labels go with any images."""

    def move_to(self, device: torch.device) -> None:
        """Move the class weights, and what a subclass looks up, to the device that trains."""
        if self.weight is not None:
            self.weight = self.weight.to(device)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return the mean loss of (B, C) logits with (B,) labels, of these (B,) training rows; `epoch` from 0."""
        return torch.nn.functional.cross_entropy(logits, labels, self.weight, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that was finished, or stopped: the checkpoint of the best epoch, and every epoch."""

    checkpoint: dict[str, Any]
    best: Epoch
    history: tuple[Epoch, ...]

    def write(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        with written_file(path) as file:
            torch.save(self.checkpoint, file)


class NotFiniteError(JobError):
    """A loss or weights that are not finite; `kept` is the training up to the epoch before, None for the first."""

    def __init__(self, message: str, kept: Trained | None):
        super().__init__(message)
        self.kept = kept


def check_training_rows(train: Benchmark, val: Benchmark) -> None:
    """Raise ContractError for rows without a label, a training part of one class, or rows that are in both parts."""
    for part, name in ((train, "training"), (val, "validation")):
        if (part.labels < 0).any():
            row = int(np.argmax(part.labels < 0))
            raise ContractError(f"{part.name}: row {row + 1} has no label; {name} needs one for every row")
    present = np.unique(train.labels)
    if len(present) < 2:
        only = train.classes.names[present[0]]
        raise ContractError(f"{train.name}: all {len(train)} rows are {only}; training needs two or more classes")
    if shared := set(train.paths) & set(val.paths):
        raise ContractError(
            f"{len(shared)} images are both in {train.name} and in {val.name}, {min(shared)} for one; use another split"
        )


def check_recipe(recipe: Recipe) -> None:
    """Raise TeacherError for a model, and ContractError for an optimizer, that timm does not know."""
    build_model(recipe.arch, recipe.img_size, 2, "--arch")
    known = optim.list_optimizers()
    if recipe.optimizer.lower() not in known:
        near = ", ".join(map(str, difflib.get_close_matches(recipe.optimizer, known, n=3)))
        raise ContractError(f"--optimizer: timm has no {recipe.optimizer!r}; near are {near or 'none'}")


def training_key(
    recipe: Recipe, train: Benchmark, val: Benchmark, init: str | Path | None, objective: LabelObjective | None = None
) -> str:
    """Return the key of a training: benchmark's digest first, then everything that shapes the weights."""
    settings: dict[str, Any] = {
        "training": TRAINING_VERSION,
        "recipe": _describe_recipe(recipe),
        "val": val.selection_sha256,
        "classes": list(train.classes.names),
        "init": sha256_of_file(init) if init else None,
    }
    if objective is not None and (own := objective.settings):
        settings["objective"] = own
    return f"{train.selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"


def _describe_recipe(recipe: Recipe) -> dict[str, Any]:
    clahe = Clahe.of(recipe)
    settings = {name: getattr(recipe, name) for name in RecipeSettings.__dataclass_fields__}
    return settings | {"clahe": asdict(clahe) if clahe else None}


def train_teacher(
    train: Benchmark,
    val: Benchmark,
    recipe: Recipe,
    state_path: Path,
    *,
    objective: LabelObjective | None = None,
    device: str = "auto",
    workers: int | None = None,
    init: str | Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Trained:
    """Train, or go on where `state_path` left off, and return the best epoch's checkpoint.

    That file holds the state after each epoch, written whole or not at all. An objective of None is the cross-entropy
    with the labels. A head of another size than that of the checkpoint `init` is left at random. `on_epoch` is called
    after each epoch, those of an earlier attempt first.

    Raises FerError: rows, recipe or `init` cannot be used; images that cannot be decoded are all named first.
    NotFiniteError: the loss of a step, or the weights after an epoch; the error names it and has what was kept.
    """
    check_training_rows(train, val)
    objective = objective or LabelObjective(train, recipe)
    where, preprocessing = choose_device(device), preprocessing_of(recipe)
    _seed_generators(recipe.seed)
    model = build_model(recipe.arch, recipe.img_size, len(train.classes), "train")
    if init and (left := load_weights(model, Path(init))):
        warn(f"{init}: {left} is not taken over, and starts at random")
    pixels, prefixes = read_images(train, preprocessing, workers)
    objective.check_images(prefixes)
    if both := int(np.isin(read_images(val, preprocessing, workers)[1], prefixes).sum()):
        warn(f"{both} of {len(val)} validation images are also trained on, under another path: its scores are too good")
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.move_to(where)
    loader = make_loader(train, pixels, recipe, preprocessing, where, workers)
    optimizer = optim.create_optimizer_v2(model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule, _ = scheduler.create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs - 1),
        warmup_lr=recipe.lr / 20,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    state = TrainingState(model, optimizer, sha256_of_json(prefixes.tolist()))
    if state_path.exists() and not state.read(state_path):
        warn(f"{state_path}: not of these images and this version; starting from the first epoch")
    for epoch in state.history:
        on_epoch(epoch)
    precision = _choose_precision(recipe, where)
    scaler = torch.amp.GradScaler(where.type, enabled=precision == "fp16")

    def trained() -> Trained:
        checkpoint = _checkpoint(state, train, recipe, preprocessing, prefixes) | objective.describe()
        return Trained(checkpoint, state.best, tuple(state.history))

    for number in range(len(state.history), recipe.epochs):
        _seed_generators(recipe.seed + 1000 * (number + 1))
        try:
            loss = train_epoch(model, loader, optimizer, schedule, scaler, precision, objective, number, where)
        except NotFiniteError as error:
            if not state.history:
                raise
            raise NotFiniteError(f"{error}. The state after epoch {number} is kept", trained()) from None
        teacher = Teacher("train", model.eval(), preprocessing, np.arange(len(val.classes)), {}, ())
        settings = ForwardSettings(device=device, batch_size=recipe.batch_size, workers=workers)
        ((_, shard),) = predict_shards(val.root, val.paths.to_numpy(object), [(0, len(val))], [teacher], settings)
        scores = score(shard["train"].logits, val.labels, val.classes.names)
        rate = float(optimizer.param_groups[0]["lr"])
        epoch = Epoch(number + 1, rate, loss, scores["nll"], scores["accuracy"], scores["macro_f1"])
        state.add(epoch, state_path)
        on_epoch(epoch)
    return trained()


def train_epoch(
    model, loader, optimizer, schedule, scaler, precision: str, objective: LabelObjective, number: int, device
) -> float:
    """Run one epoch, counted from 0, and return its mean loss; NotFiniteError names the first step that is not."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    advice = "lower --lr, or use --precision fp32"
    model.train()
    total = count = 0.0
    for step, (images, labels, rows) in enumerate(loader):
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels, rows = (each.to(device, non_blocking=True) for each in (labels, rows))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = objective(model(images), labels, rows, number)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(f"epoch {number + 1}, step {step + 1}: the loss is {value}; {advice}", None)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step_update(number * len(loader) + step + 1)
        total += value * len(labels)
        count += len(labels)
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        message = f"epoch {number + 1}, step {len(loader)}: the weights are not finite after it; {advice}"
        raise NotFiniteError(message, None)
    return total / count


def _seed_generators(seed: int) -> None:
    """Seed every generator that augmentation and initialisation draw from."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (timm's augmentation draws from it)
    torch.manual_seed(seed)


def _choose_precision(recipe: Recipe, device: torch.device) -> str:
    """Return the precision to train in: mixed where the device has it."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _checkpoint(
    state: TrainingState, train: Benchmark, recipe: Recipe, preprocessing: Preprocessing, prefixes: np.ndarray
) -> dict[str, Any]:
    """Return what `teachers.yaml` needs only the path of."""
    images = preprocessing.as_json()
    return {
        "model": state.best_weights,
        "arch": recipe.arch,
        **{name: images[name] for name in ("img_size", "mean", "std")},
        "classes": list(train.classes.names),
        "clahe": images["clahe"],
        "epoch": state.best.number,
        "val_accuracy": state.best.val_accuracy,
        "val_macro_f1": state.best.val_macro_f1,
        "recipe": _describe_recipe(recipe),
        "trained_on": {
            "benchmark": train.name,
            "rows": len(train),
            "selection_sha256": train.selection_sha256,
            "image_prefixes": torch.from_numpy(np.sort(prefixes)),
        },
        "timm": timm.__version__,
    }
