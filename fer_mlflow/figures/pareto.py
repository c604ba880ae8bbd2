"""The trade-off of a sweep between two metrics: all configurations and those that no other one beats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.scoring.metrics import is_lower_better


def draw_pareto(
    x: np.ndarray,
    y: np.ndarray,
    front: np.ndarray,
    panels: Sequence[str],
    *,
    x_metric: str,
    y_metric: str,
    title: str,
    marks: Mapping[str, int],
) -> bytes:
    """Draw two metrics of all configurations, the Pareto front as steps, and named configurations.

    The steps are the border of what the front beats. Where the worst tenth of a metric would take more than half of
    its axis, it is drawn at the axis's edge and the heading gives its number; a named configuration there has its
    values written. Return a PNG of 1350 × 1080 pixels.

    Parameters
    ----------
    x, y : (M,) float, two metrics of each configuration; one that lacks either (NaN) is not drawn
    front : (M,) bool, the configurations on the Pareto front, all of them scored
    panels : (M,) text, shown by colour and shape; at most eight different ones
    x_metric, y_metric : public names, which decide whether less is better
    marks : what a configuration is called -> its row; names of the same row share a label

    Raises ContractError: no configuration that is scored, shapes disagree, an infinite value, a mark without values, or
    more than eight panels.
    """
    M = np.size(x)
    points = np.column_stack([style.check_array(name, axis, (M,), gaps=True) for name, axis in (("x", x), ("y", y))])
    front = style.check_array("front", front, (M,), "b")
    panel, names = style.check_panels(panels, M)
    scored = ~np.isnan(points).any(axis=1)
    if not scored.any():
        raise ContractError(f"none of {M} configurations has both metrics: there is nothing to draw")
    labels = _labels(marks, scored)
    lower = is_lower_better(x_metric), is_lower_better(y_metric)
    limits = [_limits(points[scored, d], points[front, d], lower[d]) for d in (0, 1)]
    drawn = np.clip(points, *np.transpose(limits))
    beyond = (drawn != points).any(axis=1) & scored
    for row in labels:
        if beyond[row]:
            labels[row] += f" ({points[row, 0]:.4g}, {points[row, 1]:.4g})"
    counts = [f"{M:,} configurations", f"{int(front.sum()):,} on the Pareto front"]
    counts += [f"{beyond.sum():,} beyond the axes, drawn at their edge"] * bool(beyond.any())
    counts += [f"{(~scored).sum():,} not scored"] * (not scored.all())
    with style.page(9, 7.2, title, " · ".join(counts)) as figure:
        axes = figure.subplots()
        axes.set(xlim=limits[0], ylim=limits[1])
        for axis, metric, less in zip((axes.xaxis, axes.yaxis), (x_metric, y_metric), lower, strict=True):
            name = style.shorten(style.readable(metric), 28)
            axis.set_label_text(f"←  better      {name}" if less else f"{name}      better  →")
        _draw_front(axes, drawn[front], lower)
        _draw_points(axes, drawn, [(panel == p) & scored for p in range(len(names))], front, names)
        _draw_marks(axes, drawn, labels)
        style.draw_legend(figure)
        return style.png(figure)


def _labels(marks: Mapping[str, int], scored: np.ndarray) -> dict[int, str]:
    """Return each marked configuration with all its names."""
    labels: dict[int, str] = {}
    for (name, row), text in zip(marks.items(), style.readable_names(list(marks), 32), strict=True):
        if not 0 <= row < len(scored) or not scored[row]:
            raise ContractError(f"mark {name!r} is configuration {row}, which is not one of those that are scored")
        labels[row] = f"{labels[row]} = {text}" if row in labels else text
    return labels


def _limits(values: np.ndarray, kept: np.ndarray, lower: bool) -> tuple[float, float]:
    """Return an axis's ends, a little beyond the front and all values but those far worse."""
    ends = [*style.scale_ends(values, lower, 0.5), *kept]
    low, high = float(min(ends)), float(max(ends))
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - pad, high + pad


def _draw_front(axes: Axes, points: np.ndarray, lower: tuple[bool, bool]) -> None:
    """Draw the border of what the front's points beat."""
    x, y = points[np.lexsort((points[:, 1] * (1 if lower[1] else -1), points[:, 0]))].T
    axes.plot(x, y, drawstyle="steps-post" if lower[0] else "steps-pre", color=style.INK, lw=1.6, zorder=5, gid="front")
    axes.plot([], [], color=style.INK, lw=1.6, marker="o", ms=8, mfc="white", label="Pareto front")


def _draw_points(
    axes: Axes, points: np.ndarray, panels: Sequence[np.ndarray], front: np.ndarray, names: Sequence[str]
) -> None:
    size, alpha = np.clip(np.array([40, 1]) * (200 / len(points)) ** 0.35, (9, 0.25), (40, 0.8))
    for (colour, marker, _), own, name in zip(style.CURVES, panels, names, strict=False):
        x, y = points[own & ~front].T
        axes.scatter(x, y, s=size, alpha=alpha, c=colour, marker=marker, lw=0, zorder=3, clip_on=False, gid="points")
        x, y = points[own & front].T
        axes.scatter(x, y, s=50, c=colour, marker=marker, ec=style.INK, lw=1.1, zorder=6, gid="front points")
        axes.plot([], [], ls="", marker=marker, ms=7, color=colour, label=name)


def _draw_marks(axes: Axes, points: np.ndarray, labels: Mapping[int, str]) -> None:
    """Ring the named configurations and number them; their names are in the legend."""
    ring: dict[str, Any] = {"ls": "", "marker": "o", "mfc": "none", "mec": style.INK, "mew": 1.4}
    axes.plot(*points[list(labels)].T, ms=14, zorder=7, clip_on=False, gid="marks", **ring)
    for number, (row, label) in enumerate(labels.items(), start=1):
        box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
        axes.annotate(f"{number}", points[row], (9, 5), textcoords="offset points", weight="bold", zorder=12, bbox=box)
        axes.plot([], [], ms=10, label=f"{number}: {label}", **ring)
