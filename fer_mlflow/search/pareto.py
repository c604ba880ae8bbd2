"""Which configurations no other one is better than: the Pareto front of two metrics."""

import numpy as np


def pareto_front(values: np.ndarray, lower_is_better: np.ndarray) -> np.ndarray:
    """Return which rows are on the Pareto front: no other row is as good in both columns and better in one.

    >>> pareto_front(np.array([[0.8, 0.3], [0.7, 0.2], [0.7, 0.3], [0.9, np.nan]]), np.array([False, True])).tolist()
    [True, True, False, False]

    Parameters
    ----------
    values : (M, 2) float, infinite ones too; a row with a NaN is never on the front
    lower_is_better : (2,) bool

    Returns
    -------
    (M,) bool; equal rows are on the front together or not at all
    """
    front = np.zeros(len(values), bool)
    scored = ~np.isnan(values).any(axis=1)
    losses = np.where(lower_is_better, values[scored], -values[scored])
    rows, inverse = np.unique(losses, axis=0, return_inverse=True)  # in lexical order: only an earlier row is better
    unbeaten = np.ones(len(rows), bool)
    unbeaten[1:] = rows[1:, 1] < np.minimum.accumulate(rows[:, 1])[:-1]
    front[scored] = unbeaten[inverse.reshape(-1)]
    return front
