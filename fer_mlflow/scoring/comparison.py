"""Two models on the same rows: what differs, how surely, and on which rows."""

from dataclasses import dataclass

import numpy as np

from fer_mlflow.scoring.metrics import check_labels, check_logits, row_losses
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

    Accuracy, macro-F1 and F1: `paired_differences`. NLL: the paired t test of losses per row.

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
    paired = paired_differences(labels, predictions_a, predictions_b, a.shape[1], rng, replicates)
    differences = {
        "accuracy": paired.accuracy,
        "macro_f1": paired.macro_f1,
        "nll": paired_mean_difference(row_losses(a, labels), row_losses(b, labels)),
    }
    for name, difference in zip(classes, paired.f1, strict=True):
        if not np.isnan(difference.value):
            differences[f"f1/{name}"] = difference
    return Comparison(differences, predictions_a, predictions_b, labels)
