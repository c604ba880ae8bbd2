"""The loss of a student: the cross-entropy with the labels, and a divergence from the soft labels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.scoring import evaluation, fusion, metrics
from fer_mlflow.settings.texts import format_weights
from fer_mlflow.settings.training import LossSettings, Recipe
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import align
from fer_mlflow.student.losses import check_temperature, dkd_rows, kd_rows
from fer_mlflow.training.loop import LabelObjective

TARGETS = ("logit", "prob", "mixture")


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """The targets of N rows."""

    logits: np.ndarray  # (N, C) float32; softmax(logits / temperature) is the target, at this temperature
    kind: str  # `logit`, `prob` or `mixture`
    temperature: float  # T, which the student's logits are divided by too
    effective_temperature: float  # of the teachers' own logits: T times the temperature of a calibration

    @property
    def sharpness(self) -> float:
        """The mean over rows of the largest probability: how hard the targets are."""
        return float(evaluation.measure_sharpness(self.logits, np.array([self.temperature])).mean[0])


def mix_tempered(logits: Mapping[str, np.ndarray], weights: Mapping[str, float], temperature: float) -> np.ndarray:
    """Return (N, C) float64 z with softmax(z / T) = Σ w softmax(zᵢ / T), the mixture of tempered probabilities.

    >>> z = mix_tempered({"A": np.array([[2.0, 0.0]]), "B": np.array([[0.0, 2.0]])}, {"A": 0.5, "B": 0.5}, 2.0)
    >>> (z - z[:, :1]).tolist()
    [[0.0, 0.0]]
    """
    check_temperature(temperature)
    tempered = {name: metrics.check_logits(each) / temperature for name, each in logits.items()}
    return temperature * fusion.fuse(tempered, weights, "prob")


def make_targets(
    bundle: SoftLabels, teacher_logits: Mapping[str, np.ndarray], kind: str | None, temperature: float
) -> SoftTargets:
    """Return the targets of a bundle's N rows.

    `logit`: softmax(Σ w zᵢ / T). `prob`: softmax(log p / T) of p = Σ w softmax(zᵢ). `mixture`: Σ w softmax(zᵢ / T).
    The stored logits serve for the space that they were fused in; with a single teacher all three are the same.
    Others are fused from the teachers' logits, at T times the temperature that the bundle was calibrated with: teacher
    name -> (N, C) float of the bundle's rows, empty where the stored logits serve. A kind of None means the space in
    which the bundle was fused.

    Raises ContractError: unknown kind, T is not above 0, teachers' logits are lacking, or the bundle was calibrated by
    more than a temperature, which only its own fusion has.
    """
    check_temperature(temperature)
    space, weights = bundle.configuration.space, bundle.configuration.weights
    kind = kind or space
    if kind not in TARGETS:
        raise ContractError(f"target {kind!r} is not one of {', '.join(TARGETS)}")
    calibration = bundle.report.get("calibration") or {}
    fitted = calibration.get("temperature")
    effective = temperature * (fitted or 1.0)
    if kind == space or len(weights) == 1:
        return SoftTargets(bundle.logits.astype(np.float32), kind, temperature, effective)
    if calibration and (not fitted or calibration["method"] != "temperature"):
        raise ContractError(
            f"target {kind}: the soft labels were calibrated ({calibration['method']}) after fusion in {space} space, "
            f"which no other fusion shares; use --target {space}, or soft labels that are not calibrated"
        )
    if lacking := sorted(set(weights) - set(teacher_logits)):
        raise ContractError(
            f"target {kind}: the soft labels were fused in {space} space, and the logits of {', '.join(lacking)} are "
            f"not to be had; name a run whose teacher runs are there, or use --target {space}"
        )
    mixed = kind == "mixture"
    fused = mix_tempered(teacher_logits, weights, effective) if mixed else fusion.fuse(teacher_logits, weights, kind)
    return SoftTargets((fused * (temperature / effective)).astype(np.float32), kind, temperature, effective)


class SoftObjective(LabelObjective):
    """ce_weight · CE + warm-up · (alpha KD, or DKD with alpha and beta).

    The `missing` ones of the N training rows, which have no soft labels, have the cross-entropy alone.
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

        Classes and rows must agree (`align`); rows without soft labels are refused unless they may be missing, or would
        have no loss.
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

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
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
