"""Intervals of metrics, and whether two models differ on the same rows.

Accuracy, balanced accuracy and F1 depend on the rows only through counts: of (label, prediction), or of (label,
prediction of A, prediction of B). Drawing N rows with replacement is drawing those counts from a multinomial
distribution, and exchanging A and B in random rows is splitting counts (y, a, b) and (y, b, a) binomially.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring import metrics

REPLICATES = 10_000
LEVEL = 0.95
_CELLS_AT_ONCE = 4_000_000  # replicates x cells that are in memory together
PROMOTED = ("better", "not worse")  # of the verdicts on B
_ROUNDING = 1e-12  # differences of scores that are this near are the same


@dataclass(frozen=True)
class Interval:
    """The ends of a central interval; NaN where there is none."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """B - A of one score: the observed one, its interval, and the p-value of "there is none"."""

    value: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """B against A on N rows."""

    differences: dict[str, Difference]  # public metric name -> B - A, without classes that have no labelled row
    predictions_a: np.ndarray  # (N,) int64, as are the others
    predictions_b: np.ndarray
    labels: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """(N,) bool, where the predictions differ."""
        return self.predictions_a != self.predictions_b

    @property
    def only_b_right(self) -> np.ndarray:
        """(N,) bool, where only B is right."""
        return self.changed & (self.predictions_b == self.labels)

    @property
    def only_a_right(self) -> np.ndarray:
        """(N,) bool, where only A is right."""
        return self.changed & (self.predictions_a == self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows, of those where the predictions differ, and where only B and only A is right."""
        masks = {name: getattr(self, name) for name in ("changed", "only_b_right", "only_a_right")}
        return {"rows": len(self.labels), **{name: int(mask.sum()) for name, mask in masks.items()}}

    def verdict(self, metric: str, level: float, margin: float | None = None) -> str:
        """Return whether B is `better` than A by a metric, `not worse`, `worse`, or `not significantly better`.

        Better and worse need p < level and a 95 % interval on one side of 0: of equal models level / 2 come out better.
        Not worse needs an interval that ends above -margin: of models worse by the margin 2.5 % come out so.
        """
        each, sign = self.differences[metric], -1 if metrics.is_lower_better(metric) else 1
        low, high = sorted((sign * each.interval.low, sign * each.interval.high))
        if each.p_value < level and (low > 0 or high < 0):
            return "better" if low > 0 else "worse" if margin is None or low <= -margin else "not worse"
        return "not worse" if margin is not None and low > -margin else "not significantly better"


