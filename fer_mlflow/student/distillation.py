"""What a student minimises: the cross-entropy with the labels, and a divergence from the soft labels."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.settings.training import LossSettings
from fer_mlflow.settings.weights import format_weights
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import align
from fer_mlflow.student.losses import dkd_rows, kd_rows
from fer_mlflow.student.targets import SoftTargets
from fer_mlflow.training.objective import LabelObjective
from fer_mlflow.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Distillation(LossSettings):
    """How soft labels enter the loss: ce_weight · CE + warm-up · (alpha KD, or DKD with alpha and beta)."""

    @classmethod
    def of(cls, settings: LossSettings) -> "Distillation":
        """Return the loss in the settings of a workflow."""
        return cls(**{name: getattr(settings, name) for name in LossSettings.__dataclass_fields__})

    def check(self) -> None:
        """Check that the loss has soft labels."""
        if self.loss == "ce":
            raise ContractError("loss ce learns from labels alone; use kd or dkd")

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes the loss; without what this loss does not use."""
        values = asdict(self)
        return values if self.loss == "dkd" else {key: value for key, value in values.items() if key != "beta"}

    def share(self, epoch: int) -> float:
        """Return the weight of the distillation term in an epoch, counted from 0."""
        return min(1.0, (epoch + 1) / (self.distill_warmup_epochs + 1))


class SoftObjective(LabelObjective):
    """Cross-entropy with the labels, and a divergence from the teachers' targets.

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
        how: Distillation,
        *,
        allow_missing: bool = False,
    ):
        """Join the targets of a bundle's rows to the rows of a training part.

        Raises
        ------
        FerError
            classes or rows differ (`align`); or rows have no soft labels and may not, or would have no loss
        """
        super().__init__(part, recipe)
        self.bundle, self.how = bundle, how
        self.alignment = align(bundle, part, subset=True)
        has_targets = self.alignment.positions >= 0
        self.missing = int((~has_targets).sum())
        if self.missing:
            absent = self.alignment.missing
            if not allow_missing:
                raise BundleError(f"{absent}; export them, or train them on their labels alone with --missing ce")
            if not has_targets.any():
                raise BundleError(f"{absent}; these soft labels are of other images")
            if how.ce_weight == 0:
                raise ContractError(f"{absent}, and --ce-weight 0 leaves them without any loss")
        joined = np.zeros((len(part), len(part.classes)), np.float32)
        joined[has_targets] = targets.logits[self.alignment.positions[has_targets]]
        self.targets = torch.from_numpy(joined)
        self.has_targets = torch.from_numpy(has_targets)

    @property
    def settings(self) -> dict[str, Any]:
        """What a training's key needs to know: the loss, and the very numbers that are learned."""
        digest = hashlib.sha256(self.targets.numpy().tobytes() + self.has_targets.numpy().tobytes())
        return {**self.how.settings, "targets_sha256": digest.hexdigest()}

    def check_images(self, prefixes: np.ndarray) -> None:
        """Refuse images that are not the ones that the soft labels were computed from."""
        digests = np.ascontiguousarray(prefixes.astype(">i8")).view(np.uint8).reshape(-1, 8)
        self.alignment.check_images(digests[self.alignment.rows])

    def move_to(self, device: torch.device) -> None:
        """Take the targets of all rows to a device, once: a step looks its rows up there."""
        super().move_to(device)
        self.targets, self.has_targets = self.targets.to(device), self.has_targets.to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return the loss; rows without soft labels count in both means, with 0 in the divergence's."""
        how, teacher = self.how, self.targets[rows]
        if how.loss == "kd":
            terms = how.alpha * kd_rows(logits, teacher, how.temperature)
        else:
            terms = dkd_rows(logits, teacher, labels, how.alpha, how.beta, how.temperature)
        if self.missing:
            terms = terms * self.has_targets[rows]
        loss = how.share(epoch) * terms.mean()
        if how.ce_weight:
            loss = loss + how.ce_weight * super().__call__(logits, labels, rows, epoch)
        return loss


def describe_distillation(objective: SoftObjective, targets: SoftTargets) -> dict[str, Any]:
    """Return how a student was distilled, for its checkpoint."""
    return {
        **objective.how.settings,
        "target": targets.kind,
        "effective_temperature": targets.effective_temperature,
        "rows_without_soft_labels": objective.missing,
        "bundle_sha256": objective.bundle.sha256,
        "ensemble": format_weights(objective.bundle.configuration.weights),
    }
