"""The forest plot of `compare`: how much two runs differ on the same rows."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.inputs import check_fractions, check_numbers
from fer_mlflow.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    fit,
    head,
    page,
    place,
    png,
    readable_names,
    signed,
)
from fer_mlflow.scoring.metrics import metric_names

LOSSES = tuple(metric_names(having=lambda metric: metric.direction == "lower"))
SIGNIFICANT = 0.05
_WIDTH, _HEIGHT = 9.0, 7.2
_LEFT, _PLOT = 1.75, 4.1
_TOP, _BOTTOM = 1.15, 0.65  # inches that are not rows
_AXIS = 0.8  # between two plots
_STEPS = tuple(step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5))
_COLUMNS = (1.98, 2.65)  # inches from the plot's right edge to the end of "B − A [95 %]" and of "p"
_VERDICTS = {
    "B better": (BLUE, BLUE),
    "A better": (VERMILLION, VERMILLION),
    "p ≥ 0.05 or n/a": (MUTED, "white"),
}


def draw_differences(
    names: Sequence[str],
    difference: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    p_values: np.ndarray,
    *,
    runs: tuple[str, str] | None = None,
    losses: Collection[str] = LOSSES,
) -> bytes:
    """Draw B - A of each score with its 95 % interval; filled marks are significant (p < 0.05).

    Losses, where less is better, have a plot of their own below. Each plot is symmetric about 0 and reaches to the next
    of 1, 2, 5 × 10^k, so that plots of several comparisons often share their scale.

    Parameters
    ----------
    names : M names of scores
    difference, low, high : (M,) float; NaN where a score has no difference, or no interval
    p_values : (M,) float in [0, 1], NaN where none was computed (such a difference is not called significant)
    runs : what A and B are called
    losses : names of scores of which less is better

    Returns
    -------
    PNG, 1350 × 1080 pixels

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
    shown = readable_names(names)
    less = np.array([name in losses for name in names])
    groups = [group for group in (np.flatnonzero(~less), np.flatnonzero(less)) if len(group)]
    free = _HEIGHT - _TOP - _BOTTOM - _AXIS * (len(groups) - 1)
    row, top = min(0.42, free / M), _HEIGHT - _TOP
    with page(_WIDTH, _HEIGHT) as figure:
        head(figure, "Difference B − A", f"A: {runs[0]}   B: {runs[1]}" if runs else "")
        for group in groups:
            axes = place(figure, _LEFT, top - row * len(group), _PLOT, row * len(group))
            _draw_rows(axes, values[:, group], p_values[group], bool(less[group[0]]))
            _write_rows(axes, [shown[int(i)] for i in group], values[:, group], p_values[group], row)
            top -= row * len(group) + _AXIS
        _draw_legend(figure)
        return png(figure)


def _draw_rows(axes: Axes, values: np.ndarray, p_values: np.ndarray, less_is_better: bool) -> None:
    M = len(p_values)
    reach = np.nanmax(np.abs(values), initial=0.0)
    limit = next((step for step in _STEPS if step >= reach * 1.02), reach * 1.02)
    axes.axvline(0, color=INK, linewidth=1.1)
    for y, (difference, low, high) in enumerate(values.T):
        better = "A better" if (difference > 0) == less_is_better else "B better"
        edge, face = _VERDICTS[better if p_values[y] < SIGNIFICANT else "p ≥ 0.05 or n/a"]
        axes.plot([low, high], [y, y], color=edge, linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.plot([difference], [y], "o", ms=7.5, color=edge, markerfacecolor=face, mew=1.6, zorder=4)
    axes.set(xlim=(-limit, limit), ylim=(M - 0.5, -0.5), yticks=[])
    ticks = np.linspace(-limit, limit, 5)
    axes.set_xticks(ticks, ["0" if tick == 0 else f"{tick:+.3g}".replace("-", "−") for tick in ticks])
    axes.set_xlabel("B − A, less is better" if less_is_better else "B − A, more is better")
    axes.spines["left"].set_visible(False)


def _write_rows(axes: Axes, names: Sequence[str], values: np.ndarray, p_values: np.ndarray, row: float) -> None:
    size = float(np.clip(0.6 * 72 * row, 7, 11))
    at = axes.get_yaxis_transform()
    style: dict[str, Any] = {"va": "center", "size": size, "transform": at}
    labels = [axes.text(-0.1 / _PLOT, y, name, ha="right", **style) for y, name in enumerate(names)]
    fit(labels, _LEFT - 0.35)
    style["size"] = min(size, 9.5)
    for y, ((difference, low, high), p_value) in enumerate(zip(values.T, p_values, strict=True)):
        known = not np.isnan(difference)
        interval = "" if np.isnan(low) or np.isnan(high) else f" [{signed(low, 3)}, {signed(high, 3)}]"
        said = (signed(difference, 3) + interval if known else "none", _p(p_value) if known else "")
        sure = p_value < SIGNIFICANT
        for text, x in zip(said, _COLUMNS, strict=True):
            weight = "bold" if sure and x == _COLUMNS[1] else "normal"
            axes.text(1 + x / _PLOT, y, text, ha="right", color=INK if known else MUTED, weight=weight, **style)
    for title, x in zip(("B − A  [95 %]", "p"), _COLUMNS, strict=True):
        place_at = (1 + x / _PLOT, 1.0)
        axes.annotate(title, place_at, (0, 4), "axes fraction", "offset points", ha="right", size=10, color=MUTED)


def _p(value: float) -> str:
    """Return a p-value as text.

    >>> _p(0.0004), _p(0.0312), _p(float("nan"))
    ('<0.001', '0.031', 'n/a')
    """
    return "n/a" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _draw_legend(figure: Figure) -> None:
    axes = place(figure, _LEFT, _HEIGHT - _TOP, _PLOT, 0.3)
    axes.set_axis_off()
    marks = [
        axes.plot([], [], "o-", ms=7, color=edge, markerfacecolor=face, mew=1.6, lw=2.2)[0]
        for edge, face in _VERDICTS.values()
    ]
    axes.legend(marks, list(_VERDICTS), loc="center left", ncols=3, handletextpad=0.4, columnspacing=1.2, borderpad=0)
