"""Which configurations no other one beats in every metric."""

import numpy as np

_BLOCK = 1024  # rows that are compared with the front at once


def pareto_front(values: np.ndarray, lower_is_better: np.ndarray) -> np.ndarray:
    """Return (M,) bool: rows that no other row is at least as good as in all metrics and better than in one.

    Equal rows are on the front together; a row with a NaN is never on it.

    Parameters
    ----------
    values : (M, D) float
    lower_is_better : (D,) bool

    Examples
    --------
    >>> pareto_front(np.array([[0.7, 0.1], [0.6, 0.05], [0.6, 0.2]]), np.array([False, True])).tolist()
    [True, True, False]
    """
    cost = np.where(lower_is_better, values, -np.asarray(values, dtype=np.float64))
    known = np.flatnonzero(~np.isnan(cost).any(axis=1))
    # In the order of all metrics nothing is beaten by what comes after it, so a row meets the front so far only.
    order = known[np.lexsort(cost[known].T[::-1])]
    front = np.empty((0, cost.shape[1]))
    on_front = np.zeros(len(cost), dtype=bool)
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        rows = rows[~_beaten(cost[rows], front)]
        rows = rows[~_beaten(cost[rows], cost[rows])]
        on_front[rows] = True
        front = np.concatenate([front, cost[rows]])
    return on_front


def _beaten(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which rows some other row beats, (R,) bool."""
    is_no_worse = np.all(others[None] <= rows[:, None], axis=2)
    is_better = np.any(others[None] < rows[:, None], axis=2)
    return np.any(is_no_worse & is_better, axis=1)
