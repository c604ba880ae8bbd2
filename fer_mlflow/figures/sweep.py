"""Figures of a sweep: a metric over the weights of the teachers, and the trade-off between two metrics."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.scoring.metrics import is_lower_better

CORNERS = np.array([[0, np.sin(np.pi / 3)], [-0.5, 0], [0.5, 0]])  # where each of three teachers has all the weight
_ANGLES = np.pi / 3 * np.arange(6) + np.pi / 6
_HEXAGON = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_PLATEAU: dict[str, Any] = {"gid": "plateau", "label": "within one standard error", "zorder": 5}
_EQUAL: dict[str, Any] = {"gid": "equal weights", "label": "equal weights"}
_RING: dict[str, Any] = {"ls": "", "marker": "o", "ms": 7, "mfc": "white", "mec": style.INK, "mew": 1.5, "zorder": 7}


class WeightMap:
    """A metric of M configurations of K teachers in P panels, to be drawn; a ContractError says what cannot be."""

    def __init__(
        self,
        weights: np.ndarray,  # (M, K) float in [0, 1], rows sum to 1; any grid step or list
        values: np.ndarray,  # (M,) float, the metric of each configuration; NaN where it was not scored
        panels: Sequence[str],  # (M,) such as "logit" or "prob · clahe"; at most 8 different ones, as they first appear
        names: Sequence[str],
        *,
        metric: str,
        best: int,  # row of the best configuration, scored
        plateau: np.ndarray,  # (M,) bool, configurations not significantly different from the best
    ) -> None:
        M, K = len(weights), len(names)
        if not M or not K:
            raise ContractError(f"{M} configurations of {K} teachers: there is nothing to draw")
        self.weights = style.check_array("weights", weights, (M, K), bounds=(0, 1))
        self.values = style.check_array("values", values, (M,), gaps=True)
        self.panel, self.panels = style.check_panels(panels, M)
        if not 0 <= best < M or np.isnan(values[best]):
            raise ContractError(f"the best configuration is {best}; it must be one of 0 to {M - 1} that is scored")
        self.names, self.best = style.readable_names(names), int(best)
        scored, self.lower = ~np.isnan(self.values), is_lower_better(metric)
        self.metric = style.shorten(style.readable(metric), 40)
        self.direction = f"{self.metric}, {'less' if self.lower else 'more'} is better"
        self.plateau = (style.check_array("plateau", plateau, (M,), "b") & scored) | (np.arange(M) == best)
        self.worst, self.better = style.scale_ends(self.values[scored], self.lower)
        # 0 at the scale's worst end, and beyond it, to 1 at its better end; NaN where not scored
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


def draw_weight_map(sweep: WeightMap, title: str) -> bytes:
    """Draw a metric over the weights of K teachers: a line for one or two, a triangle for three, else parallel axes.

    One or two teachers have one plot with a line per panel. Otherwise panels stand side by side and share one scale,
    on which darker is better whichever way the metric goes. The worst tenth of the values is drawn alike where it
    would take more than a third of that scale. A star marks the best configuration, an open one the best of each other
    panel. Return a PNG. K <= 2: 1350 × 930 pixels. K >= 3: 1155 × 1200 for one panel, else 1695 wide and 330 + 750
    for each row of two panels high.
    """
    K, P = len(sweep.names), len(sweep.panels)
    rows = -(-P // 2)
    size = (9, 6.2) if K <= 2 else (7.7, 8) if P == 1 else (11.3, 2.2 + 5 * rows)
    with style.page(*size, title, *sweep.describe()) as figure:
        if K <= 2:
            _draw_line(figure.subplots(), sweep)
        else:
            grid = figure.subplots(rows, min(P, 2), squeeze=False)
            for panel, axes in zip(range(P), grid.flat, strict=False):
                (_draw_triangle if K == 3 else _draw_parallel)(axes, sweep, panel)
                axes.set_title(sweep.describe_best(panel))
            for axes in grid.flat[P:]:
                axes.set_axis_off()
            _draw_scale(figure, sweep)
        style.draw_legend(figure)
        return style.png(figure)


def _draw_scale(figure: Figure, sweep: WeightMap) -> None:
    """Draw the scale of colours below the panels; an arrow at its worst end stands for values beyond it."""
    low, high = sorted((sweep.worst, sweep.better))
    beyond = "max" if np.nanmax(sweep.values) > high else "min" if np.nanmin(sweep.values) < low else "neither"
    pad = 0 if high > low else 0.05 * abs(high) or 0.05
    colours = style.SHADES.reversed() if sweep.lower else style.SHADES
    place: dict[str, Any] = {"location": "bottom", "shrink": 0.5, "aspect": 30, "pad": 0.04}
    scale = ScalarMappable(Normalize(low - pad, high + pad), colours)
    bar = figure.colorbar(scale, ax=figure.axes, extend=beyond, label=sweep.direction, **place)
    bar.ax.grid(visible=False)


def _draw_star(axes: Axes, sweep: WeightMap, best: int, x: float, y: float) -> str:
    """Draw the star of a panel's best configuration, and return its colour."""
    first = best == sweep.best
    label, colour = ("best", style.ORANGE) if first else ("best of its panel", "white")
    star: dict[str, Any] = {"ms": 17 if first else 13, "mec": style.INK, "mew": 1.1, "zorder": 9, "clip_on": False}
    axes.plot([x], [y], "*", color=colour, gid=label, label=label, **star)
    return colour


