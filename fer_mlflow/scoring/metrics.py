"""How good soft labels are on labelled rows: every number from one pass over (N, C) logits."""

import re
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.calibration_error import expected_calibration_error

_LOWER_IS_BETTER = re.compile(r"nll|brier|ece.*")


@dataclass(frozen=True)
class Metrics:
    """Scores of N labelled rows. Fractions are in [0, 1].

    Attributes
    ----------
    f1 : (C,) float64, NaN for a class without a labelled row
    support : (C,) int64, labelled rows of each class
    nll : mean -log p_y, nats
    brier : mean over rows of the squared distance to the one-hot label, in [0, 2]
    """

    accuracy: float
    macro_f1: float
    f1: np.ndarray
    support: np.ndarray
    nll: float
    brier: float
    ece: float
    mean_max_prob: float
    p99_max_prob: float

    def named(self, classes: tuple[str, ...]) -> dict[str, float]:
        """Return the numbers under their public names; a class without support has none."""
        values = {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "nll": self.nll,
            "brier": self.brier,
            "ece": self.ece,
            "mean_max_prob": self.mean_max_prob,
            "p99_max_prob": self.p99_max_prob,
        }
        scores = {f"f1/{name}": float(f1) for name, f1 in zip(classes, self.f1, strict=True) if not np.isnan(f1)}
        return values | scores


def is_lower_better(metric: str) -> bool:
    """Return whether a smaller value of a metric is the better one.

    >>> [is_lower_better(name) for name in ("macro_f1", "f1/Fear", "nll", "ece_adaptive", "after/nll")]
    [False, False, True, True, True]
    """
    return bool(_LOWER_IS_BETTER.fullmatch(metric.rpartition("/")[2]))


def check_logits(logits: np.ndarray) -> np.ndarray:
    """Return logits as float64 after checking that they are a finite (N, C) array with C >= 2.

    Raises
    ------
    ContractError
        another shape or type, or a value that is not finite (the message names the first such row)
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] < 2 or not np.issubdtype(logits.dtype, np.floating):
        raise ContractError(
            f"logits are {logits.dtype} of shape {logits.shape}; they must be floats of shape (rows, 2 or more classes)"
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ContractError(f"logits row {row}: {logits[row].tolist()} is not finite ({(~finite).sum()} such rows)")
    return logits.astype(np.float64)


def check_labels(labels: np.ndarray, rows: int, classes: int) -> np.ndarray:
    """Return labels as int64 after checking that they are (rows,) integers in 0..classes-1, at least one.

    Raises
    ------
    ContractError
        another shape, type or range (the message names the first such row), or no row at all
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise ContractError(
            f"labels are {labels.dtype} of shape {labels.shape}; they must be integers of shape ({rows},)"
        )
    if rows == 0:
        raise ContractError("no labelled row: there is nothing to score")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ContractError(f"labels row {row}: {labels[row]} is not a class in 0..{classes - 1}")
    return labels.astype(np.int64)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return the (C, C) int64 counts of label (row) against prediction (column).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def f1_scores(confusion: np.ndarray) -> np.ndarray:
    """Return each class's F1 = 2 TP / (labelled + predicted), (C,) float64, NaN where no row is labelled so.

    A class that is labelled and never predicted scores 0.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    labelled, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return np.where(labelled > 0, 2 * hits / np.maximum(labelled + predicted, 1), np.nan)


def precision_and_recall(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's precision (NaN where it is never predicted) and recall (NaN without a labelled row), (C,).

    >>> precision, recall = precision_and_recall(np.array([[1, 0], [1, 1]]))
    >>> precision.tolist(), recall.tolist()
    ([0.5, 1.0], [1.0, 0.5])
    """
    hits = np.diagonal(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = np.where(predicted > 0, hits / np.maximum(predicted, 1), np.nan)
    return precision, np.where(labelled > 0, hits / np.maximum(labelled, 1), np.nan)


def row_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (N,) -log p_y in nats, from log-softmax in float64: finite wherever the logits are."""
    return -log_softmax(np.asarray(logits, dtype=np.float64), axis=1)[np.arange(len(labels)), labels]


def score(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """Score logits against labels.

    Ties in a row go to the first of the tied columns, as `numpy.argmax` has it.

    Parameters
    ----------
    logits : (N, C) float, finite, nats up to a constant per row
    labels : (N,) int in 0..C-1

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, or a value is not finite

    Examples
    --------
    >>> result = score(np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), np.array([0, 1, 1]))
    >>> round(result.accuracy, 4), round(result.macro_f1, 4)
    (0.6667, 0.6667)
    """
    logits = check_logits(logits)
    N, C = logits.shape
    labels = check_labels(labels, N, C)
    log_probs = log_softmax(logits, axis=1)
    probs = np.exp(log_probs)
    predictions = logits.argmax(axis=1)
    rows = np.arange(N)
    confidence = probs[rows, predictions]
    confusion = confusion_matrix(labels, predictions, C)
    f1 = f1_scores(confusion)
    brier = np.square(probs).sum(axis=1) - 2 * probs[rows, labels] + 1
    return Metrics(
        accuracy=float(np.diagonal(confusion).sum() / N),
        macro_f1=float(np.nanmean(f1)),
        f1=f1,
        support=confusion.sum(axis=1),
        nll=float(-log_probs[rows, labels].mean()),
        brier=float(brier.mean()),
        ece=expected_calibration_error(confidence, predictions == labels),
        mean_max_prob=float(confidence.mean()),
        p99_max_prob=float(np.quantile(confidence, 0.99)),
    )