@dataclass(frozen=True)
class _Cells:
    """The combinations of (label, prediction of each model) that have rows, and the scores of counts of them."""

    columns: np.ndarray  # (1 + models, cells) int, class columns
    classes: tuple[str, ...]

    def scores(self, counts: np.ndarray, having: Callable, model: int = 0) -> dict[str, np.ndarray]:
        """Return public metric name -> (R,) scores of (R, cells) counts."""
        label, predicted = self.columns[0], self.columns[1 + model]
        one_hot = np.eye(len(self.classes))
        counts = counts.astype(np.float64)
        hits = counts @ (one_hot[label] * (label == predicted)[:, None])
        statistics = metrics.Statistics(hits, labelled=counts @ one_hot[label], predicted=counts @ one_hot[predicted])
        support = np.bincount(label, minlength=len(self.classes)) > 0  # by all rows, not by those of the replicates
        return metrics.values_of(statistics, self.classes, having, support)

    def differences(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return public metric name -> (R,) B - A of the metrics that have a test on counts."""
        a, b = (self.scores(counts, lambda m: m.from_counts and m.test, model) for model in (0, 1))
        return {name: b[name] - a[name] for name in a}

    def draw(self, sample: Callable[[int], np.ndarray], scores: Callable, replicates: int) -> dict[str, np.ndarray]:
        """Return the scores of R sampled (R, cells) counts, in blocks that fit into memory."""
        size = max(1, _CELLS_AT_ONCE // self.columns.shape[1])
        blocks = [scores(sample(min(size, replicates - start))) for start in range(0, replicates, size)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _counted(classes: tuple[str, ...], labels: np.ndarray, *predictions: np.ndarray) -> tuple[_Cells, np.ndarray]:
    """Return the cells that hold a row, and how many each holds."""
    columns, n_classes = [labels, *predictions], len(classes)
    if not len(labels):
        raise ContractError("no labelled row: there is nothing to resample")
    if len({len(column) for column in columns}) > 1:
        raise ContractError(f"{len(labels)} labels and {[len(each) for each in predictions]} predictions; one per row")
    if min(column.min() for column in columns) < 0 or max(column.max() for column in columns) >= n_classes:
        raise ContractError(f"labels and predictions must be in 0..{n_classes - 1}")
    shape = [n_classes] * len(columns)
    codes, counts = np.unique(np.ravel_multi_index(columns, shape), return_counts=True)
    return _Cells(np.array(np.unravel_index(codes, shape)), classes), counts


def bootstrap_intervals(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> dict[str, Interval]:
    """Return public name -> 95 % percentile interval of each metric that has one; labels (N,) are ints in 0..C-1.

    A replicate in which a class has no row leaves that class out of its means, as the score itself does. A class
    without a labelled row has no interval. (Efron & Tibshirani 1993, ch. 13; Takahashi et al. 2021 give the same
    intervals of F1 by the delta method.) Raises ContractError: no row, lengths that differ, or a value out of range.
    """
    cells, counts = _counted(classes, labels, predictions)
    scores = partial(cells.scores, having=lambda metric: metric.has_interval)
    drawn = cells.draw(lambda size: rng.multinomial(len(labels), counts / len(labels), size), scores, replicates)
    return {name: _central(values) for name, values in drawn.items()}


def paired_differences(
    labels: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> dict[str, Difference]:
    """Return public name -> B - A of each metric with a test on counts, its 95 % interval and two-sided p-value.

    Intervals are from the paired bootstrap. The p-value of accuracy is the exact McNemar test's; the others are from
    approximate randomisation (Noreen 1989; Riezler & Maxwell 2005), (1 + replicates at least as far from 0) / (1 +
    replicates), which holds its level where the bootstrap's would be too small. A class without a labelled row has no
    difference. Arguments and errors are as for `bootstrap_intervals`.
    """
    cells, counts = _counted(classes, labels, predictions_a, predictions_b)
    N = len(labels)
    observed = {name: float(value[0]) for name, value in cells.differences(counts[None]).items()}
    drawn = cells.draw(lambda size: rng.multinomial(N, counts / N, size), cells.differences, replicates)
    low, high = np.minimum(predictions_a, predictions_b), np.maximum(predictions_a, predictions_b)
    p_values = _randomisation_p_values(*_counted(classes, labels, low, high), observed, rng, replicates)
    exact = mcnemar_p_value(predictions_a == labels, predictions_b == labels)
    p_values |= dict.fromkeys(metrics.metric_names(having=lambda metric: metric.test == "mcnemar"), exact)
    return {name: Difference(value, _central(drawn[name]), p_values[name]) for name, value in observed.items()}


def compare_logits(
    logits_a: np.ndarray,
    logits_b: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two models' logits of the same rows, with paired intervals and p-values by the metric table's tests.

    Logits (N, C), labels, classes and errors are those of `score`.
    """
    a, b = metrics.check_logits(logits_a), metrics.check_logits(logits_b)
    labels = metrics.check_labels(labels, *a.shape)
    metrics.check_labels(labels, *b.shape)
    predictions_a, predictions_b = a.argmax(axis=1), b.argmax(axis=1)
    found = paired_differences(labels, predictions_a, predictions_b, classes, rng, replicates)
    values_a, values_b = metrics.row_values(a, labels), metrics.row_values(b, labels)
    for metric in metrics.METRICS:
        if metric.test == "t":
            found[metric.name] = paired_mean_difference(values_a[metric.row_values], values_b[metric.row_values])
    differences = {name: found[name] for name in metrics.metric_names(classes) if name in found}
    return Comparison(differences, predictions_a, predictions_b, labels)


def mcnemar_p_value(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Return the exact two-sided McNemar p-value of two (N,) bool arrays; 1 where no row differs.

    >>> mcnemar_p_value(np.array([True] * 5 + [False]), np.array([False] * 5 + [False]))
    0.0625
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_mean_difference(losses_a: np.ndarray, losses_b: np.ndarray) -> Difference:
    """Return the mean of B - A of two (N,) arrays of losses per row, with its t interval and p-value (paired t test).

    With one row there is no interval; where all differences are equal it has no width, and p is 1 for 0, else 0.
    """
    difference = losses_b - losses_a
    N, mean = len(difference), float(np.mean(difference))
    if N < 2:
        return Difference(mean, Interval(np.nan, np.nan), np.nan)
    error = float(difference.std(ddof=1) / np.sqrt(N))
    half = float(stats.t.ppf((1 + LEVEL) / 2, N - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, N - 1)) if error > 0 else float(mean == 0)
    return Difference(mean, Interval(mean - half, mean + half), p_value)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return (M,) p-values adjusted for M tests, so that the chance of any false finding stays at it (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.arange(len(p_values), 0, -1) * p_values[order])
    return np.minimum(adjusted, 1.0)


def _randomisation_p_values(
    pairs: _Cells, counts: np.ndarray, observed: dict[str, float], rng: np.random.Generator, replicates: int
) -> dict[str, float]:
    """Return public name -> p-value from exchanging A and B in random rows.

    Cells (y, low, high) hold the rows of (y, a, b) and (y, b, a), which are split anew, half and half on average. Rows
    on which A and B agree are a pair of the same cell twice.
    """
    _, low, high = pairs.columns
    halves = _Cells(np.hstack([pairs.columns, pairs.columns[[0, 2, 1]]]), pairs.classes)

    def exchange(size: int) -> np.ndarray:
        first = rng.binomial(counts, np.where(low == high, 1.0, 0.5), size=(size, len(counts)))
        return np.concatenate([first, counts - first], axis=1)

    drawn = halves.draw(exchange, halves.differences, replicates)
    extreme = {name: np.abs(drawn[name]) >= abs(value) - _ROUNDING for name, value in observed.items()}
    return {name: float((1 + each.sum()) / (1 + replicates)) for name, each in extreme.items()}


def _central(drawn: np.ndarray) -> Interval:
    """Return the central 95 % of the values that are not NaN."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
