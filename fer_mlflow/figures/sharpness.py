"""How sharp soft labels are at each temperature, and which temperatures suit distillation."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.inputs import check_classes, check_fractions, check_numbers
from fer_mlflow.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    fit,
    head,
    ink_on,
    page,
    place,
    png,
    readable,
    readable_names,
    shades,
)

_WIDTH, _HEIGHT = 9.0, 8.6
_CURVES = ((BLUE, "-", 2.6), (VERMILLION, "--", 1.8), (ORANGE, "-.", 1.8), (PURPLE, ":", 2.2), (SKY, "-", 1.8))
_PLOT, _TALL, _UP = 3.35, 2.75, 4.55  # inches of the two upper panels
_LEFT, _BOTTOM, _BROAD, _DEEP = 1.5, 0.65, 7.2, 2.95  # of the table of classes


def draw_sharpness(
    temperatures: np.ndarray,
    quantiles: Mapping[str, np.ndarray],
    entropy: np.ndarray,
    share_above: np.ndarray,
    *,
    classes: Sequence[str],
    mean_by_class: np.ndarray,
    band: tuple[float, float] = (0.5, 0.8),
    recommended: tuple[float, float] | None = None,
) -> bytes:
    """Draw the top probability, the entropy and each class's mean top probability over temperatures.

    Temperatures stand on a logarithmic axis. The band of mean top probability that is asked for and the temperatures
    that it recommends are shaded.

    Parameters
    ----------
    temperatures : (R,) float, positive and rising
    quantiles : name ("mean", "median", "p90", "p99") -> (R,) float in [0, 1] of the top probability; at most five
    entropy : (R,) float in [0, log C], mean over rows, nats
    share_above : (R,) float in [0, 1], share of rows whose top probability is above 0.99
    classes : C names
    mean_by_class : (R, C) float in [0, 1], NaN for a class without a row
    band : the lowest and highest mean top probability that is asked for
    recommended : the lowest and highest temperature that lie in it, None where none does

    Returns
    -------
    PNG, 1350 × 1290 pixels

    Raises
    ------
    ContractError
        no temperature, or temperatures that do not rise from above 0; shapes disagree; a value out of range; no curve
        or more than five; a band or range whose ends are not in order
    """
    C = check_classes(classes)
    R = np.size(temperatures)
    temperatures = check_numbers("temperatures", temperatures, (R,))
    if not R or temperatures[0] <= 0 or (np.diff(temperatures) <= 0).any():
        raise ContractError(f"temperatures are {temperatures.tolist()}; they must be one or more, positive and rising")
    if not 1 <= len(quantiles) <= len(_CURVES):
        raise ContractError(f"{len(quantiles)} curves of the top probability; there must be 1 to {len(_CURVES)}")
    curves = {name: check_fractions(name, values, (R,)) for name, values in quantiles.items()}
    # a mean of logs may pass log C by a rounding
    nats = np.log(C) * check_fractions("entropy / log C", np.asarray(entropy) / (np.log(C) * (1 + 1e-9)), (R,))
    share = check_fractions("share_above", share_above, (R,))
    by_class = check_fractions("mean_by_class", mean_by_class, (R, C), gaps=True)
    if not 0 <= band[0] <= band[1] <= 1:
        raise ContractError(f"the band is {band}; it must be two rising probabilities")
    if recommended is not None and not 0 < recommended[0] <= recommended[1]:
        raise ContractError(f"the recommended temperatures are {recommended}; they must be two, positive and rising")
    with page(_WIDTH, _HEIGHT) as figure:
        head(figure, "Sharpness of the soft labels", _said(band, recommended))
        probability = place(figure, 0.75, _UP, _PLOT, _TALL)
        _draw_probability(probability, temperatures, curves, band)
        uncertainty = place(figure, 0.75 + _PLOT + 0.85, _UP, _PLOT, _TALL)
        _draw_entropy(uncertainty, temperatures, nats, share, C)
        for axes in (probability, uncertainty):
            _set_temperatures(axes, temperatures, recommended)
        _draw_classes(figure, temperatures, by_class, readable_names(classes))
        return png(figure)


def _said(band: tuple[float, float], recommended: tuple[float, float] | None) -> str:
    wanted = f"a mean top probability of {band[0]:g}–{band[1]:g}"
    if recommended is None:
        return f"no temperature recommended: none gives {wanted}"
    low, high = (f"{end:.3g}" for end in recommended)
    return f"recommended T {low if low == high else f'{low}–{high}'}: {wanted}"


def _set_temperatures(axes: Axes, temperatures: np.ndarray, recommended: tuple[float, float] | None) -> None:
    """Give axes a logarithmic T, ticks at the temperatures that have room, and the recommended range."""
    at = np.log(temperatures)
    pad = 0.03 * (at[-1] - at[0]) or 0.5
    low, high = at[0] - pad, at[-1] + pad
    if recommended is not None:
        ends = np.clip(np.log(recommended), low, high)
        axes.axvspan(ends[0], ends[1], color=GREEN, alpha=0.13, linewidth=0, zorder=0)
    ticks = [at[0]]
    for value in at[1:]:
        if value - ticks[-1] > 0.06 * (high - low):
            ticks.append(value)
    axes.set_xticks(ticks, [f"{np.exp(tick):.4g}" for tick in ticks])
    axes.set(xlim=(low, high), xlabel="temperature")


def _draw_probability(
    axes: Axes, temperatures: np.ndarray, curves: dict[str, np.ndarray], band: tuple[float, float]
) -> None:
    axes.axhspan(*band, color=GREEN, alpha=0.13, linewidth=0, zorder=0)
    for (name, values), (colour, line, width) in zip(curves.items(), _CURVES, strict=False):
        axes.plot(
            np.log(temperatures), values, line, marker="o", ms=4, color=colour, lw=width, label=readable(name), zorder=3
        )
    axes.set(ylim=(0, 1.02), ylabel="top probability", yticks=np.linspace(0, 1, 6))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=5, handlelength=1.7, columnspacing=1.0)


def _draw_entropy(axes: Axes, temperatures: np.ndarray, nats: np.ndarray, share: np.ndarray, C: int) -> None:
    """Draw entropy to log C on the left axis, the share to 1 on the right one, at the same height."""
    most, at = float(np.log(C)), np.log(temperatures)
    (one,) = axes.plot(at, nats, "-", marker="o", ms=4, color=BLUE, lw=2.6, zorder=3)
    line = axes.axhline(most, color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
    (other,) = axes.plot(at, share * most, "--", marker="s", ms=4, color=VERMILLION, lw=1.8, zorder=3)
    axes.set(ylim=(0, 1.02 * most), ylabel="entropy, nats")
    axes.yaxis.label.set_color(BLUE)
    right = axes.twinx()
    right.set(ylim=(0, 1.02), yticks=np.linspace(0, 1, 6))
    right.grid(visible=False)
    right.set_ylabel("share above 0.99", color=VERMILLION)
    names = ["entropy", f"log {C} = {most:.2f}", "share above 0.99"]
    axes.legend(
        [one, line, other],
        names,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.02),
        ncols=3,
        handlelength=1.5,
        columnspacing=1.0,
    )


def _draw_classes(figure: Figure, temperatures: np.ndarray, by_class: np.ndarray, names: list[str]) -> None:
    R, C = by_class.shape
    axes = place(figure, _LEFT, _BOTTOM, _BROAD, _DEEP)
    axes.set(xlim=(0, R), ylim=(C, 0), xticks=[], yticks=[], xlabel="temperature")
    axes.xaxis.labelpad = 20
    axes.spines[:].set_visible(False)
    axes.set_title("mean top probability by class", loc="left", size=11, color=MUTED, pad=6)
    colours = shades()
    size = float(np.clip(min(0.6 * 72 * _DEEP / C, 0.35 * 72 * _BROAD / R), 4.5, 11))
    for k, r in np.ndindex(C, R):
        value = float(by_class[r, k])
        absent = bool(np.isnan(value))
        colour = "#f4f5f6" if absent else colours(value)
        axes.add_patch(Rectangle((r, k), 1, 1, facecolor=colour, edgecolor=FAINT if absent else GRID, lw=0.6))
        ink = MUTED if absent else ink_on(value)
        said = "none" if absent else f"{value:.2f}"
        axes.text(r + 0.5, k + 0.52, said, ha="center", va="center", size=size, color=ink)
    name_size = float(np.clip(0.6 * 72 * _DEEP / C, 7, 11))
    fit(
        [
            axes.text(-0.08 * R / _BROAD, k + 0.52, name, ha="right", va="center", size=name_size)
            for k, name in enumerate(names)
        ],
        _LEFT - 0.3,
    )
    fit(
        [
            axes.text(r + 0.5, C + 0.06 * C / _DEEP, f"{T:.4g}", ha="center", va="top")
            for r, T in enumerate(temperatures)
        ],
        0.95 * _BROAD / R,
    )
