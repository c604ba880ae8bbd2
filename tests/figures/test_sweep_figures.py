"""What stands on the figures of a sweep, and that no input spoils them."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from sweeps import AWKWARD, NAMES, PANELS, simplex, sweep, trade, weight_map

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.figures.sweep import CORNERS, draw_pareto, outline
from fer_mlflow.search.choices import pareto_front

pytestmark = pytest.mark.usefixtures("coarse_figures")

NAN = float("nan")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def named(figure: Figure, gid: str) -> list:
    """Return what is drawn under a name, in the order of the panels."""
    return [artist for axes in figure.axes for artist in axes.findobj(lambda artist: artist.get_gid() == gid)]


def position(artist) -> np.ndarray:
    """Return where a mark stands, in the data's coordinates."""
    return np.array([float(np.squeeze(axis)) for axis in artist.get_data()])


# maps


@pytest.mark.parametrize(("K", "P"), [(1, 1), (2, 4), (3, 1), (3, 2), (5, 4)])
def test_no_text_leaves_the_page_whatever_teachers_are_called(K, P, figure_of):
    panels = [AWKWARD[p] for p in np.arange(P).repeat(len(simplex(K, 3)))]
    figure = figure_of(weight_map, **sweep(K, 3, P, names=AWKWARD[-K:], panels=panels, title="a title " * 30))
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > 0


def test_what_is_found_is_written(figure_of):
    given = sweep(3, 10)
    given["values"][4] = NAN
    best = int(np.flatnonzero((given["weights"] == [0.6, 0.3, 0.1]).all(axis=1))[0])
    given["values"][best] = 0.91236
    figure = figure_of(weight_map, **given | {"best": best, "plateau": np.arange(66) < 3})
    assert {
        "Sweep of faces",
        "66 configurations · 3 others within one paired standard error of the best · 1 not scored",
        "★ best macro_f1 0.9124: logit, 0.6 RN18 + 0.3 RN50 + 0.1 ViT",
        "logit\nbest 0.9124 at 0.6 / 0.3 / 0.1",
        "macro_f1, more is better",
        "not scored",
    } <= set(texts(figure))


@pytest.mark.parametrize("K", [3, 5])
def test_panels_stand_in_the_order_in_which_they_appear(K, figure_of):
    figure = figure_of(weight_map, **sweep(K, 2, 4))
    assert [axes.get_title("left").split("\n")[0] for axes in figure.axes[:4]] == list(PANELS)


def test_a_cell_stands_where_its_weights_say_and_better_is_darker_and_on_top(figure_of):
    for metric, sign in (("f1/Fear", 1), ("ece_adaptive", -1)):
        values = 0.5 + 0.1 * np.random.default_rng(4).permutation(21) / 20
        given = sweep(metric=metric, values=values, best=int((sign * values).argmax()))
        (cells,) = named(figure_of(weight_map, **given), "cells")
        order = np.argsort(sign * values)
        middles = [path.vertices[:6].mean(axis=0) for path in cells.get_paths()]
        np.testing.assert_allclose(middles, given["weights"][order] @ CORNERS, atol=1e-9)
        assert (np.diff(cells.get_facecolor()[:, :3].mean(axis=1)) < 0).all()


def test_the_first_teacher_is_on_top_and_the_others_follow_anticlockwise(figure_of):
    figure = figure_of(weight_map, **sweep(3, 5))
    at = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert at["RN18"][1] > at["RN50"][1] == at["ViT"][1]
    assert at["RN50"][0] < at["RN18"][0] < at["ViT"][0]


