"""How far confidence is from accuracy: ECE in three binnings, and what a calibrated model would show."""

import numpy as np

ECE_BINS = 15
NULL_REPLICATES = 2000
_STRATA_PER_BIN = 64  # rows of one stratum are simulated together, as if they had its mean confidence


def equal_width_bins(confidence: np.ndarray, n_bins: int = ECE_BINS) -> np.ndarray:
    """Return each value's bin in 0..n_bins-1; bins are equally wide and right-closed, (lo, hi], 0 is in the first.

    >>> equal_width_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    return np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def equal_mass_bins(confidence: np.ndarray, n_bins: int = ECE_BINS) -> np.ndarray:
    """Return each value's bin, 0 the lowest; bins hold about as many rows each, and equal values share one.

    The k-th bin ends after row round(k N / n_bins) of the sorted values, or later, after the last value equal to that
    row's. So there may be fewer than `n_bins`.

    >>> equal_mass_bins(np.array([0.9, 0.1, 0.5, 0.5]), 4).tolist()
    [2, 0, 1, 1]
    """
    ordered = np.sort(confidence)
    ends = np.round(np.arange(1, n_bins + 1) * len(ordered) / n_bins).astype(np.int64)
    highest = np.unique(ordered[ends[ends > 0] - 1])
    return np.searchsorted(highest, confidence, side="left")


def binned_gap(values: np.ndarray, outcomes: np.ndarray, bins: np.ndarray) -> float:
    """Return the mean over rows of their bin's |mean value - mean outcome|; an empty bin adds 0, no rows give NaN."""
    if not len(values):
        return float("nan")
    gaps = np.bincount(bins, weights=values) - np.bincount(bins, weights=outcomes.astype(np.float64))
    return float(np.abs(gaps).sum() / len(values))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = ECE_BINS) -> float:
    """Return the top-label ECE: the bin-weighted gap between confidence and accuracy.

    Bins are equally wide and right-closed, (lo, hi]; a confidence of 0 would fall in the first, an empty bin
    adds 0. This differs from netcal ([lo, hi)) on values that lie on an edge.

    Parameters
    ----------
    confidence : (N,) float in [0, 1], the probability of the predicted class
    correct : (N,) bool

    Returns
    -------
    float in [0, 1]; NaN for N = 0

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.

    Examples
    --------
    >>> ece = expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]))
    >>> round(ece, 12)  # (2 * |0.9 - 0.5| + |0.6 - 1|) / 3
    0.4
    """
    return binned_gap(confidence, correct, equal_width_bins(confidence, n_bins))


def adaptive_calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = ECE_BINS) -> float:
    """Return the top-label ECE over bins of equal mass; arguments and range as for the ECE.

    It is less biased where confidences crowd together.

    References
    ----------
    Roelofs et al. 2022, Mitigating Bias in Calibration Error Estimation (there ECE_EM, without ties).
    """
    return binned_gap(confidence, correct, equal_mass_bins(confidence, n_bins))


def classwise_calibration_error(probs: np.ndarray, labels: np.ndarray, n_bins: int = ECE_BINS) -> float:
    """Return the mean over all C classes of the gap between a class's probability and how often it is the label.

    Most probabilities are near 0 and rightly so, which dilutes it: it is several times below the ECE.

    Parameters
    ----------
    probs : (N, C) float, rows sum to 1
    labels : (N,) int in 0..C-1

    Returns
    -------
    float in [0, 1]; NaN for N = 0

    References
    ----------
    Kull et al. 2019, Beyond Temperature Scaling, eq. 5.
    """
    gaps = [
        binned_gap(column, labels == k, equal_width_bins(column, n_bins))
        for k, column in enumerate(np.transpose(probs))
    ]
    return float(np.mean(gaps))


def null_calibration_error(
    confidence: np.ndarray, rng: np.random.Generator, n_bins: int = ECE_BINS, replicates: int = NULL_REPLICATES
) -> np.ndarray:
    """Return the ECE that a perfectly calibrated model with these confidences shows, simulated.

    A row is right with the probability that it claims. ECE is never 0 on finitely many rows, so an ECE says something
    only beside these. Rows are drawn together in strata of 1/64 bin at the stratum's mean confidence, so that the time
    does not depend on N; that changes a bin's variance by less than 1e-6 of N.

    Parameters
    ----------
    confidence : (N,) float in [0, 1]

    Returns
    -------
    (replicates,) float64, NaN for N = 0
    """
    N = len(confidence)
    if not N:
        return np.full(replicates, np.nan)
    stratum = equal_width_bins(confidence, n_bins * _STRATA_PER_BIN)
    strata, where, rows = np.unique(stratum, return_inverse=True, return_counts=True)
    claimed = np.bincount(where, weights=confidence)
    right = rng.binomial(rows, np.minimum(claimed / rows, 1.0), size=(replicates, len(strata)))
    starts = np.unique(strata // _STRATA_PER_BIN, return_index=True)[1]
    return np.abs(np.add.reduceat(right - claimed, starts, axis=1)).sum(axis=1) / N
