"""Two models on the same rows: what differs, how surely, and on which rows."""

from dataclasses import dataclass

import numpy as np

from fer_mlflow.scoring.metrics import METRICS, check_labels, check_logits, metric_names, row_values
from fer_mlflow.scoring.significance import REPLICATES, Difference, paired_differences, paired_mean_difference


@dataclass(frozen=True)
class Comparison:
    """B against A on N rows.

    Attributes
    ----------
    differences : public metric name -> B - A; classes without a labelled row are left out
    predictions_a, predictions_b : (N,) int64
    """

    differences: dict[str, Difference]
    predictions_a: np.ndarray
    predictions_b: np.ndarray
    labels: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """(N,) bool, where the predictions differ."""
        return self.predictions_a != self.predictions_b

    @property
    def mended(self) -> np.ndarray:
        """(N,) bool, where only B is right."""
        return self.changed & (self.predictions_b == self.labels)

    @property
    def broken(self) -> np.ndarray:
        """(N,) bool, where only A is right."""
        return self.changed & (self.predictions_a == self.labels)


def compare_logits(
    logits_a: np.ndarray,
    logits_b: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two models' logits of the same rows, with paired intervals and p-values.

    Which metrics, and by which test, is in the metric table.

    Parameters
    ----------
    logits_a, logits_b : (N, C) float, finite
    labels : (N,) int in 0..C-1, N >= 1

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, or a value is not finite
    """
    a, b = check_logits(logits_a), check_logits(logits_b)
    labels = check_labels(labels, *a.shape)
    check_labels(labels, *b.shape)
    predictions_a, predictions_b = a.argmax(axis=1), b.argmax(axis=1)
    found = paired_differences(labels, predictions_a, predictions_b, classes, rng, replicates)
    values_a, values_b = row_values(a, labels), row_values(b, labels)
    for metric in METRICS:
        if metric.test == "t":
            found[metric.name] = paired_mean_difference(values_a[metric.row_values], values_b[metric.row_values])
    differences = {name: found[name] for name in metric_names(classes) if name in found}
    return Comparison(differences, predictions_a, predictions_b, labels)
