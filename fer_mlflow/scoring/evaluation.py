"""Scores of labelled logits with their uncertainty, calibration errors, and how peaked soft labels are."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring import metrics, significance

NULL_REPLICATES = 2000
NEARLY_SURE = 0.99
_FAR = 1e12  # the largest ratio of temperatures that is tried
_STRATA_PER_BIN = 64  # rows of one stratum are simulated together, as if they had its mean confidence


@dataclass(frozen=True)
class Evaluation:
    """Scores of N labelled rows and their uncertainty."""

    metrics: dict[str, float]  # by public name
    predictions: np.ndarray  # (N,) int64, the class of the greatest logit
    confidence: np.ndarray  # (N,) float64, its probability
    correct: np.ndarray  # (N,) bool
    losses: np.ndarray  # (N,) float64, -log p_y in nats
    intervals: dict[str, significance.Interval]  # by public name, 95 %, of the metrics that have one
    ece_adaptive: float  # the ECE over bins of equal mass
    ece_classwise: float  # the mean ECE of each class's probability
    ece_null_p95: float  # what the ECE of a calibrated model of these confidences is below in 95 of 100 benchmarks

    def named(self) -> dict[str, float]:
        """Return the numbers under their public names, intervals as `ci95/<metric>_low` and `ci95/f1 Sad_low`."""
        values = self.metrics | {name: getattr(self, name) for name in metrics.CALIBRATION_METRICS}
        for name, interval in self.intervals.items():
            key = f"ci95/{name.replace('/', ' ')}"
            values |= {f"{key}_low": interval.low, f"{key}_high": interval.high}
        return values


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], rng: np.random.Generator) -> Evaluation:
    """Score logits against labels, with intervals and the ECE that chance alone would give.

    Logits, labels, classes and errors are those of `score`.
    """
    logits = metrics.check_logits(logits)
    labels = metrics.check_labels(labels, *logits.shape)
    probs, predictions = softmax(logits, axis=1), logits.argmax(axis=1)
    confidence = probs[np.arange(len(labels)), predictions]
    correct = predictions == labels
    return Evaluation(
        metrics=metrics.score(logits, labels, classes),
        predictions=predictions,
        confidence=confidence,
        correct=correct,
        losses=metrics.row_losses(logits, labels),
        intervals=significance.bootstrap_intervals(labels, predictions, classes, rng),
        ece_adaptive=adaptive_calibration_error(confidence, correct),
        ece_classwise=classwise_calibration_error(probs, labels),
        ece_null_p95=float(np.quantile(null_calibration_error(confidence, rng), 0.95)),
    )


def class_scores(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> tuple[np.ndarray, ...]:
    """Return the (C, C) counts of label against prediction, and each class's precision and recall, (C,).

    Precision is NaN for a class that is never predicted, recall for one without a labelled row.

    >>> [values.tolist() for values in class_scores(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)]
    [[[1, 0], [1, 1]], [0.5, 1.0], [1.0, 0.5]]
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # takes 0.2 s

    columns = np.arange(n_classes)
    precision, recall, *_ = precision_recall_fscore_support(labels, predictions, labels=columns, zero_division=np.nan)
    return confusion_matrix(labels, predictions, labels=columns), precision, recall


def equal_mass_bins(confidence: np.ndarray, n_bins: int = metrics.ECE_BINS) -> np.ndarray:
    """Return each value's bin, 0 the lowest; bins hold about as many rows each, and equal values share one.

    The k-th bin ends after row round(k N / n_bins) of the sorted values, or after the last value equal to that row's;
    so there may be fewer than `n_bins`.

    >>> equal_mass_bins(np.array([0.9, 0.1, 0.5, 0.5]), 4).tolist()
    [2, 0, 1, 1]
    """
    ordered = np.sort(confidence)
    ends = np.round(np.arange(1, n_bins + 1) * len(ordered) / n_bins).astype(np.int64)
    highest = np.unique(ordered[ends[ends > 0] - 1])
    return np.searchsorted(highest, confidence, side="left")


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = metrics.ECE_BINS) -> float:
    """Return the top-label ECE in [0, 1], NaN for N = 0: the bin-weighted gap between confidence and accuracy.

    Bins are those of `equal_width_bins`, and an empty one adds 0 (Guo et al. 2017, On Calibration of Modern Neural
    Networks, eq. 3). netcal, whose bins are [lo, hi), differs on values that lie on an edge.

    Parameters
    ----------
    confidence : (N,) float in [0, 1], the probability of the predicted class
    correct : (N,) bool

    >>> ece = expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]))
    >>> round(ece, 12)  # (2 * |0.9 - 0.5| + |0.6 - 1|) / 3
    0.4
    """
    return _binned_gap(confidence, correct, metrics.equal_width_bins(confidence, n_bins))


def adaptive_calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = metrics.ECE_BINS) -> float:
    """Return the top-label ECE over bins of equal mass, which is less biased where most confidences are similar.

    Arguments and range are the ECE's (Roelofs et al. 2022, Mitigating Bias in Calibration Error Estimation; there
    ECE_EM, without ties).
    """
    return _binned_gap(confidence, correct, equal_mass_bins(confidence, n_bins))


def classwise_calibration_error(probs: np.ndarray, labels: np.ndarray, n_bins: int = metrics.ECE_BINS) -> float:
    """Return the mean over all C classes of the gap between a class's probability and how often it is the label.

    It is of (N, C) probabilities and (N,) labels in 0..C-1, in [0, 1], NaN for N = 0 (Kull et al. 2019, Beyond
    Temperature Scaling, eq. 5). Most probabilities are near 0 and rightly so: it is several times below the ECE.
    """
    gaps = [_binned_gap(p, labels == k, metrics.equal_width_bins(p, n_bins)) for k, p in enumerate(np.transpose(probs))]
    return float(np.mean(gaps))


