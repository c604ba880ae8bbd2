"""One temperature for all logits, the T > 0 that makes the labels most likely; cross-fitting of any calibration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import check_labels, check_logits

OK, SEPARABLE, NO_POSITIVE_OPTIMUM = "ok", "separable", "no_positive_optimum"
EXPLANATIONS = {
    OK: "the likelihood has one maximum, and this is it",
    SEPARABLE: "every row is right, so the likelihood only grows as T goes to 0: there is no best temperature",
    NO_POSITIVE_OPTIMUM: "the logits fit the labels no better than equal probabilities, so the likelihood only grows "
    "as T goes to infinity: there is no best temperature",
}
_STEP = 1e-10  # relative size of the last step in 1/T
_WARM_ROWS = 20_000
ROUNDING = 1e-12  # a slope at 1/T = 0 this near 0, for logits of spread 1, is 0


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature and its standard error, NaN where the status is `separable` (T -> 0) or `no_positive_optimum`."""

    status: str
    temperature: float
    standard_error: float

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) logits / T in float64."""
        return np.asarray(logits, dtype=np.float64) / self.temperature

    @property
    def explanation(self) -> str:
        """What the status means, in a sentence."""
        return EXPLANATIONS[self.status]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> TemperatureFit:
    """Find the T > 0 that minimises the NLL of softmax(z / T).

    With b = 1 / T, f(b) = mean[logsumexp(b z) - b z_y] is convex, f' = mean[E_p z - z_y], f'' = mean Var_p(z). The
    zero of f' is found by Newton steps in float64, kept in a bracket by the sign of f', to 1e-10 of b; there is
    no cap. The limits decide whether there is one: f'(0+) >= 0 means that equal probabilities are as likely
    (`no_positive_optimum`; constant logits too), f'(inf) = 0 that every label has the greatest logit of its row
    (`separable`).

    (Guo et al. 2017, On Calibration of Modern Neural Networks, sec. 4.2.) The standard error is the sandwich estimate
    (White 1982), which does not assume that z / T is the right model.

    Parameters
    ----------
    logits : (N, C) float, finite
    labels : (N,) int in 0..C-1, N >= 1

    Raises ContractError: shapes disagree, N = 0, a label is out of range, or a value is not finite.

    Examples
    --------
    >>> z = np.log(np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]]))
    >>> fit = fit_temperature(z, np.array([0, 1, 0, 0]))  # three of four are right, so softmax(z / T) is 3/4
    >>> fit.status, round(fit.temperature, 6)  # log 9 / log 3
    ('ok', 2.0)
    """
    logits = check_logits(logits)
    labels = check_labels(labels, *logits.shape)
    z = logits - logits.max(axis=1, keepdims=True)
    z_y = z[np.arange(len(z)), labels]
    scale = float(np.sqrt(z.var(axis=1).mean()))
    if scale == 0 or _slope_at_zero(z, z_y) >= -ROUNDING * scale:
        return TemperatureFit(NO_POSITIVE_OPTIMUM, np.nan, np.nan)
    if not z_y.any():  # every label has the greatest logit, which is 0 here
        return TemperatureFit(SEPARABLE, np.nan, np.nan)
    z, z_y = z / scale, z_y / scale  # now 1/T is of order 1
    start = 1.0
    if len(z) > 2 * _WARM_ROWS:
        part = slice(None, None, len(z) // _WARM_ROWS)
        if _slope_at_zero(z[part], z_y[part]) < 0 and z_y[part].any():
            start = _zero_of_slope(z[part], z_y[part], start)
    beta = _zero_of_slope(z, z_y, start)
    slopes, curvature = _derivatives(z, z_y, beta)
    error = float(np.sqrt(np.square(slopes).mean() / len(z)) / curvature)  # of beta
    return TemperatureFit(OK, float(scale / beta), float(scale * error / beta**2))


def _slope_at_zero(z: np.ndarray, z_y: np.ndarray) -> float:
    """Return f'(0+): how the mean logit compares with the label's."""
    return float((z.mean(axis=1) - z_y).mean())


def _derivatives(z: np.ndarray, z_y: np.ndarray, beta: float) -> tuple[np.ndarray, float]:
    """Return each row's part of f' (N,), and f''."""
    p = np.exp(beta * z)
    p /= p.sum(axis=1, keepdims=True)
    mean = np.einsum("nc,nc->n", p, z)
    variance = np.einsum("nc,nc,nc->n", p, z, z) - np.square(mean)
    return mean - z_y, float(np.maximum(variance, 0).mean())


def _zero_of_slope(z: np.ndarray, z_y: np.ndarray, beta: float) -> float:
    """Return the zero of f' over beta > 0, which exists, by Newton steps inside a bracket."""
    low, high = 0.0, np.inf
    for _ in range(2000):
        slopes, curvature = _derivatives(z, z_y, beta)
        slope = float(slopes.mean())
        if slope == 0:
            return beta
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = -slope / curvature if curvature > 0 else np.inf
        new = beta + step
        if not low < new < high:
            new = 4 * low if high == np.inf else float(np.sqrt(low * high)) if low > 0 else high / 4
        if abs(new - beta) <= _STEP * beta:
            return new
        beta = new
    return beta


def stratified_folds(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return (N,) each row's fold in 0..k-1: rows of each class are assigned in turn, in a random order.

    Folds of one class differ by at most one row, and so do whole folds. A class with fewer rows than folds is
    absent from some of them. Raises ContractError: fewer than two folds, or fewer rows than folds.
    """
    if k < 2 or len(labels) < k:
        raise ContractError(f"{len(labels)} labelled rows make no {k} folds; use 2 folds to as many as rows")
    order = np.lexsort((rng.permutation(len(labels)), labels))  # by class, random within
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % k
    return folds


def crossfit(
    fit: Callable[[np.ndarray, np.ndarray], Any], logits: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray | None, list[Any]]:
    """Calibrate each fold's rows, (N,) int from 0 up, with what `fit` (logits, labels) gives on all the others.

    Logits are (..., N, C). Return (N, C) calibrated ones, None where some fold's status is not `ok`, and each fold's
    fit.
    """
    fits = [fit(logits[..., folds != k, :], labels[folds != k]) for k in range(int(folds.max()) + 1)]
    if any(each.status != OK for each in fits):
        return None, fits
    calibrated = np.empty(logits.shape[-2:])
    for k, each in enumerate(fits):
        calibrated[folds == k] = each.apply(logits[..., folds == k, :])
    return calibrated, fits
