"""The loss of a training on labels alone; `distill` adds to it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.settings.training import Recipe
from fer_mlflow.training.images import class_weights


class LabelObjective:
    """Cross-entropy with the labels. A batch comes with its rows, so that a subclass may look up targets for them."""

    def __init__(self, part: Benchmark, recipe: Recipe):
        self.label_smoothing = recipe.label_smoothing
        self.weight = None
        if recipe.balance == "loss":
            self.weight = torch.tensor(class_weights(part), dtype=torch.float32)

    @property
    def settings(self) -> dict[str, Any] | None:
        """What a training's key needs to know, as JSON; None for the labels alone."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of the loss, beside the recipe."""
        return {}

    def check_images(self, prefixes: np.ndarray) -> None:
        """Refuse images that are not those of the targets; (N,) `image_prefixes`. Labels go with any images."""

    def move_to(self, device: torch.device) -> None:
        """Move the class weights, and what a subclass looks up, to the device that trains."""
        if self.weight is not None:
            self.weight = self.weight.to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return the mean loss of (B, C) logits with (B,) labels, of these (B,) training rows; `epoch` from 0."""
        return functional.cross_entropy(logits, labels, weight=self.weight, label_smoothing=self.label_smoothing)
