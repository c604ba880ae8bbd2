"""The page that all maps of a sweep share: where panels stand, the heading, the scale of colours and the legend."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fer_mlflow.figures.style import FAINT, INK, MUTED, ORANGE, VERMILLION, fit, head, place, shades, write
from fer_mlflow.figures.sweep_input import Sweep, direction, number, weight_said

STAR: dict[str, Any] = {"ls": "", "marker": "*", "ms": 19, "color": ORANGE, "mec": INK, "mew": 1.1, "zorder": 9}
PANEL_STAR: dict[str, Any] = STAR | {"ms": 14, "color": "white"}
PLATEAU = VERMILLION
UNSCORED = (0.85, 0.85, 0.84, 1.0)
_PALEST = 0.05  # of the colours, so that the worst can be told from paper
_HEAD, _FOOT, _EDGE = 1.2, 1.0, 0.25
_ONE, _SEVERAL = (7.2, 5.8), (5.4, 5.0)  # inches of a panel that is alone, or not
_NAME_LENGTHS = (60, 32, 24, 18, 14, 12)  # characters of a name in a line of several


class Cell(NamedTuple):
    """A panel's place on the page, in inches."""

    left: float
    bottom: float
    width: float
    height: float


def cells(P: int) -> tuple[float, float, list[Cell]]:
    """Return a page's width and height, and the places of its panels: side by side, three or four in two rows."""
    width, height = _ONE if P == 1 else _SEVERAL
    columns, rows = min(P, 2), -(-P // 2)
    places = [
        Cell(_EDGE + (number % 2) * width, _FOOT + (rows - 1 - number // 2) * height, width, height)
        for number in range(P)
    ]
    return columns * width + 2 * _EDGE, rows * height + _HEAD + _FOOT, places


def colours(goodness: np.ndarray) -> np.ndarray:
    """Return (M, 4) colours of values in [0, 1], 1 the darkest; NaN is grey."""
    found = shades()(_PALEST + (1 - _PALEST) * np.nan_to_num(goodness))
    found[np.isnan(goodness)] = UNSCORED
    return found


def draw_head(figure: Figure, sweep: Sweep, title: str, more: str = "") -> None:
    """Write the title, how many configurations there are, and the best one."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    near, gaps, M = int(sweep.plateau.sum()) - 1, int(np.isnan(sweep.values).sum()), len(sweep.values)
    said = [f"{M:,} configuration{'s' * (M != 1)}"]
    if M > 1:
        said.append(f"{f'{near:,}' if near else 'no other one'} within one paired standard error of the best")
    if gaps:
        said.append(f"{gaps:,} not scored")
    head(figure, title, " · ".join(said + [more] * bool(more)))
    where = shortened(sweep.panels[sweep.panel[sweep.best]], _NAME_LENGTHS[2])
    value = f"★ best {sweep.metric} {number(sweep.values[sweep.best])}: {where}, "
    line = write(figure, _EDGE, height - 0.76, "", va="top", size=11, weight="bold")
    used = int((sweep.weights[sweep.best] > 0).sum())
    shorter = [(_NAME_LENGTHS[-1], terms) for terms in range(used - 1, 0, -1)]
    for length, terms in [(length, used) for length in _NAME_LENGTHS] + shorter:
        line.set_text(value + _recipe(sweep, length, terms))
        if line.get_window_extent().width <= (width - 2 * _EDGE) * figure.dpi:
            break
    fit([line], width - 2 * _EDGE)


def _recipe(sweep: Sweep, length: int, terms: int) -> str:
    """Return the heaviest of the best weights with their teachers, whose names are cut in the middle to a length."""
    weights = sweep.weights[sweep.best]
    used = [k for k in np.argsort(-weights, kind="stable") if weights[k] > 0]
    said = [f"{weight_said(weights[k])} {shortened(sweep.names[k], length)}" for k in used[:terms]]
    return " + ".join(said + [f"{len(used) - terms} others"] * (terms < len(used)))


def shortened(name: str, length: int) -> str:
    """Return a name without its middle where it is longer than `length` characters.

    >>> shortened("resnet18", 8), shortened("resnet18_rafdb", 8)
    ('resnet18', 'resn…fdb')
    """
    kept = length - 1
    return name if len(name) <= length else f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"


def draw_panel_title(figure: Figure, cell: Cell, sweep: Sweep, panel: int) -> None:
    """Write a panel's name and its best configuration at its top left."""
    best = sweep.best_of(panel)
    said = "none scored"
    if best is not None:
        said = f"best {number(sweep.values[best])}"
        said += f" at {' / '.join(map(weight_said, sweep.weights[best]))}" if len(sweep.names) <= 6 else ""
    top = cell.bottom + cell.height
    fit(
        [write(figure, cell.left + 0.05, top, sweep.panels[panel], va="top", size=12.5, weight="bold")],
        cell.width - 0.3,
    )
    fit([write(figure, cell.left + 0.05, top - 0.25, said, va="top", size=10, color=MUTED)], cell.width - 0.3)


def scale_ticks(sweep: Sweep) -> tuple[list[float], list[str]]:
    """Return where on the scale, from 0 (worst) to 1 (best), ticks stand, and the values there."""
    if sweep.worst == sweep.better:
        return [1.0], [number(sweep.better)]
    at = [0.0, 0.5, 1.0]
    said = [number(sweep.worst + t * (sweep.better - sweep.worst)) for t in at]
    beyond = np.nanmax(sweep.values) > sweep.worst if sweep.lower else np.nanmin(sweep.values) < sweep.worst
    return at, [("≥ " if sweep.lower else "≤ ") + said[0] if beyond else said[0], *said[1:]]


def draw_foot(figure: Figure, sweep: Sweep, legend: Mapping[str, Artist]) -> None:
    """Draw the scale of colours and, beside it, what the marks mean."""
    width = float(figure.get_size_inches()[0])
    bar = place(figure, 0.5, 0.42, 2.5, 0.15)
    gradient = _PALEST + (1 - _PALEST) * np.linspace(0, 1, 256)[None]
    bar.imshow(gradient, cmap=shades(), vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1), interpolation="nearest")
    bar.set(yticks=[], xlim=(0, 1))
    bar.set_xticks(*scale_ticks(sweep))
    bar.tick_params(length=3, labelsize=9.5)
    bar.grid(visible=False)
    bar.spines[:].set(visible=True, color=FAINT)
    fit([write(figure, 0.5, 0.63, f"{sweep.metric}, {direction(sweep.lower)}", va="bottom", size=10)], 3.2)
    beside = place(figure, 3.6, 0.2, width - 3.8, 0.6)
    beside.set_axis_off()
    entries = {"handles": list(legend.values()), "labels": list(legend)}
    beside.legend(**entries, loc="center left", ncols=2 if width < 9 else 3, handletextpad=0.5, columnspacing=1.4)


def star_legend(sweep: Sweep) -> dict[str, Artist]:
    """Return the legend's entries of the stars."""
    several = len(sweep.panels) > 1
    entries: dict[str, Artist] = {"best": Line2D([], [], **STAR | {"ms": 14})}
    return entries | ({"best of its panel": Line2D([], [], **PANEL_STAR | {"ms": 11})} if several else {})