def test_the_star_is_at_the_best_and_open_ones_at_other_panels_best(figure_of):
    given = sweep(3, 4, 3)
    given["values"][[3, 15 + 7, 30 + 9]] = 0.9, 0.95, 0.8
    figure = figure_of(weight_map, **given | {"best": 22})
    (best,) = named(figure, "best")
    assert best.get_color() == style.ORANGE
    for star, row in zip([best, *named(figure, "best of its panel")], (22, 3, 39), strict=True):
        np.testing.assert_allclose(position(star), given["weights"][row] @ CORNERS, atol=1e-9)
        assert star.axes.get_title("left").startswith(PANELS[row // 15])


@pytest.mark.parametrize(
    ("rows", "edges"),
    [
        ([[5, 0, 5]], 6),
        ([[5, 0, 5], [5, 1, 4]], 10),
        ([[5, 0, 5], [5, 5, 0]], 12),
        ([[4, 3, 3], [5, 2, 3], [5, 3, 2], [4, 4, 2], [3, 4, 3], [3, 3, 4], [4, 2, 4]], 18),
    ],
)
def test_the_plateau_is_outlined_as_a_whole(rows, edges, figure_of):
    given = sweep(3, 10, 2)
    plateau = (given["weights"][:, None] == np.array(rows) / 10).all(axis=2).any(axis=1)
    plateau[66:] = False
    given |= {"plateau": plateau, "best": int(np.argmax(plateau))}
    borders = [len(border.get_segments()) for border in named(figure_of(weight_map, **given), "plateau")]
    assert borders == [edges, 0]
    assert outline(np.zeros((0, 6, 2))).shape == (0, 2, 2)


def test_what_is_not_scored_is_grey_and_below(figure_of):
    given = sweep(3, 5)
    given["values"][[2, 9]] = NAN
    colours = named(figure_of(weight_map, **given), "cells")[0].get_facecolor()[:, :3]
    assert np.ptp(colours[:2], axis=1).max() < 0.02  # no blue
    assert np.ptp(colours[3:], axis=1).min() > 0.02


def test_a_few_far_worse_values_do_not_take_the_colours(figure_of):
    values = np.linspace(0.70, 0.72, 66)
    values[:3] = 0.1
    for metric, given in (("macro_f1", values), ("nll", 1 - values)):
        figure = figure_of(weight_map, **sweep(3, 10, values=given, metric=metric, best=65))
        light = named(figure, "cells")[0].get_facecolor()[:, :3].mean(axis=1)
        assert np.ptp(light[3:]) > 0.5
        assert figure.axes[-1].get_xlim() == pytest.approx(sorted(np.abs([given[65], given[6]])))  # the seventh value


def test_two_teachers_are_a_line_over_the_first_ones_weight(figure_of):
    given = sweep(2, 10, 2)
    given["values"][4] = NAN
    mixed = np.random.default_rng(0).permutation(22)
    mixed = np.concatenate([mixed[mixed < 11], mixed[mixed >= 11]])
    shuffled = {name: given[name][mixed] for name in ("weights", "values", "plateau")}
    figure = figure_of(weight_map, **given | shuffled | {"best": int(np.flatnonzero(mixed == given["best"])[0])})
    lines = named(figure, "line")
    assert [line.get_label() for line in lines] == ["logit", "prob"]
    for line, rows in zip(lines, (slice(0, 11), slice(11, 22)), strict=True):
        np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 11), atol=1e-9)
        np.testing.assert_array_equal(line.get_ydata(), given["values"][rows])  # with its gap
    best, near = given["best"], (given["plateau"] & ~np.isnan(given["values"])).sum()
    np.testing.assert_allclose(position(named(figure, "best")[0]), [given["weights"][best, 0], given["values"][best]])
    assert sum(len(dots.get_xdata()) for dots in named(figure, "plateau")) == near
    assert "RN50 alone  ←  weight of RN18  →  RN18 alone" in texts(figure)


