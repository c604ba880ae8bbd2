"""Figures of a sweep: what is drawn where, by the artists and by pixel, on usual and on degenerate input."""

from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.collections import LineCollection, RegularPolyCollection
from matplotlib.image import imread

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.figures import draw_pareto, draw_weight_map, pareto, weight_map
from fer_mlflow.scoring.figures.style import shades
from fer_mlflow.scoring.pareto import pareto_front
from fer_mlflow.scoring.simplex import simplex_grid

pytestmark = pytest.mark.usefixtures("coarse_figures")


@contextmanager
def figure_of(module):
    """Give a list that gets the figure that a module draws."""
    seen = []
    original = module.png
    with patch.object(module, "png", lambda figure: seen.append(figure) or original(figure)):
        yield seen


def weight_map_of(K, steps=4, panels=("logit",), metric="macro_f1", values=None, names=None, **changes):
    weights = np.tile(simplex_grid(K, steps), (len(panels), 1))
    kinds = np.repeat(np.array(panels, dtype=object), len(weights) // len(panels))
    values = np.linspace(0.4, 0.8, len(weights)) if values is None else values
    best = int(np.nanargmin(values) if metric == "nll" else np.nanargmax(values)) if np.isfinite(values).any() else 0
    given = {
        "weights": weights,
        "values": values,
        "panels": kinds,
        "names": names or [f"T{k}" for k in range(K)],
        "metric": metric,
        "title": "faces:test",
        "best": best,
        "plateau": np.isclose(values, values[best], atol=0.02),
    }
    given |= changes
    with figure_of(weight_map) as seen:
        drawn = draw_weight_map(**given)
    return drawn, seen[0], given


def texts(figure) -> set[str]:
    own = [each.get_text() for each in figure.texts]
    return {text for text in [*own, *(t.get_text() for axes in figure.axes for t in axes.texts)] if text}


@pytest.mark.parametrize(
    ("K", "panels"), [(1, ["logit"]), (2, ["logit", "prob"]), (3, ["a", "b", "c", "d"]), (5, ["x"])]
)
def test_every_number_of_teachers_has_a_figure_of_the_same_size_and_the_same_bytes(K, panels):
    drawn, figure, _ = weight_map_of(K, panels=panels)
    assert imread(BytesIO(drawn)).shape[:2] == (360, 450)
    assert weight_map_of(K, panels=panels)[0] == drawn
    assert "macro_f1 by weights" in texts(figure)


def test_the_best_is_named_with_its_weights_and_value():
    _, figure, given = weight_map_of(3, values=np.r_[np.linspace(0.4, 0.5, 7), 0.61, np.linspace(0.3, 0.4, 7)])
    assert given["weights"][7].tolist() == [0.25, 0.5, 0.25]
    assert "faces:test   best: T0 0.25 · T1 0.5 · T2 0.25 · logit, 0.6100" in texts(figure)
    star = next(line for line in figure.axes[0].lines if line.get_marker() == "*")
    assert star.get_xydata()[0] == pytest.approx([0.5 + 0.5 * 0.25, 0.25 * np.sqrt(3) / 2])


@pytest.mark.parametrize("metric", ["macro_f1", "nll"])
def test_dark_is_good_whichever_way_a_metric_goes(metric):
    values = np.linspace(0.2, 0.9, 15)
    _, figure, given = weight_map_of(3, metric=metric, values=values, plateau=np.zeros(15, bool))
    (cells,) = [each for each in figure.axes[0].collections if isinstance(each, RegularPolyCollection)]
    lightness = cells.get_facecolors()[:, :3].sum(axis=1)
    assert lightness.argmin() == given["best"]
    assert np.array_equal(np.argsort(lightness), np.argsort(values if metric == "nll" else -values))
    assert cells.get_offsets()[given["best"]] == pytest.approx(given["weights"][given["best"]] @ weight_map._CORNERS)
    assert cells.get_facecolors()[given["best"]] == pytest.approx(shades()(1.0))


def test_the_plateau_is_outlined_and_no_cell_is_lost():
    _, figure, given = weight_map_of(3, steps=6)
    cells = [each for each in figure.axes[0].collections if isinstance(each, RegularPolyCollection)]
    counts = [len(each.get_offsets()) for each in cells]
    assert counts == [28 - given["plateau"].sum(), given["plateau"].sum()]


def test_two_teachers_are_lines_in_the_order_of_the_weight():
    rng = np.random.default_rng(0)
    order = rng.permutation(10)
    _, figure, given = weight_map_of(2, panels=("logit", "prob"))
    shuffled = {key: given[key][order] for key in ("weights", "values", "plateau")}
    kinds, best = given["panels"][order], int(np.flatnonzero(order == 9)[0])
    with figure_of(weight_map) as seen:
        draw_weight_map(**{**given, **shuffled, "panels": kinds, "best": best})
    figure, given = seen[0], {**given, **shuffled, "panels": kinds}
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2]
    assert len(lines) == 2
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines)
    by_panel = [given["values"][given["panels"] == kind] for kind in dict.fromkeys(given["panels"])]
    assert [sorted(line.get_ydata()) for line in lines] == [sorted(values) for values in by_panel]


