"""What a metric is for every weighting: a line for two teachers, a triangle for three, parallel axes for more."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, RegularPolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.figures.inputs import check_fractions, check_numbers
from fer_mlflow.scoring.figures.style import (
    BLUE,
    DPI,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILLION,
    fit,
    head,
    page,
    place,
    png,
    readable,
    readable_names,
    shades,
)
from fer_mlflow.scoring.metrics import is_lower_better

_WIDTH, _HEIGHT = 9.0, 7.2
_LINES = 500  # that parallel axes can show
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
_LEGEND = "★ best      ○ within one paired standard error of it      + equal weights"


def draw_weight_map(
    weights: np.ndarray,
    values: np.ndarray,
    panels: Sequence[str] | np.ndarray,
    names: Sequence[str],
    *,
    metric: str,
    title: str,
    best: int,
    plateau: np.ndarray,
) -> bytes:
    """Draw a metric over weightings of K teachers, a panel for each way to fuse them; dark is good.

    Parameters
    ----------
    weights : (M, K) float of at least 0, rows summing to 1
    values : (M,) float, NaN for a configuration without that score
    panels : (M,) text; a triangle for each of up to 4, a line or an axis of colours for all
    names : K names of teachers
    metric : public name, which says whether less is better
    best : the best configuration
    plateau : (M,) bool, the configurations that are as good

    Returns
    -------
    PNG, 1350 × 1080 pixels

    Raises
    ------
    ContractError
        M = 0, shapes disagree, or there are more than 4 panels
    """
    weights = np.asarray(weights)
    M, K = weights.shape if weights.ndim == 2 else (0, 0)
    if not M or len(names) != K:
        raise ContractError(f"weights of shape {weights.shape} are not of configurations of {len(names)} teachers")
    weights = check_fractions("weights", weights, (M, K))
    values = check_numbers("values", values, (M,), gaps=True)
    plateau, panels = np.asarray(plateau), np.asarray(panels, dtype=object)
    if plateau.shape != (M,) or plateau.dtype != bool or panels.shape != (M,) or not 0 <= best < M:
        raise ContractError(f"plateau, panels and best must be of {M} configurations")
    kinds = list(dict.fromkeys(panels))
    if len(kinds) > len(_COLOURS):
        raise ContractError(f"{len(kinds)} panels; a figure shows at most {len(_COLOURS)}")
    shown = readable_names(names)
    said = " · ".join(f"{name} {share:.3g}" for name, share in zip(shown, weights[best], strict=True) if share > 0)
    with page(_WIDTH, _HEIGHT) as figure:
        number = "no score" if np.isnan(values[best]) else f"{values[best]:.4f}"
        head(figure, f"{metric} by weights", f"{title}   best: {said} · {panels[best]}, {number}")
        figure.text(0.25 / _WIDTH, 0.22 / _HEIGHT, _LEGEND, size=10, color=MUTED)
        if K == 2:
            _draw_lines(figure, weights, values, panels, shown, metric, best, plateau)
        elif K == 3:
            _draw_triangles(figure, weights, values, panels, shown, metric, best, plateau)
        else:
            _draw_parallel(figure, weights, values, shown, metric, best, plateau)
        return png(figure)


def _scale(values: np.ndarray, metric: str) -> tuple[Normalize, np.ndarray]:
    """Return the scale of colours, and each value's shade, 1 for the best; NaN stays."""
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1e-9)
    shade = np.asarray(norm(values))
    return norm, 1 - shade if is_lower_better(metric) else shade


def _draw_bar(figure: Figure, norm: Normalize, metric: str) -> None:
    """Draw the bar of colours on the right."""
    colours = shades().reversed() if is_lower_better(metric) else shades()
    axes = place(figure, _WIDTH - 0.95, 1.2, 0.18, _HEIGHT - 2.6)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes)
    bar.outline.set_visible(False)
    axes.set_title("less is better" if is_lower_better(metric) else "more is better", size=9, color=MUTED, loc="right")


def _draw_lines(figure, weights, values, panels, names, metric, best, plateau) -> None:
    axes = place(figure, 0.95, 1.0, _WIDTH - 1.25, _HEIGHT - 2.2)
    for colour, kind in zip(_COLOURS, dict.fromkeys(panels), strict=False):
        own = np.flatnonzero(panels == kind)
        own = own[np.argsort(weights[own, 0], kind="stable")]
        axes.plot(weights[own, 0], values[own], "-", lw=1.6, color=colour, label=readable(str(kind)) or "all")
        axes.plot(weights[own, 0], values[own], "o", ms=3.5, mew=0, color=colour)
        inside = own[plateau[own]]
        axes.plot(weights[inside, 0], values[inside], "o", ms=8, mfc="none", mec=colour, mew=1.4)
    axes.axvline(0.5, color=MUTED, lw=1, ls=":")
    axes.plot([weights[best, 0]], [values[best]], "*", ms=16, mec="white", mew=0.8, color=VERMILLION, zorder=5)
    axes.set(xlim=(-0.02, 1.02), xlabel=f"weight of {names[0]}; the rest is {names[1]}'s", ylabel=metric)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4)