@pytest.mark.parametrize("metric", ["macro_f1", "nll"])
def test_many_teachers_have_parallel_axes_with_the_best_on_top(metric, figure_of):
    given = sweep(4, 4)
    if metric == "nll":
        given |= {"metric": "nll", "values": 1 - given["values"]}
    figure = figure_of(weight_map, **given)
    lines = [
        line for gid in ("lines", "plateau lines") for group in named(figure, gid) for line in group.get_segments()
    ]
    by_weights = {tuple(np.round(line[:4, 1], 6)): line for line in lines}
    assert set(by_weights) == {tuple(row) for row in np.round(given["weights"], 6)}
    heights = [line[4, 1] for line in lines]
    assert heights == sorted(heights)  # drawn from the worst to the best
    assert (heights[0], heights[-1]) == (0, 1)
    np.testing.assert_allclose(position(named(figure, "best")[0]), [4, 1])
    (best,) = named(figure, "best line")
    np.testing.assert_allclose(best.get_ydata(), [*given["weights"][given["best"]], 1])
    near = given["weights"][given["plateau"]]
    ranges = [segment[:, 1].tolist() for segment in named(figure, "plateau")[0].get_segments()]
    np.testing.assert_allclose(ranges[:4], np.column_stack([near.min(axis=0), near.max(axis=0)]))
    assert [*NAMES[:4], metric] == [label.get_text() for label in figure.axes[0].get_xticklabels()]


