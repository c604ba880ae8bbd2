"""Checked configurations of a sweep and the scale of a metric, for the figures of a sweep."""

from collections.abc import Sequence

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.figures.inputs import check_fractions, check_mask, check_numbers
from fer_mlflow.scoring.metrics import is_lower_better


class Sweep:
    """M configurations of K teachers in P panels, checked, as `draw_weight_map` has them.

    Attributes
    ----------
    weights, values : (M, K) and (M,) float64; the value is NaN where not scored
    panel : (M,) int, each configuration's place in `panels`
    plateau : (M,) bool, scored ones, the best included
    goodness : (M,) float, from 0 at the scale's worst end, and beyond it, to 1 at its better end, NaN where not scored
    worst, better : the values at the ends of the scale; the same where all values are
    """

    def __init__(
        self,
        weights: np.ndarray,
        values: np.ndarray,
        panels: Sequence[str],
        names: Sequence[str],
        metric: str,
        best: int,
        plateau: np.ndarray,
    ) -> None:
        M, K = len(np.atleast_1d(weights)), len(names)
        if not M or not K:
            raise ContractError(f"{M} configurations of {K} teachers: there is nothing to draw")
        self.weights = check_fractions("weights", weights, (M, K))
        self.values = check_numbers("values", values, (M,), gaps=True)
        self.panel, self.panels = check_panels(panels, M)
        plateau = check_mask("plateau", plateau, (M,))
        if not 0 <= best < M or np.isnan(self.values[best]):
            raise ContractError(f"the best configuration is {best}; it must be one of 0 to {M - 1} that is scored")
        self.names, self.best = style.readable_names(names), int(best)
        scored, self.lower = ~np.isnan(self.values), is_lower_better(metric)
        self.metric = style.shorten(style.readable(metric), 40)
        self.direction = f"{self.metric}, {'less' if self.lower else 'more'} is better"
        self.plateau = (plateau & scored) | (np.arange(M) == best)
        self.worst, self.better = scale_ends(self.values[scored], self.lower)
        span = self.better - self.worst
        self.goodness = np.clip((self.values - self.worst) / span if span else self.values * 0 + 1, 0, 1)

    def ranked(self, panel: int) -> np.ndarray:
        """Return a panel's scored configurations from the worst to the best."""
        rows = np.flatnonzero(~np.isnan(self.values) & (self.panel == panel))
        return rows[np.argsort(self.values[rows] * (-1 if self.lower else 1), kind="stable")]

    def best_of(self, panel: int) -> int | None:
        """Return a panel's best configuration, `best` itself in its own panel, None where none is scored."""
        ranked = self.ranked(panel)
        return self.best if self.panel[self.best] == panel else int(ranked[-1]) if len(ranked) else None

    def describe(self) -> tuple[str, str]:
        """Return how many configurations there are, and the best one, as two lines."""
        M, near, gaps = len(self.values), int(self.plateau.sum()) - 1, int(np.isnan(self.values).sum())
        counts = f"{M:,} configurations · {near:,} others within one paired standard error of the best"
        weights = self.weights[self.best]
        used = [k for k in np.argsort(-weights, kind="stable") if weights[k] > 0]
        mixture = " + ".join(f"{weights[k]:.3g} {self.names[k]}" for k in used)
        value = f"★ best {self.metric} {self.values[self.best]:.4g}"
        not_scored = f" · {gaps:,} not scored" if gaps else ""
        return counts + not_scored, f"{value}: {self.panels[self.panel[self.best]]}, {mixture}"

    def describe_best(self, panel: int) -> str:
        """Return a panel's name and its best configuration, as two lines."""
        best = self.best_of(panel)
        if best is None:
            return f"{self.panels[panel]}\nnone scored"
        weights = " / ".join(f"{weight:.3g}" for weight in self.weights[best]) if len(self.names) <= 6 else ""
        return f"{self.panels[panel]}\nbest {self.values[best]:.4g}" + (f" at {weights}" if weights else "")


def check_panels(panels: Sequence[str], M: int) -> tuple[np.ndarray, list[str]]:
    """Return (M,) int, each configuration's panel, and the names of 1 to 4 panels as they first appear."""
    if len(panels) != M:
        raise ContractError(f"{M} configurations and {len(panels)} panels; each configuration is in one")
    different = list(dict.fromkeys(map(str, panels)))
    if len(different) > len(style.CURVES):
        raise ContractError(f"{len(different)} different panels; a figure of a sweep has 1 to {len(style.CURVES)}")
    return np.array([different.index(str(name)) for name in panels]), style.readable_names(different, 32)


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
    cut = float(np.quantile(losses, 0.9, method="higher"))
    if best < cut < worst - most * (worst - best):
        worst = cut
    return (worst, best) if lower else (-worst, -best)
