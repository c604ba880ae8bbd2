"""The trade-off of a sweep between two metrics: all configurations and those that no other one beats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.inputs import check_numbers
from fer_mlflow.figures.labels import place_labels
from fer_mlflow.figures.style import INK, fit, head, page, place, png, readable, readable_names
from fer_mlflow.figures.sweep_input import check_mask, check_panels, number, scale_ends
from fer_mlflow.figures.weight_line import PANEL_STYLES
from fer_mlflow.scoring.metrics import is_lower_better

MOST_MARKS = 12
_WIDTH, _HEIGHT = 9.0, 7.2  # inches
_LEFT, _BOTTOM, _BROAD, _TALL = 1.0, 0.75, 7.6, 5.1


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
    its axis, it is drawn at the axis's edge, which is said; a named configuration there has its values written.

    Parameters
    ----------
    x, y : (M,) float, two metrics of each configuration; one that lacks either (NaN) is not drawn
    front : (M,) bool, the configurations on the Pareto front, all of them scored
    panels : (M,) text, what a configuration's colour and shape say; at most four different ones
    x_metric, y_metric : public names, which say whether less is better
    title : the figure's heading
    marks : what a configuration is called -> its row; at most 12; names of the same row share a label

    Returns
    -------
    PNG, 1350 × 1080 pixels

    Raises
    ------
    ContractError
        no configuration that is scored, shapes disagree, an infinite value, a front or mark without values, more than
        four panels, or more than 12 marks
    """
    M = np.size(x)
    points = np.column_stack([check_numbers(name, axis, (M,), gaps=True) for name, axis in (("x", x), ("y", y))])
    front = check_mask("front", front, M)
    panel, names = check_panels(panels, M)
    scored = ~np.isnan(points).any(axis=1)
    if not scored.any():
        raise ContractError(f"none of {M} configurations has both metrics: there is nothing to draw")
    if (front & ~scored).any():
        raise ContractError(f"configuration {int(np.argmax(front & ~scored))} is on the front and not scored")
    labels = _labels(marks, scored)
    lower = is_lower_better(x_metric), is_lower_better(y_metric)
    limits = [_limits(points[scored, d], points[front, d], lower[d]) for d in (0, 1)]
    shown = np.clip(points, *np.transpose(limits))
    for row in labels:
        if (shown[row] != points[row]).any():
            labels[row] += f" ({number(points[row, 0])}, {number(points[row, 1])})"
    with page(_WIDTH, _HEIGHT) as figure:
        beyond = int((shown != points)[scored].any(axis=1).sum())
        head(figure, title, _said(scored, front, beyond))
        axes = place(figure, _LEFT, _BOTTOM, _BROAD, _TALL)
        axes.set(xlim=limits[0], ylim=limits[1])
        _draw_points(axes, shown, panel, scored & ~front, len(names))
        _draw_front(axes, shown, panel, np.flatnonzero(front), lower)
        _name_axes(axes, (readable(x_metric), readable(y_metric)), lower)
        _draw_marks(axes, shown, labels, shown[front])
        _draw_legend(figure, names)
        return png(figure)


def _labels(marks: Mapping[str, int], scored: np.ndarray) -> dict[int, str]:
    """Return each marked configuration with all its names."""
    if len(marks) > MOST_MARKS:
        raise ContractError(f"{len(marks)} marks; a figure of a trade-off has room for {MOST_MARKS}")
    found: dict[int, list[str]] = {}
    for name, shown in zip(marks, readable_names(list(marks)), strict=True):
        row = marks[name]
        if not 0 <= row < len(scored) or not scored[row]:
            raise ContractError(f"mark {name!r} is configuration {row}, which is not one of those that are scored")
        found.setdefault(int(row), []).append(shown)
    return {row: " = ".join(names) for row, names in found.items()}


def _limits(values: np.ndarray, kept: np.ndarray, lower: bool) -> tuple[float, float]:
    """Return an axis's ends, a little beyond the front and all values but those far worse."""
    ends = [*scale_ends(values, lower, 0.5), *kept]
    low, high = float(min(ends)), float(max(ends))
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - pad, high + pad


