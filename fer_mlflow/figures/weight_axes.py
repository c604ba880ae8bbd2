"""The parallel axes of many teachers' weights: one upright axis per teacher and a last one for the metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fer_mlflow.figures.style import FAINT, GRID, INK, ORANGE, fit, place, write
from fer_mlflow.figures.sweep_input import Sweep, weight_said
from fer_mlflow.figures.sweep_page import (
    PANEL_STAR,
    PLATEAU,
    STAR,
    Cell,
    colours,
    draw_foot,
    draw_head,
    draw_panel_title,
    scale_ticks,
    star_legend,
)

MOST_LINES = 1500
_MOST_BEST = 500  # of them are the best ones, the others an even sample
_LEFT, _RIGHT, _ABOVE = 0.5, 0.95, 0.75  # inches around the axes of a panel
_BELOW = {False: 0.5, True: 1.25}  # where names are turned, because they have no room
_TURN = 40  # degrees
_EQUAL: dict[str, Any] = {"color": INK, "lw": 1.1, "ls": (0, (5, 3))}


def draw_axes(figure: Figure, sweep: Sweep, title: str, places: Sequence[Cell]) -> None:
    """Draw one set of parallel axes per panel, better configurations on top; unscored ones are not drawn."""
    drawn = chosen(sweep)
    draw_head(figure, sweep, title, _said(sweep, drawn))
    shade = colours(sweep.goodness())
    width = places[0].width - _LEFT - _RIGHT
    turned = _widest(figure, (*sweep.names, sweep.metric)) > 0.94 * width / len(sweep.names)
    for panel, cell in enumerate(places):
        draw_panel_title(figure, cell, sweep, panel)
        below = _BELOW[turned]
        axes = place(figure, cell.left + _LEFT, cell.bottom + below, width, cell.height - below - _ABOVE)
        _draw_frame(axes, sweep)
        _write_names(axes, (*sweep.names, sweep.metric), width, turned)
        _draw_lines(axes, sweep, drawn[sweep.panel[drawn] == panel], shade)
        _draw_best(axes, sweep, panel)
    draw_foot(figure, sweep, _legend(sweep))


def chosen(sweep: Sweep) -> np.ndarray:
    """Return the configurations that are drawn, from the worst to the best.

    All scored ones where there are at most 1,500. Otherwise the best 500, each panel's best, and of the rest an even
    sample by rank.
    """
    ranked = sweep.ranked()
    if len(ranked) <= MOST_LINES:
        return ranked
    rest = len(ranked) - _MOST_BEST
    places = np.round(np.linspace(0, rest - 1, MOST_LINES - _MOST_BEST)).astype(int)
    drawn = np.concatenate([ranked[places], ranked[rest:]])
    bests = [best for panel in range(len(sweep.panels)) if (best := sweep.best_of(panel)) is not None]
    return ranked[np.isin(ranked, np.concatenate([drawn, bests]))]


def _said(sweep: Sweep, drawn: np.ndarray) -> str:
    scored = int((~np.isnan(sweep.values)).sum())
    if len(drawn) == scored:
        return ""
    return f"{len(drawn):,} lines drawn: the best {_MOST_BEST} and an even sample of the others"


def _widest(figure: Figure, names: Sequence[str]) -> float:
    """Return how wide the widest of some names is, in inches."""
    texts = [write(figure, 0, 0, name, size=10) for name in names]
    widest = max(text.get_window_extent().width for text in texts) / figure.dpi
    for text in texts:
        text.remove()
    return float(widest)


def _draw_frame(axes: Axes, sweep: Sweep) -> None:
    """Draw the upright axes from 0 to 1, where equal weights are, and the metric's ticks."""
    K = len(sweep.names)
    axes.set(xlim=(0, K), ylim=(-0.03, 1.03), xticks=[], yticks=np.linspace(0, 1, 6))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.vlines(range(K + 1), 0, 1, colors=FAINT, linewidths=1.1, zorder=1)
    axes.hlines(np.linspace(0, 1, 6), 0, K - 1, colors=GRID, linewidths=0.8, zorder=0)
    axes.plot([0, K - 1], [1 / K, 1 / K], zorder=6, gid="equal weights", **_EQUAL)
    ticks, said = scale_ticks(sweep)
    style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": 9}
    for y, text in zip(ticks, said, strict=True):
        axes.annotate(text, (K, y), (15, 0), **style)


