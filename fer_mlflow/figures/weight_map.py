"""The map of a sweep: how good each weighting of the teachers is, and how wide the plateau around the best."""

from collections.abc import Sequence

import numpy as np

from fer_mlflow.figures.style import page, png
from fer_mlflow.figures.sweep_input import check_sweep
from fer_mlflow.figures.sweep_page import cells
from fer_mlflow.figures.weight_axes import draw_axes
from fer_mlflow.figures.weight_line import LINE_PAGE, draw_line, draw_one_teacher
from fer_mlflow.figures.weight_triangle import draw_triangles


def draw_weight_map(
    weights: np.ndarray,
    values: np.ndarray,
    panels: Sequence[str],
    names: Sequence[str],
    *,
    metric: str,
    title: str,
    best: int,
    plateau: np.ndarray,
) -> bytes:
    """Draw a metric over the weights of K teachers: a line for two, triangles for three, parallel axes for more.

    Two teachers have one plot with a line per panel; one teacher has a row of dots per panel. Otherwise panels stand
    side by side and share one scale, on which darker is better whichever way the metric goes. The worst tenth of the
    values is drawn alike where it would take more than a third of that scale. A star marks the best configuration, an
    open one the best of each other panel.

    Parameters
    ----------
    weights : (M, K) float in [0, 1], rows sum to 1; any grid step or list
    values : (M,) float, the metric of each configuration; NaN where it was not scored
    panels : (M,) text, such as "logit" or "prob · clahe"; at most four different ones, drawn as they first appear
    names : K teachers
    metric : its public name, which says whether less is better
    title : the figure's heading
    best : the best configuration's row, scored
    plateau : (M,) bool, configurations not distinguishable from the best; the best belongs to it, and none unscored

    Returns
    -------
    PNG. K <= 2: 1350 × 930 pixels. K >= 3: 1155 × 1200 for one panel, 1695 × 1080 for two, 1695 × 1830 for more

    Raises
    ------
    ContractError
        M = 0 or K = 0, shapes disagree, weights that are not fractions summing to 1, an infinite value, more than four
        panels, or a best configuration that is not there or not scored
    """
    sweep = check_sweep(weights, values, panels, names, metric, best, plateau)
    width, height, places = cells(len(sweep.panels))
    K = len(names)
    with page(*(LINE_PAGE if K <= 2 else (width, height))) as figure:
        if K == 1:
            draw_one_teacher(figure, sweep, title)
        elif K == 2:
            draw_line(figure, sweep, title)
        else:
            (draw_triangles if K == 3 else draw_axes)(figure, sweep, title, places)
        return png(figure)