def _binned_gap(values: np.ndarray, outcomes: np.ndarray, bins: np.ndarray) -> float:
    """Return the mean over rows of their bin's |mean value - mean outcome|, NaN for no rows."""
    if not len(values):
        return float("nan")
    gaps = np.bincount(bins, weights=values) - np.bincount(bins, weights=outcomes.astype(np.float64))
    return float(np.abs(gaps).sum() / len(values))


def null_calibration_error(
    confidence: np.ndarray, rng: np.random.Generator, n_bins: int = metrics.ECE_BINS, replicates: int = NULL_REPLICATES
) -> np.ndarray:
    """Return (replicates,) simulated ECE of a perfectly calibrated model with (N,) confidence in [0, 1]; NaN for N = 0.

    A row is right with the probability of its prediction. ECE is never 0 on finitely many rows, so an ECE means
    something only in comparison with these. Rows are drawn together in strata of 1/64 bin at the stratum's mean
    confidence, so that the time does not depend on N; that changes a bin's variance by less than 1e-6 of N.
    """
    N = len(confidence)
    if not N:
        return np.full(replicates, np.nan)
    stratum = metrics.equal_width_bins(confidence, n_bins * _STRATA_PER_BIN)
    strata, where, rows = np.unique(stratum, return_inverse=True, return_counts=True)
    expected = np.bincount(where, weights=confidence)
    right = rng.binomial(rows, np.minimum(expected / rows, 1.0), size=(replicates, len(strata)))
    starts = np.unique(strata // _STRATA_PER_BIN, return_index=True)[1]
    return np.abs(np.add.reduceat(right - expected, starts, axis=1)).sum(axis=1) / N


@dataclass(frozen=True)
class Sharpness:
    """The top probability of softmax(z / T) over N rows, at R temperatures."""

    temperatures: np.ndarray  # (R,)
    mean: np.ndarray  # (R,) of the top probability, in [1/C, 1], as are the next three
    median: np.ndarray
    p90: np.ndarray
    p99: np.ndarray
    entropy: np.ndarray  # (R,) mean over rows, nats, in [0, log C]
    nearly_sure: np.ndarray  # (R,) share of rows whose top probability is above 0.99
    mean_by_class: np.ndarray  # (R, C) mean top probability of the rows whose top class it is, NaN for a class without
    rows_by_class: np.ndarray  # (C,) how many those are


def measure_sharpness(logits: np.ndarray, temperatures: np.ndarray) -> Sharpness:
    """Measure softmax(z / T) of (N, C) float logits, N >= 1, at each of (R,) temperatures.

    Raises ContractError: a value is not finite, no row, or a temperature that is not above 0.
    """
    logits = _check_rows(logits)
    temperatures = np.asarray(temperatures, dtype=np.float64)
    if not ((temperatures > 0) & np.isfinite(temperatures)).all():
        raise ContractError(f"temperatures {temperatures.tolist()}: every one must be a finite number above 0")
    C = logits.shape[1]
    top_class = logits.argmax(axis=1)
    rows_by_class = np.bincount(top_class, minlength=C)
    numbers, sums = np.empty((6, len(temperatures))), np.empty((len(temperatures), C))
    for r, temperature in enumerate(temperatures):
        p = softmax(logits / temperature, axis=1)
        top = p.max(axis=1)
        numbers[:4, r] = top.mean(), *np.quantile(top, [0.5, 0.9, 0.99])
        numbers[4:, r] = entr(p).sum(axis=1).mean(), (top > NEARLY_SURE).mean()
        sums[r] = np.bincount(top_class, weights=top, minlength=C)
    mean_by_class = np.where(rows_by_class > 0, sums / np.maximum(rows_by_class, 1), np.nan)
    mean, median, p90, p99, entropy, nearly_sure = numbers
    return Sharpness(temperatures, mean, median, p90, p99, entropy, nearly_sure, mean_by_class, rows_by_class)


def recommended_temperatures(logits: np.ndarray, band: tuple[float, float]) -> tuple[float, float] | None:
    """Return the temperatures between which the mean top probability of softmax(z / T), of (N, C) z, lies in a band.

    The mean falls as T rises, from the share of rows without a tie towards 1/C, so the range is one interval; None
    where no temperature reaches the band (constant logits). Below it the targets are nearly one-hot, above it nearly
    uniform; either way a student learns little from them beyond the label.

    Raises ContractError: a value is not finite, no row, or a band that is not two rising numbers in (1/C, 1).
    """
    logits = _check_rows(logits)
    z = logits - logits.max(axis=1, keepdims=True)
    scale = float(np.abs(z).max())
    low, high = band
    C = z.shape[1]
    if not 1 / C < low < high < 1:
        raise ContractError(f"band {low:g} to {high:g}: it must be two rising numbers between 1/{C} and 1")

    def mean_top(log_ratio: float) -> float:
        return float((1 / np.exp(z / (scale * np.exp(log_ratio))).sum(axis=1)).mean())

    ends = -np.log(_FAR), np.log(_FAR)
    if scale == 0 or mean_top(ends[0]) < low:
        return None  # rows with ties stay below the band at any temperature

    def temperature_at(level: float) -> float:
        if mean_top(ends[0]) <= level:
            return 0.0
        return scale * float(np.exp(brentq(lambda at: mean_top(at) - level, *ends, xtol=1e-10)))

    return temperature_at(high), temperature_at(low)


def _check_rows(logits: np.ndarray) -> np.ndarray:
    if not len(logits := metrics.check_logits(logits)):
        raise ContractError("no row: there is no sharpness to measure")
    return logits