def _draw_triangles(figure, weights, values, panels, names, metric, best, plateau) -> None:
    kinds = list(dict.fromkeys(panels))
    norm, shade = _scale(values, metric)
    columns = 1 if len(kinds) == 1 else 2
    rows = -(-len(kinds) // columns)
    width, height = (_WIDTH - 1.5) / columns, (_HEIGHT - 1.5) / rows
    for at, kind in enumerate(kinds):
        left = 0.2 + width * (at % columns)
        bottom = 0.45 + height * (rows - 1 - at // columns)
        axes = place(figure, left, bottom, width, height)
        own = np.flatnonzero(panels == kind)
        _draw_triangle(axes, weights[own], shade[own], plateau[own], names)
        axes.text(-0.18, 0.98, readable(str(kind)), size=12, weight="bold", va="top")
        if panels[best] == kind:
            axes.plot(*(weights[best] @ _CORNERS), "*", ms=17, mec="white", mew=0.9, color=VERMILLION, zorder=6)
    _draw_bar(figure, norm, metric)


def _draw_triangle(axes: Axes, weights: np.ndarray, shade: np.ndarray, plateau: np.ndarray, names) -> None:
    """Draw the weightings of three teachers, a hexagon each, as wide as the grid's step."""
    axes.set(xlim=(-0.2, 1.2), ylim=(-0.19, 1.02), aspect="equal")
    axes.set_axis_off()
    axes.set_anchor("N")
    axes.fill(*_CORNERS.T, facecolor="none", edgecolor=MUTED, lw=1, zorder=1)
    at = weights @ _CORNERS
    axes.apply_aspect()
    inches = axes.get_window_extent().width / DPI
    radius = _spacing(at) / np.sqrt(3) * inches / 1.4 * 72  # points
    colours = np.where(np.isnan(shade)[:, None], (0.94, 0.94, 0.94, 1.0), shades()(np.nan_to_num(shade)))
    area = np.pi * radius**2
    ring = float(np.clip(radius / 6, 0.4, 1.6))
    for chosen, edge, line in ((~plateau, "white", ring / 4), (plateau, ORANGE, ring)):
        if chosen.any():
            axes.add_collection(
                RegularPolyCollection(
                    6,
                    sizes=(area * (0.97 if edge == "white" else 0.8),),
                    offsets=at[chosen],
                    offset_transform=axes.transData,
                    facecolors=colours[chosen],
                    edgecolors=edge,
                    linewidths=line,
                    zorder=3 if edge == "white" else 4,
                )
            )
    axes.plot(*_CORNERS.mean(axis=0), "+", ms=9, mew=1.6, color=INK, zorder=5)
    offsets = ((-0.02, -0.07, "left"), (1.02, -0.07, "right"), (0.5, 0.93, "center"))
    labels = [
        axes.text(x, y, name, ha=side, va="top" if y < 0 else "bottom", size=10.5, zorder=7)
        for name, (x, y, side) in zip(names, offsets, strict=True)
    ]
    fit(labels, inches / 2 - 0.1)


def _spacing(at: np.ndarray) -> float:
    """Return how far the nearest two of (M, 2) points are apart, at least 0.008 and at most 0.2."""
    if len(at) < 2:
        return 0.2
    some = at[:: max(1, len(at) // 300)]
    distances = np.linalg.norm(some[:, None] - at[None], axis=2)
    return float(np.clip(distances[distances > 1e-9].min(initial=0.2), 0.008, 0.2))


def _draw_parallel(figure, weights, values, names, metric, best, plateau) -> None:
    """Draw a line for each configuration from teacher to teacher and on to the metric; the best ones on top."""
    norm, shade = _scale(values, metric)
    M, K = weights.shape
    axes = place(figure, 0.6, 1.0, _WIDTH - 1.9, _HEIGHT - 2.3)
    order = np.argsort(np.nan_to_num(shade, nan=-1.0), kind="stable")
    if M > _LINES:
        top = order[-_LINES // 2 :]
        rest = order[: -_LINES // 2]
        order = np.concatenate([rest[:: -(-len(rest) // (_LINES // 2))], top])
        figure.text(0.6 / _WIDTH, (_HEIGHT - 1.05) / _HEIGHT, f"{len(order):,} of {M:,} lines", size=10, color=MUTED)
    heights = np.column_stack([weights, np.nan_to_num(np.asarray(norm(values)), nan=0.0)])
    lines = np.stack([np.broadcast_to(np.arange(K + 1.0), heights.shape), heights], axis=2)
    colours = shades()(0.15 + 0.85 * np.nan_to_num(shade))
    axes.add_collection(LineCollection(list(lines[order]), colors=colours[order], linewidths=0.8, alpha=0.7, zorder=2))
    inside = np.flatnonzero(plateau)[:_LINES]
    axes.add_collection(LineCollection(list(lines[inside]), colors=ORANGE, linewidths=0.8, alpha=0.7, zorder=3))
    axes.plot(*lines[best].T, color=VERMILLION, lw=2.4, marker="*", ms=11, zorder=5)
    axes.plot(np.arange(K), np.full(K, 1 / K), "+", ms=9, mew=1.6, color=INK, zorder=5)
    axes.set(xlim=(-0.15, K + 0.15), ylim=(-0.03, 1.03), ylabel="weight")
    axes.set_xticks(np.arange(K + 1), [*names, metric], rotation=0 if K < 7 else 30, ha="center" if K < 7 else "right")
    axes.grid(visible=True, axis="x")
    _draw_bar(figure, norm, metric)
