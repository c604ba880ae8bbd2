"""The page, colours, text, checked arrays and PNG that all figures share.

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

from fer_mlflow.errors import ContractError

DPI = 150
INK, MUTED, FAINT, GRID = "#1f2328", "#5f6770", "#a9b0b7", "#e4e7ea"
# Okabe and Ito's palette, which colour-blind people can distinguish
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK, MUTED)
CURVES = tuple(zip(_COLOURS, "os^Dv<>P", ("-", "--", "-.", ":") * 2, strict=True))
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
            font: dict[str, Any] = {"size": 11, "color": MUTED} if number else {"size": 14, "weight": "bold"}
            text = figure.text(0.2 / width, 1 - top / height, line, va="top", **font)
            while text.get_window_extent().width > (width - 0.4) * figure.dpi:
                text.set_text(shorten(line, int(0.95 * len(text.get_text()))))
            top += 0.25 if number else 0.3
        room = (0.01, 0.01, 0.98, 0.99 - (top + 0.05) / height)
        figure.set_layout_engine("constrained", rect=room, w_pad=0.08, h_pad=0.08)
        yield figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure is always the same bytes."""
    with BytesIO() as buffer:
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()


def draw_legend(figure: Figure) -> None:
    """Draw one legend of all labelled artists below the axes, in as many columns as the page has room for."""
    lists = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for handles, labels in lists for handle, label in zip(handles, labels, strict=True)}
    widths, most = [len(label) + 8 for label in entries], 11 * figure.get_figwidth()  # in characters, a handle is 8
    fitting = (n for n in range(len(widths), 1, -1) if sum(map(max, np.array_split(widths, n))) < most)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=next(fitting, 1))


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
    marks = (" " if mark.isspace() else mark for mark in text)
    visible = (mark for mark in marks if category(mark) not in ("Cc", "Cf"))
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


def check_array(
    name: str,
    values: Any,
    shape: tuple[int, ...],
    kinds: str = "fiu",
    *,
    gaps: bool = False,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray:
    """Return values as an array if they are finite, within bounds, of a shape and of one of NumPy's kinds of dtype.

    Numbers (`fiu`) are returned as float64; where `gaps`, NaN passes. Raises ContractError, which names the value.
    """
    values = np.asarray(values)
    if values.shape != shape or values.dtype.kind not in kinds:
        wanted = {"fiu": "numbers", "iu": "integers", "b": "bool"}[kinds]
        raise ContractError(f"{name} is {values.dtype} of shape {values.shape}; it must be {wanted} of shape {shape}")
    wrong = np.isinf(values) | (np.isnan(values) & (not gaps)) | (values < bounds[0]) | (values > bounds[1])
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        rule = "finite" if bounds[1] == np.inf else f"in {list(bounds)}"
        raise ContractError(f"{name}{list(where) if where else ''} is {values[where]}; it must be {rule}")
    return values.astype(np.float64) if kinds == "fiu" else values


def check_panels(panels: Sequence[str], M: int) -> tuple[np.ndarray, list[str]]:
    """Return (M,) int, each configuration's panel, and the names of 1 to 8 panels as they first appear."""
    if len(panels) != M:
        raise ContractError(f"{M} configurations and {len(panels)} panels; each configuration is in one")
    different = list(dict.fromkeys(map(str, panels)))
    if len(different) > len(CURVES):
        raise ContractError(f"{len(different)} different panels; a figure of a sweep has 1 to {len(CURVES)}")
    return np.array([different.index(str(name)) for name in panels]), readable_names(different, 32)


def scale_ends(values: np.ndarray, lower: bool, most: float = 1 / 3) -> tuple[float, float]:
    """Return the values at the worst and at the better end of a scale.

    A teacher of noise would leave one colour to all that matters: so the worst tenth of the values lies beyond the
    scale where it would otherwise take more of it than `most`.

    >>> scale_ends(np.array([0.7, 0.8, 0.75]), lower=False), scale_ends(np.array([0.7, 0.8, 0.75]), lower=True)
    ((0.7, 0.8), (0.8, 0.7))
    >>> scale_ends(np.array([0.1, *np.arange(70, 80) / 100]), lower=False)
    (0.7, 0.79)
    """
    losses = values if lower else -values
    best, worst = float(losses.min()), float(losses.max())
    cut = float(np.quantile(losses, 0.9, method="higher"))
    if best < cut < worst - most * (worst - best):
        worst = cut
    return (worst, best) if lower else (-worst, -best)


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the code points that the font has in both weights."""
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    regular, bold = (FT2Font(f"{folder}/{name}.ttf").get_charmap() for name in ("DejaVuSans", "DejaVuSans-Bold"))
    return frozenset(regular.keys() & bold.keys())
