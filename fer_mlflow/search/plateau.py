"""Which configurations cannot be told from the best one: those within one paired standard error of it."""

from collections.abc import Callable

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import confusion_matrix, f1_scores, is_lower_better
from fer_mlflow.scoring.tallies import Tallies
from fer_mlflow.search.pool import Outcomes

_MEANS = {"nll": "loss", "brier": "brier"}  # metric -> the tally of its rows' values


def check_metric(metric: str, classes: tuple[str, ...]) -> str:
    """Return a metric's name after checking that its standard error is known.

    Raises
    ------
    ContractError
        another name; the message lists those that are known
    """
    known = ["accuracy", "macro_f1", *_MEANS, *(f"f1/{name}" for name in classes)]
    if metric not in known:
        raise ContractError(f"metric {metric!r}: configurations are ranked by one of {', '.join(known)}")
    return metric


def row_influences(metric: str, classes: tuple[str, ...], labels: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Return (N,) how much each row moves a metric: their mean is 0, their deviation / sqrt(N) its standard error.

    For means they are the rows' own values less the mean. For F1_k = 2 TP / (labelled + predicted), with d the share of
    rows below the line, a row adds (2 [y = k = p] - F1_k ([y = k] + [p = k])) / d: the delta method. Macro-F1 is
    the mean over classes with a labelled row.

    Parameters
    ----------
    labels : (N,) int

    References
    ----------
    Takahashi et al. 2021, Confidence interval for micro-averaged F1 and macro-averaged F1 scores.
    """
    if metric in _MEANS:
        values = {"nll": outcomes.losses, "brier": outcomes.briers}[metric]
        return values - values.mean()
    confusion = confusion_matrix(labels, outcomes.predictions, len(classes))
    return _cell_influences(metric, classes, confusion)[labels, outcomes.predictions]


def standard_errors(metric: str, classes: tuple[str, ...], tallies: Tallies) -> np.ndarray:
    """Return (M,) the standard error of each configuration's metric over all rows, each on its own."""
    confusion = tallies.confusions()
    rows = confusion[0].sum()
    if metric in _MEANS:
        mean = getattr(tallies, _MEANS[metric]).sum(axis=1) / rows
        variance = getattr(tallies, f"squared_{_MEANS[metric]}").sum(axis=1) / rows - mean**2
    else:
        influence = np.stack([_cell_influences(metric, classes, each) for each in confusion])
        variance = (confusion * influence**2).sum(axis=(1, 2)) / rows
    return np.sqrt(np.maximum(variance, 0) / rows)


def find_plateau(
    metric: str,
    classes: tuple[str, ...],
    tallies: Tallies,
    labels: np.ndarray,
    outcomes_of: Callable[[int], Outcomes],
) -> tuple[int, np.ndarray]:
    """Return the best configuration, and (M,) bool which ones are within one paired standard error of it.

    The error of a difference is at most the sum of both errors, which tallies tell; so only configurations that are
    near by that measure are fused again, to pair their rows with the best one's.

    Parameters
    ----------
    tallies : of M configurations
    labels : (N,) int, of the rows that were tallied
    outcomes_of : gives what a configuration says of each row

    Raises
    ------
    ContractError
        the metric's standard error is not known
    """
    check_metric(metric, classes)
    scores = tallies.scores(classes)
    values = scores.get(metric, np.zeros(len(tallies)))  # F1 of a class without a labelled row: nothing to tell
    best = best_of(values, metric, scores["nll"])
    errors = standard_errors(metric, classes, tallies)
    behind = np.abs(values - values[best])
    of_best = row_influences(metric, classes, labels, outcomes_of(best))
    within = np.zeros(len(values), dtype=bool)
    for m in np.flatnonzero(behind <= errors + errors[best]).tolist():
        own = row_influences(metric, classes, labels, outcomes_of(m))
        within[m] = behind[m] <= (own - of_best).std() / np.sqrt(len(labels))
    within[best] = True
    return best, within


def best_of(values: np.ndarray, metric: str, nll: np.ndarray) -> int:
    """Return the place of the best value; among equal ones that of the lowest NLL, then the first."""
    return int(np.lexsort((nll, values if is_lower_better(metric) else -values))[0])


def _cell_influences(metric: str, classes: tuple[str, ...], confusion: np.ndarray) -> np.ndarray:
    """Return (C, C) the influence of a row with that label and prediction on accuracy or F1."""
    rows, C = confusion.sum(), len(classes)
    if metric == "accuracy":
        return np.eye(C) - np.trace(confusion) / rows
    f1 = f1_scores(confusion)
    below = np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1) / rows
    wanted = range(C) if metric == "macro_f1" else [classes.index(metric.removeprefix("f1/"))]
    there = [k for k in wanted if not np.isnan(f1[k])]
    influence = np.zeros((C, C))
    for k in there:
        influence[k, :] -= f1[k] / below[k]
        influence[:, k] -= f1[k] / below[k]
        influence[k, k] += 2 / below[k]
    return influence / max(len(there), 1)
