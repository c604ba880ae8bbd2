"""The loss of a student: the cross-entropy with the labels, and a divergence from the soft labels."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.settings.training import LossSettings, Recipe
from fer_mlflow.settings.weights import format_weights
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import align
from fer_mlflow.student.losses import dkd_rows, kd_rows
from fer_mlflow.student.targets import SoftTargets
from fer_mlflow.training.objective import LabelObjective


class SoftObjective(LabelObjective):
    """ce_weight · CE + warm-up · (alpha KD, or DKD with alpha and beta).

    Rows without soft labels have the cross-entropy alone.

    Attributes
    ----------
    missing : how many of the N training rows have no soft labels
    """

    def __init__(
        self,
        part: Benchmark,
        recipe: Recipe,
        bundle: SoftLabels,
        targets: SoftTargets,
        loss: LossSettings,
        *,
        allow_missing: bool = False,
    ):
        """Join the targets of a bundle's rows to the rows of a training part.

        Raises
        ------
        FerError
            classes or rows differ (`align`); or rows have no soft labels and may not, or would have no loss
        """
        if loss.loss == "ce":
            raise ContractError("loss ce learns from labels alone; use kd or dkd")
        super().__init__(part, recipe)
        self.bundle, self.targets, self.loss = bundle, targets, loss
        self.alignment = align(bundle, part, subset=True)
        has_targets = self.alignment.positions >= 0
        self.missing = int((~has_targets).sum())
        if self.missing:
            absent = self.alignment.missing
            if not allow_missing:
                raise BundleError(f"{absent}; export them, or train them on their labels alone with --missing ce")
            if not has_targets.any():
                raise BundleError(f"{absent}; these soft labels are of other images")
            if loss.ce_weight == 0:
                raise ContractError(f"{absent}, and --ce-weight 0 leaves them without any loss")
        joined = np.zeros((len(part), len(part.classes)), np.float32)
        joined[has_targets] = targets.logits[self.alignment.positions[has_targets]]
        self.logits, self.has_targets = torch.from_numpy(joined), torch.from_numpy(has_targets)

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of the loss, without those that it does not use."""
        values = {name: getattr(self.loss, name) for name in LossSettings.__dataclass_fields__}
        return values if self.loss.loss == "dkd" else {name: each for name, each in values.items() if name != "beta"}

    @property
    def settings(self) -> dict[str, Any]:
        """The loss, and the very numbers that are learned."""
        digest = hashlib.sha256(self.logits.numpy().tobytes() + self.has_targets.numpy().tobytes())
        return {**self.loss_settings, "targets_sha256": digest.hexdigest()}

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of the distillation."""
        distilled = {
            **self.loss_settings,
            "target": self.targets.kind,
            "effective_temperature": self.targets.effective_temperature,
            "rows_without_soft_labels": self.missing,
            "bundle_sha256": self.bundle.sha256,
            "ensemble": format_weights(self.bundle.configuration.weights),
        }
        return {"distilled": distilled}

    def check_images(self, prefixes: np.ndarray) -> None:
        """Refuse images that are not the ones that the soft labels were computed from."""
        digests = np.ascontiguousarray(prefixes.astype(">i8")).view(np.uint8).reshape(-1, 8)
        self.alignment.check_images(digests[self.alignment.rows])

    def move_to(self, device: torch.device) -> None:
        """Move the targets of all rows to a device, once: a step looks its rows up there."""
        super().move_to(device)
        self.logits, self.has_targets = self.logits.to(device), self.has_targets.to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return the loss; rows without soft labels count in both means, with 0 in the divergence's."""
        loss, teacher = self.loss, self.logits[rows]
        if loss.loss == "kd":
            terms = loss.alpha * kd_rows(logits, teacher, loss.temperature)
        else:
            terms = dkd_rows(logits, teacher, labels, loss.alpha, loss.beta, loss.temperature)
        if self.missing:
            terms = terms * self.has_targets[rows]
        total = min(1.0, (epoch + 1) / (loss.distill_warmup_epochs + 1)) * terms.mean()
        if loss.ce_weight:
            total = total + loss.ce_weight * super().__call__(logits, labels, rows, epoch)
        return total