def _said(scored: np.ndarray, front: np.ndarray, beyond: int) -> str:
    M, gaps = len(scored), int((~scored).sum())
    said = [f"{M:,} configuration{'s' * (M != 1)}", f"{int(front.sum()):,} on the Pareto front"]
    if beyond:
        said.append(f"{beyond:,} beyond the axes, drawn at their edge")
    if gaps:
        said.append(f"{gaps:,} not scored")
    return " · ".join(said)


def _draw_points(axes: Axes, points: np.ndarray, panel: np.ndarray, drawn: np.ndarray, P: int) -> None:
    count = int(drawn.sum())
    size = float(np.clip(40 * (200 / max(count, 1)) ** 0.35, 9, 40))
    alpha = float(np.clip((300 / max(count, 1)) ** 0.35, 0.25, 0.8))
    for p, (colour, marker, _) in enumerate(PANEL_STYLES[:P]):
        own_x, own_y = points[drawn & (panel == p)].T
        style: dict[str, Any] = {"marker": marker, "c": colour, "linewidths": 0, "zorder": 3, "gid": "points"}
        axes.scatter(own_x, own_y, s=size, alpha=alpha, clip_on=False, **style)


def _draw_front(axes: Axes, points: np.ndarray, panel: np.ndarray, front: np.ndarray, lower: tuple[bool, bool]) -> None:
    """Draw the front's points and, between them, the border of what they beat."""
    better = np.where(lower, 1, -1)
    order = front[np.lexsort((better[1] * points[front, 1], points[front, 0]))]
    size = float(np.clip(75 * (12 / max(len(front), 1)) ** 0.5, 26, 75))
    style = "steps-post" if lower[0] else "steps-pre"
    axes.plot(*points[order].T, drawstyle=style, color=INK, linewidth=1.6, zorder=5, gid="front")
    for p, (colour, marker, _) in enumerate(PANEL_STYLES):
        own_x, own_y = points[order[panel[order] == p]].T
        axes.scatter(
            own_x,
            own_y,
            s=size,
            marker=marker,
            c=colour,
            edgecolors=INK,
            linewidths=1.1,
            zorder=6,
            gid="front points",
        )


def _name_axes(axes: Axes, metrics: tuple[str, str], lower: tuple[bool, bool]) -> None:
    """Write each axis's metric and an arrow in the direction that is better."""
    sides = zip((axes.xaxis, axes.yaxis), metrics, lower, (_BROAD, _TALL), strict=True)
    for axis, metric, less, length in sides:
        label = axis.label
        label.set_text(f"←  better      {metric}" if less else f"{metric}      better  →")
        label.set_rotation(0)
        fit([label], length)
        label.set_rotation(90 if axis is axes.yaxis else 0)


def _draw_marks(axes: Axes, points: np.ndarray, labels: Mapping[int, str], crowd: np.ndarray) -> None:
    rows = list(labels)
    axes.plot(*points[rows].T, "o", ms=14, mfc="none", mec=INK, mew=1.4, zorder=7, clip_on=False, gid="marks")
    place_labels(axes, points[rows], list(labels.values()), crowd, 2.6)


def _draw_legend(figure: Figure, names: Sequence[str]) -> None:
    above = place(figure, _LEFT, _BOTTOM + _TALL + 0.08, _BROAD, 0.35)
    above.set_axis_off()
    handles = [
        Line2D([], [], ls="", marker=marker, ms=7, color=colour)
        for (colour, marker, _), _ in zip(PANEL_STYLES, names, strict=False)
    ]
    handles.append(Line2D([], [], color=INK, lw=1.6, marker="o", ms=8, mfc="white"))
    shown = above.legend(
        handles, [*names, "Pareto front"], loc="center left", ncols=5, columnspacing=1.3, handletextpad=0.5
    )
    fit(shown.get_texts(), _BROAD / len(handles) - 0.6)
