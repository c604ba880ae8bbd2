"""Figures of how confident predictions are: the reliability diagram, and soft labels at each temperature."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from scipy.stats import binomtest

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.scoring.evaluation import expected_calibration_error
from fer_mlflow.scoring.metrics import ECE_BINS, equal_width_bins
from fer_mlflow.scoring.sharpness import Sharpness

_MOST_COUNTS = 25  # bins that have room for a number
_TICKS = (0.01, 0.1, 0.25, 0.5, 1.0)  # shares of rows, on a square-root scale
_COLOURS = (style.BLUE, style.VERMILLION, style.ORANGE, style.PURPLE)
_CURVES = tuple(zip(_COLOURS, ("-", "--", "-.", ":"), (2.6, 1.8, 1.8, 2.2), strict=True))
_SHADED: dict[str, Any] = {"color": style.GREEN, "alpha": 0.13, "lw": 0, "zorder": 0}


class CalibrationBins(NamedTuple):
    """M bins of confidence: rows (M,) int64; means and Wilson's interval (M,) in [0, 1], NaN for an empty bin."""

    rows: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def calibration_bins(confidence: np.ndarray, correct: np.ndarray, n_bins: int = ECE_BINS) -> CalibrationBins:
    """Return the bins, as the ECE has them, of (N,) confidence in [0, 1] and (N,) bool.

    >>> bins = calibration_bins(np.array([0.5, 0.6, 0.8]), np.array([True, False, True]), 2)
    >>> bins.rows.tolist(), bins.accuracy.tolist(), bins.confidence.round(12).tolist()
    ([1, 2], [1.0, 0.5], [0.5, 0.7])
    """
    bins = equal_width_bins(confidence, n_bins)
    rows, hits = (np.bincount(each, minlength=n_bins) for each in (bins, bins[correct]))
    count = np.where(rows > 0, rows, np.nan)
    confidence = np.minimum(np.bincount(bins, weights=confidence, minlength=n_bins) / count, 1.0)
    tests = [binomtest(int(k), int(n)) if n else None for k, n in zip(hits, rows, strict=True)]
    ends = [test.proportion_ci(method="wilson") if test else (np.nan, np.nan) for test in tests]
    return CalibrationBins(rows, confidence, hits / count, *np.transpose(ends))


def draw_reliability(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    n_bins: int = ECE_BINS,
    null: Mapping[str, float] | None = None,
) -> bytes:
    """Draw accuracy against confidence, and below it how many rows each bin has; return a PNG.

    A dot is a bin's accuracy with Wilson's 95 % interval, at the bin's mean confidence. What lies between the two in
    height is shaded: the gap that the ECE adds up. An empty bin draws nothing. Counts are on a square-root scale:
    confident models have nearly all rows in the last bin. Above 25 bins there is no room for the numbers. One panel is
    795 × 1170 pixels, two are 1590 × 1170.

    Parameters
    ----------
    panels : one or two of title -> (confidence (N,) float in [0, 1], correct (N,) bool), such as before and after
    n_bins : equal-width bins over [0, 1], right-closed, as the ECE has them
    null : title -> the 95 % quantile of the ECE of a perfectly calibrated model on these rows, in [0, 1]

    Raises ContractError: no or more than two panels, N = 0, shapes disagree, or a confidence outside [0, 1].
    """
    P = len(panels)
    if not 1 <= P <= 2:
        raise ContractError(f"{P} panels; a reliability diagram has one or two")
    limits = {title: f"   a calibrated model: ≤ {limit:.3f}" for title, limit in (null or {}).items()}
    for title, (confidence, correct) in panels.items():
        style.check_array(f"{title}: confidence", confidence, (len(correct),), bounds=(0, 1))
        style.check_array(f"{title}: correct", correct, (len(confidence),), "b")
        if not len(correct):
            raise ContractError(f"{title}: no labelled row: there is nothing to draw")
    with style.page(5.3 * P, 7.8, "Reliability diagram") as figure:
        rows = figure.subplots(2, P, sharex=True, sharey="row", height_ratios=(3.6, 1), squeeze=False)
        for (title, (confidence, correct)), diagram, counts in zip(panels.items(), *rows, strict=True):
            confidence = confidence.astype(np.float64)
            bins = calibration_bins(confidence, correct, n_bins)
            lines = (
                style.shorten(style.readable(title), 45),
                f"ECE {expected_calibration_error(confidence, correct, n_bins):.3f}{limits.get(title, '')}",
                f"accuracy {correct.mean():.3f}   mean confidence {confidence.mean():.3f}   N {len(correct):,}",
            )
            diagram.set_title("\n".join(lines), size=10.5)
            _draw_diagram(diagram, bins)
            _draw_counts(counts, bins.rows)
        rows[0, 0].set_ylabel("accuracy")
        rows[1, 0].set_ylabel("share of rows")
        style.draw_legend(figure)
        return style.png(figure)


