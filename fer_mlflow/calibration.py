"""Calibrations: one temperature, class biases and scales, a coefficient or temperature per teacher; cross-fitting."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import block_diag
from scipy.special import log_softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring import fusion, metrics

OK, SEPARABLE, NO_POSITIVE_OPTIMUM = "ok", "separable", "no_positive_optimum"
EXPLANATIONS = {
    OK: "the likelihood has one maximum, and this is it",
    SEPARABLE: "every row is right, so the likelihood only grows as T goes to 0: there is no best temperature",
    NO_POSITIVE_OPTIMUM: "the logits fit the labels no better than equal probabilities, so the likelihood only grows "
    "as T goes to infinity: there is no best temperature",
}
_WARM_ROWS = 20_000
_ROUNDING = 1e-12  # a slope at 1/T = 0 this near 0, for logits of spread 1, is 0
MOST_STEPS = 200
_FLAT = 1e-11  # the share of the curvature at the start that is left on the way to infinity
_STEP = 1e-10  # relative size of the last step
_NO_SCALE = 1e-7  # of logits of spread 1: float64 does not distinguish it from a scale of 0

Derivatives = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


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
    logits = metrics.check_logits(logits)
    labels = metrics.check_labels(labels, *logits.shape)
    z = logits - logits.max(axis=1, keepdims=True)
    z_y = z[np.arange(len(z)), labels]
    scale = float(np.sqrt(z.var(axis=1).mean()))
    if scale == 0 or _slope_at_zero(z, z_y) >= -_ROUNDING * scale:
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


@dataclass(frozen=True)
class AffineFit:
    """Calibrated logits are log softmax(z) * scale + bias; both are NaN where the status is not `ok`."""

    status: str  # `ok`, `separable` (a parameter goes to infinity), `no_positive_optimum` (a common scale of at most 0)
    explanation: str  # what the status means here, in a sentence
    scale: np.ndarray  # (C,) float64, 1 / T in every place where there is one temperature
    bias: np.ndarray  # (C,) float64, nats, with mean 0

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated logits in float64."""
        return log_softmax(np.asarray(logits, dtype=np.float64), axis=1) * self.scale + self.bias


@dataclass(frozen=True)
class CoefficientsFit:
    """Calibrated logits are sum_k a_k z_k.

    Weights w_k, a temperature T_k of each teacher and one T of the ensemble enter only as a_k = w_k / (T_k T), so the
    likelihood knows the coefficients and nothing else: for given weights T_k T is w_k / a_k, and with one T for all
    the weights are a_k / sum a and T is 1 / sum a.
    """

    status: str  # `ok`, `separable` (coefficients go to infinity) or `no_positive_optimum` (all are 0)
    explanation: str
    coefficients: np.ndarray  # (K,) float64 >= 0; NaN where the status is not `ok`

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated logits in float64 of (K, N, C) teachers' logits."""
        return np.einsum("k,knc->nc", self.coefficients, np.asarray(logits, dtype=np.float64))


def fit_bias_corrected_temperature(logits: np.ndarray, labels: np.ndarray) -> AffineFit:
    """Fit softmax(z / T + b) by maximum likelihood: C + 1 parameters, one of them without effect (a constant in b).

    Logits (N, C), labels and errors are those of `fit_temperature`. (Alexandari et al. 2020, Maximum Likelihood with
    Bias-Corrected Calibration, sec. 3, BCTS.)
    """
    return _fit_affine(logits, labels, one_scale=True)


def fit_vector_scaling(logits: np.ndarray, labels: np.ndarray) -> AffineFit:
    """Fit softmax(w * log softmax(z) + b) by maximum likelihood: a scale and a bias for each class.

    Guo et al. 2017 (On Calibration of Modern Neural Networks, sec. 4.2) scale z itself, but logits are defined up to a
    constant per row, and scaling them differently makes that constant count; log-probabilities have none. Logits,
    labels and errors are those of `fit_temperature`.
    """
    return _fit_affine(logits, labels, one_scale=False)


