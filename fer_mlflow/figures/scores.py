"""Figures of scores: confusion matrix, scores of each class, contact sheet of mistakes, differences of two runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.scoring.metrics import is_lower_better

MOST_IMAGES = 36
SIGNIFICANT = 0.05
_UNSURE = "p ≥ 0.05 or n/a"
_COLOURS = {"B better": (style.BLUE,) * 2, "A better": (style.VERMILLION,) * 2, _UNSURE: (style.MUTED, "white")}


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw which share of each labelled class was predicted as what, with counts; return a PNG of 1200 × 1200 pixels.

    Colour and per cent are shares of the row, so the diagonal is recall. The row of a class without a labelled row is
    grey. Counts of 0 are not written.

    Parameters
    ----------
    confusion : (C, C) int, label (row) against prediction (column), at least one row
    classes : C names
    """
    C = len(classes)
    confusion = style.check_array("confusion", confusion, (C, C), "iu", bounds=(0, np.inf))
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
    """
    C = len(classes)
    given = {"precision": precision, "recall": recall, "f1": f1, "f1_low": f1_low, "f1_high": f1_high}
    precision, recall, f1, low, high = (
        style.check_array(name, values, (C,), gaps=True, bounds=(0, 1)) for name, values in given.items()
    )
    scored = f1[~np.isnan(f1)]
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
    """
    if not 1 <= len(images) <= MOST_IMAGES or len(captions) != len(images):
        raise ContractError(
            f"{len(images)} images and {len(captions)} captions; a sheet has 1 to {MOST_IMAGES} of each"
        )
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


def draw_differences(table: pd.DataFrame, runs: tuple[str, str] | None = None) -> bytes:
    """Draw B - A of each score with its 95 % interval; filled marks are significant (p < 0.05); return a PNG.

    Losses, where less is better, have a plot of their own below. Each plot is symmetric about 0. The page is 1350
    pixels wide; its height depends on the rows alone.

    Parameters
    ----------
    table : str column metric; float columns difference, low, high, NaN where a score has no difference, or no interval;
        p_value, NaN where none was computed (such a difference is not called significant)
    runs : the names of A and B
    """
    values = {name: table[name].to_numpy(float) for name in ("difference", "low", "high", "p_value")}
    for name, each in values.items():
        style.check_array(name, each, (len(table),), gaps=True)
    less = np.array([is_lower_better(name) for name in table["metric"]])
    named = pd.DataFrame(values, index=style.readable_names(table["metric"].tolist()))
    groups = [(named[less == lower], lower) for lower in (False, True) if (less == lower).any()]
    rows = [len(group) + 1.0 for group, _ in groups]  # and the columns' titles
    height = 1.4 + 0.7 * len(groups) + min(0.4, 9 / sum(rows)) * sum(rows)
    run_names = [f"{letter}: {name}" for letter, name in zip("AB", runs or (), strict=False)]
    with style.page(9, height, "Difference B − A", *run_names) as figure:
        grid = figure.subplots(len(groups), height_ratios=rows, squeeze=False)
        for axes, (group, lower) in zip(grid.flat, groups, strict=True):
            _draw_group(axes, group, lower)
        style.draw_legend(figure)
        return style.png(figure)


def _draw_group(axes: Axes, group: pd.DataFrame, lower: bool) -> None:
    limit = 1.05 * float(group[["difference", "low", "high"]].abs().fillna(0).to_numpy().max()) or 1.0
    axes.axvline(0, color=style.INK, lw=1.1)
    for verdict, (edge, face) in _COLOURS.items():
        axes.plot([], [], "o-", ms=7.5, color=edge, mfc=face, mew=1.6, lw=2.2, label=verdict)
    intervals = []
    for y, row in enumerate(group.itertuples()):
        better = "A better" if (row.difference > 0) == lower else "B better"
        edge, face = _COLOURS[better if row.p_value < SIGNIFICANT else _UNSURE]
        axes.plot([row.low, row.high], [y, y], color=edge, lw=2.2, solid_capstyle="butt", zorder=3)
        dot: dict[str, Any] = {"color": edge, "mfc": face, "mew": 1.6, "zorder": 4, "gid": f"difference {row.Index}"}
        axes.plot([row.difference], [y], "o", ms=7.5, **dot)
        text = "none" if np.isnan(row.difference) else f"{row.difference:+.3f}"
        has_interval = not np.isnan(row.low + row.high)
        intervals.append((f"{text} [{row.low:+.3f}, {row.high:+.3f}]" if has_interval else text).replace("-", "−"))
    columns = {"B − A [95 %]": intervals, "p": [_p(value) for value in group["p_value"]]}
    style.draw_columns(axes, list(group.index), columns)
    axes.set(xlim=(-limit, limit), xlabel=f"B − A, {'less' if lower else 'more'} is better")


def _p(value: float) -> str:
    """Return a p-value as text.

    >>> _p(0.0004), _p(0.0312), _p(float("nan"))
    ('<0.001', '0.031', 'n/a')
    """
    return "n/a" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
