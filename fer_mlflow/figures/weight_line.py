"""The plots of one and of two teachers' weights, in which the metric has an axis of its own."""

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fer_mlflow.figures.style import BLUE, GREEN, MUTED, PURPLE, VERMILLION, fit, place
from fer_mlflow.figures.sweep_input import Sweep, direction, number
from fer_mlflow.figures.sweep_page import STAR, draw_head

LINE_PAGE = (9.0, 6.2)  # inches
PANEL_STYLES = ((BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"))
_MOST_DOTS = 60  # in a line, for hollow ones to be told apart


def draw_line(figure: Figure, sweep: Sweep, title: str) -> None:
    """Draw the metric against the first teacher's weight, one line per panel; filled dots are the plateau."""
    draw_head(figure, sweep, title)
    axes = place(figure, 0.95, 0.8, 7.75, 3.7)
    share = sweep.weights[:, 0]
    for panel, ((colour, marker, line), name) in enumerate(zip(PANEL_STYLES, sweep.panels, strict=False)):
        own = np.flatnonzero(sweep.panel == panel)
        own = own[np.argsort(share[own], kind="stable")]
        few = len(own) <= _MOST_DOTS
        axes.plot(share[own], sweep.values[own], line, color=colour, lw=1.8, zorder=3, label=name, gid="line")
        near, far = own[sweep.plateau[own]], own[~sweep.plateau[own]]
        style: dict[str, Any] = {"ls": "", "marker": marker, "color": colour}
        if few:
            axes.plot(share[far], sweep.values[far], **style, ms=4.5, mfc="white", zorder=4)
        axes.plot(share[near], sweep.values[near], **style, ms=7.5 if few else 4, zorder=5, gid="plateau")
    axes.plot(share[sweep.best], sweep.values[sweep.best], **STAR, gid="best")
    axes.axvline(0.5, color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    y, up, va = (1, -4, "top") if sweep.lower else (0, 4, "bottom")  # where no good configuration is
    at = axes.get_xaxis_transform()
    axes.annotate("equal weights", (0.5, y), (4, up), at, "offset points", va=va, size=9.5, color=MUTED)
    axes.set(xlim=(-0.02, 1.02), xticks=np.linspace(0, 1, 11), ylabel=f"{sweep.metric}, {direction(sweep.lower)}")
    _fit_label(axes)
    for x, ha, name in ((0, "left", sweep.names[1]), (1, "right", sweep.names[0])):
        alone = axes.annotate(
            f"{name} alone", (x, 0), (0, -25), "axes fraction", "offset points", ha=ha, va="top", weight="bold"
        )
        fit([alone], 2.4)
    middle = axes.annotate(
        f"weight of {sweep.names[0]} →", (0.5, 0), (0, -25), "axes fraction", "offset points", ha="center", va="top"
    )
    fit([middle], 2.7)
    _draw_legend(figure, sweep, lines=True)


def draw_one_teacher(figure: Figure, sweep: Sweep, title: str) -> None:
    """Draw one row per panel, a dot for each configuration: a single teacher's weight is always 1."""
    draw_head(figure, sweep, title, "one teacher, whose weight is always 1")
    P = len(sweep.panels)
    row = 0.85
    axes = place(figure, 2.2, 4.4 - row * P, 5.4, row * P)
    for panel, ((colour, marker, _), name) in enumerate(zip(PANEL_STYLES, sweep.panels, strict=False)):
        own = np.flatnonzero(sweep.panel == panel)
        for some, face in ((own[~sweep.plateau[own]], "white"), (own[sweep.plateau[own]], colour)):
            at = sweep.values[some], np.full(len(some), panel)
            axes.plot(*at, ls="", marker=marker, ms=9, color=colour, mfc=face, mew=1.5, gid="dots")
        best = sweep.best_of(panel)
        said = "none scored" if best is None else number(sweep.values[best])
        axes.annotate(said, (1, panel), (8, 0), ("axes fraction", "data"), "offset points", va="center")
        label = axes.annotate(
            name, (0, panel), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center"
        )
        fit([label], 1.85)
    axes.plot(sweep.values[sweep.best], sweep.panel[sweep.best], **STAR, gid="best")
    axes.set(ylim=(P - 0.5, -0.5), yticks=[], xlabel=f"{sweep.metric}, {direction(sweep.lower)}")
    axes.margins(x=0.08)
    _draw_legend(figure, sweep, lines=False)


def _fit_label(axes: Axes) -> None:
    """Make the label of the upright axis as long as the axis at most."""
    label = axes.yaxis.label
    label.set_rotation(0)
    fit([label], axes.bbox.height / axes.figure.dpi)
    label.set_rotation(90)


def _draw_legend(figure: Figure, sweep: Sweep, lines: bool) -> None:
    """Draw, below the heading, what marks mean and, where there are lines, which panel is which."""
    marks: dict[str, Artist] = {
        "best": Line2D([], [], **STAR | {"ms": 14}),
        "within one standard error": Line2D([], [], ls="", marker="o", ms=8, color=MUTED),
        "other": Line2D([], [], ls="", marker="o", ms=6, color=MUTED, mfc="white"),
    }
    panels: dict[str, Artist] = {
        name: Line2D([], [], color=colour, marker=marker, ls=line, lw=1.8, ms=5)
        for (colour, marker, line), name in zip(PANEL_STYLES, sweep.panels, strict=False)
    }
    for entries, bottom in ((panels if lines else {}, 4.92), (marks, 4.6)):
        above = place(figure, 0.95, bottom, 7.75, 0.3)
        above.set_axis_off()
        shown = above.legend(
            list(entries.values()), list(entries), loc="center left", ncols=4, columnspacing=1.4, handletextpad=0.5
        )
        if entries is panels:
            fit(shown.get_texts(), 7.75 / len(entries) - 0.75)
