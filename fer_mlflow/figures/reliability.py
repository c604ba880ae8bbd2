"""The reliability diagram: how often answers of each confidence are right."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.calibration_bins import CalibrationBins, calibration_bins
from fer_mlflow.figures.inputs import check_fractions
from fer_mlflow.figures.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PURPLE,
    SKY,
    VERMILLION,
    fit,
    page,
    place,
    png,
    readable,
    write,
)
from fer_mlflow.scoring.calibration_error import ECE_BINS

_WIDTH, _HEIGHT = 5.32, 7.6  # inches of one panel, whole pixels, so that both panels are alike
_LEFT, _SIDE = 0.76, 4.36  # of the diagram, which is square
_MOST_COUNTS = 25  # bins that have room for a number
_SHADE = 0.5  # how opaque a gap is
_TICKS = (0.01, 0.1, 0.25, 0.5, 1.0)  # shares of rows, on a square-root scale


def draw_reliability(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    n_bins: int = ECE_BINS,
    null: Mapping[str, float] | None = None,
) -> bytes:
    """Draw accuracy against confidence, and below it how many rows each bin has.

    A dot is a bin's accuracy with Wilson's 95 % interval, at the bin's mean confidence. What lies between the two in
    height is shaded: the gap that the ECE adds up. An empty bin draws nothing. Counts are on a square-root scale:
    confident models have nearly all rows in the last bin. Above 25 bins there is no room for the numbers.

    Parameters
    ----------
    panels : one or two of title -> (confidence (N,) float in [0, 1], correct (N,) bool), such as before and after
    n_bins : equal-width bins over [0, 1], right-closed, as the ECE has them
    null : title -> the 95 % quantile of the ECE that a perfectly calibrated model would show on these rows, in [0, 1]

    Returns
    -------
    PNG; one panel is 798 × 1140 pixels, two are 1596 × 1140

    Raises
    ------
    ContractError
        no or more than two panels, N = 0, shapes disagree, a confidence outside [0, 1], no bin, or a null that is
        outside [0, 1] or of a panel that is not there
    """
    if not 1 <= len(panels) <= 2:
        raise ContractError(f"{len(panels)} panels; a reliability diagram has one or two")
    if n_bins < 1:
        raise ContractError(f"{n_bins} bins; a reliability diagram needs one or more")
    null = {
        title: float(check_fractions(f"null of {title}", np.asarray(value), ()))
        for title, value in (null or {}).items()
    }
    if unknown := sorted(set(null) - set(panels)):
        raise ContractError(f"null names the panels {unknown}; there are {list(panels)}")
    bins = {title: _checked_bins(title, *panel, n_bins) for title, panel in panels.items()}
    with page(_WIDTH * len(panels), _HEIGHT) as figure:
        for number, (title, found) in enumerate(bins.items()):
            left = _WIDTH * number
            _draw_head(figure, left, title, found, panels[title][1], null.get(title))
            _draw_diagram(figure, left, found)
            _draw_counts(figure, left, found.count)
        return png(figure)


def _checked_bins(title: str, confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> CalibrationBins:
    correct = np.asarray(correct)
    if correct.ndim != 1 or correct.dtype != np.bool_:
        raise ContractError(f"{title}: correct is {correct.dtype} of shape {correct.shape}; it must be bool, (rows,)")
    if not len(correct):
        raise ContractError(f"{title}: no labelled row: there is nothing to draw")
    return calibration_bins(check_fractions(f"{title}: confidence", confidence, correct.shape), correct, n_bins)


def _draw_head(
    figure: Figure, left: float, title: str, bins: CalibrationBins, correct: np.ndarray, null: float | None
) -> None:
    N = int(bins.count.sum())
    confidence = float(np.nansum(bins.confidence * bins.count) / N)
    chance = "" if null is None else f"   a calibrated model: ≤ {null:.3f}"
    x, top = left + _LEFT, _HEIGHT - 0.18
    name = write(figure, x, top, readable(title), va="top", size=13, color=MUTED)
    fit([name], _SIDE)
    ece = write(figure, x, top - 0.26, f"ECE {bins.ece:.3f}", va="top", size=17, weight="bold")
    end = ece.get_window_extent().x1 / figure.dpi
    write(figure, end + 0.05, top - 0.315, chance, va="top", size=11, color=MUTED)
    said = f"accuracy {np.mean(correct):.3f}   mean confidence {confidence:.3f}   N {N:,}"
    line = write(figure, x, top - 0.6, said, va="top", size=10.5, color=INK)
    fit([line], _SIDE)


def _draw_diagram(figure: Figure, left: float, bins: CalibrationBins) -> None:
    axes = place(figure, left + _LEFT, 1.9, _SIDE, _SIDE)
    M = len(bins.count)
    full = np.flatnonzero(bins.count)
    edges, width = full / M, 1 / M
    confidence, accuracy = bins.confidence[full], bins.accuracy[full]
    lower, gap = np.minimum(accuracy, confidence), np.abs(accuracy - confidence)
    side = np.where(confidence > accuracy, VERMILLION, PURPLE)
    axes.bar(edges, lower, width, align="edge", color=SKY, alpha=0.35, edgecolor="white", linewidth=0.8)
    axes.bar(edges, gap, width, lower, align="edge", color=side, alpha=_SHADE, edgecolor="white", linewidth=0.8)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
    axes.vlines(confidence, bins.low[full], bins.high[full], color=BLUE, linewidth=1.8, clip_on=False, zorder=4)
    axes.plot(confidence, accuracy, "o", color=BLUE, markersize=5.5, markeredgecolor="white", clip_on=False, zorder=5)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    axes.tick_params(labelbottom=False)
    keys = [Patch(facecolor=colour, alpha=_SHADE) for colour in (VERMILLION, PURPLE)]
    names = ["gap: too sure", "gap: not sure enough"]
    axes.legend(keys, names, loc="lower left", bbox_to_anchor=(0, 1.015), ncols=2, handlelength=1.4, borderpad=0)


def _draw_counts(figure: Figure, left: float, count: np.ndarray) -> None:
    axes = place(figure, left + _LEFT, 0.55, _SIDE, 1.2)
    M, share = len(count), count / count.sum()
    for m in np.flatnonzero(count):
        height = float(np.sqrt(share[m]))
        axes.bar(m / M, height, 1 / M, align="edge", color=FAINT, edgecolor="white", linewidth=0.8)
        if M > _MOST_COUNTS:
            continue
        inside = height > 0.5
        axes.annotate(
            f"{count[m]:,}",
            ((m + 0.5) / M, height),
            (0, -3 if inside else 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="top" if inside else "bottom",
            size=min(8.5, 130 / M),
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of rows", xticks=np.linspace(0, 1, 6))
    axes.set_yticks(np.sqrt(_TICKS), [f"{tick:.0%}" for tick in _TICKS], size=8.5)