@pytest.mark.parametrize("K", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["one", "all equal", "one scored", "huge", "corners", "off the grid", "no scores"])
def test_degenerate_sweeps_are_drawn(K, kind):
    listed = {"one": np.full((1, K), 1 / K), "corners": np.eye(K)}
    weights = listed.get(kind, np.random.default_rng(3).dirichlet(np.ones(K), 9))
    M = len(weights)
    values = np.linspace(0.5, 0.6, M)
    given = {"weights": weights, "values": values, "panels": ["a"] * M, "plateau": np.zeros(M, bool), "best": M - 1}
    if kind == "all equal":
        given |= {"values": np.full(M, 0.3), "plateau": np.ones(M, bool)}
    elif kind == "one scored":
        given["values"] = np.where(np.arange(M) == M - 1, 0.0, NAN)
    elif kind == "huge":
        given |= {"values": values * 1e12, "metric": "nll", "best": 0}
    elif kind == "no scores":  # in the second panel
        given |= {"panels": ["a"] * 5 + ["b"] * 4, "best": 4, "values": np.where(np.arange(M) < 5, values, NAN)}
    image = weight_map(**{"names": NAMES[:K], "metric": "accuracy", "title": "", **given})
    assert image[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((0, 3))}, "0 configurations of 3 teachers"),
        ({"names": ()}, "of 0 teachers"),
        ({"names": NAMES[:2]}, r"weights is float64 of shape \(21, 3\); it must be numbers of shape \(21, 2\)"),
        ({"weights": np.tile([1.5, -0.5, 0], (21, 1))}, r"weights\[0, 0\] is 1.5"),
        ({"values": np.full(21, np.inf)}, r"values\[0\] is inf"),
        ({"panels": ["a"] * 20}, "21 configurations and 20 panels"),
        ({"panels": list("abcdefghi") + ["a"] * 12}, "9 different panels"),
        ({"plateau": np.ones(20, bool)}, r"plateau is bool of shape \(20,\)"),
        ({"best": 21}, "the best configuration is 21"),
        ({"best": 0, "values": np.array([NAN] + [0.5] * 20)}, "the best configuration is 0; .* scored"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_one_error(changes, message):
    with pytest.raises(ContractError, match=message):
        weight_map(**sweep() | changes)


# trade-offs


def test_every_configuration_is_drawn_once_and_the_front_stands_out(figure_of):
    given = trade(M=80, P=3, marks={})
    given["x"][5] = given["y"][6] = NAN
    given["front"] = pareto_front(np.column_stack([given["x"], given["y"]]), np.array([True, False]))
    figure = figure_of(draw_pareto, **given)
    offsets = [np.vstack([dots.get_offsets() for dots in named(figure, gid)]) for gid in ("points", "front points")]
    front = given["front"].sum()
    assert [len(dots) for dots in offsets] == [78 - front, front]
    expected = np.column_stack([given["x"], given["y"]])
    expected = expected[~np.isnan(expected).any(axis=1)]
    assert sorted(np.vstack(offsets).tolist()) == sorted(expected.tolist())
    assert f"80 configurations · {front} on the Pareto front · 2 not scored" in texts(figure)


@pytest.mark.parametrize("x_metric", ["ece", "f1/Fear"])
@pytest.mark.parametrize("y_metric", ["nll", "macro_f1"])
def test_the_steps_are_the_border_of_what_the_front_beats(x_metric, y_metric, figure_of):
    lower = np.array([x_metric == "ece", y_metric == "nll"])
    given = trade(3, x_metric=x_metric, y_metric=y_metric, marks={})
    given["front"] = pareto_front(np.column_stack([given["x"], given["y"]]), lower)
    figure = figure_of(draw_pareto, **given)
    (line,) = named(figure, "front")
    x, y = line.get_data()
    assert len(x) == given["front"].sum() > 3
    for i, middle in enumerate((x[1:] + x[:-1]) / 2):
        drawn = y[i] if line.get_drawstyle() == "steps-post" else y[i + 1]
        as_good = y[x <= middle] if lower[0] else y[x >= middle]
        assert drawn == (as_good.min() if lower[1] else as_good.max())
    for metric, less in zip((x_metric, y_metric), lower, strict=True):
        assert (f"←  better      {metric}" if less else f"{metric}      better  →") in texts(figure)


def test_marks_are_ringed_and_named_once_each_also_at_the_edge(figure_of):
    given = trade(marks={"equal weights": 7, "best macro_f1": 9, "chosen": 7})
    given["y"][9] = 0.05  # far worse than the others
    figure = figure_of(draw_pareto, **given)
    (rings,) = named(figure, "marks")
    low = figure.axes[0].get_ylim()[0]
    assert low > 0.5
    np.testing.assert_allclose(np.transpose(rings.get_data()), [[given["x"][7], given["y"][7]], [given["x"][9], low]])
    names = "1: equal weights = chosen", f"2: best macro_f1 ({given['x'][9]:.4g}, 0.05)"
    assert {*names, "1", "2"} <= set(texts(figure))
    beyond = (given["y"] < low).sum()
    assert any(f"{beyond} beyond the axes, drawn at their edge" in text for text in texts(figure))


@pytest.mark.parametrize(
    "changes",
    [
        {"M": 2, "P": 1, "x": np.array([0.1, NAN]), "y": np.array([0.5, 0.6]), "marks": {"a": 0, "b": 0}},
        {"x": np.full(60, 0.1), "y": np.full(60, 0.5)},
        {"x": np.full(60, 0.0), "front": np.zeros(60, bool)},
        {"M": 20_000, "P": 4},
        {"x": np.linspace(0, 1, 60), "y": np.linspace(0, 1e12, 60)},
        {"marks": dict(zip(AWKWARD, range(10), strict=True)), "x_metric": "f1/怒り" * 30, "y_metric": "$" * 200},
        {"panels": [AWKWARD[m % 4] for m in range(60)], "title": "t" * 400},
    ],
)
def test_degenerate_trade_offs_are_drawn(changes):
    assert draw_pareto(**trade(**changes))[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.ones(59), "front": np.ones(60, bool)}, r"y is float64 of shape \(59,\)"),
        ({"x": np.full(60, NAN)}, "none of 60 configurations has both metrics"),
        ({"front": np.ones(59, bool)}, r"front is bool of shape \(59,\)"),
        ({"panels": ["a"]}, "60 configurations and 1 panels"),
        ({"marks": {"x": 60}}, "mark 'x' is configuration 60"),
        ({"marks": {"x": 0}, "x": np.array([NAN] + [0.1] * 59)}, "mark 'x' is configuration 0"),
    ],
)
def test_a_trade_off_that_cannot_be_drawn_is_one_error(changes, message):
    with pytest.raises(ContractError, match=message):
        draw_pareto(**trade() | changes)
