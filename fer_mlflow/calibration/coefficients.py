"""Weights and temperatures of several teachers at once, where the mean is taken over logits."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.calibration.newton import minimise_convex
from fer_mlflow.calibration.temperature import NO_POSITIVE_OPTIMUM, OK, ROUNDING, SEPARABLE
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import check_labels, check_logits


@dataclass(frozen=True)
class CoefficientsFit:
    """Calibrated logits are sum_i a_i z_i.

    Weights w_i, a temperature T_i of each teacher and one T of the ensemble enter only as a_i = w_i / (T_i T), so the
    likelihood knows the coefficients and nothing else: for given weights T_i T is w_i / a_i, and with one T for all
    the weights are a_i / sum a and T is 1 / sum a.

    Attributes
    ----------
    status : `ok`, `separable` (coefficients go to infinity) or `no_positive_optimum` (all are 0)
    coefficients : (K,) float64 >= 0; NaN where the status is not `ok`
    """

    status: str
    explanation: str
    coefficients: np.ndarray

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated logits in float64 of (K, N, C) teachers' logits."""
        return np.einsum("k,knc->nc", self.coefficients, np.asarray(logits, dtype=np.float64))


def fit_coefficients(logits: np.ndarray, labels: np.ndarray) -> CoefficientsFit:
    """Minimise the NLL of softmax(sum_i a_i z_i) over a >= 0, which is convex, by projected Newton steps.

    Two teachers that say the same share one coefficient between them in any way; the sum is what is fitted.

    Parameters
    ----------
    logits : (K, N, C) float, finite, one layer for each teacher
    labels : (N,) int in 0..C-1, N >= 1

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, or a value is not finite
    """
    layers = [check_logits(each) for each in logits]
    shapes = {each.shape for each in layers}
    if len(shapes) != 1:
        raise ContractError(f"teachers' logits have shapes {sorted(shapes)}; they must be of the same rows and classes")
    stack = np.stack(layers)
    K, N, C = stack.shape
    labels = check_labels(labels, N, C)
    stack -= stack.max(axis=2, keepdims=True)  # exactly 0 where a row is constant, which the mean alone is not
    stack -= stack.mean(axis=2, keepdims=True)
    unit = np.sqrt(np.square(stack).mean(axis=(1, 2)))
    unit[unit == 0] = 1.0  # a constant teacher: its coefficient changes nothing
    stack /= unit[:, None, None]
    of_label = stack[:, np.arange(N), labels]  # (K, N)
    none = np.full(K, np.nan)

    def derivatives(a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        log_p = log_softmax(np.einsum("k,knc->nc", a, stack), axis=1)
        p = np.exp(log_p)
        mean = np.einsum("nc,knc->kn", p, stack)
        weighted = stack * np.sqrt(p)
        flat = weighted.reshape(K, -1)
        return (
            float(-log_p[np.arange(N), labels].mean()),
            (mean - of_label).mean(axis=1),
            (flat @ flat.T - mean @ mean.T) / N,
        )

    at_zero = derivatives(np.zeros(K))[1]
    if (at_zero >= -ROUNDING).all():
        said = "no teacher's logits fit the labels better than equal probabilities: all coefficients go to 0"
        return CoefficientsFit(NO_POSITIVE_OPTIMUM, said, none)
    found = minimise_convex(derivatives, np.full(K, 1 / K), lowest=np.zeros(K))
    if not found.converged:
        said = "some positive combination of the teachers gets every row right, so the coefficients grow without end"
        return CoefficientsFit(SEPARABLE, said, none)
    return CoefficientsFit(OK, "the likelihood has one maximum, and this is it", found.parameters / unit)
