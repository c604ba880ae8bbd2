"""What the figures of a sweep are drawn from: checked configurations, which are good, and what they are called."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.inputs import check_fractions, check_numbers
from fer_mlflow.figures.style import readable, readable_names
from fer_mlflow.scoring.metrics import is_lower_better

MOST_PANELS = 4
_CUT = 0.1  # the worst share that may all be drawn alike


@dataclass(frozen=True)
class Sweep:
    """M configurations of K teachers in P panels, as they are drawn.

    Attributes
    ----------
    weights : (M, K) float64, rows sum to 1
    values : (M,) float64, NaN where not scored
    panel : (M,) int, each configuration's place in `panels`
    plateau : (M,) bool, scored ones, the best included
    lower : whether less is better
    worst, better : the values at the ends of the scale; the same where all values are
    """

    weights: np.ndarray
    values: np.ndarray
    panel: np.ndarray
    panels: tuple[str, ...]
    names: tuple[str, ...]
    metric: str
    best: int
    plateau: np.ndarray
    lower: bool
    worst: float
    better: float

    def goodness(self) -> np.ndarray:
        """Return (M,) float in [0, 1]: 1 at the scale's better end, 0 at its worst and beyond, NaN where not scored."""
        if self.worst == self.better:
            return np.where(np.isnan(self.values), np.nan, 1.0)
        return np.clip((self.values - self.worst) / (self.better - self.worst), 0, 1)

    def ranked(self, panel: int | None = None) -> np.ndarray:
        """Return the scored configurations, of one panel or of all, from the worst to the best."""
        scored = ~np.isnan(self.values)
        found = np.flatnonzero(scored if panel is None else scored & (self.panel == panel))
        return found[np.argsort(self.values[found] * (-1 if self.lower else 1), kind="stable")]

    def best_of(self, panel: int) -> int | None:
        """Return a panel's best configuration, `best` itself in its own panel, None where none is scored."""
        if self.panel[self.best] == panel:
            return self.best
        ranked = self.ranked(panel)
        return int(ranked[-1]) if len(ranked) else None

    def equal(self) -> np.ndarray:
        """Return (M,) bool: configurations that weigh all teachers alike, to a thousandth."""
        return (np.abs(self.weights - 1 / self.weights.shape[1]) < 1e-3).all(axis=1)


def check_sweep(
    weights: np.ndarray,
    values: np.ndarray,
    panels: Sequence[str],
    names: Sequence[str],
    metric: str,
    best: int,
    plateau: np.ndarray,
) -> Sweep:
    """Return the configurations of a sweep after checking them.

    Raises
    ------
    ContractError
        no configuration or teacher, shapes disagree, weights that are not fractions summing to 1, an infinite value,
        more than four panels, or a best configuration that is not there or not scored
    """
    M, K = len(np.atleast_1d(weights)), len(names)
    if not M or not K:
        raise ContractError(f"{M} configurations of {K} teachers: there is nothing to draw")
    weights = check_fractions("weights", weights, (M, K))
    off = np.abs(weights.sum(axis=1) - 1) > 1e-6
    if off.any():
        row = int(np.argmax(off))
        raise ContractError(f"weights[{row}] sum to {weights[row].sum():.6g}; each row must sum to 1")
    values = check_numbers("values", values, (M,), gaps=True)
    panel, shown = check_panels(panels, M)
    plateau = check_mask("plateau", plateau, M)
    if not 0 <= best < M or np.isnan(values[best]):
        raise ContractError(f"the best configuration is {best}; it must be one of 0 to {M - 1} that is scored")
    scored, lower = ~np.isnan(values), is_lower_better(metric)
    worst, better = scale_ends(values[scored], lower)
    plateau = (plateau & scored) | (np.arange(M) == best)
    teachers = tuple(readable_names(names))
    return Sweep(weights, values, panel, shown, teachers, readable(metric), int(best), plateau, lower, worst, better)


def check_panels(panels: Sequence[str], M: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (M,) int, each configuration's panel, and the panels' names in the order in which they first appear.

    Raises
    ------
    ContractError
        another number of panels than of configurations, or more than four different ones
    """
    if len(panels) != M:
        raise ContractError(f"{M} configurations and {len(panels)} panels; each configuration is in one")
    different = list(dict.fromkeys(map(str, panels)))
    if len(different) > MOST_PANELS:
        raise ContractError(f"{len(different)} different panels; a figure of a sweep has 1 to {MOST_PANELS}")
    numbers = {name: number for number, name in enumerate(different)}
    return np.array([numbers[str(name)] for name in panels], np.int64), tuple(readable_names(different))


def check_mask(name: str, mask: np.ndarray, M: int) -> np.ndarray:
    """Return a mask after checking that it is (M,) bool.

    Raises
    ------
    ContractError
        another shape or type
    """
    mask = np.asarray(mask)
    if mask.shape != (M,) or mask.dtype != bool:
        raise ContractError(f"{name} is {mask.dtype} of shape {mask.shape}; it must be bool of shape {(M,)}")
    return mask


def scale_ends(values: np.ndarray, lower: bool, most: float = 1 / 3) -> tuple[float, float]:
    """Return the values at the worst and at the better end of a scale.

    A teacher of noise would leave one colour to all that matters: so the worst tenth of the values lies beyond the
    scale where it would otherwise take more of it than `most`.

    >>> scale_ends(np.array([0.7, 0.8, 0.75]), lower=False), scale_ends(np.array([0.7, 0.8, 0.75]), lower=True)
    ((0.7, 0.8), (0.8, 0.7))
    >>> scale_ends(np.array([0.1, *np.arange(70, 80) / 100]), lower=False)
    (0.7, 0.79)
    """
    losses = values if lower else -values
    best, worst = float(losses.min()), float(losses.max())
    cut = float(np.quantile(losses, 1 - _CUT, method="higher"))
    if best < cut < worst - most * (worst - best):
        worst = cut
    return (worst, best) if lower else (-worst, -best)


def number(value: float) -> str:
    """Return a metric's value as text.

    >>> number(0.79124), number(-0.5), number(12345.6), number(0)
    ('0.7912', '−0.5000', '1.23e+04', '0.0000')
    """
    text = f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"
    return text.replace("-", "−")


def weight_said(weight: float) -> str:
    """Return a weight as text of at most three decimals.

    >>> [weight_said(weight) for weight in (0, 1, 0.25, 1 / 3, 1e-4)]
    ['0', '1', '0.25', '0.333', '<0.001']
    """
    if 0 < weight < 5e-4:
        return "<0.001"
    return f"{weight:.3f}".rstrip("0").rstrip(".")


def direction(lower: bool) -> str:
    """Return in words which values are good."""
    return "less is better" if lower else "more is better"
