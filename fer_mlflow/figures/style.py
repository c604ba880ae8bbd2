"""The page, colours, text and PNG that all figures share.

Nothing here changes Matplotlib's global state for longer than a figure takes, and a user's matplotlibrc has no effect:
the figures of two people can stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any
from unicodedata import category

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

DPI = 150
INK, MUTED, FAINT, GRID = "#1f2328", "#5f6770", "#a9b0b7", "#e4e7ea"
# Okabe and Ito's palette, which colour-blind people can distinguish
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
CURVES = tuple(zip((BLUE, VERMILLION, GREEN, PURPLE), "os^D", ("-", "--", "-.", ":"), strict=True))
LINE: dict[str, Any] = {"color": INK, "lw": 1.1, "ls": (0, (5, 3))}  # of what values are compared with
# Pale to dark blue; lightness falls evenly, so it also reads in grey. Values that are missing are grey.
_SHADES = ["#f5f9fc", "#c6dcee", "#5fa3d0", "#0f6aa8", "#08375e"]
SHADES = LinearSegmentedColormap.from_list("shades", _SHADES).with_extremes(bad="#d9d9d6")
_STYLE: dict[Any, Any] = dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), INK)
_STYLE |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT) | {"grid.color": GRID}
_STYLE |= {"axes.axisbelow": True, "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False}
_STYLE |= {"axes.labelsize": 11, "axes.titlelocation": "left", "axes.titlesize": 11, "font.size": 10.5}
_STYLE |= {"font.family": "DejaVu Sans", "legend.fontsize": 10, "legend.frameon": False}
_STYLE |= {"text.parse_math": False}  # a class may be called "$"


@contextmanager
def page(width: float, height: float, title: str, *details: str) -> Iterator[Figure]:
    """Give a figure of so many inches with a heading, and the project's style while it is drawn.

    Matplotlib's constrained layout has the room below the heading. A line that is too long loses its middle.
    """
    defaults: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        top = 0.18
        for number, line in enumerate(readable(line) for line in (title, *details)):
            look: dict[str, Any] = {"size": 11, "color": MUTED} if number else {"size": 14, "weight": "bold"}
            text = figure.text(0.2 / width, 1 - top / height, line, va="top", **look)
            length, most = len(line), (width - 0.4) * figure.dpi
            while length > 1 and (drawn := text.get_window_extent().width) > most:
                length = min(length - 1, int(length * most / drawn) + 1)
                text.set_text(shorten(line, length))
            top += 0.25 if number else 0.3
        room = (0.01, 0.01, 0.98, 0.99 - (top + 0.05) / height)
        figure.set_layout_engine("constrained", rect=room, w_pad=0.08, h_pad=0.08)
        yield figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure is always the same bytes."""
    with BytesIO() as buffer:
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()


def draw_legend(figure: Figure, columns: int = 4) -> None:
    """Draw one legend of all labelled artists below the axes."""
    lists = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for handles, labels in lists for handle, label in zip(handles, labels, strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def draw_cells(axes: Axes, values: np.ndarray, texts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw a table of (R, C) texts whose cells are shaded by (R, C) values in [0, 1], NaN in grey."""
    R, C = values.shape
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    size = float(np.clip(100 / max(R, C), 4.5, 11))
    for i, j in np.argwhere(texts != ""):
        ink = "white" if values[i, j] > 0.62 else INK  # where both contrast alike
        axes.text(j + 0.5, i + 0.5, texts[i, j], ha="center", va="center", size=size, color=ink, in_layout=False)
    axes.set_xticks(np.arange(C) + 0.5, columns)
    if max(map(len, columns)) * C > 75:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_yticks(np.arange(R) + 0.5, rows)
    axes.tick_params(length=0, labelsize=min(10.5, 1.6 * size))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()


def draw_columns(axes: Axes, names: Sequence[str], table: Mapping[str, Sequence[str]]) -> None:
    """Name an axes' rows 0, 1, … on the left, and write columns of text on the right, their titles above row 0."""
    R = len(names)
    size = float(np.clip(250 / R, 7, 10))
    widths = [max(map(len, (title, *cells))) for title, cells in table.items()]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in (table, *zip(*table.values(), strict=True))
    ]
    axes.set(ylim=(R - 0.5, -1.3))
    axes.set_yticks(range(R), names, size=size)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(-1, R), lines, family="DejaVu Sans Mono", size=0.9 * size)
    for each, side in ((axes, "left"), (right, "right")):
        each.tick_params(axis="y", length=0)
        each.spines[side].set_visible(False)
    axes.grid(visible=False, axis="y")


def readable(text: str, missing: str = "□") -> str:
    """Return text as one line of characters that the font has.

    White space becomes blanks, invisible characters are removed, a character that the font lacks becomes `missing`.

    >>> readable("a\\tb \\u200b怒り")
    'a b □□'
    """
    spaced = "".join(" " if mark.isspace() else mark for mark in text)
    visible = [mark for mark in spaced if category(mark) not in ("Cc", "Cf")]
    return "".join(mark if ord(mark) in _drawable() else missing for mark in visible).strip()


def readable_names(names: Sequence[str], most: int = 22) -> list[str]:
    """Return names of about `most` characters; one that the font lacks or that is not unique has its place added.

    >>> readable_names(["Angry", "怒り", "f1/悲しみ", ""])
    ['Angry', '□□ (1)', 'f1/□□□ (2)', '(3)']
    """
    drawn = [shorten(readable(name), most) for name in names]
    whole = [readable(name) == readable(name, missing="") != "" for name in names]
    return [
        name if ok and drawn.count(name) == 1 else f"{name} ({place})".strip()
        for place, (name, ok) in enumerate(zip(drawn, whole, strict=True))
    ]


def shorten(name: str, length: int) -> str:
    """Return a name without its middle where it is longer than `length` characters.

    >>> shorten("resnet18", 8), shorten("resnet18_rafdb", 8)
    ('resnet18', 'resn…fdb')
    """
    kept = length - 1
    return name if len(name) <= length else f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the code points that the font has in both weights."""
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    regular, bold = (FT2Font(f"{folder}/{name}.ttf").get_charmap() for name in ("DejaVuSans", "DejaVuSans-Bold"))
    return frozenset(regular.keys() & bold.keys())
