"""Minimise a smooth convex function of a few parameters, and notice when it has no minimum."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_STEPS = 200
_FLAT = 1e-11  # of the curvature at the start: what is left of it on the way to infinity
_STEP = 1e-10  # relative size of the last step


@dataclass(frozen=True)
class Minimum:
    """Where a search ended: `converged` is False where the function goes on falling without end.

    Attributes
    ----------
    parameters : (P,) float64
    value : the function there
    """

    parameters: np.ndarray
    value: float
    converged: bool


def minimise_convex(
    derivatives: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]],
    start: np.ndarray,
    lowest: np.ndarray | None = None,
) -> Minimum:
    """Minimise by projected Newton steps, each shortened until the function falls enough.

    Where there is no minimum, gradient and curvature vanish together along some direction, and a small gradient proves
    nothing. So a search counts as converged only where every direction that was curved at the start still is.

    Parameters
    ----------
    derivatives : (P,) parameters -> the function, its (P,) gradient and its (P, P) Hessian, which may be singular in
        directions that change nothing
    start : (P,) parameters of order 1
    lowest : (P,) lower bounds; None means there are none

    References
    ----------
    Bertsekas 1982, Projected Newton Methods for Optimization Problems with Simple Constraints.
    """
    bound = np.full(len(start), -np.inf) if lowest is None else lowest
    at = np.maximum(np.asarray(start, dtype=np.float64), bound)
    value, gradient, hessian = derivatives(at)
    first = hessian
    for _ in range(MOST_STEPS):
        free = ~((at <= bound) & (gradient >= 0))
        step = np.zeros(len(at))
        step[free] = -np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=1e-13)[0]
        moved, reached = _search_line(derivatives, at, value, gradient, step, bound)
        if moved is None:  # no float is lower than this one
            break
        length = np.abs(moved - at).max()
        at, (value, gradient, hessian) = moved, reached
        if length <= _STEP * max(1.0, np.abs(at).max()):
            break
    else:
        return Minimum(at, value, False)
    inside = np.ix_(at > bound, at > bound)
    unit = _unit_directions(first[inside])
    left = np.linalg.eigvalsh(unit.T @ hessian[inside] @ unit).min(initial=1.0)
    return Minimum(at, value, bool(left > _FLAT))


def _unit_directions(hessian: np.ndarray) -> np.ndarray:
    """Return (P, D) directions along which a Hessian is curved, scaled so that each has curvature 1."""
    values, vectors = np.linalg.eigh(hessian)
    curved = values > 1e-10 * values.max(initial=0.0)
    return vectors[:, curved] / np.sqrt(values[curved])


def _search_line(derivatives, at, value, gradient, step, bound):
    """Return the first of the halved steps that lowers the function by enough, and the derivatives there."""
    share = 1.0
    while share > 1e-12:
        moved = np.maximum(at + share * step, bound)
        reached = derivatives(moved)
        if np.isfinite(reached[0]) and reached[0] <= value + 1e-4 * gradient @ (moved - at):
            return moved, reached
        share /= 2
    return None, None
