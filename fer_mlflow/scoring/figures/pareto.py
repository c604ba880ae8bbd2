"""The trade-off of two metrics over many configurations."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.figures.inputs import check_numbers
from fer_mlflow.scoring.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILLION,
    head,
    page,
    place,
    png,
    readable,
)
from fer_mlflow.scoring.metrics import is_lower_better

_WIDTH, _HEIGHT = 9.0, 7.2
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def draw_pareto(
    x: np.ndarray,
    y: np.ndarray,
    front: np.ndarray,
    panels: Sequence[str] | np.ndarray,
    *,
    x_metric: str,
    y_metric: str,
    title: str,
    marks: Mapping[str, int],
) -> bytes:
    """Draw configurations by two metrics, and the front of those that no other beats in both.

    Parameters
    ----------
    x, y : (M,) float, NaN for a configuration without that score
    front : (M,) bool
    panels : (M,) text; configurations of one text have one colour
    marks : label -> the configuration that gets it

    Returns
    -------
    PNG, 1350 × 1080 pixels

    Raises
    ------
    ContractError
        M = 0, or shapes disagree
    """
    M = len(np.asarray(x))
    if not M:
        raise ContractError("no configuration: there is nothing to draw")
    x, y = check_numbers("x", x, (M,), gaps=True), check_numbers("y", y, (M,), gaps=True)
    front, panels = np.asarray(front), np.asarray(panels, dtype=object)
    if front.shape != (M,) or front.dtype != bool or panels.shape != (M,):
        raise ContractError(f"front and panels must have a value for each of {M} configurations")
    with page(_WIDTH, _HEIGHT) as figure:
        head(figure, f"{y_metric} against {x_metric}", title)
        axes = place(figure, 0.95, 0.75, _WIDTH - 1.25, _HEIGHT - 1.95)
        for k, name in enumerate(dict.fromkeys(panels)):
            own = panels == name
            colour = _COLOURS[k % len(_COLOURS)]
            label = readable(str(name)) or "all"
            axes.plot(x[own], y[own], "o", ms=4, mew=0, color=colour, alpha=0.35, label=f"{label} ({own.sum():,})")
            axes.plot(x[own & front], y[own & front], "o", ms=7, mew=1, mec=INK, color=colour, zorder=4)
        _draw_front(axes, x[front], y[front], x_metric)
        for which, metric in (("x", x_metric), ("y", y_metric)):
            arrow = {"x": ("← better", "better →"), "y": ("better ↓", "better ↑")}[which]
            axes.set(**{f"{which}label": f"{metric}   ({arrow[0] if is_lower_better(metric) else arrow[1]})"})
        axes.margins(0.08)
        _draw_marks(axes, x, y, marks)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4, handletextpad=0.2, columnspacing=1.2)
        return png(figure)


def _draw_front(axes: Axes, x: np.ndarray, y: np.ndarray, x_metric: str) -> None:
    """Connect the front by steps: what lies beyond them nobody has reached."""
    order = np.lexsort((y, x))
    # Between two points of the front the better one in x counts from its own x on, the other one before.
    where = "post" if is_lower_better(x_metric) else "pre"
    axes.plot(x[order], y[order], color=INK, lw=1.2, zorder=3, drawstyle=f"steps-{where}", label=f"front ({len(x):,})")


def _draw_marks(axes: Axes, x: np.ndarray, y: np.ndarray, marks: Mapping[str, int]) -> None:
    """Write labels beside their points, each further up than the last where they would meet."""
    placed: list[tuple[float, float]] = []
    spans = [max(float(np.nanmax(v) - np.nanmin(v)), 1e-12) if np.isfinite(v).any() else 1.0 for v in (x, y)]
    for label, m in marks.items():
        if not np.isfinite([x[m], y[m]]).all():
            continue
        at = (x[m] / spans[0], y[m] / spans[1])
        is_right = axes.transData.transform((x[m], y[m]))[0] > axes.bbox.x0 + axes.bbox.width / 2
        near = sum(abs(at[0] - a) < 0.3 and abs(at[1] - b) < 0.12 for a, b in placed)
        placed.append(at)
        axes.plot([x[m]], [y[m]], "*", ms=15, mec="white", mew=0.8, color=VERMILLION, zorder=6)
        axes.annotate(
            readable(label),
            (x[m], y[m]),
            (-14 if is_right else 14, 12 + 16 * near),
            textcoords="offset points",
            ha="right" if is_right else "left",
            color=INK,
            size=10,
            zorder=7,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.8, "shrinkB": 5},
        )