def _draw_diagram(axes: Axes, bins: CalibrationBins) -> None:
    M, (left,) = len(bins.rows), np.nonzero(bins.rows)
    confidence, accuracy = bins.confidence[left], bins.accuracy[left]
    gap, lower = confidence - accuracy, np.minimum(accuracy, confidence)
    bar: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
    axes.bar(left / M, lower, 1 / M, color=style.SKY, alpha=0.35, **bar)
    for name, height, colour in (("over", gap, style.VERMILLION), ("under", -gap, style.PURPLE)):
        bar |= {"label": f"gap: {name}confident", "color": colour, "alpha": 0.5}
        axes.bar(left / M, np.maximum(height, 0), 1 / M, lower, **bar)
    axes.plot([0, 1], [0, 1], **style.LINE)
    axes.vlines(confidence, bins.low[left], bins.high[left], color=style.BLUE, lw=1.8, clip_on=False, zorder=4)
    axes.plot(confidence, accuracy, "o", color=style.BLUE, ms=5.5, mec="white", clip_on=False, zorder=5, gid="accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _draw_counts(axes: Axes, count: np.ndarray) -> None:
    M, heights = len(count), np.sqrt(count / count.sum())
    bars = axes.bar(np.arange(M) / M, heights, 1 / M, align="edge", color=style.FAINT, edgecolor="white")
    if M <= _MOST_COUNTS:
        axes.bar_label(bars, [f"{n:,}" if n else "" for n in count], rotation=90, padding=3, size=min(8.5, 130 / M))
    axes.set(xlim=(0, 1), ylim=(0, 1.45), xlabel="confidence")
    axes.set_yticks(np.sqrt(_TICKS), [f"{tick:.0%}" for tick in _TICKS], size=8.5)


def draw_sharpness(
    sharpness: Sharpness,
    classes: Sequence[str],
    *,
    band: tuple[float, float] = (0.5, 0.8),
    recommended: tuple[float, float] | None = None,
) -> bytes:
    """Draw the top probability, the entropy and each class's mean top probability over temperatures.

    Temperatures stand on a logarithmic axis. The wanted band of mean top probability and the temperatures that it
    recommends are shaded. Return a PNG of 1350 × 1290 pixels.

    Parameters
    ----------
    sharpness : at rising temperatures
    classes : C names
    band : the lowest and highest mean top probability that is wanted
    recommended : the lowest and highest temperature that lie in it, None where none does
    """
    temperatures, C = sharpness.temperatures, len(classes)
    with style.page(9, 8.6, "Sharpness of the soft labels", _describe(band, recommended)) as figure:
        panels = figure.subplot_mosaic([["probability", "entropy"], ["classes", "classes"]])
        top, uncertainty, table = panels.values()
        top.axhspan(*band, **_SHADED)
        for name, (colour, line, width) in zip(("mean", "median", "p90", "p99"), _CURVES, strict=True):
            curve: dict[str, Any] = {"marker": "o", "ms": 4, "color": colour, "lw": width, "label": name}
            top.plot(temperatures, getattr(sharpness, name), line, **curve)
        top.set(ylim=(0, 1.02), ylabel="top probability")
        _draw_entropy(uncertainty, temperatures, sharpness.entropy, sharpness.nearly_sure, C)
        for axes in (top, uncertainty):
            _set_temperatures(axes, temperatures, recommended)
        by_class = sharpness.mean_by_class.T
        texts = np.where(np.isnan(by_class), "none", np.char.mod("%.2f", by_class))
        style.draw_cells(table, by_class, texts, style.readable_names(classes), [f"{T:.4g}" for T in temperatures])
        table.set(xlabel="temperature", title="mean top probability by class")
        return style.png(figure)


def _describe(band: tuple[float, float], recommended: tuple[float, float] | None) -> str:
    wanted = f"a mean top probability of {band[0]:g}–{band[1]:g}"
    if recommended is None:
        return f"no temperature recommended: none gives {wanted}"
    low, high = (f"{end:.3g}" for end in recommended)
    return f"recommended T {low if low == high else f'{low}–{high}'}: {wanted}"


def _set_temperatures(axes: Axes, temperatures: np.ndarray, recommended: tuple[float, float] | None) -> None:
    """Give axes a logarithmic T and a legend above them, and shade the recommended range."""
    pad = float((temperatures[-1] / temperatures[0]) ** 0.03) if len(temperatures) > 1 else 1.5
    limits = temperatures[0] / pad, temperatures[-1] * pad
    axes.set(xscale="log", xlim=limits, xlabel="temperature")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    if recommended is not None:
        axes.axvspan(*np.clip(recommended, *limits), **_SHADED, gid="recommended")


def _draw_entropy(axes: Axes, temperatures: np.ndarray, nats: np.ndarray, share: np.ndarray, C: int) -> None:
    """Draw entropy to log C on the left axis, the share to 1 on the right one, at the same height."""
    most = float(np.log(C))
    axes.plot(temperatures, nats, "-", marker="o", ms=4, color=style.BLUE, lw=2.6, label="entropy")
    axes.axhline(most, **style.LINE, label=f"log {C} = {most:.2f}")
    axes.plot(temperatures, share * most, "--", marker="s", ms=4, color=style.VERMILLION, label="share above 0.99")
    axes.set(ylim=(0, 1.02 * most))
    axes.set_ylabel("entropy, nats", color=style.BLUE)
    right = axes.twinx()
    right.set_ylim(0, 1.02)
    right.set_ylabel("share above 0.99", color=style.VERMILLION)
    right.grid(visible=False)
