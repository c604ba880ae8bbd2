"""Figures of scores: each class's, mistakes, differences of two runs; and of confidence: reliability and sharpness."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from scipy.stats import binomtest

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.scoring import evaluation, metrics

MOST_IMAGES = 36
SIGNIFICANT = 0.05
_UNSURE = "p ≥ 0.05 or n/a"
_COLOURS = {"B better": (style.BLUE,) * 2, "A better": (style.VERMILLION,) * 2, _UNSURE: (style.MUTED, "white")}
_TICKS = (0.01, 0.1, 0.25, 0.5, 1.0)  # shares of rows, on a square-root scale
_CURVES = {
    "mean": (style.BLUE, "-", 2.6),
    "median": (style.VERMILLION, "--", 1.8),
    "p90": (style.ORANGE, "-.", 1.8),
    "p99": (style.PURPLE, ":", 2.2),
}
_SHADED: dict[str, Any] = {"color": style.GREEN, "alpha": 0.13, "lw": 0, "zorder": 0}


def draw_predictions(
    rows: tuple[np.ndarray, ...], classes: Sequence[str], title: str, null: Mapping[str, float] | None = None
) -> dict[str, bytes]:
    """Return the figures of (N,) labels, predictions and confidences, by the names that the UI lays side by side."""
    labels, predictions, confidence = rows
    confusion = draw_confusion(metrics.confusion_matrix(labels, predictions, len(classes)), classes)
    reliability = draw_reliability({title: (confidence, predictions == labels)}, null=null)
    return {"reliability.png": reliability, "confusion_matrix.png": confusion}


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw (C, C) int counts of label (row) against prediction, and their shares; return a PNG of 1200 × 1200 pixels.

    Colour and per cent are shares of the row, so the diagonal is recall. The row of a class without a labelled row is
    grey. Counts of 0 are not written.
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


def draw_class_scores(scores: pd.DataFrame) -> bytes:
    """Draw each class's F1 as a bar with its 95 % interval, precision and recall as marks on it; return a PNG.

    The table has a row for each class: precision, recall, f1, f1_low, f1_high and support. A score that is NaN (recall
    and F1 of a class without a labelled row, precision of one that is never predicted) is written as "none". The dashed
    line is macro-F1, the mean of those that are there. The page is 1350 pixels wide; its height depends on C alone.
    """
    C, support = len(scores), scores["support"]
    precision, recall, f1, low, high = (
        style.check_array(name, scores[name], (C,), gaps=True, bounds=(0, 1))
        for name in ("precision", "recall", "f1", "f1_low", "f1_high")
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
        style.draw_columns(axes, style.readable_names(scores.index), table)
        axes.set(xlim=(0, 1), xlabel="score")
        style.draw_legend(figure)
        return style.png(figure)


def _texts(template: str, *columns: np.ndarray) -> list[str]:
    """Return the numbers of each row as text, NaN as "none"."""
    rows = zip(*columns, strict=True)
    return [(template % row).replace(" [nan, nan]", "").replace("nan", "none") for row in rows]


def draw_mistakes(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 6) -> bytes:
    """Draw 1 to 36 (h, w, 3) uint8 RGB images of any size in their order; return a PNG, 240 pixels wide a column.

    A caption is a line above its image and up to two below. Lines of up to 40 characters are whole: type shrinks.
    """
    if not 1 <= len(images) <= MOST_IMAGES or len(captions) != len(images):
        given = f"{len(images)} images and {len(captions)} captions"
        raise ContractError(f"{given}; a sheet has 1 to {MOST_IMAGES} of each")
    rows = -(-len(images) // columns)
    with style.page(1.6 * columns, 0.8 + 2.05 * rows, "Most confident mistakes", f"{len(images)} shown") as figure:
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, image, caption in zip(figure.axes, images, captions, strict=False):
            axes.imshow(image, interpolation="hanning")
            first, *others = [style.shorten(style.readable(line), 40) for line in f"{caption}\n".split("\n")[:3]]
            axes.set_title(first, loc="center", size=min(9.5, 170 / max(1, len(first))), weight="bold")
            axes.set_xlabel("\n".join(others), size=min(8.5, 200 / max(1, *map(len, others))), color=style.MUTED)
        return style.png(figure)


def draw_differences(table: pd.DataFrame, runs: tuple[str, str] | None = None) -> bytes:
    """Draw B - A of each score with its 95 % interval; filled marks are significant (p < 0.05); return a PNG.

    Losses, where less is better, have a plot of their own below. Each plot is symmetric about 0. The page is 1350
    pixels wide; its height depends on the rows alone. The table has a row for each score: metric, difference, low, high
    and p_value, NaN where there is none. `runs` are the names of A and B.
    """
    values = {name: table[name].to_numpy(float) for name in ("difference", "low", "high", "p_value")}
    for name, each in values.items():
        style.check_array(name, each, (len(table),), gaps=True)
    less = np.array([metrics.is_lower_better(name) for name in table["metric"]])
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


class CalibrationBins(NamedTuple):
    """M bins of confidence: rows (M,) int64; means and Wilson's interval (M,) in [0, 1], NaN for an empty bin."""

    rows: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def calibration_bins(confidence: np.ndarray, correct: np.ndarray, n_bins: int = metrics.ECE_BINS) -> CalibrationBins:
    """Return the bins, as the ECE has them, of (N,) confidence in [0, 1] and (N,) bool.

    >>> bins = calibration_bins(np.array([0.5, 0.6, 0.8]), np.array([True, False, True]), 2)
    >>> bins.rows.tolist(), bins.accuracy.tolist(), bins.confidence.round(12).tolist()
    ([1, 2], [1.0, 0.5], [0.5, 0.7])
    """
    bins = metrics.equal_width_bins(confidence, n_bins)
    rows, hits = (np.bincount(each, minlength=n_bins) for each in (bins, bins[correct]))
    count = np.where(rows > 0, rows, np.nan)
    confidence = np.minimum(np.bincount(bins, weights=confidence, minlength=n_bins) / count, 1.0)
    tests = [binomtest(int(k), int(n)) if n else None for k, n in zip(hits, rows, strict=True)]
    ends = [test.proportion_ci(method="wilson") if test else (np.nan, np.nan) for test in tests]
    return CalibrationBins(rows, confidence, hits / count, *np.transpose(ends))