def _draw_line(axes: Axes, sweep: WeightMap) -> None:
    """Draw the metric against the first teacher's weight, one line per panel; filled dots are the plateau."""
    share, values = sweep.weights[:, 0], sweep.values
    for panel, ((colour, marker, line), name) in enumerate(zip(style.CURVES, sweep.panels, strict=False)):
        own = np.flatnonzero(sweep.panel == panel)
        own = own[np.argsort(share[own], kind="stable")]
        dots: dict[str, Any] = {"marker": marker, "color": colour}
        axes.plot(share[own], values[own], ls=line, ms=4, mfc="white", label=name, gid="line", **dots)
        near = own[sweep.plateau[own]]
        axes.plot(share[near], values[near], ls="", ms=7, zorder=4, gid="plateau", **dots)
    axes.plot([], [], "o", ms=7, color=style.MUTED, label=_PLATEAU["label"])
    _draw_star(axes, sweep, sweep.best, share[sweep.best], values[sweep.best])
    axes.axvline(1 / len(sweep.names), **style.LINE, **_EQUAL, zorder=1)
    first, *others = sweep.names
    ends = (f"{others[0]} alone  ←  ", f"  →  {first} alone") if others else ("", ", which is always 1")
    axes.set(xlabel=f"{ends[0]}weight of {first}{ends[1]}", ylabel=sweep.direction)


def _draw_triangle(axes: Axes, sweep: WeightMap, panel: int) -> None:
    """Draw a panel of three teachers' weights: a cell for each configuration, the best on top."""
    unscored = np.flatnonzero(np.isnan(sweep.values) & (sweep.panel == panel))
    rows = np.concatenate([unscored, sweep.ranked(panel)])
    radius = _cell_radius(sweep.weights @ CORNERS)
    cells = (sweep.weights[rows] @ CORNERS)[:, None] + radius * _HEXAGON
    colours = style.SHADES(np.ma.masked_invalid(sweep.goodness[rows]))
    width = min(0.8, 20 * radius)
    axes.add_collection(
        PolyCollection(list(cells), facecolors=colours, edgecolors="white", linewidths=width, zorder=3, gid="cells")
    )
    if len(unscored):
        axes.plot([], [], "h", ms=11, color=style.SHADES.get_bad(), label="not scored")
    border = outline(cells[sweep.plateau[rows]])
    axes.add_collection(LineCollection(list(border), colors=style.VERMILLION, linewidths=1.6, **_PLATEAU))
    _draw_frame(axes, [style.shorten(name, 18) for name in sweep.names], radius)
    axes.plot(*CORNERS.mean(axis=0), **_RING, **_EQUAL)
    if (best := sweep.best_of(panel)) is not None:
        _draw_star(axes, sweep, best, *(sweep.weights[best] @ CORNERS))


def _cell_radius(at: np.ndarray) -> float:
    """Return the radius of cells at (M, 2) places that touch where the places are a grid."""
    different = np.unique(np.round(at, 6), axis=0)
    apart = np.median(cKDTree(different).query(different, k=2)[0][:, 1])  # infinite for a single place
    return float(np.clip(apart / np.sqrt(3), 0.006, 0.09))


def outline(cells: np.ndarray) -> np.ndarray:
    """Return the (E, 2, 2) border of (M, 6, 2) cells: all their edges but those between two of them."""
    edges = np.stack([cells, np.roll(cells, -1, axis=1)], axis=2).reshape(-1, 2, 2)
    _, place, count = np.unique(np.round(edges.mean(axis=1), 5), axis=0, return_index=True, return_counts=True)
    return edges[np.sort(place[count == 1])]


