"""Labels of points that neither cover each other nor leave the axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from fer_mlflow.figures.style import INK, MUTED, fit

_DISTANCES = (13, 22, 34, 50, 70, 95)  # points from a mark to its label
_ANGLES = np.deg2rad([45, 135, -45, -135, 0, 180, 90, -90])
_GRID = 24  # places each way that are tried where none around the mark is free
_MARGIN = 3.0  # points between labels


def place_labels(axes: Axes, at: np.ndarray, labels: Sequence[str], crowd: np.ndarray, width: float) -> list[Text]:
    """Write labels beside points, each with a line to its own.

    A label takes the place nearest to its point that no other label and no labelled point has; of places equally far,
    the one that covers fewest of the crowd. The axes' limits must be set.

    Parameters
    ----------
    at : (M, 2) float, the points, in data coordinates
    labels : M texts
    crowd : (P, 2) float, points that are better not covered, in data coordinates
    width : inches that a label may be wide
    """
    scale = axes.figure.dpi / 72
    spots, others = (axes.transData.transform(np.reshape(points, (-1, 2))) for points in (at, crowd))
    inside = axes.get_window_extent()
    taken = [np.array([*spot - 9 * scale, *spot + 9 * scale]) for spot in spots]
    texts = []
    for spot, label in zip(spots, labels, strict=True):
        text = axes.text(0, 0, label, ha="center", va="center", size=9.5, zorder=12)
        fit([text], width)
        extent = text.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 + _MARGIN * scale
        middle = _free_place(spot, half, np.array(taken), others, np.reshape(inside.get_points(), 4), scale)
        taken.append(np.array([*middle - half, *middle + half]))
        text.set_position(tuple(axes.transData.inverted().transform(middle)))
        text.set_bbox({"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.85})
        end = np.clip(spot, middle - half, middle + half)  # of the label, nearest to its point
        axes.plot(*axes.transData.inverted().transform([spot, end]).T, color=MUTED, linewidth=0.9, zorder=8)
        text.set_color(INK)
        texts.append(text)
    return texts


def _free_place(
    spot: np.ndarray, half: np.ndarray, taken: np.ndarray, crowd: np.ndarray, inside: np.ndarray, scale: float
) -> np.ndarray:
    """Return where the middle of a label goes, in pixels: the first distance at which some place is free."""
    rays = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    lean = np.where(np.abs(rays) > 0.1, np.sign(rays), 0) * half
    low, high = inside[:2] + half, inside[2:] - half
    sides = [np.linspace(a, max(a, b), _GRID) for a, b in zip(low, high, strict=True)]
    everywhere = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    everywhere = everywhere[np.argsort(np.linalg.norm(everywhere - spot, axis=1), kind="stable")]
    for middles in [spot + distance * scale * rays + lean for distance in _DISTANCES] + [everywhere]:
        boxes = np.hstack([middles - half, middles + half])
        within = np.all(np.hstack([boxes[:, :2] >= inside[:2] - 1, boxes[:, 2:] <= inside[2:] + 1]), axis=1)
        apart = (boxes[:, None, :2] >= taken[:, 2:]) | (boxes[:, None, 2:] <= taken[:, :2])
        free = within & np.all(np.any(apart, axis=2), axis=1)
        if free.any():
            kept = middles[free]
            if middles is everywhere:
                return kept[0]
            covered = ((np.abs(crowd - kept[:, None]) < half).all(axis=2)).sum(axis=1)
            return kept[np.argmin(covered)]
    return everywhere[0]
