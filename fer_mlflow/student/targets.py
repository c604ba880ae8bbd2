"""Three targets from the same teachers: the distribution that a student learns at a temperature."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.fusion import fuse
from fer_mlflow.scoring.metrics import check_logits
from fer_mlflow.scoring.sharpness import measure_sharpness
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.student.losses import check_temperature

TARGETS = ("logit", "prob", "mixture")


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """The targets of N rows.

    Attributes
    ----------
    logits : (N, C) float32; softmax(logits / temperature) is the target, at this temperature
    kind : `logit`, `prob` or `mixture`
    temperature : T, which the student's logits are divided by too
    effective_temperature : what the teachers' own logits are divided by: T times the temperature of a calibration
    """

    logits: np.ndarray
    kind: str
    temperature: float
    effective_temperature: float

    @property
    def sharpness(self) -> float:
        """The mean over rows of the largest probability: how hard the targets are."""
        return float(measure_sharpness(self.logits, np.array([self.temperature])).mean[0])


def mix_tempered(logits: Mapping[str, np.ndarray], weights: Mapping[str, float], temperature: float) -> np.ndarray:
    """Return z with softmax(z / T) = Σ w softmax(zᵢ / T), the mixture of tempered probabilities.

    Parameters
    ----------
    logits : teacher name -> (N, C) float, finite
    weights : teacher name -> share

    Returns
    -------
    (N, C) float64, T log of the mixture

    Raises
    ------
    ContractError
        as for `fuse`, or a temperature that is not above 0

    Examples
    --------
    >>> z = mix_tempered({"A": np.array([[2.0, 0.0]]), "B": np.array([[0.0, 2.0]])}, {"A": 0.5, "B": 0.5}, 2.0)
    >>> (z - z[:, :1]).tolist()
    [[0.0, 0.0]]
    """
    check_temperature(temperature)
    tempered = {name: check_logits(each) / temperature for name, each in logits.items()}
    return temperature * fuse(tempered, weights, "prob")


def make_targets(
    bundle: SoftLabels, teacher_logits: Mapping[str, np.ndarray], kind: str | None, temperature: float
) -> SoftTargets:
    """Return the targets of a bundle's N rows.

    `logit`: softmax(Σ w zᵢ / T). `prob`: softmax(log p / T) of p = Σ w softmax(zᵢ). `mixture`: Σ w softmax(zᵢ / T).
    The stored logits serve for the space that they were fused in; with a single teacher all three are the same.
    Others are fused from the teachers' logits, at T times the temperature that the bundle was calibrated with.

    Parameters
    ----------
    teacher_logits : teacher name -> (N, C) float of the bundle's rows; may be empty where the stored logits serve
    kind : one of `TARGETS`; None means the space in which the bundle was fused
    temperature : > 0

    Raises
    ------
    ContractError
        unknown kind, T is not above 0, teachers' logits are lacking, or the bundle was calibrated by more than a
        temperature, which only its own fusion has
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
    fused = mix_tempered(teacher_logits, weights, effective) if mixed else fuse(teacher_logits, weights, kind)
    return SoftTargets((fused * (temperature / effective)).astype(np.float32), kind, temperature, effective)
