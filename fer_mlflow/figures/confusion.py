"""The confusion matrix: what each class is taken for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fer_mlflow.figures.inputs import check_classes, check_counts
from fer_mlflow.figures.style import (
    FAINT,
    GRID,
    MUTED,
    fit,
    head,
    ink_on,
    page,
    place,
    png,
    readable_names,
    shades,
)

_PAGE = 8.0
_LEFT, _BOTTOM, _SIDE = 1.8, 1.15, 5.95  # inches


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw what part of each labelled class was predicted as what, with counts.

    Colour and per cent are shares of the row, so the diagonal is recall. A class without a labelled row has a hatched
    row. Cells without a row of the benchmark are empty.

    Parameters
    ----------
    confusion : (C, C) int, label (row) against prediction (column)
    classes : C names

    Returns
    -------
    PNG, 1200 × 1200 pixels

    Raises
    ------
    ContractError
        fewer than two classes, another shape or type, a negative count, or no row at all
    """
    C = check_classes(classes)
    confusion = check_counts("confusion", confusion, (C, C))
    names, support = readable_names(classes), confusion.sum(axis=1)
    N, hits = int(support.sum()), int(np.trace(confusion))
    with page(_PAGE, _PAGE) as figure:
        said = f"accuracy {hits / N:.3f}   {hits:,} of {N:,} rows   colour and %: share of the labelled class"
        head(figure, "Confusion matrix", said)
        axes = place(figure, _LEFT, _BOTTOM, _SIDE, _SIDE)
        axes.set(xlim=(0, C), ylim=(C, 0), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _draw_cells(axes, confusion, support)
        _draw_names(figure, axes, names, support)
        return png(figure)


def _draw_cells(axes: Axes, confusion: np.ndarray, support: np.ndarray) -> None:
    C = len(support)
    shares = confusion / np.maximum(support, 1)[:, None]
    colours = shades()
    cell = 72 * _SIDE / C  # points
    percent, count = np.clip((0.26 * cell, 0.19 * cell), 5.0, (17, 11))
    for i, j in np.ndindex(C, C):
        absent = not support[i]
        colour = "#f4f5f6" if absent else colours(shares[i, j])
        axes.add_patch(
            Rectangle((j, i), 1, 1, facecolor=colour, edgecolor=FAINT if absent else GRID, lw=0.6, hatch="//" * absent)
        )
        if confusion[i, j]:
            style: dict[str, Any] = {"ha": "center", "color": ink_on(shares[i, j])}
            weight = "bold" if i == j else "normal"
            style |= {"xy": (j + 0.5, i + 0.5), "textcoords": "offset points"}
            axes.annotate(
                _percent(shares[i, j]), xytext=(0, -0.1 * percent), va="bottom", size=percent, weight=weight, **style
            )
            axes.annotate(f"{confusion[i, j]:,}", xytext=(0, -0.35 * percent), va="top", size=count, **style)


def _percent(share: float) -> str:
    """Return a share above 0 as a whole per cent; only none and all are written as such.

    >>> [_percent(share) for share in (0.004, 0.125, 0.996, 1.0)]
    ['<1%', '12%', '>99%', '100%']
    """
    return "<1%" if share < 0.005 else ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _draw_names(figure: Figure, axes: Axes, names: list[str], support: np.ndarray) -> None:
    C = len(names)
    cell = _SIDE / C
    size = float(np.clip(0.4 * 72 * cell, 7.5, 12))
    gap = 0.1 * C / _SIDE
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "annotation_clip": False}
    rows = [
        axes.annotate(name, (-gap, i + 0.5), (0, 0.05 * size), va="bottom", size=size, **style)
        for i, name in enumerate(names)
    ]
    small = min(9.5, fit(rows, _LEFT - 0.5) * 0.85)
    for i, n in enumerate(support):
        said = f"n = {n:,}" if n else "no row"
        axes.annotate(said, (-gap, i + 0.5), (0, -0.2 * size), va="top", size=small, color=MUTED, **style)
    columns = [axes.text(j + 0.5, C + gap, name, ha="center", va="top", size=size) for j, name in enumerate(names)]
    down = 0.62
    if max(text.get_window_extent().width for text in columns) / figure.dpi > 0.95 * cell:
        fit(columns, (_BOTTOM - 0.4) / np.sin(np.pi / 4))
        down = _BOTTOM - 0.1
        for text in columns:
            text.set(rotation=45, ha="right", rotation_mode="anchor", va="center")
    axes.text(C / 2, C + down * C / _SIDE, "predicted", ha="center", va="bottom", size=12)
    axes.text(-(_LEFT - 0.12) * C / _SIDE, C / 2, "labelled", ha="left", va="center", size=12, rotation=90)