def _write_names(axes: Axes, names: Sequence[str], width: float, turned: bool) -> None:
    """Write the axes' names below them, falling to the right where they have no room."""
    apart = width / (len(names) - 1)  # inches
    size = float(np.clip(72 * apart * np.sin(np.deg2rad(_TURN)), 4, 10))
    style: dict[str, Any] = {"textcoords": "offset points", "va": "top", "ha": "left" if turned else "center"}
    texts = [axes.annotate(name, (k, 0), (0, -12), size=size, **style) for k, name in enumerate(names)]
    if turned:
        fit(texts, 1.45)
        fit(texts[-1:], 1.15)
        for text in texts:
            text.set(rotation=-_TURN, rotation_mode="anchor", va="center")


def _draw_lines(axes: Axes, sweep: Sweep, drawn: np.ndarray, shade: np.ndarray) -> None:
    """Draw configurations as lines, the plateau's above the others, and its range on each axis."""
    goodness, K = sweep.goodness(), len(sweep.names)
    near = sweep.plateau[drawn]
    for own, width, alpha, zorder, name in (
        (drawn[~near], 0.7, 0.6, 2, "lines"),
        (drawn[near], 1.3, 0.9, 3, "plateau lines"),
    ):
        lines = np.empty((len(own), K + 1, 2))
        lines[..., 0] = np.arange(K + 1)
        lines[:, :K, 1] = sweep.weights[own]
        lines[:, K, 1] = goodness[own]
        axes.add_collection(
            LineCollection(list(lines), colors=shade[own], linewidths=width, alpha=alpha, zorder=zorder, gid=name)
        )


def _draw_best(axes: Axes, sweep: Sweep, panel: int) -> None:
    """Draw a panel's best configuration with its weights written, and the plateau's range on each axis."""
    best, K = sweep.best_of(panel), len(sweep.names)
    if best is None:
        return
    goodness = sweep.goodness()
    points = np.column_stack([sweep.weights, goodness])
    near = points[sweep.plateau & (sweep.panel == panel)]
    if len(near):
        axes.vlines(
            range(K + 1),
            near.min(axis=0),
            near.max(axis=0),
            colors=PLATEAU,
            linewidths=4,
            zorder=5,
            clip_on=False,
            gid="plateau",
        )
    first = best == sweep.best
    style: dict[str, Any] = {"color": ORANGE if first else "white", "zorder": 7, "marker": "o", "ms": 6, "mec": INK}
    axes.plot(range(K + 1), points[best], lw=4.2, color=INK if not first else "white", zorder=6.5)
    axes.plot(range(K + 1), points[best], lw=2.4, clip_on=False, gid="best line", **style)
    (star,) = axes.plot(K, goodness[best], clip_on=False, **(STAR if first else PANEL_STAR))
    star.set_gid("best" if first else "best of its panel")
    size = float(np.clip(9 * 8 / K, 6, 9))
    for k, weight in enumerate(sweep.weights[best]):
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
        axes.annotate(
            weight_said(weight) if K <= 6 else f"{weight:.2f}",
            (k, weight),
            (6, 7),
            textcoords="offset points",
            size=size,
            zorder=8,
            weight="bold",
            bbox=box,
        )


def _legend(sweep: Sweep) -> Mapping[str, Artist]:
    return star_legend(sweep) | {
        "equal weights": Line2D([], [], **_EQUAL),
        "within one standard error": Line2D([], [], color=PLATEAU, lw=4),
    }
