"""The metric table: one row for each metric, from which every list of metrics in the package follows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.errors import ContractError

ECE_BINS = 15


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics: sums over N labelled rows from which every metric follows.

    The leading axes (...) are any number of models, configurations or replicates. All but the counts are None where
    only counts are known.
    """

    hits: np.ndarray  # (..., C) rows that are labelled and predicted as a class
    labelled: np.ndarray  # (..., C) rows that are labelled so
    predicted: np.ndarray  # (..., C) rows that are predicted so
    loss: Any = None  # (...) sum of -log p_y, nats
    brier: Any = None  # (...) sum of squared distances to the one-hot label
    confidence: Any = None  # (...) sum of the predicted class's probability
    gaps: Any = None  # (..., bins) confidence less hits, summed in the equally wide bins of the ECE
    p99_confidence: Any = None  # (...) the 99th percentile of confidence; None where rows are a union of groups

    @classmethod
    def of_confusion(cls, confusion: np.ndarray, **sums: np.ndarray | None) -> "Statistics":
        """Return the statistics of (..., C, C) counts of label against prediction, with other sums by name."""
        hits = np.diagonal(confusion, axis1=-2, axis2=-1)
        return cls(hits, confusion.sum(axis=-1), confusion.sum(axis=-2), **sums)

    @property
    def rows(self) -> np.ndarray:
        """(...) N."""
        return self.labelled.sum(axis=-1)

    @property
    def has_support(self) -> np.ndarray:
        """(..., C) bool, whether a class has a labelled row."""
        return np.asarray(np.real(self.labelled) > 0)

    def of_class(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        """Return (..., C) quotients, NaN for a class without a labelled row."""
        return np.where(self.has_support, numerator / np.where(self.has_support, denominator, 1), np.nan)

    def macro(self, values: np.ndarray) -> np.ndarray:
        """Return (...) the mean of (..., C) values over the classes with a labelled row."""
        return np.where(self.has_support, values, 0).sum(axis=-1) / self.has_support.sum(axis=-1)

    @property
    def f1(self) -> np.ndarray:
        """(..., C) F1 = 2 TP / (labelled + predicted); 0 for a class that is labelled and never predicted."""
        return self.of_class(2 * self.hits, self.labelled + self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """(..., C) TP / labelled."""
        return self.of_class(self.hits, self.labelled)


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str  # the public name; a metric of each class is `name/Class`
    unit: str  # `share` (of 1), `nats`, or `squared distance`
    direction: str  # `higher` or `lower` is better; empty where neither is
    function: Callable[[Statistics], Any]  # statistics -> (...) values, (..., C) for a metric of each class
    is_per_class: bool = False
    from_counts: bool = False  # whether it follows from counts of (label, prediction), and can be resampled as counts
    row_values: str = ""  # `loss` or `brier` where it is their mean over rows, so that its standard error is known
    has_interval: bool = False  # whether `evaluate` gives its bootstrap interval; needs `from_counts`
    test: str = ""  # of two models: `mcnemar` (exact, accuracy only), `randomisation` (of counts), `t` (of row values)
    shown: frozenset[str] = frozenset()  # by tables without room for every metric: `leaderboard`, `sweep`, `slices`


_SUMMARIES = frozenset({"leaderboard", "sweep", "slices"})
_COUNTED = partial(Metric, unit="share", direction="higher", from_counts=True, has_interval=True)

METRICS = (
    _COUNTED("accuracy", function=lambda s: s.hits.sum(axis=-1) / s.rows, test="mcnemar", shown=_SUMMARIES),
    _COUNTED("macro_f1", function=lambda s: s.macro(s.f1), test="randomisation", shown=_SUMMARIES),
    _COUNTED("balanced_accuracy", function=lambda s: s.macro(s.recall), test="randomisation"),
    Metric("nll", "nats", "lower", lambda s: s.loss / s.rows, row_values="loss", test="t", shown=_SUMMARIES),
    Metric("brier", "squared distance", "lower", lambda s: s.brier / s.rows, row_values="brier"),
    Metric("ece", "share", "lower", lambda s: np.abs(s.gaps).sum(axis=-1) / s.rows, shown=_SUMMARIES),
    Metric("mean_max_prob", "share", "", lambda s: s.confidence / s.rows),
    Metric("p99_max_prob", "share", "", lambda s: s.p99_confidence),
    _COUNTED("f1", function=lambda s: s.f1, is_per_class=True, test="randomisation"),
)
# What `evaluate` and `calibrate` compute in addition to the table, from the rows' probabilities.
CALIBRATION_METRICS = ("ece_null_p95", "ece_adaptive", "ece_classwise")
DEFAULT = "macro_f1"  # what ranks runs and configurations unless another metric is named


def metric_of(name: str) -> Metric | None:
    """Return the row of a public name, None for a name that the table does not have.

    >>> metric_of("f1/Fear").name, metric_of("nll").name, metric_of("rows")
    ('f1', 'nll', None)
    """
    own = name.partition("/")[0]
    return next((row for row in METRICS if row.name == own and row.is_per_class == (own != name)), None)


def metric_names(classes: Iterable[str] = (), having: Callable[[Metric], object] = lambda row: True) -> list[str]:
    """Return the public names of the rows for which `having` is true, those of each class last.

    >>> metric_names(("Fear",), having=lambda row: row.test)
    ['accuracy', 'macro_f1', 'balanced_accuracy', 'nll', 'f1/Fear']
    """
    rows = [row for row in METRICS if having(row)]
    classes = tuple(classes)
    single = [row.name for row in rows if not row.is_per_class]
    return single + [f"{row.name}/{each}" for row in rows if row.is_per_class for each in classes]


def is_lower_better(name: str) -> bool:
    """Return whether a smaller value of a metric is the better one, whatever stands before it (`after/nll`).

    >>> [is_lower_better(name) for name in ("macro_f1", "f1/Fear", "nll", "ece_adaptive", "after/nll")]
    [False, False, True, True, True]
    """
    last = name.rpartition("/")[2]
    if last in CALIBRATION_METRICS:
        return True
    row = metric_of(name) or metric_of(last)
    return row is not None and row.direction == "lower"


def values_of(
    statistics: Statistics,
    classes: tuple[str, ...],
    having: Callable[[Metric], object] = lambda row: True,
    support: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return public name -> (...) values of the rows for which `having` is true, without those that are not known.

    A class is left out where `support`, (C,) bool, is False: by default where it has no labelled row; a replicate
    without one has NaN there.
    """
    values: dict[str, np.ndarray] = {}
    if support is None:
        support = np.any(statistics.has_support.reshape(-1, len(classes)), axis=0)
    for row in filter(having, METRICS):
        value = row.function(statistics)
        if row.is_per_class:
            values |= {f"{row.name}/{name}": value[..., k] for k, name in enumerate(classes) if support[k]}
        elif value is not None:
            values[row.name] = value
    return values


def check_logits(logits: np.ndarray) -> np.ndarray:
    """Return logits as float64 after checking that they are a finite (N, C) array with C >= 2.

    Raises ContractError: another shape or type, or a value that is not finite (the message names the first such row).
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] < 2 or not np.issubdtype(logits.dtype, np.floating):
        found = f"logits are {logits.dtype} of shape {logits.shape}"
        raise ContractError(f"{found}; they must be floats of shape (rows, 2 or more classes)")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ContractError(f"logits row {row}: {logits[row].tolist()} is not finite ({(~finite).sum()} such rows)")
    return logits.astype(np.float64)


def stack_logits(layers: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return K teachers' logits as (K, N, C) float64, each checked as by `check_logits`, all of one shape."""
    checked = [check_logits(each) for each in layers]
    shapes = {each.shape for each in checked}
    if len(shapes) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "no teacher"
        raise ContractError(f"teachers' logits must be of the same rows and classes; found {found}")
    return np.stack(checked)


def check_labels(labels: np.ndarray, rows: int, classes: int) -> np.ndarray:
    """Return labels as int64 after checking that they are (rows,) integers in 0..classes-1, at least one.

    Raises ContractError: another shape, type or range (the message names the first such row), or no row at all.
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        found = f"labels are {labels.dtype} of shape {labels.shape}"
        raise ContractError(f"{found}; they must be integers of shape ({rows},)")
    if rows == 0:
        raise ContractError("no labelled row: there is nothing to score")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ContractError(f"labels row {row}: {labels[row]} is not a class in 0..{classes - 1}")
    return labels.astype(np.int64)


def equal_width_bins(confidence: np.ndarray, n_bins: int = ECE_BINS) -> np.ndarray:
    """Return each value's bin in 0..n_bins-1; bins are equally wide and right-closed, (lo, hi], 0 is in the first.

    >>> equal_width_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    return np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return the (C, C) int64 counts of label (row) against prediction (column).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def row_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (N,) -log p_y in nats, from log-softmax in float64: finite wherever the logits are."""
    return -log_softmax(np.asarray(logits, dtype=np.float64), axis=1)[np.arange(len(labels)), labels]


def row_values(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the (N,) values of rows that some metrics are the mean of, by the names that the table has for them."""
    log_probs = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    probs, rows = np.exp(log_probs), np.arange(len(labels))
    return {
        "loss": -log_probs[rows, labels],
        "brier": np.square(probs).sum(axis=1) - 2 * probs[rows, labels] + 1,
        "confidence": probs[rows, np.argmax(logits, axis=1)],
    }


def score(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Score logits against labels: public metric name -> value; a class without a labelled row has no F1.

    Ties in a row go to the first of the tied columns, as `numpy.argmax` has it.

    Parameters
    ----------
    logits : (N, C) float, finite, nats up to a constant per row
    labels : (N,) int in 0..C-1
    classes : C names

    Raises ContractError: shapes disagree, N = 0, a label is out of range, or a value is not finite.

    >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> found = score(logits, np.array([0, 1, 1]), ("Happy", "Sad"))
    >>> round(found["accuracy"], 4), round(found["f1/Sad"], 4)
    (0.6667, 0.6667)
    """
    logits = check_logits(logits)
    labels = check_labels(labels, *logits.shape)
    predictions, values = logits.argmax(axis=1), row_values(logits, labels)
    confidence, hits = values["confidence"], (predictions == labels).astype(np.float64)
    bins = equal_width_bins(confidence)
    statistics = Statistics.of_confusion(
        confusion_matrix(labels, predictions, logits.shape[1]),
        **{name: each.sum() for name, each in values.items()},
        gaps=np.bincount(bins, confidence, ECE_BINS) - np.bincount(bins, hits, ECE_BINS),
        p99_confidence=np.quantile(confidence, 0.99),
    )
    return {name: float(value) for name, value in values_of(statistics, classes).items()}
