"""Counts and sums from which the scores of many configurations follow, on all rows or on any union of groups of rows.

Every score but the 99th percentile is a function of sums over rows. So sums are taken once for each group of rows (a
source, a split), and what a union of groups would score costs an addition.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from fer_mlflow.scoring.metrics import Statistics, values_of


@dataclass(frozen=True)
class Tallies:
    """Sums over the rows of G groups, for M configurations.

    Attributes
    ----------
    confusion : (M, G, C, C) int32 counts of label against prediction
    loss, squared_loss : (M, G) float64 sums of -log p_y and of its square, nats
    brier, squared_brier : (M, G) float64 sums of a row's squared distance to its one-hot label, and of its square
    confidence : (M, G) float64 sums of the predicted class's probability
    gaps : (M, G, bins) float64 sums of confidence less hits in the equally wide bins of the ECE
    p99_confidence : (M,) float64, the 99th percentile of confidence over all rows
    """

    confusion: np.ndarray
    loss: np.ndarray
    squared_loss: np.ndarray
    brier: np.ndarray
    squared_brier: np.ndarray
    confidence: np.ndarray
    gaps: np.ndarray
    p99_confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.confusion)

    @classmethod
    def joined(cls, parts: "Iterable[Tallies]") -> "Tallies":
        """Return the tallies of several lists of configurations as those of one list."""
        parts = list(parts)
        return cls(**{each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(cls)})

    def taken(self, chosen: slice | np.ndarray) -> "Tallies":
        """Return the tallies of some of the configurations."""
        return Tallies(**{name: values[chosen] for name, values in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the sums by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def confusions(self, groups: np.ndarray | None = None) -> np.ndarray:
        """Return (M, C, C) counts of label against prediction in a union of groups, (G,) bool; None means all rows."""
        return self.confusion.sum(axis=1) if groups is None else self.confusion[:, groups].sum(axis=1)

    def scores(self, classes: tuple[str, ...], groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return public metric name -> (M,) float64 over a union of groups.

        They are those of `metrics.score`, names and all: a class without a labelled row has no F1. The 99th percentile
        is there for all rows only.

        Parameters
        ----------
        classes : C names
        groups : (G,) bool, at least one of them with a row; None means all rows
        """
        return values_of(self.statistics(groups), classes)

    def statistics(self, groups: np.ndarray | None = None) -> Statistics:
        """Return the statistics of each configuration over a union of groups."""
        chosen = slice(None) if groups is None else np.asarray(groups, dtype=bool)
        return Statistics.of_confusion(
            self.confusion[:, chosen].sum(axis=1),
            **{name: getattr(self, name)[:, chosen].sum(axis=1) for name in ("loss", "brier", "confidence", "gaps")},
            p99_confidence=self.p99_confidence if groups is None else None,
        )
