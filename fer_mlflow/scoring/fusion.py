"""From K teachers' logits to one ensemble's: a weighted mean of logits, or of probabilities."""

import math
import re
from collections.abc import Mapping

import numpy as np
from scipy.special import log_softmax, logsumexp

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import check_logits

SPACES = ("logit", "prob")
DTYPES = ("float32", "float16")
_TOLERANCE = 1e-6  # how far from 1 a sum of weights may be
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # what may stand in a metric key, a param key and a file name


def parse_weights(text: str) -> dict[str, float]:
    """Read `NAME=share,NAME=share`; names are unique, shares finite, at least 0 and sum to 1 within 1e-6.

    A share of 0 drops the teacher.

    Raises
    ------
    ContractError
        anything else; for a wrong sum the message gives the normalised weights

    Examples
    --------
    >>> parse_weights("RN18=0.4, B3=0.6")
    {'RN18': 0.4, 'B3': 0.6}
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise ContractError(f'weights: "{part}" is not NAME=share; write for example RN18=0.4,B3=0.6')
        if name in weights:
            raise ContractError(f"weights: teacher {name} is there twice; give it one share")
        try:
            weights[name] = float(share)
        except ValueError as error:
            raise ContractError(f'weights: the share "{share}" of {name} is not a number') from error
    check_weights(weights)
    return {name: share for name, share in weights.items() if share > 0}


def check_weights(weights: Mapping[str, float]) -> None:
    """Check that shares are finite, at least 0 and sum to 1 within 1e-6.

    Raises
    ------
    ContractError
        they are not; for a wrong sum the message gives the normalised weights
    """
    if not weights:
        raise ContractError("weights: no teacher is named; write for example RN18=0.4,B3=0.6")
    for name, share in weights.items():
        if not math.isfinite(share) or share < 0:
            raise ContractError(f"weights: the share {share:g} of {name} is not a finite number of at least 0")
    total = math.fsum(weights.values())
    if total <= 0:
        raise ContractError("weights: all shares are 0; give at least one teacher a share")
    if abs(total - 1) > _TOLERANCE:
        normalised = ",".join(f"{name}={share / total:.6g}" for name, share in weights.items())
        raise ContractError(f"weights: shares sum to {total:.6g}, not to 1; normalised they are {normalised}")


def format_weights(weights: Mapping[str, float]) -> str:
    """Return the canonical text of an ensemble: names sorted, shares as shortest decimals.

    >>> format_weights({"RN18": 0.40, "B3": 0.6})
    'B3=0.6,RN18=0.4'
    """
    return ",".join(f"{name}={np.format_float_positional(weights[name], trim='-')}" for name in sorted(weights))


def fuse(logits: Mapping[str, np.ndarray], weights: Mapping[str, float], space: str) -> np.ndarray:
    """Fuse teachers' logits into the ensemble's, so that softmax(z / T) is its target in both spaces.

    logit: z = sum_k w_k z_k. prob: z = log sum_k w_k softmax(z_k), by log-sum-exp. Teachers are taken in the
    order of their names, so the result does not depend on how they were listed, to the last bit.

    Parameters
    ----------
    logits : teacher name -> (N, C) float, finite; all of one shape
    weights : teacher name -> share; every name is in `logits`
    space : `logit` or `prob`

    Returns
    -------
    (N, C) float64

    Raises
    ------
    ContractError
        unknown space or teacher, shapes disagree, weights do not sum to 1, or a value is not finite

    Examples
    --------
    >>> fuse({"A": np.array([[2.0, 0.0]]), "B": np.array([[0.0, 4.0]])}, {"A": 0.5, "B": 0.5}, "logit")
    array([[1., 2.]])
    """
    check_weights(weights)
    if space not in SPACES:
        raise ContractError(f"space {space!r} is not one of {', '.join(SPACES)}")
    names = sorted(name for name, share in weights.items() if share > 0)
    if unknown := [name for name in names if name not in logits]:
        raise ContractError(f"weights name {', '.join(unknown)}; there are logits of {', '.join(sorted(logits))}")
    shapes = {np.shape(logits[name]) for name in names}
    if len(shapes) > 1:
        raise ContractError("logits of different shapes: " + ", ".join(f"{n} {np.shape(logits[n])}" for n in names))
    stack = np.stack([check_logits(logits[name]) for name in names])  # (K, N, C)
    shares = np.array([weights[name] for name in names])
    if space == "logit":
        fused = np.zeros_like(stack[0])
        for share, logits_of_one in zip(shares, stack, strict=True):
            fused += share * logits_of_one  # not tensordot: BLAS rounds a row by where it stands among the others
        return fused
    return logsumexp(log_softmax(stack, axis=2), axis=0, b=shares[:, None, None])


def stored(logits: np.ndarray, dtype: str) -> np.ndarray:
    """Return (N, C) logits as a bundle keeps them.

    For float16 each row's maximum is subtracted first, in float64: targets at any temperature stay the same,
    and argmax cannot move, since the maximum becomes exactly 0 and nothing can round above it. To keep ties from
    arising there, values that would round to 0 beside the maximum are the next float16 below it.

    Raises
    ------
    ContractError
        another dtype, or values beyond what it can hold
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
