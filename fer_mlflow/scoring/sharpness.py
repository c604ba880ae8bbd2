"""How peaked soft labels are at each temperature, and which temperatures leave a student something to learn."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import check_logits

NEARLY_SURE = 0.99
_FAR = 1e12  # the largest ratio of temperatures that is tried


@dataclass(frozen=True)
class Sharpness:
    """The top probability of softmax(z / T) over N rows, at R temperatures.

    Attributes
    ----------
    temperatures : (R,)
    mean, median, p90, p99 : (R,) of the top probability, in [1/C, 1]
    entropy : (R,) mean over rows, nats, in [0, log C]
    nearly_sure : (R,) share of rows whose top probability is above 0.99
    mean_by_class : (R, C) mean top probability of the rows whose top class it is, NaN for a class without
    rows_by_class : (C,) how many those are
    """

    temperatures: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    p90: np.ndarray
    p99: np.ndarray
    entropy: np.ndarray
    nearly_sure: np.ndarray
    mean_by_class: np.ndarray
    rows_by_class: np.ndarray


def measure_sharpness(logits: np.ndarray, temperatures: np.ndarray) -> Sharpness:
    """Measure softmax(z / T) at each temperature.

    Parameters
    ----------
    logits : (N, C) float, finite, N >= 1
    temperatures : (R,) float > 0

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
    """Return the temperatures between which the mean top probability of softmax(z / T) lies in a band.

    The mean falls as T rises, from the share of rows without a tie towards 1/C, so the range is one interval: it begins
    where the mean has fallen to the upper end and ends where it reaches the lower. Below it the targets are nearly
    one-hot, above it nearly uniform; either way a student learns little from them beyond the label.

    Parameters
    ----------
    logits : (N, C) float, finite, N >= 1
    band : lower and upper mean top probability, in (1/C, 1)

    Returns
    -------
    the lowest and the highest temperature; None where no temperature reaches the band (constant logits)

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
    if not len(logits := check_logits(logits)):
        raise ContractError("no row: there is no sharpness to measure")
    return logits
