"""One epoch of a training."""

import math
import random

import numpy as np
import torch

from fer_mlflow.training.objective import Objective
from fer_mlflow.training.recipe import Recipe


class DivergedError(Exception):
    """A step's loss, or the weights after an epoch, are not finite."""


def seed_generators(seed: int) -> None:
    """Seed every generator that augmentation and initialisation draw from."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (timm's augmentation draws from it)
    torch.manual_seed(seed)


def choose_precision(recipe: Recipe, device: torch.device) -> str:
    """Return the precision to train in: mixed where the device has it."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def train_epoch(model, loader, optimizer, schedule, scaler, recipe, objective: Objective, number, device) -> float:
    """Run one epoch and return its mean loss.

    Raises
    ------
    DivergedError
        a step's loss, or the weights after the last step, are not finite
    """
    precision = choose_precision(recipe, device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    advice = "lower --lr, or use --precision fp32"
    model.train()
    total = count = 0.0
    for step, (images, labels, rows) in enumerate(loader):
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        rows = rows.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = objective(model(images), labels, rows, number)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"epoch {number + 1}, step {step + 1}: the loss is {value}; {advice}")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step_update(number * len(loader) + step + 1)
        total += value * len(labels)
        count += len(labels)
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise DivergedError(f"epoch {number + 1}, step {len(loader)}: the weights are not finite after it; {advice}")
    return total / count
