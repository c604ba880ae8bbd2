"""K teachers' logits of the same labelled rows, fused and scored under thousands of configurations.

Every metric but the 99th percentile follows from sums over rows. So sums are taken once for each group of rows (a
source, a split, a fold), and the metrics of a union of groups cost an addition.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring import metrics
from fer_mlflow.scoring.fusion import SPACES, combine_layers, prepare_layers, transform_logits

_STEP = 1e-20  # of the complex-step derivative, where any small number gives the same
_BLOCK = 4096  # rows whose logits stay in the processor's cache while they are scored


@dataclass(frozen=True)
class CountTables:
    """Sums over the rows of G groups, for M configurations: what their metrics follow from, on any union of groups.

    All but the counts are float64, and (M, G) unless their shape is given.
    """

    confusion: np.ndarray  # (M, G, C, C) int32 counts of label against prediction
    loss: np.ndarray  # -log p_y, nats
    squared_loss: np.ndarray
    brier: np.ndarray  # a row's squared distance to its one-hot label
    squared_brier: np.ndarray
    confidence: np.ndarray  # the predicted class's probability
    gaps: np.ndarray  # (M, G, bins) confidence less hits in the equally wide bins of the ECE
    p99_confidence: np.ndarray  # (M,) the 99th percentile over all rows

    def __len__(self) -> int:
        return len(self.confusion)

    @classmethod
    def concatenated(cls, tables: "Sequence[CountTables]") -> "CountTables":
        """Return the count tables of several lists of configurations as those of one list."""
        return cls(**{name: np.concatenate([vars(each)[name] for each in tables]) for name in vars(tables[0])})

    def of(self, chosen: slice | np.ndarray) -> "CountTables":
        """Return the count tables of some of the configurations."""
        return CountTables(**{name: values[chosen] for name, values in vars(self).items()})

    def confusions(self, groups: np.ndarray | None = None) -> np.ndarray:
        """Return (M, C, C) counts of label against prediction in a union of groups, (G,) bool; None means all rows."""
        return self.confusion.sum(axis=1) if groups is None else self.confusion[:, groups].sum(axis=1)

    def scores(self, classes: tuple[str, ...], groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return public metric name -> (M,) float64 over a union of groups, (G,) bool; None means all rows.

        They are those of `metrics.score`, names and all: a class without a labelled row has no F1. The 99th percentile
        is there for all rows only.
        """
        chosen = slice(None) if groups is None else np.asarray(groups, dtype=bool)
        statistics = metrics.Statistics.of_confusion(
            self.confusions(groups),
            **{name: getattr(self, name)[:, chosen].sum(axis=1) for name in ("loss", "brier", "confidence", "gaps")},
            p99_confidence=self.p99_confidence if groups is None else None,
        )
        return metrics.values_of(statistics, classes)

    def best(self, metric: str, classes: tuple[str, ...], groups: np.ndarray | None = None) -> tuple[int, np.ndarray]:
        """Return the place of the best configuration over a union of groups, and (M,) the metric of each.

        Among equal ones it is that of the lowest NLL, then the first. In F1 of a class without a labelled row all are.
        """
        scores = self.scores(classes, groups)
        values = scores.get(metric, np.zeros(len(self)))
        return int(np.lexsort((scores["nll"], values if metrics.is_lower_better(metric) else -values))[0]), values


@dataclass(frozen=True)
class RowScores:
    """One configuration's (N,) int64 predictions, and (N,) float64 values of rows as `metrics.row_values` has them."""

    predictions: np.ndarray
    loss: np.ndarray
    brier: np.ndarray
    confidence: np.ndarray


