"""Which configurations no other one beats: the Pareto front of several metrics."""

import numpy as np

from fer_mlflow.errors import ContractError

_BLOCK = 256  # rows that are compared with the front at once


def pareto_front(values: np.ndarray, lower_is_better: np.ndarray) -> np.ndarray:
    """Return which rows are on the Pareto front: no other row is as good in all columns and better in one.

    Rows equal in all columns are on it together or not at all. One and two columns cost a sort; more columns compare
    each row with the front found so far, M² D / 2 comparisons where all rows are on it.

    >>> pareto_front(np.array([[0.8, 0.3], [0.7, 0.2], [0.7, 0.3], [0.9, np.nan]]), np.array([False, True])).tolist()
    [True, True, False, False]

    Parameters
    ----------
    values : (M, D) numbers, D >= 1, infinite ones too; a row with a NaN is never on the front
    lower_is_better : (D,) bool

    Returns
    -------
    (M,) bool; no row gives none

    Raises
    ------
    ContractError
        values are not numbers in two dimensions or have no column; lower_is_better is not bool or of another shape
    """
    values, lower_is_better = np.asarray(values), np.asarray(lower_is_better)
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        raise ContractError(
            f"values are {values.dtype} of shape {values.shape}; they must be numbers of shape (rows, metrics)"
        )
    if lower_is_better.shape != values.shape[1:] or lower_is_better.dtype != bool:
        raise ContractError(
            f"lower_is_better is {lower_is_better.dtype} of shape {lower_is_better.shape}; "
            f"it must be bool of shape {values.shape[1:]}"
        )
    values = values.astype(np.float64)
    front = np.zeros(len(values), bool)
    scored = np.flatnonzero(~np.isnan(values).any(axis=1))
    if not len(scored):
        return front
    losses = np.where(lower_is_better, values[scored], -values[scored])
    order = np.lexsort(losses.T[::-1])  # by the first column, equal ones by the second, …
    rows = losses[order]
    starts = np.ones(len(rows), bool)  # of a run of equal rows
    starts[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    unbeaten = _unbeaten(rows[starts])
    front[scored[order]] = unbeaten[np.cumsum(starts) - 1]
    return front


def _unbeaten(rows: np.ndarray) -> np.ndarray:
    """Return which of (M, D) different losses in lexical order are on the front; only an earlier row can beat one."""
    M, D = rows.shape
    if D <= 2:
        last = rows[:, -1]
        least = np.minimum.accumulate(last)
        return np.concatenate(([True], last[1:] < least[:-1])) if D == 2 else np.arange(M) == 0
    unbeaten = np.ones(M, bool)
    kept = rows[:0]
    for start in range(0, M, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, M))
        block = block[~_beaten(rows[block], kept)]
        earlier = np.tri(len(block), k=-1, dtype=bool)
        beaten = (_below(rows[block], rows[block]) & earlier).any(axis=1)
        unbeaten[start : start + _BLOCK] = False
        unbeaten[block[~beaten]] = True
        kept = np.concatenate([kept, rows[block[~beaten]]])
    return unbeaten


def _beaten(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return which rows some kept row is nowhere above; the first kept rows beat most, so they are tried first."""
    beaten = np.zeros(len(rows), bool)
    for start in range(0, len(kept), 8 * _BLOCK):
        left = np.flatnonzero(~beaten)
        beaten[left] = _below(rows[left], kept[start : start + 8 * _BLOCK]).any(axis=1)
    return beaten


def _below(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (rows, others) bool: where the other row is at most the row in every column."""
    below = np.ones((len(rows), len(others)), bool)
    for column in range(rows.shape[1]):
        below &= others[:, column] <= rows[:, column, None]
    return below
