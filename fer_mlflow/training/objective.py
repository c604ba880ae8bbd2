"""What a training minimises: the one thing that sets `distill` apart from `train`."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.training.images import class_weights
from fer_mlflow.training.recipe import Recipe


class Objective(Protocol):
    """The loss of a batch, which knows its rows, so that it may look up anything about them."""

    def check_images(self, prefixes: np.ndarray) -> None:
        """Refuse images that are not the ones the objective is about; (N,) `provenance.image_prefixes`."""

    def move_to(self, device: torch.device) -> None:
        """Take what is looked up to the device that trains."""

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return the loss of (B, C) logits with (B,) labels, of these (B,) rows of the training part.

        `epoch` counts from 0.
        """


class LabelObjective:
    """Cross-entropy with the labels."""

    def __init__(self, part: Benchmark, recipe: Recipe):
        self.label_smoothing = recipe.label_smoothing
        self.weight = None
        if recipe.balance == "loss":
            self.weight = torch.tensor(class_weights(part), dtype=torch.float32)

    def check_images(self, prefixes: np.ndarray) -> None:
        """Take any images."""

    def move_to(self, device: torch.device) -> None:
        """Take the class weights to a device."""
        if self.weight is not None:
            self.weight = self.weight.to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(logits, labels, weight=self.weight, label_smoothing=self.label_smoothing)