class TeacherLogits:
    """Teachers' logits of N labelled rows.

    What is scored is what a bundle of float32 logits would hold: fused in float64 in the order of the teachers,
    rounded to float32, and only then divided by a temperature, in float64.

    Logits are (K, N, C) float, finite, or K arrays of (N, C), teachers in the order of their names. Labels are (N,) int
    in 0..C-1. Groups, (N,) int from 0 up, are what sums are taken by; None means one group.
    """

    def __init__(self, logits: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None):
        stack = metrics.stack_logits(logits)
        self.teachers, self.rows, self.n_classes = stack.shape
        self.labels = metrics.check_labels(labels, self.rows, self.n_classes)
        self.groups = np.zeros(self.rows, np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
        self.n_groups = int(self.groups.max()) + 1
        self._logits = np.ascontiguousarray(stack.transpose(0, 2, 1))  # (K, C, N)
        self._transformed: dict[str, np.ndarray] = {}
        self._prepared: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, np.ndarray | None]] = {}

    def of_rows(self, rows: np.ndarray) -> "TeacherLogits":
        """Return the logits of some rows, (N,) bool or positions, in one group."""
        return TeacherLogits(self._logits[:, :, rows].transpose(0, 2, 1), self.labels[rows])

    def logits(self) -> np.ndarray:
        """Return the teachers' (K, N, C) float64 logits."""
        return self._logits.transpose(0, 2, 1)

    def label_log_probs(self) -> np.ndarray:
        """Return each teacher's (K, N) float64 log-probability of the rows' labels."""
        return self.transformed("prob")[:, self.labels, np.arange(self.rows)]

    def transformed(self, space: str) -> np.ndarray:
        """Return each teacher's (K, C, N) float64 logits or log-probabilities, whichever a space is of."""
        if space not in self._transformed:
            self._transformed[space] = transform_logits(self._logits, space, axis=1)
        return self._transformed[space]

    def fused(self, space: str, weights: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return (N, C) float64 logits of one configuration, as a bundle of float32 holds them, over T."""
        out = np.empty((self.n_classes, self.rows))
        for start, block in self._fused_blocks(space, np.asarray(weights, dtype=np.float64), temperature):
            out[:, start : start + block.shape[1]] = block
        return out.T

    def row_scores(self, space: str, weights: np.ndarray, temperature: float = 1.0) -> RowScores:
        """Return one configuration's prediction and losses of each row; `weights` are (K,)."""
        weights = np.asarray(weights, dtype=np.float64)
        self.check_weights(space, weights[None])
        predictions = np.zeros(self.rows, np.int64)
        loss, brier, confidence = np.empty((3, self.rows))
        for start, z in self._fused_blocks(space, weights, temperature):
            rows = slice(start, start + z.shape[1])
            best, chosen = z[0].copy(), predictions[rows]
            for k in range(1, self.n_classes):
                np.copyto(chosen, k, where=z[k] > best)  # a tie stays with the first
                np.maximum(best, z[k], out=best)
            z -= best
            z_y = z[self.labels[rows], np.arange(z.shape[1])]
            np.exp(z, out=z)
            total = z.sum(axis=0)
            log_total = np.log(total)
            loss[rows] = log_total - z_y
            confidence[rows] = np.exp(-log_total)  # by way of the logarithm as `score` has it: to the last bit
            brier[rows] = np.einsum("cn,cn->n", z, z) / total**2 - 2 * np.exp(z_y) / total + 1
        return RowScores(predictions, loss, brier, confidence)

    def prepare(self, space: str, used: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the prepared layers of some teachers, kept for the last set of them, since each may be a copy.

        Threads that fuse configurations of one set have to call it before they start.
        """
        if (space, used) not in self._prepared:
            layers = self.transformed(space)
            chosen = layers if len(used) == self.teachers else layers[list(used)]
            self._prepared = {(space, used): prepare_layers(chosen, space)}
        return self._prepared[space, used]

    def check_weights(self, space: str, weights: np.ndarray) -> None:
        """Raise ContractError where a space is unknown, or (M, K) weights are not those of configurations."""
        fits = weights.shape[1:] == (self.teachers,)
        wrong = ~((weights >= 0).all(axis=1) & weights.any(axis=1) & fits & (space in SPACES))
        if wrong.any():
            first = weights[int(wrong.argmax())].tolist()
            raise ContractError(f"{space}, {first}: no configuration of {self.teachers} teachers")

    def _fused_blocks(self, space: str, weights: np.ndarray, temperature: float) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the (C, rows) logits of one block of rows after the other; the array is reused."""
        used = np.flatnonzero(weights > 0)
        layers, offset = self.prepare(space, tuple(used.tolist()))
        width = min(_BLOCK, self.rows)
        whole, product = np.empty((2, self.n_classes, width))
        narrow = np.empty((self.n_classes, width), np.float32)
        for start in range(0, self.rows, width):
            rows = slice(start, min(start + width, self.rows))
            n = rows.stop - start
            own = None if offset is None else offset[:, rows]
            z = combine_layers(layers[:, :, rows], weights[used], own, whole[:, :n], product[:, :n])
            narrow[:, :n] = z
            z[...] = narrow[:, :n]
            if temperature != 1:
                z /= temperature
            yield start, z


def count_rows(
    logits: TeacherLogits,
    space: str,
    weights: np.ndarray,
    temperatures: np.ndarray | None = None,
    workers: int = 1,
) -> CountTables:
    """Fuse and score every configuration of a list, and return the sums that their metrics follow from.

    The rows of the (M, K) weights are at least 0 and sum to 1, M >= 1. Logits are divided by (M,) temperatures; None
    means 1. Workers are threads.
    """
    weights = np.asarray(weights, dtype=np.float64)
    logits.check_weights(space, weights)
    over = np.ones(len(weights)) if temperatures is None else temperatures
    M, G, C = len(weights), logits.n_groups, logits.n_classes
    tables = CountTables(
        confusion=np.empty((M, G, C, C), np.int32),
        gaps=np.empty((M, G, metrics.ECE_BINS)),
        p99_confidence=np.empty(M),
        **{name: np.empty((M, G)) for name in ("loss", "squared_loss", "brier", "squared_brier", "confidence")},
    )
    cells = (logits.groups * C + logits.labels) * C

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(logits.groups, weights=values, minlength=G) if G > 1 else values.sum()

    def fill(at: int) -> None:
        out = logits.row_scores(space, weights[at], float(over[at]))
        counts = np.bincount(cells + out.predictions, minlength=G * C * C)
        tables.confusion[at] = counts.reshape(G, C, C)
        for name, values in (("loss", out.loss), ("brier", out.brier)):
            getattr(tables, name)[at] = summed(values)
            getattr(tables, f"squared_{name}")[at] = summed(values * values)
        tables.confidence[at] = summed(out.confidence)
        bins = logits.groups * metrics.ECE_BINS + metrics.equal_width_bins(out.confidence)
        gap = out.confidence - (out.predictions == logits.labels)
        tables.gaps[at] = np.bincount(bins, weights=gap, minlength=G * metrics.ECE_BINS).reshape(G, metrics.ECE_BINS)
        tables.p99_confidence[at] = np.quantile(out.confidence, 0.99)

    # Configurations of the same teachers follow each other, since what is prepared for them is kept for one set only.
    supports = weights > 0
    codes = np.unique(supports, axis=0, return_inverse=True)[1].reshape(-1)
    with ThreadPoolExecutor(workers) as threads:
        for code in range(int(codes.max()) + 1):
            same = np.flatnonzero(codes == code)
            logits.prepare(space, tuple(np.flatnonzero(supports[same[0]]).tolist()))
            list(threads.map(fill, same.tolist()))
    return tables


def check_metric(metric: str, classes: tuple[str, ...]) -> metrics.Metric:
    """Return a metric's row of the table after checking that its standard error is known."""
    known = metrics.metric_names(classes, having=lambda row: row.from_counts or row.row_values)
    row = metrics.metric_of(metric)
    if row is None or metric not in known:
        raise ContractError(f"metric {metric!r}: configurations are ranked by one of {', '.join(known)}")
    return row


def row_influences(metric: str, classes: tuple[str, ...], labels: np.ndarray, row_scores: RowScores) -> np.ndarray:
    """Return (N,) how much each row moves a metric: their mean is 0, their deviation / sqrt(N) its standard error.

    For means they are the rows' own values less the mean. For metrics of counts they are the delta method's: the
    derivative by the counts that a row adds to. (Takahashi et al. 2021, Confidence interval for micro-averaged F1 and
    macro-averaged F1 scores.)
    """
    row = check_metric(metric, classes)
    if row.row_values:
        values = getattr(row_scores, row.row_values)
        return values - values.mean()
    confusion = metrics.confusion_matrix(labels, row_scores.predictions, len(classes))
    return _cell_influences(metric, classes, confusion)[labels, row_scores.predictions]


def standard_errors(metric: str, classes: tuple[str, ...], counts: CountTables) -> np.ndarray:
    """Return (M,) the standard error of each configuration's metric over all rows, each on its own."""
    row, confusion = check_metric(metric, classes), counts.confusions()
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
    """Return the best of M configurations, and (M,) bool which ones are within one paired standard error of it.

    The error of a difference is at most the sum of both errors, which follow from counts; so only configurations that
    are near by that measure are fused again, to pair their rows with the best one's: `scores_of` gives a
    configuration's scores of each row. Labels are (N,) int, of the rows that were counted.
    """
    errors = standard_errors(metric, classes, counts)
    best, values = counts.best(metric, classes)
    behind = np.abs(values - values[best])
    of_best = row_influences(metric, classes, labels, scores_of(best))
    within = np.zeros(len(values), dtype=bool)
    for m in np.flatnonzero(behind <= errors + errors[best]).tolist():
        own = row_influences(metric, classes, labels, scores_of(m))
        within[m] = behind[m] <= (own - of_best).std() / np.sqrt(len(labels))
    within[best] = True
    return best, within


def _cell_influences(metric: str, classes: tuple[str, ...], confusion: np.ndarray) -> np.ndarray:
    """Return (..., C, C) the influence of a row with that label and prediction, for (..., C, C) counts.

    A row of (y, p) adds 1 to labelled[y], predicted[p], and to hits[y] where y = p. Metrics of counts do not change
    when all counts are multiplied, so N times the derivatives have mean 0. These are exact: Im f(x + ih) / h, where
    nothing is subtracted (Squire & Trapp 1998).
    """
    row, C = check_metric(metric, classes), len(classes)
    k = classes.index(metric.partition("/")[2]) if row.is_per_class else None
    at = metrics.Statistics.of_confusion(confusion)

    def slopes(name: str) -> np.ndarray:
        """Return (..., C) derivatives by one of the counts of each class."""
        steps = 1j * _STEP * np.eye(C).reshape(C, *[1] * (confusion.ndim - 2), C)
        values = row.function(replace(at, **{name: getattr(at, name) + steps}))
        slope = np.imag(values if k is None else values[..., k]) / _STEP
        return np.moveaxis(np.broadcast_to(slope, (C, *confusion.shape[:-2])), 0, -1)

    by_pair = slopes("labelled")[..., :, None] + slopes("predicted")[..., None, :]
    return confusion.sum(axis=(-2, -1))[..., None, None] * (by_pair + slopes("hits")[..., :, None] * np.eye(C))