def _fit_affine(logits: np.ndarray, labels: np.ndarray, *, one_scale: bool) -> AffineFit:
    logits = metrics.check_logits(logits)
    N, C = logits.shape
    labels = metrics.check_labels(labels, N, C)
    unfitted = partial(AffineFit, scale=np.full(C, np.nan), bias=np.full(C, np.nan))
    if len(np.unique(labels)) < C:
        return unfitted(SEPARABLE, "a class without a labelled row has a bias that goes to -infinity")
    log_probs = log_softmax(logits, axis=1)
    # Where all rows are alike, biases could replace any scale.
    if np.ptp(log_probs, axis=0).max() <= _ROUNDING * np.abs(log_probs).max():
        why = "the logits are constant, or the same in every row: there is nothing to scale"
        return unfitted(NO_POSITIVE_OPTIMUM, why)
    unit = float(np.sqrt(log_probs.var(axis=1).mean()))
    scales = 1 if one_scale else C
    # Logits of spread 1, and not z as it is: where softmax(z) is one-hot the likelihood is flat and shows no way.
    start = np.concatenate([np.ones(scales), np.zeros(C)])
    found = minimise_convex(_affine_derivatives(log_probs / unit, labels, one_scale), start)
    if found is None:
        return unfitted(SEPARABLE, "some scales and biases separate a class from the others without a mistake")
    scale, bias = np.broadcast_to(found[:scales] / unit, C).copy(), found[scales:] - found[scales:].mean()
    if (found[:scales] <= _NO_SCALE).all():
        return unfitted(NO_POSITIVE_OPTIMUM, "beside class biases the logits fit the labels no better than equal ones")
    return AffineFit(OK, EXPLANATIONS[OK], scale, bias)


def _affine_derivatives(x: np.ndarray, labels: np.ndarray, one_scale: bool) -> Derivatives:
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
        xx, x1, of_one = (np.diag(each.mean(axis=0)) for each in (px * x, px, p))
        hessian = np.block([[xx, x1], [x1, of_one]]) - both.T @ both / N
        if one_scale:  # all scales move together
            together = block_diag(np.ones(C), np.eye(C))
            gradient, hessian = together @ gradient, together @ hessian @ together.T
        return float(-log_p[rows, labels].mean()), gradient, hessian

    return derivatives


def fit_coefficients(logits: np.ndarray, labels: np.ndarray) -> CoefficientsFit:
    """Minimise the NLL of softmax(sum_k a_k z_k) over a >= 0, which is convex, by projected Newton steps.

    Logits are (K, N, C), one layer for each teacher; labels and errors are those of `fit_temperature`. Two teachers of
    equal logits share one coefficient between them in any way; the sum is what is fitted.
    """
    stack = metrics.stack_logits(logits)
    K, N, C = stack.shape
    labels = metrics.check_labels(labels, N, C)
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
        flat = (stack * np.sqrt(p)).reshape(K, -1)
        hessian = (flat @ flat.T - mean @ mean.T) / N
        return float(-log_p[np.arange(N), labels].mean()), (mean - of_label).mean(axis=1), hessian

    if (derivatives(np.zeros(K))[1] >= -_ROUNDING).all():
        why = "no teacher's logits fit the labels better than equal probabilities: all coefficients go to 0"
        return CoefficientsFit(NO_POSITIVE_OPTIMUM, why, none)
    found = minimise_convex(derivatives, np.full(K, 1 / K), lowest=np.zeros(K))
    if found is None:
        why = "some positive combination of the teachers gets every row right, so the coefficients grow without end"
        return CoefficientsFit(SEPARABLE, why, none)
    return CoefficientsFit(OK, EXPLANATIONS[OK], found / unit)


@dataclass(frozen=True)
class PooledFit:
    """Teachers calibrated each on its own, fused in probability space, and the pool calibrated again."""

    weights: Mapping[str, float]
    temperatures: np.ndarray  # (K,), one for each teacher
    pool: TemperatureFit  # of the fused logits
    status: str
    explanation: str

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (N, C) calibrated float64 logits of (K, N, C) teachers' logits, teachers sorted by name."""
        return self.pool.apply(_fuse_tempered(logits, self.weights, self.temperatures))


