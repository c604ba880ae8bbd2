"""All weightings of K teachers on a grid: K shares of at least 0 that sum to 1."""

from itertools import combinations
from math import comb

import numpy as np

from fer_mlflow.errors import ContractError

_USUAL_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.2, 0.25, 0.5, 1.0)
_WHOLE = 1e-6  # how far 1 / step may be from a whole number


def steps_in(step: float) -> int:
    """Return how many steps make 1.

    Raises
    ------
    ContractError
        the step is not in (0, 1], or 1 is not a whole number of steps; the message names the nearest ones that fit

    Examples
    --------
    >>> steps_in(0.1), steps_in(1 / 3)
    (10, 3)
    """
    if not 0 < step <= 1:
        raise ContractError(f"step {step:g}: it must be above 0 and at most 1, for example 0.1")
    steps = round(1 / step)
    if abs(1 / step - steps) > _WHOLE * steps:
        near = " or ".join(f"{1 / each:.6g}" for each in {int(1 / step), int(1 / step) + 1})
        raise ContractError(f"step {step:g}: 1 is not a whole number of steps; {near} would fit")
    return steps


def count_weightings(teachers: int, steps: int) -> int:
    """Return how many weightings a grid of `steps` steps has: (steps + K - 1) over (K - 1).

    >>> count_weightings(3, 10)
    66
    """
    return comb(steps + teachers - 1, teachers - 1)


def finest_step(teachers: int, most: int) -> float:
    """Return the smallest usual step (0.001, 0.002, 0.005, 0.01, …) of at most so many weightings; 0 if there is none.

    >>> finest_step(3, 20_000), finest_step(8, 1)
    (0.01, 0.0)
    """
    fitting = (step for step in _USUAL_STEPS if count_weightings(teachers, round(1 / step)) <= most)
    return next(fitting, 0.0)


def simplex_grid(teachers: int, steps: int) -> np.ndarray:
    """Return all weightings whose shares are multiples of 1 / steps, (M, K) float64 in rising order.

    >>> simplex_grid(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    # K - 1 bars among steps + K - 1 places: the gaps between them are the shares.
    chosen = list(combinations(range(steps + teachers - 1), teachers - 1))
    bars = np.array(chosen, dtype=np.int64).reshape(len(chosen), teachers - 1)
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), steps + teachers - 1)])
    return (np.diff(edges, axis=1) - 1) / steps
