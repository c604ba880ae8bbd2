"""Everything `evaluate` says of labelled logits: scores, how sure they are, and the same on parts of the rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from fer_mlflow.scoring.calibration_error import (
    adaptive_calibration_error,
    classwise_calibration_error,
    null_calibration_error,
)
from fer_mlflow.scoring.metrics import check_labels, check_logits, row_losses, score
from fer_mlflow.scoring.significance import Interval, bootstrap_intervals


@dataclass(frozen=True)
class Evaluation:
    """Scores of N labelled rows and how sure they are.

    Attributes
    ----------
    metrics, intervals : public name -> value; 95 % interval of those that have one
    predictions : (N,) int64, the class of the greatest logit
    confidence : (N,) float64, its probability
    correct : (N,) bool
    losses : (N,) float64, -log p_y in nats
    ece_adaptive, ece_classwise : ECE over bins of equal mass; mean ECE of each class's probability
    ece_null_p95 : the ECE that a calibrated model of the same confidences stays below in 95 of 100 benchmarks
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    losses: np.ndarray
    intervals: dict[str, Interval]
    ece_adaptive: float
    ece_classwise: float
    ece_null_p95: float

    def named(self) -> dict[str, float]:
        """Return the numbers under their public names, intervals as `ci95/<metric>_low` and `_high`."""
        values = self.metrics | {
            "ece_adaptive": self.ece_adaptive,
            "ece_classwise": self.ece_classwise,
            "ece_null_p95": self.ece_null_p95,
        }
        for name, interval in self.intervals.items():
            values |= {f"ci95/{name}_low": interval.low, f"ci95/{name}_high": interval.high}
        return values


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], rng: np.random.Generator) -> Evaluation:
    """Score logits against labels, with intervals and the ECE that chance alone would show.

    Parameters
    ----------
    logits : (N, C) float, finite, nats up to a constant per row
    labels : (N,) int in 0..C-1, N >= 1
    classes : C names

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, or a value is not finite
    """
    logits = check_logits(logits)
    N, C = logits.shape
    labels = check_labels(labels, N, C)
    probs = softmax(logits, axis=1)
    predictions = logits.argmax(axis=1)
    confidence = probs[np.arange(N), predictions]
    correct = predictions == labels
    return Evaluation(
        metrics=score(logits, labels, classes),
        predictions=predictions,
        confidence=confidence,
        correct=correct,
        losses=row_losses(logits, labels),
        intervals=bootstrap_intervals(labels, predictions, classes, rng),
        ece_adaptive=adaptive_calibration_error(confidence, correct),
        ece_classwise=classwise_calibration_error(probs, labels),
        ece_null_p95=float(np.quantile(null_calibration_error(confidence, rng), 0.95)),
    )


def slices(values: np.ndarray, labelled: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each value of a column in order of its text, with the (N,) bool mask of the labelled rows that have it.

    Parameters
    ----------
    values : (N,) text
    labelled : (N,) bool
    """
    for value in sorted(set(values[labelled])):
        yield value, labelled & (values == value)
