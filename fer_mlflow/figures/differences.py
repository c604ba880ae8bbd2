"""The forest plot of `compare`: how much two runs differ on the same rows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.figures.inputs import check_fractions, check_numbers
from fer_mlflow.scoring.metrics import is_lower_better

SIGNIFICANT = 0.05
_UNSURE = "p ≥ 0.05 or n/a"
_COLOURS = {"B better": (style.BLUE,) * 2, "A better": (style.VERMILLION,) * 2, _UNSURE: (style.MUTED, "white")}


def draw_differences(
    names: Sequence[str],
    difference: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    p_values: np.ndarray,
    *,
    runs: tuple[str, str] | None = None,
) -> bytes:
    """Draw B - A of each score with its 95 % interval; filled marks are significant (p < 0.05); return a PNG.

    Losses, where less is better, have a plot of their own below. Each plot is symmetric about 0. The page is 1350
    pixels wide; its height depends on the names alone.

    Parameters
    ----------
    names : M names of scores
    difference, low, high : (M,) float; NaN where a score has no difference, or no interval
    p_values : (M,) float in [0, 1], NaN where none was computed (such a difference is not called significant)
    runs : what A and B are called

    Raises
    ------
    ContractError
        M = 0, shapes disagree, a value is infinite, or a p-value is outside [0, 1]
    """
    M = len(names)
    if not M:
        raise ContractError("no difference: there is nothing to draw")
    given = {"difference": difference, "low": low, "high": high}
    values = np.array([check_numbers(name, each, (M,), gaps=True) for name, each in given.items()])
    p_values = check_fractions("p_values", p_values, (M,), gaps=True)
    labels = np.array(style.readable_names(names))
    less = np.array([is_lower_better(name) for name in names])
    groups = [group for group in (np.flatnonzero(~less), np.flatnonzero(less)) if len(group)]
    rows = [len(group) + 1.0 for group in groups]  # and the columns' titles
    height = 1.4 + 0.7 * len(groups) + min(0.4, 9 / sum(rows)) * sum(rows)
    run_names = [f"{letter}: {name}" for letter, name in zip("AB", runs or (), strict=False)]
    with style.page(9, height, "Difference B − A", *run_names) as figure:
        grid = figure.subplots(len(groups), height_ratios=rows, squeeze=False)
        for axes, group in zip(grid.flat, groups, strict=True):
            _draw_group(axes, labels[group], values[:, group], p_values[group], bool(less[group[0]]))
        style.draw_legend(figure)
        return style.png(figure)


def _draw_group(axes: Axes, names: np.ndarray, values: np.ndarray, p_values: np.ndarray, lower: bool) -> None:
    limit = 1.05 * float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    axes.axvline(0, color=style.INK, lw=1.1)
    for verdict, (edge, face) in _COLOURS.items():
        axes.plot([], [], "o-", ms=7.5, color=edge, mfc=face, mew=1.6, lw=2.2, label=verdict)
    intervals = []
    for y, (difference, low, high) in enumerate(values.T):
        better = "A better" if (difference > 0) == lower else "B better"
        edge, face = _COLOURS[better if p_values[y] < SIGNIFICANT else _UNSURE]
        axes.plot([low, high], [y, y], color=edge, lw=2.2, solid_capstyle="butt", zorder=3)
        axes.plot([difference], [y], "o", ms=7.5, color=edge, mfc=face, mew=1.6, zorder=4, gid=f"difference {names[y]}")
        text = "none" if np.isnan(difference) else f"{difference:+.3f}"
        intervals.append((text if np.isnan(low + high) else f"{text} [{low:+.3f}, {high:+.3f}]").replace("-", "−"))
    style.draw_columns(axes, names.tolist(), {"B − A [95 %]": intervals, "p": [_p(value) for value in p_values]})
    axes.set(xlim=(-limit, limit), xlabel=f"B − A, {'less' if lower else 'more'} is better")


def _p(value: float) -> str:
    """Return a p-value as text.

    >>> _p(0.0004), _p(0.0312), _p(float("nan"))
    ('<0.001', '0.031', 'n/a')
    """
    return "n/a" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