def draw_reliability(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], null: Mapping[str, float] | None = None
) -> bytes:
    """Draw accuracy against confidence, and below it how many rows each bin has; return a PNG.

    A dot is a bin's accuracy with Wilson's 95 % interval, at the bin's mean confidence. What lies between the two in
    height is shaded: the gap that the ECE adds up. An empty bin draws nothing. Counts are on a square-root scale:
    confident models have nearly all rows in the last bin. One panel is 795 × 1170 pixels, two are 1590 × 1170.

    `panels` are one or two of title -> (confidence (N,) float in [0, 1], correct (N,) bool); `null` has for a title the
    95 % quantile of the ECE of a perfectly calibrated model on these rows.
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
            bins = calibration_bins(confidence, correct)
            lines = (
                style.shorten(style.readable(title), 45),
                f"ECE {evaluation.expected_calibration_error(confidence, correct):.3f}{limits.get(title, '')}",
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
    axes.bar_label(bars, [f"{n:,}" if n else "" for n in count], rotation=90, padding=3, size=min(8.5, 130 / M))
    axes.set(xlim=(0, 1), ylim=(0, 1.45), xlabel="confidence")
    axes.set_yticks(np.sqrt(_TICKS), [f"{tick:.0%}" for tick in _TICKS], size=8.5)


def draw_sharpness(
    sharpness: evaluation.Sharpness,
    classes: Sequence[str],
    *,
    band: tuple[float, float] = (0.5, 0.8),
    recommended: tuple[float, float] | None = None,
) -> bytes:
    """Draw the top probability, the entropy and each class's mean top probability over temperatures.

    Temperatures, which rise, stand on a logarithmic axis. The wanted band of mean top probability and the temperatures
    that it recommends, None where there are none, are shaded. Return a PNG of 1350 × 1290 pixels.
    """
    temperatures, C = sharpness.temperatures, len(classes)
    wanted = f"a mean top probability of {band[0]:g}–{band[1]:g}"
    found = f"no temperature recommended: none gives {wanted}"
    if recommended is not None:
        low, high = (f"{end:.3g}" for end in recommended)
        found = f"recommended T {low if low == high else f'{low}–{high}'}: {wanted}"
    with style.page(9, 8.6, "Sharpness of the soft labels", found) as figure:
        panels = figure.subplot_mosaic([["probability", "entropy"], ["classes", "classes"]])
        top, uncertainty, table = panels.values()
        top.axhspan(*band, **_SHADED)
        for name, (colour, line, width) in _CURVES.items():
            values = getattr(sharpness, name)
            top.plot(temperatures, values, line, marker="o", ms=4, color=colour, lw=width, label=name)
        top.set(ylim=(0, 1.02), ylabel="top probability")
        _draw_entropy(uncertainty, temperatures, sharpness.entropy, sharpness.nearly_sure, C)
        for axes in (top, uncertainty):
            _set_temperatures(axes, temperatures, recommended)
        by_class = sharpness.mean_by_class.T
        texts = np.where(np.isnan(by_class), "none", np.char.mod("%.2f", by_class))
        style.draw_cells(table, by_class, texts, style.readable_names(classes), [f"{T:.4g}" for T in temperatures])
        table.set(xlabel="temperature", title="mean top probability by class")
        return style.png(figure)


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
