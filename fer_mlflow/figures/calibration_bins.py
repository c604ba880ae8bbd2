"""What a reliability diagram shows of each bin: rows, accuracy with its interval, mean confidence."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from fer_mlflow.scoring.calibration_error import ECE_BINS, equal_width_bins


@dataclass(frozen=True)
class CalibrationBins:
    """M bins of confidence, equally wide over [0, 1].

    Attributes
    ----------
    count : (M,) int64, rows
    confidence, accuracy : (M,) float64 in [0, 1], means over the bin's rows, NaN for an empty bin
    low, high : (M,) float64 in [0, 1], Wilson's interval of the accuracy, NaN for an empty bin
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def ece(self) -> float:
        """The mean over rows of their bin's |accuracy - confidence|."""
        full = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[full]
        return float(gaps @ self.count[full] / self.count.sum())


def calibration_bins(confidence: np.ndarray, correct: np.ndarray, n_bins: int = ECE_BINS) -> CalibrationBins:
    """Return what each bin holds; bins are right-closed, (lo, hi], as those of the ECE.

    Parameters
    ----------
    confidence : (N,) float in [0, 1]
    correct : (N,) bool

    Examples
    --------
    >>> bins = calibration_bins(np.array([0.5, 0.6, 0.8]), np.array([True, False, True]), 2)
    >>> bins.count.tolist(), bins.accuracy.tolist(), bins.confidence.round(12).tolist()
    ([1, 2], [1.0, 0.5], [0.5, 0.7])
    """
    bins = equal_width_bins(confidence, n_bins)
    count = np.bincount(bins, minlength=n_bins)
    hits = np.bincount(bins[correct], minlength=n_bins)
    rows = np.where(count > 0, count, np.nan)
    claimed = np.bincount(bins, weights=confidence, minlength=n_bins) / rows
    return CalibrationBins(count, np.minimum(claimed, 1.0), hits / rows, *wilson_interval(hits, count))


def wilson_interval(hits: np.ndarray, rows: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's score interval of a share, NaN where there are no rows.

    Unlike p ± 1.96 sd it has a width at 0 and at 1 and stays inside [0, 1].

    Parameters
    ----------
    hits, rows : (M,) int, 0 <= hits <= rows

    References
    ----------
    Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    Examples
    --------
    >>> low, high = wilson_interval(np.array([0]), np.array([1]))
    >>> low.round(4).tolist(), high.round(4).tolist()  # z² / (1 + z²), z = 1.96
    ([0.0], [0.7935])
    """
    z = ndtri((1 + level) / 2)
    n = np.where(rows > 0, rows, np.nan)
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