def fit_pool(logits: np.ndarray, labels: np.ndarray, weights: Mapping[str, float]) -> PooledFit:
    """Fit one temperature for each teacher, (K, N, C) logits, and one for their mean of probabilities.

    The likelihood is not convex in all of them together, so each teacher's is fitted alone, then the pool's: a mean
    of calibrated probabilities is under-confident (Rahaman & Thiery 2021).
    """
    alone = [fit_temperature(each, labels) for each in logits]
    temperatures = np.array([each.temperature for each in alone])
    for name, each in zip(sorted(weights), alone, strict=True):
        if each.status != OK:
            return PooledFit(weights, temperatures, each, each.status, f"{name}: {each.explanation}")
    pool = fit_temperature(_fuse_tempered(logits, weights, temperatures), labels)
    return PooledFit(weights, temperatures, pool, pool.status, pool.explanation)


def _fuse_tempered(logits: np.ndarray, weights: Mapping[str, float], temperatures: np.ndarray) -> np.ndarray:
    tempered = np.asarray(logits, dtype=np.float64) / temperatures[:, None, None]
    return fusion.fuse(dict(zip(sorted(weights), tempered, strict=True)), weights, "prob")


def fit_of(method: str, per_teacher: bool, weights: Mapping[str, float], space: str) -> Callable:
    """Return the function (logits, labels) -> fit that a method means; of teachers it takes (K, N, C) logits.

    In logit space weights, each teacher's temperature and the ensemble's enter only as products, so all are fitted as
    one set of coefficients.
    """
    if per_teacher:
        fits: dict[str, Callable] = {"logit": fit_coefficients, "prob": partial(fit_pool, weights=weights)}
        if space not in fits:
            raise ContractError(f"space {space}: temperatures of single teachers are known for {', '.join(fits)} only")
        return fits[space]
    methods = {"bias-corrected": fit_bias_corrected_temperature, "vector": fit_vector_scaling}
    return {"temperature": fit_temperature, **methods}[method]


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


def minimise_convex(derivatives: Derivatives, start: np.ndarray, lowest: np.ndarray | None = None) -> np.ndarray | None:
    """Return the (P,) parameters that minimise a convex function; None where it goes on falling without end.

    Projected Newton steps (Bertsekas 1982, Projected Newton Methods for Optimization Problems with Simple Constraints)
    are shortened until the function falls enough. Where there is no minimum, gradient and curvature vanish together
    along some direction, and a small gradient proves nothing. So a search counts as converged only where every
    direction that was curved at the start still is.

    Derivatives are (P,) parameters -> the function, its (P,) gradient and its (P, P) Hessian, which may be singular in
    directions that change nothing. The parameters at the start are of order 1, `lowest` are (P,) lower bounds.
    """
    bound = np.full(len(start), -np.inf) if lowest is None else lowest
    at = np.maximum(np.asarray(start, dtype=np.float64), bound)
    value, gradient, hessian = derivatives(at)
    first = hessian
    for _ in range(MOST_STEPS):
        free = ~((at <= bound) & (gradient >= 0))
        step = np.zeros(len(at))
        step[free] = -np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=1e-13)[0]
        share = 1.0
        while share > 1e-12:
            moved = np.maximum(at + share * step, bound)
            reached = derivatives(moved)
            if np.isfinite(reached[0]) and reached[0] <= value + 1e-4 * gradient @ (moved - at):
                break
            share /= 2
        else:  # no float is lower than this one
            break
        length = np.abs(moved - at).max()
        at, (value, gradient, hessian) = moved, reached
        if length <= _STEP * max(1.0, np.abs(at).max()):
            break
    else:
        return None
    inside = np.ix_(at > bound, at > bound)
    curvatures, directions = np.linalg.eigh(first[inside])
    curved = curvatures > 1e-10 * curvatures.max(initial=0.0)
    unit = directions[:, curved] / np.sqrt(curvatures[curved])  # the curvature at the start is 1 along each
    return at if np.linalg.eigvalsh(unit.T @ hessian[inside] @ unit).min(initial=1.0) > _FLAT else None
