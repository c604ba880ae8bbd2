"""How every figure looks: the page and its PNG, colours, headings, and text that fits its place.

Nothing here changes Matplotlib's global state for longer than a figure takes, nor follows a user's matplotlibrc:
figures of two people can stand side by side.
"""

from collections.abc import Iterator, Sequence
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
from matplotlib.text import Text

DPI = 150
INK, MUTED, FAINT, GRID = "#1f2328", "#5f6770", "#a9b0b7", "#e4e7ea"
# Okabe and Ito's palette, which colour-blind people can tell apart
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.borderaxespad": 0.0,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$"
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


@contextmanager
def page(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of so many inches, and the project's style while it is drawn."""
    defaults: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure is always the same bytes."""
    with BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place given in inches from the page's lower left corner."""
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, bottom / H, width / W, height / H))


def write(figure: Figure, x: float, y: float, text: str, **style) -> Text:
    """Write text at a place given in inches from the page's lower left corner."""
    W, H = figure.get_size_inches()
    return figure.text(x / W, y / H, text, **style)


def head(figure: Figure, title: str, detail: str, left: float = 0.25) -> None:
    """Write a title and a line of detail at the page's top."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    lines = (
        write(figure, left, height - 0.2, readable(title), va="top", size=15, weight="bold"),
        write(figure, left, height - 0.51, readable(detail), va="top", size=11, color=MUTED),
    )
    for line in lines:
        fit([line], width - left - 0.2)


def fit(texts: Sequence[Text], width: float) -> float:
    """Make texts, not turned yet, at most so many inches wide, and return their common size in points.

    All become smaller together, by a quarter at most and not below 8 points; what is still too long loses its middle.
    """
    widest = max(_width(text) for text in texts)
    size = float(texts[0].get_fontsize())
    if widest > width:
        size = min(size, max(8.0, 0.75 * size, np.floor(4 * size * width / widest) / 4))
    for text in texts:
        text.set_fontsize(size)
        whole = text.get_text()
        kept = len(whole)
        while kept > 1 and _width(text) > width:
            kept = min(kept - 1, max(1, int(kept * width / _width(text)) + 1))
            text.set_text(f"{whole[: (kept + 1) // 2].rstrip()}…{whole[len(whole) - kept // 2 :].lstrip()}")
    return size


def _width(text: Text) -> float:
    """Return how wide a text is drawn, in inches."""
    return float(text.get_window_extent().width) / DPI if text.get_text() else 0.0


def readable(text: str, missing: str = "□") -> str:
    """Return text as one line of characters that the font has.

    White space becomes blanks, invisible marks go, a character that the font lacks becomes `missing`.

    >>> readable("a\\tb \\u200b怒り")
    'a b □□'
    """
    seen = "".join(" " if mark.isspace() else mark for mark in text)
    return "".join(
        mark if ord(mark) in _drawable() else missing for mark in seen if category(mark) not in ("Cc", "Cf")
    ).strip()


def readable_names(names: Sequence[str]) -> list[str]:
    """Return names for a figure; one that the font cannot draw whole has its place among them, from 0, added.

    >>> readable_names(["Angry", "怒り", "f1/悲しみ", ""])
    ['Angry', '□□ (1)', 'f1/□□□ (2)', '(3)']
    """
    drawn = [readable(name) for name in names]
    whole = [bool(name) and name == readable(given, missing="") for name, given in zip(drawn, names, strict=True)]
    return [
        name if ok else f"{name} ({place})".strip() for place, (name, ok) in enumerate(zip(drawn, whole, strict=True))
    ]


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the code points that the font has in both weights."""
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    regular, bold = (FT2Font(f"{folder}/{name}.ttf").get_charmap() for name in ("DejaVuSans", "DejaVuSans-Bold"))
    return frozenset(regular.keys() & bold.keys())


def shades() -> LinearSegmentedColormap:
    """Return the colours of 0 (white) to 1 (dark blue); lightness falls evenly, so it also reads in grey."""
    return LinearSegmentedColormap.from_list("shades", ["#ffffff", "#c6dcee", "#5fa3d0", "#0f6aa8", "#08375e"])


def ink_on(shade: float) -> str:
    """Return the colour of text that can be read on `shades()(shade)`."""
    return "white" if shade > 0.62 else INK  # where both contrast alike


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign and a true minus.

    >>> signed(-0.0124, 3), signed(0.5, 1), signed(-0.0001, 3)
    ('−0.012', '+0.5', '0.000')
    """
    text = f"{value:+.{decimals}f}"
    return (text if text.strip("+-0.") else text[1:]).replace("-", "−")
