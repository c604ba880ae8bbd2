"""The triangle of three teachers' weights: each corner is one teacher alone, the middle all alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import cKDTree

from fer_mlflow.figures.style import FAINT, GRID, INK, MUTED, fit, place
from fer_mlflow.figures.sweep_input import Sweep
from fer_mlflow.figures.sweep_page import (
    PANEL_STAR,
    PLATEAU,
    STAR,
    UNSCORED,
    Cell,
    colours,
    draw_foot,
    draw_head,
    draw_panel_title,
    star_legend,
)

_MOST_STEPS = 200  # of a grid that is found
_FULL = 0.3  # share of a grid's points that must be there for cells to be drawn
_CELLS, _DOTS = (0.014, 0.28), (0.014, 0.09)  # least and most inches from the middle of a cell or dot to its rim
_BASE = 0.85  # inches from a panel's bottom to the triangle
_EQUAL: dict[str, Any] = {"ls": "", "marker": "o", "ms": 7, "mfc": "white", "mec": INK, "mew": 1.5, "zorder": 7}
_TURNS = np.pi / 3 * np.arange(6)  # from a cell to its neighbours
_STEPS = np.array([[0, -1], [1, -1], [1, 0], [0, 1], [-1, 1], [-1, 0]])  # their first two weights, in grid steps


def draw_triangles(figure: Figure, sweep: Sweep, title: str, places: Sequence[Cell]) -> None:
    """Draw one triangle per panel, the configurations as cells of their grid or, without one, as dots."""
    draw_head(figure, sweep, title)
    n = grid_steps(sweep.weights[~sweep.equal()])
    shade = colours(sweep.goodness())
    for panel, cell in enumerate(places):
        draw_panel_title(figure, cell, sweep, panel)
        side = min(cell.width - 1.6, (cell.height - _BASE - 1.0) / np.sin(np.pi / 3))
        axes = place(figure, cell.left, cell.bottom, cell.width, cell.height)
        axes.set(xlim=(-cell.width / 2, cell.width / 2), ylim=(-_BASE, cell.height - _BASE))  # inches
        axes.set_axis_off()
        own = np.flatnonzero(sweep.panel == panel)
        order = own[np.argsort(np.nan_to_num(sweep.goodness()[own], nan=-1), kind="stable")]  # the best on top
        radius = _draw_configurations(axes, sweep, order, shade, side, n)
        _draw_frame(
            axes, sweep.names, side, radius, next((parts for parts in (5, 4, 3, 2) if (n or 5) % parts == 0), 5)
        )
        _draw_marks(axes, sweep, panel, side)
    draw_foot(figure, sweep, _legend(sweep))


def corners(side: float) -> np.ndarray:
    """Return (3, 2): where each teacher stands alone, the first on top, in inches from the middle of the base."""
    return side * np.array([[0, np.sin(np.pi / 3)], [-0.5, 0], [0.5, 0]])


def grid_steps(weights: np.ndarray) -> int | None:
    """Return the n of the coarsest grid of 1/n that holds nine tenths of (M, 3) weights; None where it is mostly empty.

    >>> grid_steps(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])), grid_steps(np.array([[0.17, 0.83, 0]]))
    (2, None)
    """
    for n in range(1, _MOST_STEPS + 1):
        on = _on_grid(weights, n)
        if len(weights) and on.mean() >= 0.9:
            different = len(np.unique(np.round(weights[on] * n), axis=0))
            return n if different >= _FULL * (n + 1) * (n + 2) / 2 else None
    return None


def _on_grid(weights: np.ndarray, n: int) -> np.ndarray:
    return (np.abs(weights * n - np.round(weights * n)) < 1e-4).all(axis=1)


def _draw_configurations(
    axes: Axes, sweep: Sweep, order: np.ndarray, shade: np.ndarray, side: float, n: int | None
) -> float:
    """Draw configurations in an order, and return the radius of a cell or dot."""
    weights = sweep.weights[order]
    at = weights @ corners(side)
    on = _on_grid(weights, n) if n else np.zeros(len(order), bool)
    radius = side / n / np.sqrt(3) if n else _spacing(sweep.weights @ corners(side)) / 2
    whole = radius <= _CELLS[1]  # cells touch
    radius = float(np.clip(radius, *(_CELLS if n else _DOTS)))
    hexagon = radius * np.column_stack([np.cos(_TURNS + np.pi / 6), np.sin(_TURNS + np.pi / 6)])
    fine = radius < 0.07
    cells = PolyCollection(
        at[on][:, None] + hexagon,
        facecolors=shade[order[on]],
        edgecolors="face" if fine else "white",
        linewidths=0.3 if fine else 0.8,
        zorder=3,
    )
    cells.set_gid("cells")
    axes.add_collection(cells)
    near = sweep.plateau[order]
    if n:
        steps = np.round(weights[on & near] * n).astype(int)[:, :2]
        _outline(axes, at[on & near], steps, radius, whole)
    dot = 144 * (radius if not n else 0.55 * radius)  # points across
    if on.all():
        return radius
    dots_x, dots_y = at[~on].T
    axes.scatter(
        dots_x,
        dots_y,
        s=max(dot, 2.5) ** 2,
        c=shade[order[~on]],
        edgecolors=[PLATEAU if is_near else "white" for is_near in near[~on]],
        linewidths=np.where(near[~on], 1.3, 0.5) * np.clip(dot / 7, 0.5, 1),
        zorder=4,
        gid="dots",
    )
    return radius


def _spacing(at: np.ndarray) -> float:
    """Return the median distance of (M, 2) different places to the nearest other one; 1 where there is but one."""
    different = np.unique(np.round(at, 6), axis=0)
    if len(different) < 2:
        return 1.0
    return float(np.median(cKDTree(different).query(different, k=2)[0][:, 1]))


def _outline(axes: Axes, at: np.ndarray, steps: np.ndarray, radius: float, whole: bool) -> None:
    """Draw the border of cells: all their edges but those between two of them, where cells touch."""
    inside = {tuple(step) for step in steps.tolist()}
    edges = []
    for middle, step in zip(at, steps.tolist(), strict=True):
        for turn, (i, j) in zip(_TURNS, _STEPS.tolist(), strict=True):
            if not whole or (step[0] + i, step[1] + j) not in inside:
                ends = turn + np.array([[-1], [1]]) * np.pi / 6
                edges.append(middle + radius * np.hstack([np.cos(ends), np.sin(ends)]))
    thick = float(np.clip(0.5 + 8 * radius, 0.6, 1.7))  # cells of a fine grid are narrower than a line
    for colour, width, zorder in (("white", 1.9 * thick * (radius > 0.05), 5), (PLATEAU, thick, 5.5)):
        axes.add_collection(
            LineCollection(edges, colors=colour, linewidths=width, zorder=zorder, capstyle="round", gid="plateau")
        )


def _draw_frame(axes: Axes, names: Sequence[str], side: float, radius: float, parts: int) -> None:
    """Draw the border, lines of equal weight with their ticks, and the teachers' names.

    A teacher's weight rises along one edge, anticlockwise to its corner; its ticks point along its lines.
    """
    points = corners(side)
    axes.plot(*np.vstack([points, points[:1]]).T, color=FAINT, linewidth=1.0, zorder=2)
    aligned = (("left", "center"), ("right", "bottom"), ("right", "top"))
    arrows, turned = ("← {}", "← {}", "{} →"), (-60, 60, 0)
    for k, (name, (ha, va)) in enumerate(zip(names, aligned, strict=True)):
        before, other = points[k - 1], points[(k + 1) % 3]
        out = (before - other) / side
        for weight in np.arange(1, parts) / parts:
            start, end = weight * points[k] + (1 - weight) * np.array([before, other])
            axes.plot(*np.array([start, end]).T, color=GRID, linewidth=0.8, zorder=1)
            tick = start + np.array([[0.87 * radius + 0.02], [0.87 * radius + 0.08]]) * out
            axes.plot(*tick.T, color=FAINT, linewidth=1.0, zorder=2)
            x, y = tick[1] + 0.02 * out
            axes.text(x, y, f"{weight:.2g}", ha=ha, va=va, size=8.5, color=MUTED)
        middle = (points[k] + before) / 2
        away = middle - points.mean(axis=0)
        x, y = middle + (radius + 0.4) * away / np.linalg.norm(away)
        title = axes.text(x, y, arrows[k].format(name), ha="center", va="center", size=9, color=MUTED)
        fit([title], (0.5 if turned[k] else 0.36) * side)  # below, names of corners stand beside it
        title.set(rotation=turned[k], rotation_mode="anchor")
    below = -radius - 0.4
    for (x, y), name, va in zip(
        ((0, points[0, 1] + radius + 0.06), (points[1, 0], below), (points[2, 0], below)),
        names,
        ("bottom", "center", "center"),
        strict=True,
    ):
        fit([axes.text(x, y, name, ha="center", va=va, size=11, weight="bold")], 0.45 * side)


def _draw_marks(axes: Axes, sweep: Sweep, panel: int, side: float) -> None:
    """Mark equal weights and a panel's best configuration."""
    (ring,) = axes.plot(*corners(side).mean(axis=0), **_EQUAL)
    ring.set_gid("equal weights")
    best = sweep.best_of(panel)
    if best is not None:
        (star,) = axes.plot(*(sweep.weights[best] @ corners(side)), **(STAR if best == sweep.best else PANEL_STAR))
        star.set_gid("best" if best == sweep.best else "best of its panel")


def _legend(sweep: Sweep) -> Mapping[str, Artist]:
    entries = star_legend(sweep) | {
        "equal weights": Line2D([], [], **_EQUAL),
        "within one standard error": Line2D([], [], color=PLATEAU, lw=1.7),
    }
    if np.isnan(sweep.values).any():
        entries["not scored"] = Line2D([], [], ls="", marker="h", ms=11, color=UNSCORED)
    return entries
