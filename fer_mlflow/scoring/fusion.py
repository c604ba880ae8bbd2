"""From K teachers' logits to one ensemble's: a weighted mean of logits, or of probabilities."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import check_logits
from fer_mlflow.settings.texts import check_weights

DTYPES = ("float32", "float16")


def fuse(logits: Mapping[str, np.ndarray], weights: Mapping[str, float], space: str) -> np.ndarray:
    """Fuse teachers' logits into the ensemble's (N, C) float64, so that softmax(z / T) is its target in both spaces.

    logit: z = sum_k w_k z_k. prob: z = log sum_k w_k softmax(z_k), by log-sum-exp. Teachers are taken in the
    order of their names, so the result does not depend on how they were listed, to the last bit.

    Parameters
    ----------
    logits : teacher name -> (N, C) float, finite; all of one shape
    weights : teacher name -> weight; every name is in `logits`
    space : `logit` or `prob`

    Raises ContractError: unknown space or teacher, shapes disagree, weights do not sum to 1, or a value is not finite.

    >>> fuse({"A": np.array([[2.0, 0.0]]), "B": np.array([[0.0, 4.0]])}, {"A": 0.5, "B": 0.5}, "logit")
    array([[1., 2.]])
    """
    check_weights(weights)
    names = sorted(name for name, weight in weights.items() if weight > 0)
    if unknown := [name for name in names if name not in logits]:
        raise ContractError(f"weights name {', '.join(unknown)}; there are logits of {', '.join(sorted(logits))}")
    shapes = {np.shape(logits[name]) for name in names}
    if len(shapes) > 1:
        raise ContractError("logits of different shapes: " + ", ".join(f"{n} {np.shape(logits[n])}" for n in names))
    stack = np.stack([check_logits(logits[name]) for name in names])  # (K, N, C)
    layers, offset = prepare_layers(transform_logits(stack, space, axis=2), space)
    return combine_layers(layers, np.array([weights[name] for name in names]), offset)


def _shifted_probs(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offset = log_probs.max(axis=0)
    return np.exp(log_probs - offset), offset


# Space -> (logits, axis of classes) to transformed, and transformed to (layers, offset). A new space is a row here.
_FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "logit": (lambda logits, axis: logits, lambda logits: (logits, None)),
    "prob": (log_softmax, _shifted_probs),
}
SPACES = tuple(_FUNCTIONS)


def _functions_of(space: str) -> tuple[Callable, Callable]:
    if space not in _FUNCTIONS:
        raise ContractError(f"space {space!r} is not one of {', '.join(SPACES)}")
    return _FUNCTIONS[space]


def transform_logits(logits: np.ndarray, space: str, axis: int) -> np.ndarray:
    """Return what `prepare_layers` takes of a space: logits, or log-probabilities over the axis of classes."""
    return _functions_of(space)[0](logits, axis)


def prepare_layers(transformed: np.ndarray, space: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return layers (K, ...) to take the weighted mean of, and an offset (...) of its logarithm.

    Without an offset the mean itself is the fused logits. In probability space
    log sum_k w_k p_k = offset + log sum_k w_k exp(log p_k - offset), where the offset is the greatest log p_k, so that
    no weight above 0 meets an underflow.
    """
    return _functions_of(space)[1](transformed)


def combine_layers(
    layers: Sequence[np.ndarray] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    offset: np.ndarray | None,
    out: np.ndarray | None = None,
    term: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fused logits of prepared layers, in float64; `out` and `term` are arrays of one layer to work in.

    Layers are added one by one: BLAS would round a row by where it stands among the others.
    """
    fused = np.multiply(layers[0], weights[0], out=out)
    for layer, weight in zip(layers[1:], weights[1:], strict=True):
        fused += np.multiply(layer, weight, out=term)
    if offset is not None:
        np.log(fused, out=fused)
        fused += offset
    return fused


def stored(logits: np.ndarray, dtype: str) -> np.ndarray:
    """Return (N, C) logits as a bundle keeps them.

    For float16 each row's maximum is subtracted first, in float64: targets at any temperature stay the same,
    and argmax cannot move, since the maximum becomes exactly 0 and nothing can round above it. To keep ties from
    arising there, values that would round to 0 beside the maximum are the next float16 below it.

    Raises ContractError: another dtype, or values beyond what it can hold.
    """
    if dtype not in DTYPES:
        raise ContractError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    with np.errstate(over="ignore"):  # what does not fit is refused below
        if dtype == "float16":
            shifted = logits - logits.max(axis=1, keepdims=True)
            result = shifted.astype(np.float16)
            result[(shifted < 0) & (result == 0)] = -np.finfo(np.float16).smallest_subnormal
        else:
            result = logits.astype(np.float32)
    if not np.isfinite(result).all():
        row = int(np.argmin(np.isfinite(result).all(axis=1)))
        raise ContractError(f"logits row {row}: {logits[row].tolist()} does not fit into {dtype}; use a wider --dtype")
    return result