def _draw_frame(axes: Axes, names: Sequence[str], radius: float) -> None:
    """Draw lines of equal weight with their ticks, and the teachers' names.

    A teacher's weight rises along one edge, anticlockwise to its corner; its ticks point along its lines.
    """
    axes.set(xlim=(-0.72, 0.72), ylim=(-0.2, 1.1), aspect="equal")
    axes.set_axis_off()
    write = partial(axes.text, ha="center", va="center", rotation_mode="anchor")
    for k, (turn, arrow) in enumerate(((-60, "← {}"), (60, "← {}"), (0, "{} →"))):
        before, own, other = CORNERS[k - 1], CORNERS[k], CORNERS[(k + 1) % 3]
        axes.plot(*np.transpose([before, own]), color=style.FAINT, lw=1, zorder=2)
        for weight in (0.2, 0.4, 0.6, 0.8):
            start, end = weight * own + (1 - weight) * np.array([before, other])
            axes.plot(*np.transpose([start, end]), color=style.GRID, lw=0.8, zorder=1)
            x, y = start + (radius + 0.05) * (before - other)
            write(x, y, f"{weight:g}", size=8.5, color=style.MUTED)
        away = (own + before) / 2 - CORNERS.mean(axis=0)
        x, y = (own + before) / 2 + (radius + 0.13) * away / np.linalg.norm(away)
        write(x, y, arrow.format(names[k]), size=9, color=style.MUTED, rotation=turn)
        write(own[0], own[1] + (radius + 0.08) * (-1 if k else 1), names[k], size=11, weight="bold")


def _draw_parallel(axes: Axes, sweep: WeightMap, panel: int) -> None:
    """Draw a panel's configurations as lines over an axis per teacher and one for the metric, the best on top."""
    K, rows = len(sweep.names), sweep.ranked(panel)
    points = np.column_stack([sweep.weights, sweep.goodness])
    near = sweep.plateau[rows]
    for own, width, zorder, gid in ((rows[~near], 0.7, 2, "lines"), (rows[near], 1.3, 3, "plateau lines")):
        lines = [np.column_stack([np.arange(K + 1), points[row]]) for row in own]
        colours = style.SHADES(sweep.goodness[own])
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, alpha=0.7, zorder=zorder, gid=gid))
    within = points[sweep.plateau & (sweep.panel == panel)]
    if len(within):
        axes.vlines(range(K + 1), within.min(axis=0), within.max(axis=0), colors=style.VERMILLION, lw=4, **_PLATEAU)
    if (best := sweep.best_of(panel)) is not None:
        colour = _draw_star(axes, sweep, best, K, points[best, K])
        axes.plot(points[best], "o-", lw=3, color=colour, ms=6, mec=style.INK, zorder=7, gid="best line")
    axes.plot([0, K - 1], [1 / K, 1 / K], **style.LINE, **_EQUAL, zorder=6)
    axes.set(xlim=(-0.1, K + 0.1), ylim=(-0.03, 1.03), ylabel="weight")
    axes.set_xticks(range(K + 1), [*sweep.names, sweep.metric], rotation=30, ha="right", rotation_mode="anchor")
    axes.spines["left"].set_visible(False)
    axes.grid(color=style.FAINT, axis="x")
    ticks = np.linspace(sweep.worst, sweep.better, 5)
    axes.secondary_yaxis("right").set_yticks(np.linspace(0, 1, 5), [f"{tick:.4g}" for tick in ticks])


def draw_pareto(
    x: np.ndarray,  # (M,) float; a configuration that lacks x or y (NaN) is not drawn
    y: np.ndarray,
    front: np.ndarray,  # (M,) bool, all of them scored
    panels: Sequence[str],  # (M,) shown by colour and shape; at most eight different ones
    *,
    x_metric: str,
    y_metric: str,
    title: str,
    marks: Mapping[str, int],  # what a configuration is called -> its row; names of the same row share a label
) -> bytes:
    """Draw two metrics of M configurations, the Pareto front as steps, and named configurations.

    The steps are the border of what the front beats. Where the worst tenth of a metric would take more than half of
    its axis, it is drawn at the axis's edge and the heading gives its number; a named configuration there has its
    values written. Return a PNG of 1350 × 1080 pixels.
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
