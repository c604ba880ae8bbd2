"""Precision, recall and F1 of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.inputs import check_classes, check_counts, check_fractions
from fer_mlflow.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SKY,
    VERMILLION,
    fit,
    head,
    page,
    place,
    png,
    readable_names,
)

_WIDTH, _HEIGHT = 9.0, 6.6
_LEFT, _BOTTOM, _PLOT, _TALL = 1.55, 0.65, 3.85, 4.85  # inches
# what stands right of the plot: where a column ends, inches from the plot's right edge
_COLUMNS = {"precision": 0.78, "recall": 1.3, "F1  [95 %]": 2.78, "n": 3.45}


def draw_class_scores(
    precision: np.ndarray,
    recall: np.ndarray,
    f1: np.ndarray,
    f1_low: np.ndarray,
    f1_high: np.ndarray,
    support: np.ndarray,
    classes: Sequence[str],
) -> bytes:
    """Draw each class's F1 as a bar with its 95 % interval, precision and recall as marks on it.

    The dashed line is macro-F1, the mean over the classes that have a labelled row. A score that is NaN (recall and F1
    of a class without a labelled row, precision of one that is never predicted) is written as "none".

    Parameters
    ----------
    precision, recall, f1, f1_low, f1_high : (C,) float in [0, 1] or NaN
    support : (C,) int, labelled rows
    classes : C names

    Returns
    -------
    PNG, 1350 × 990 pixels

    Raises
    ------
    ContractError
        fewer than two classes, shapes disagree, a score outside [0, 1], or no row at all
    """
    C = check_classes(classes)
    given = {"precision": precision, "recall": recall, "f1": f1, "f1_low": f1_low, "f1_high": f1_high}
    scores = {name: check_fractions(name, values, (C,), gaps=True) for name, values in given.items()}
    support = check_counts("support", support, (C,))
    scored = scores["f1"][(support > 0) & ~np.isnan(scores["f1"])]
    if not len(scored):
        raise ContractError("f1 is NaN for every class with a labelled row: there is nothing to draw")
    macro = float(np.mean(scored))
    with page(_WIDTH, _HEIGHT) as figure:
        classes_said = f"{len(scored)} classes" if len(scored) == C else f"{len(scored)} of {C} classes"
        head(figure, "Scores of each class", f"macro-F1 {macro:.3f} over {classes_said}   N {support.sum():,}")
        axes = place(figure, _LEFT, _BOTTOM, _PLOT, _TALL)
        axes.set(xlim=(0, 1), ylim=(C - 0.5, -0.5), xticks=np.linspace(0, 1, 6), yticks=[], xlabel="score")
        axes.spines["left"].set_visible(False)
        _draw_scores(axes, scores, macro)
        _write_table(figure, axes, scores, support, readable_names(classes))
        return png(figure)


def _draw_scores(axes: Axes, scores: dict[str, np.ndarray], macro: float) -> None:
    y = np.arange(len(scores["f1"]))
    mark = min(9.0, 110 / len(y))
    thick = min(1.0, 0.15 * len(y))  # bars of few classes do not fill the page
    axes.barh(y, np.nan_to_num(scores["f1"]), 0.62 * thick, color=SKY, alpha=0.4)
    axes.axvline(macro, color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
    lines = axes.hlines(y, scores["f1_low"], scores["f1_high"], color=BLUE, linewidth=2.2)
    style: dict[str, Any] = {
        "linestyle": "none",
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "clip_on": False,
        "zorder": 5,
    }
    (dots,) = axes.plot(scores["f1"], y, "o", color=BLUE, markersize=0.85 * mark, **style)
    (precise,) = axes.plot(scores["precision"], y - 0.2 * thick, "v", color=VERMILLION, markersize=mark, **style)
    (complete,) = axes.plot(scores["recall"], y + 0.2 * thick, "^", color=ORANGE, markersize=mark, **style)
    axes.legend(
        [precise, complete, (lines, dots)],
        ["precision", "recall", "F1, 95 % interval"],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.005),
        ncols=3,
        handletextpad=0.3,
        columnspacing=1.0,
        borderpad=0.1,
    )


def _write_table(
    figure: Figure, axes: Axes, scores: dict[str, np.ndarray], support: np.ndarray, names: list[str]
) -> None:
    C = len(names)
    size = float(np.clip(0.55 * 72 * _TALL / C, 7.5, 12))
    rows = [axes.text(-0.1 / _PLOT, y, name, ha="right", va="center", size=size) for y, name in enumerate(names)]
    fit(rows, _LEFT - 0.25)
    table = {
        "precision": [_score(value) for value in scores["precision"]],
        "recall": [_score(value) for value in scores["recall"]],
        "F1  [95 %]": [_interval(*row) for row in zip(scores["f1"], scores["f1_low"], scores["f1_high"], strict=True)],
        "n": [f"{count:,}" for count in support],
    }
    size = min(size, 10)
    for title, column in table.items():
        x = 1 + _COLUMNS[title] / _PLOT
        axes.text(x, 1.012, title, ha="right", va="bottom", size=10, color=MUTED, transform=axes.transAxes)
        for y, said in enumerate(column):
            faint = said in ("none", "0")
            axes.text(x, y, said, ha="right", va="center", size=size, color=MUTED if faint else INK)


def _score(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.2f}"


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(value) or np.isnan(low) or np.isnan(high):
        return _score(value)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
