"""More than one number: a temperature with class biases, and a scale and a bias for each class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.calibration.newton import minimise_convex
from fer_mlflow.calibration.temperature import NO_POSITIVE_OPTIMUM, OK, ROUNDING, SEPARABLE
from fer_mlflow.scoring.metrics import check_labels, check_logits

_NO_SCALE = 1e-7  # of logits of spread 1: nothing that float64 tells from a scale of 0


@dataclass(frozen=True)
class AffineFit:
    """Calibrated logits are log softmax(z) * scale + bias.

    Attributes
    ----------
    status : `ok`, `separable` (a parameter goes to infinity) or `no_positive_optimum` (a common scale of at most 0)
    explanation : what the status means here, in a sentence
    scale : (C,) float64, 1 / T in every place where there is one temperature; NaN where the status is not `ok`
    bias : (C,) float64, nats, with mean 0; NaN where the status is not `ok`
    """

    status: str
    explanation: str
    scale: np.ndarray
    bias: np.ndarray

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated logits in float64."""
        return log_softmax(np.asarray(logits, dtype=np.float64), axis=1) * self.scale + self.bias


def fit_bias_corrected_temperature(logits: np.ndarray, labels: np.ndarray) -> AffineFit:
    """Fit softmax(z / T + b) by maximum likelihood: C + 1 parameters, one of them without effect (a constant in b).

    Parameters
    ----------
    logits : (N, C) float, finite
    labels : (N,) int in 0..C-1, N >= 1

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, or a value is not finite

    References
    ----------
    Alexandari et al. 2020, Maximum Likelihood with Bias-Corrected Calibration, sec. 3 (BCTS).
    """
    return _fit(logits, labels, one_scale=True)


def fit_vector_scaling(logits: np.ndarray, labels: np.ndarray) -> AffineFit:
    """Fit softmax(w * log softmax(z) + b) by maximum likelihood: a scale and a bias for each class.

    Guo et al. scale z itself, but logits are defined up to a constant per row, and scaling them differently makes
    that constant count; log-probabilities have none. Arguments and errors as for the bias-corrected temperature.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, sec. 4.2.
    """
    return _fit(logits, labels, one_scale=False)


def _fit(logits: np.ndarray, labels: np.ndarray, *, one_scale: bool) -> AffineFit:
    logits = check_logits(logits)
    N, C = logits.shape
    labels = check_labels(labels, N, C)
    none = np.full(C, np.nan)
    if len(np.unique(labels)) < C:
        return AffineFit(SEPARABLE, "a class without a labelled row has a bias that goes to -infinity", none, none)
    log_probs = log_softmax(logits, axis=1)
    if np.ptp(log_probs, axis=0).max() <= ROUNDING * np.abs(log_probs).max():  # biases could replace any scale
        said = "the logits are constant, or the same in every row: there is nothing to scale"
        return AffineFit(NO_POSITIVE_OPTIMUM, said, none, none)
    unit = float(np.sqrt(log_probs.var(axis=1).mean()))
    scales = 1 if one_scale else C
    # Logits of spread 1, and not z as it is: where softmax(z) is one-hot the likelihood is flat and shows no way.
    start = np.concatenate([np.ones(scales), np.zeros(C)])
    found = minimise_convex(_derivatives(log_probs / unit, labels, one_scale), start)
    if not found.converged:
        return AffineFit(SEPARABLE, "scales and biases tell some class from the others without a mistake", none, none)
    scale = np.broadcast_to(found.parameters[:scales] / unit, C).copy()
    bias = found.parameters[scales:] - found.parameters[scales:].mean()
    if (found.parameters[:scales] <= _NO_SCALE).all():
        said = "beside class biases the logits fit the labels no better than equal ones"
        return AffineFit(NO_POSITIVE_OPTIMUM, said, none, none)
    return AffineFit(OK, "the likelihood has one maximum, and this is it", scale, bias)


def _derivatives(x: np.ndarray, labels: np.ndarray, one_scale: bool) -> Callable:
    """Return the function from (scales, biases) to the NLL of softmax(scale * x + bias) with its derivatives.

    With J the derivative of a row's logits by the parameters, they are E[J'(p - y)] and E[J'(diag p - p p')J].
    """
    N, C = x.shape
    rows = np.arange(N)
    share = np.bincount(labels, minlength=C) / N
    of_label = np.bincount(labels, weights=x[rows, labels], minlength=C) / N  # E[x_k 1(y = k)]

    def derivatives(parameters: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        scale = parameters[:1] if one_scale else parameters[:C]
        log_p = log_softmax(x * scale + parameters[len(scale) :], axis=1)
        p = np.exp(log_p)
        px = p * x
        gradient = np.concatenate([px.mean(axis=0) - of_label, p.mean(axis=0) - share])
        both = np.concatenate([px, p], axis=1)
        hessian = -(both.T @ both) / N
        i = np.arange(C)
        hessian[i, i] += (px * x).mean(axis=0)
        hessian[i, C + i] += px.mean(axis=0)
        hessian[C + i, i] += px.mean(axis=0)
        hessian[C + i, C + i] += p.mean(axis=0)
        if one_scale:  # all scales move together
            together = np.zeros((C + 1, 2 * C))
            together[0, :C] = 1
            together[1 + i, C + i] = 1
            gradient, hessian = together @ gradient, together @ hessian @ together.T
        return float(-log_p[rows, labels].mean()), gradient, hessian

    return derivatives
