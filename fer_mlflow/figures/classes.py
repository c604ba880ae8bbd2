"""Figures of single classes and images: confusion matrix, scores of each class, contact sheet of mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.figures.inputs import check_classes, check_counts, check_fractions

MOST_IMAGES = 36


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw which share of each labelled class was predicted as what, with counts; return a PNG of 1200 × 1200 pixels.

    Colour and per cent are shares of the row, so the diagonal is recall. The row of a class without a labelled row is
    grey. Counts of 0 are not written.

    Parameters
    ----------
    confusion : (C, C) int, label (row) against prediction (column)
    classes : C names

    Raises
    ------
    ContractError
        fewer than two classes, another shape or type, a negative count, or no row at all
    """
    C = check_classes(classes)
    confusion = check_counts("confusion", confusion, (C, C))
    names, support = style.readable_names(classes), confusion.sum(axis=1)
    N, hits = int(support.sum()), int(np.trace(confusion))
    shares = confusion / np.where(support, support, np.nan)[:, None]
    texts = [f"{_percent(s)}\n{n:,}" if n else "" for s, n in zip(shares.flat, confusion.flat, strict=True)]
    detail = f"accuracy {hits / N:.3f}   {hits:,} of {N:,} rows   colour and %: share of the labelled class"
    rows = [f"{name}\n{f'n = {n:,}' if n else 'no row'}" for name, n in zip(names, support, strict=True)]
    with style.page(8, 8, "Confusion matrix", detail) as figure:
        axes = figure.subplots()
        style.draw_cells(axes, shares, np.reshape(texts, (C, C)), rows if C <= 15 else names, names)
        axes.set(xlabel="predicted", ylabel="labelled", aspect="equal")
        return style.png(figure)


def _percent(share: float) -> str:
    """Return a share above 0 as a whole per cent; only none and all are written as such.

    >>> [_percent(share) for share in (0.004, 0.125, 0.996, 1.0)]
    ['<1%', '12%', '>99%', '100%']
    """
    return "<1%" if share < 0.005 else ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def draw_class_scores(
    precision: np.ndarray,
    recall: np.ndarray,
    f1: np.ndarray,
    f1_low: np.ndarray,
    f1_high: np.ndarray,
    support: np.ndarray,
    classes: Sequence[str],
) -> bytes:
    """Draw each class's F1 as a bar with its 95 % interval, precision and recall as marks on it; return a PNG.

    The dashed line is macro-F1, the mean over the classes that have a labelled row. A score that is NaN (recall and F1
    of a class without a labelled row, precision of one that is never predicted) is written as "none". The page is 1350
    pixels wide; its height depends on C alone.

    Parameters
    ----------
    precision, recall, f1, f1_low, f1_high : (C,) float in [0, 1] or NaN
    support : (C,) int, labelled rows
    classes : C names

    Raises
    ------
    ContractError
        fewer than two classes, shapes disagree, a score outside [0, 1], or no row at all
    """
    C = check_classes(classes)
    given = {"precision": precision, "recall": recall, "f1": f1, "f1_low": f1_low, "f1_high": f1_high}
    precision, recall, f1, low, high = (
        check_fractions(name, values, (C,), gaps=True) for name, values in given.items()
    )
    support = check_counts("support", support, (C,))
    scored = f1[(support > 0) & ~np.isnan(f1)]
    if not len(scored):
        raise ContractError("f1 is NaN for every class with a labelled row: there is nothing to draw")
    macro, y = float(np.mean(scored)), np.arange(C)
    detail = f"macro-F1 {macro:.3f} over {len(scored)} of {C} classes   N {support.sum():,}"
    table = {
        "precision": _texts("%.2f", precision),
        "recall": _texts("%.2f", recall),
        "F1 [95 %]": _texts("%.2f [%.2f, %.2f]", f1, low, high),
        "n": [f"{count:,}" for count in support],
    }
    with style.page(9, 2.2 + 9 * C / (C + 8), "Scores of each class", detail) as figure:
        axes = figure.subplots()
        axes.barh(y, np.nan_to_num(f1), 0.6, color=style.SKY, alpha=0.4, gid="f1")
        axes.axvline(macro, **style.LINE, label="macro-F1")
        axes.hlines(y, low, high, color=style.BLUE, lw=2.2)
        marks: dict[str, Any] = {"ls": "", "mec": "white", "ms": min(9.0, 110 / C), "clip_on": False, "zorder": 5}
        axes.plot(f1, y, "o", color=style.BLUE, label="F1, 95 % interval", **marks)
        axes.plot(precision, y - 0.15, "v", color=style.VERMILLION, label="precision", **marks)
        axes.plot(recall, y + 0.15, "^", color=style.ORANGE, label="recall", **marks)
        style.draw_columns(axes, style.readable_names(classes), table)
        axes.set(xlim=(0, 1), xlabel="score")
        style.draw_legend(figure)
        return style.png(figure)


def _texts(template: str, *columns: np.ndarray) -> list[str]:
    """Return the numbers of each row as text, NaN as "none"."""
    rows = zip(*columns, strict=True)
    return [(template % row).replace(" [nan, nan]", "").replace("nan", "none") for row in rows]


def draw_mistakes(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 6) -> bytes:
    """Draw images in the order given, with their captions; return a PNG, 240 pixels wide for each column.

    Parameters
    ----------
    images : 1 to 36 of (h, w, 3) uint8 RGB, each of any size
    captions : one for each image: a line above it and up to two below; lines that are too long lose their middle

    Raises
    ------
    ContractError
        no image, more than 36, another shape or type, or another number of captions
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ContractError(f"{len(images)} images; a sheet of mistakes has 1 to {MOST_IMAGES}")
    if len(captions) != len(images):
        raise ContractError(f"{len(images)} images and {len(captions)} captions")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ContractError(f"image {number} is {image.dtype} of shape {image.shape}; it must be uint8, (h, w, 3)")
    rows = -(-len(images) // columns)
    with style.page(1.6 * columns, 0.8 + 2.05 * rows, "Most confident mistakes", f"{len(images)} shown") as figure:
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, image, caption in zip(figure.axes, images, captions, strict=False):
            axes.imshow(image, interpolation="hanning")
            first, *others = [style.shorten(style.readable(line), 20) for line in f"{caption}\n".split("\n")[:3]]
            axes.set_title(first, loc="center", size=9.5, weight="bold")
            axes.set_xlabel("\n".join(others), size=8.5, color=style.MUTED)
        return style.png(figure)