def test_more_teachers_are_lines_through_every_weight_and_the_metric_last():
    _, figure, given = weight_map_of(4, steps=3)
    lines = next(each for each in figure.axes[0].collections if isinstance(each, LineCollection)).get_segments()
    assert len(lines) == 20
    drawn = {tuple(np.round(line[:4, 1], 6)) for line in lines}
    assert drawn == {tuple(np.round(row, 6)) for row in given["weights"]}
    assert max(line[4, 1] for line in lines) == 1.0
    _, figure, _ = weight_map_of(5, steps=10)
    assert any("of 1,001 lines" in text for text in texts(figure))


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_equal_values_no_values_and_odd_names_are_drawn(K):
    M = len(simplex_grid(K, 2))
    names = ["怒り", "$x$", "a_very_long_name " * 5, "", "tab\there"][:K]
    assert weight_map_of(K, steps=2, values=np.full(M, 0.5), names=names)[0]
    assert weight_map_of(K, steps=2, values=np.full(M, np.nan))[0]
    one = np.r_[0.5, np.full(M - 1, np.nan)]
    assert weight_map_of(K, steps=2, values=one)[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": np.zeros((0, 3))}, "not of configurations of 3 teachers"),
        ({"names": ["A", "B"]}, "not of configurations of 2 teachers"),
        ({"values": np.zeros(3)}, "values is float64 of shape"),
        ({"best": 99}, "plateau, panels and best must be of 15"),
        ({"plateau": np.zeros(15)}, "plateau, panels and best must be of 15"),
        ({"panels": np.array(list("abcde" * 3), dtype=object)}, "5 panels; a figure shows at most 4"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ContractError, match=said):
        weight_map_of(3, **changes)


def pareto_of(x, y, x_metric="macro_f1", y_metric="ece", marks=None):
    lower = np.array([x_metric == "nll", y_metric in ("ece", "nll")])
    front = pareto_front(np.column_stack([x, y]), lower)
    with figure_of(pareto) as seen:
        draw_pareto(
            x,
            y,
            front,
            np.array(["logit", "prob"] * len(x), dtype=object)[: len(x)],
            x_metric=x_metric,
            y_metric=y_metric,
            title="faces:test",
            marks=marks or {},
        )
    return seen[0].axes[0], front


@pytest.mark.parametrize("x_metric", ["macro_f1", "nll"])
@pytest.mark.parametrize("y_metric", ["ece", "accuracy"])
def test_nothing_lies_beyond_the_front(x_metric, y_metric):
    rng = np.random.default_rng(1)
    x, y = rng.random(60), rng.random(60)
    axes, front = pareto_of(x, y, x_metric, y_metric)
    line = next(each for each in axes.lines if str(each.get_drawstyle()).startswith("steps"))
    steps = np.column_stack(line.get_data())
    where = line.get_drawstyle().removeprefix("steps-")
    between = [(b[0], a[1]) if where == "post" else (a[0], b[1]) for a, b in pairwise(steps)]
    signs = np.array([1 if x_metric == "nll" else -1, 1 if y_metric == "ece" else -1])
    points = np.column_stack([x, y]) * signs
    for corner in between:  # a corner is what is guaranteed: no point beats it in both
        assert not (points < np.array(corner) * signs - 1e-12).all(axis=1).any()
    assert len(steps) == front.sum()


def test_axes_say_which_way_is_better_and_marks_are_written():
    axes, _ = pareto_of(np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.2, 0.1]), marks={"best": 2, "near": 1})
    assert axes.get_xlabel() == "macro_f1   (better →)"
    assert axes.get_ylabel() == "ece   (better ↓)"
    assert {each.get_text() for each in axes.texts} == {"best", "near"}
    assert {tuple(each.xy) for each in axes.texts} == {(0.9, 0.1), (0.5, 0.2)}


def test_one_configuration_and_gaps_are_drawn():
    pareto_of(np.array([0.5]), np.array([0.1]), marks={"best": 0})
    axes, front = pareto_of(np.array([0.5, np.nan, 0.7]), np.array([0.1, 0.2, np.nan]), marks={"best": 1})
    assert front.tolist() == [True, False, False]
    assert not axes.texts
    with pytest.raises(ContractError, match="no configuration"):
        draw_pareto(np.array([]), np.array([]), np.array([], bool), [], x_metric="a", y_metric="b", title="", marks={})
