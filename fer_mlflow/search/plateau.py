"""Which configurations are good: within one paired standard error of the best, or on the front of two metrics."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import Metric, Statistics, confusion_matrix, is_lower_better, metric_names, metric_of
from fer_mlflow.search.teacher_logits import CountTables, RowScores

_STEP = 1e-20  # of the complex-step derivative, where any small number gives the same


def has_standard_error(metric: Metric) -> bool:
    """Return whether the standard error of a metric is known: of what follows from counts, and of means over rows."""
    return metric.from_counts or bool(metric.row_values)


def check_metric(metric: str, classes: tuple[str, ...]) -> str:
    """Return a metric's name after checking that its standard error is known.

    Raises
    ------
    ContractError
        another name; the message lists those that are known
    """
    known = metric_names(classes, has_standard_error)
    if metric not in known:
        raise ContractError(f"metric {metric!r}: configurations are ranked by one of {', '.join(known)}")
    return metric


def row_influences(metric: str, classes: tuple[str, ...], labels: np.ndarray, row_scores: RowScores) -> np.ndarray:
    """Return (N,) how much each row moves a metric: their mean is 0, their deviation / sqrt(N) its standard error.

    For means they are the rows' own values less the mean. For metrics of counts they are the delta method's: the
    derivative by the counts that a row adds to.

    Parameters
    ----------
    labels : (N,) int

    References
    ----------
    Takahashi et al. 2021, Confidence interval for micro-averaged F1 and macro-averaged F1 scores.
    """
    row = _row_of(metric)
    if row.row_values:
        values = getattr(row_scores, row.row_values)
        return values - values.mean()
    confusion = confusion_matrix(labels, row_scores.predictions, len(classes))
    return _cell_influences(metric, classes, confusion)[labels, row_scores.predictions]


def standard_errors(metric: str, classes: tuple[str, ...], counts: CountTables) -> np.ndarray:
    """Return (M,) the standard error of each configuration's metric over all rows, each on its own."""
    row, confusion = _row_of(metric), counts.confusions()
    rows = confusion[0].sum()
    if row.row_values:
        mean = getattr(counts, row.row_values).sum(axis=1) / rows
        variance = getattr(counts, f"squared_{row.row_values}").sum(axis=1) / rows - mean**2
    else:
        variance = (confusion * _cell_influences(metric, classes, confusion) ** 2).sum(axis=(1, 2)) / rows
    return np.sqrt(np.maximum(variance, 0) / rows)


def find_plateau(
    metric: str,
    classes: tuple[str, ...],
    counts: CountTables,
    labels: np.ndarray,
    scores_of: Callable[[int], RowScores],
) -> tuple[int, np.ndarray]:
    """Return the best configuration, and (M,) bool which ones are within one paired standard error of it.

    The error of a difference is at most the sum of both errors, which follow from counts; so only configurations that
    are near by that measure are fused again, to pair their rows with the best one's.

    Parameters
    ----------
    counts : of M configurations
    labels : (N,) int, of the rows that were counted
    scores_of : gives a configuration's scores of each row

    Raises
    ------
    ContractError
        the metric's standard error is not known
    """
    check_metric(metric, classes)
    scores = counts.scores(classes)
    values = scores.get(metric, np.zeros(len(counts)))  # F1 of a class without a labelled row: they are equal
    best = best_of(values, metric, scores["nll"])
    errors = standard_errors(metric, classes, counts)
    behind = np.abs(values - values[best])
    of_best = row_influences(metric, classes, labels, scores_of(best))
    within = np.zeros(len(values), dtype=bool)
    for m in np.flatnonzero(behind <= errors + errors[best]).tolist():
        own = row_influences(metric, classes, labels, scores_of(m))
        within[m] = behind[m] <= (own - of_best).std() / np.sqrt(len(labels))
    within[best] = True
    return best, within


def best_of(values: np.ndarray, metric: str, nll: np.ndarray) -> int:
    """Return the place of the best value; among equal ones that of the lowest NLL, then the first."""
    return int(np.lexsort((nll, values if is_lower_better(metric) else -values))[0])


def _row_of(metric: str) -> Metric:
    row = metric_of(metric)
    if row is None or not has_standard_error(row):
        raise ContractError(f"metric {metric!r} has no known standard error")
    return row


def _cell_influences(metric: str, classes: tuple[str, ...], confusion: np.ndarray) -> np.ndarray:
    """Return (..., C, C) the influence of a row with that label and prediction, for (..., C, C) counts.

    A row of (y, p) adds 1 to labelled[y], predicted[p], and to hits[y] where y = p. Metrics of counts do not change
    when all counts are multiplied, so N times the derivatives have mean 0. These are exact: Im f(x + ih) / h, where
    nothing is subtracted (Squire & Trapp 1998).
    """
    row, C = _row_of(metric), len(classes)
    k = classes.index(metric.partition("/")[2]) if row.is_per_class else None
    at = Statistics.of_confusion(confusion)

    def slopes(name: str) -> np.ndarray:
        """Return (..., C) derivatives by one of the counts of each class."""
        steps = 1j * _STEP * np.eye(C).reshape(C, *[1] * (confusion.ndim - 2), C)
        values = row.function(replace(at, **{name: getattr(at, name) + steps}))
        slope = np.imag(values if k is None else values[..., k]) / _STEP
        return np.moveaxis(np.broadcast_to(slope, (C, *confusion.shape[:-2])), 0, -1)

    by_pair = slopes("labelled")[..., :, None] + slopes("predicted")[..., None, :]
    return confusion.sum(axis=(-2, -1))[..., None, None] * (by_pair + slopes("hits")[..., :, None] * np.eye(C))


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
