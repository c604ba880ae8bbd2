"""Calibration of soft labels: the fit of each method, per teacher or of the ensemble, and the calibrated bundle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_mlflow.calibration.scaling import fit_bias_corrected_temperature, fit_coefficients, fit_vector_scaling
from fer_mlflow.calibration.temperature import OK, TemperatureFit, fit_temperature
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.softlabels.bundle import SoftLabels

METHODS: Mapping[str, Callable] = {
    "temperature": fit_temperature,
    "bias-corrected": fit_bias_corrected_temperature,
    "vector": fit_vector_scaling,
}


@dataclass(frozen=True)
class PooledFit:
    """Teachers calibrated each on its own, fused in probability space, and the pool calibrated again.

    Attributes
    ----------
    temperatures : (K,) of each teacher
    pool : of the fused logits
    """

    weights: Mapping[str, float]
    temperatures: np.ndarray
    pool: TemperatureFit
    status: str
    explanation: str

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated float64 logits of (K, N, C) teachers' logits, teachers sorted by name."""
        return self.pool.apply(_fuse_tempered(logits, self.weights, self.temperatures))


def fit_pool(weights: Mapping[str, float]) -> Callable[[np.ndarray, np.ndarray], PooledFit]:
    """Return the fit of one temperature for each teacher and one for their mean of probabilities.

    The likelihood is not convex in all of them together, so each teacher's is fitted alone, then the pool's: a mean
    of calibrated probabilities is under-confident (Rahaman & Thiery 2021).
    """
    names = sorted(weights)

    def fit(logits: np.ndarray, labels: np.ndarray) -> PooledFit:
        alone = [fit_temperature(each, labels) for each in logits]
        temperatures = np.array([each.temperature for each in alone])
        for name, each in zip(names, alone, strict=True):
            if each.status != OK:
                return PooledFit(weights, temperatures, each, each.status, f"{name}: {each.explanation}")
        pool = fit_temperature(_fuse_tempered(logits, weights, temperatures), labels)
        return PooledFit(weights, temperatures, pool, pool.status, pool.explanation)

    return fit


def _fuse_tempered(logits: np.ndarray, weights: Mapping[str, float], temperatures: np.ndarray) -> np.ndarray:
    tempered = {
        name: np.asarray(each, dtype=np.float64) / temperature
        for name, each, temperature in zip(sorted(weights), logits, temperatures, strict=True)
    }
    return fuse(tempered, weights, "prob")


def fit_of(method: str, per_teacher: bool, weights: Mapping[str, float], space: str) -> Callable:
    """Return the function (logits, labels) -> fit that a method means; of teachers it takes (K, N, C) logits.

    In logit space weights, each teacher's temperature and the ensemble's enter only as products, so all are fitted as
    one set of coefficients.
    """
    if not per_teacher:
        return METHODS[method]
    return fit_coefficients if space == "logit" else fit_pool(weights)


def calibrated(bundle: SoftLabels, logits: np.ndarray, calibration: Mapping[str, Any]) -> SoftLabels:
    """Return a bundle's calibrated logits as soft labels of the same rows, with what was done in their report.

    Parameters
    ----------
    logits : (N, C) float64, calibrated
    calibration : JSON-able; at least `method` and `fitted_on`, and `temperature` where there is one

    Raises
    ------
    BundleError, ContractError
        logits are not of these rows, or do not fit into the bundle's dtype
    """
    return SoftLabels.of(
        logits=stored(logits, bundle.configuration.dtype),
        index=bundle.index,
        classes=bundle.classes,
        report={**bundle.report, "calibration": {**calibration, "source_bundle_sha256": bundle.sha256}},
        manifest_sha256=bundle.manifest_sha256,
        checkpoints=bundle.checkpoints,
        environment=bundle.environment,
    )
