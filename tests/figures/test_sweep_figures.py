"""The figures of a sweep: what stands where, what is written, and that no input spoils them."""

import struct
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import draw_pareto, draw_weight_map
from fer_mlflow.figures.labels import place_labels
from fer_mlflow.figures.style import ORANGE, page, place
from fer_mlflow.figures.weight_triangle import corners, grid_steps
from fer_mlflow.search.pareto import pareto_front

pytestmark = pytest.mark.usefixtures("coarse_figures")

NAN = float("nan")
NAMES = ("RN18", "RN50", "ViT", "B0", "CNX")
AWKWARD = ("$x_1$", "怒り", "a_very_long_name_of_a_teacher " * 4, "", "tab\there\n")
PANELS = ("logit", "prob", "logit · clahe", "prob · clahe")


def simplex(K: int, n: int) -> np.ndarray:
    """Return all weights of K teachers in steps of 1/n, (M, K)."""
    bars = list(combinations(range(n + K - 1), K - 1))
    return (np.diff(np.reshape(bars, (len(bars), K - 1)).astype(int), axis=1, prepend=-1, append=n + K - 1) - 1) / n


def sweep(K=3, n=5, P=1, seed=0, **changes):
    """Return the arguments of a map: a metric that is best near the weights' second half, and one plateau."""
    weights = changes.get("weights", np.tile(simplex(K, n), (P, 1)))
    M = len(weights)
    values = 0.7 - 0.1 * ((weights - 0.6) ** 2).sum(axis=1) + np.random.default_rng(seed).normal(0, 0.001, M)
    given = {
        "weights": weights,
        "values": values,
        "panels": [PANELS[p] for p in np.arange(P).repeat(M // P)],
        "names": NAMES[:K],
        "metric": "macro_f1",
        "title": "Sweep of faces",
    } | changes
    scores = given["values"] * (-1 if given["metric"] == "nll" else 1)
    given.setdefault("best", int(np.nanargmax(scores)))
    given.setdefault("plateau", scores > np.nanmax(scores) - 0.003)
    return given


def trade(seed=0, M=60, P=2, **changes):
    """Return the arguments of a trade-off between ECE and macro-F1."""
    rng = np.random.default_rng(seed)
    given = {
        "x": rng.uniform(0.01, 0.1, M),
        "y": rng.uniform(0.6, 0.8, M),
        "panels": [PANELS[m % P] for m in range(M)],
        "x_metric": "ece",
        "y_metric": "macro_f1",
        "title": "Trade-off",
        "marks": {"equal weights": 0, "RN18 alone": 1},
    } | changes
    values = np.column_stack([given["x"], given["y"]])
    given.setdefault("front", pareto_front(values, np.array([True, False])))
    return given


@pytest.fixture
def figure_of(monkeypatch):
    """Return a function that draws and gives the figure, of which no bytes are made."""
    kept: list[Figure] = []

    def keep(figure):
        kept.append(figure)
        return b""

    for module in ("weight_map", "pareto"):
        monkeypatch.setattr(f"fer_mlflow.figures.{module}.png", keep)

    def draw(kind, given) -> Figure:
        kind(**given)
        return kept[-1]

    return draw


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def named(figure: Figure, gid: str) -> list:
    """Return what is drawn under a name, in the order of the panels."""
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def position(artist) -> np.ndarray:
    """Return where a mark stands, in the data's coordinates."""
    return np.array([float(np.squeeze(part)) for part in artist.get_data()])


def size(image: bytes) -> tuple[int, int]:
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", image[16:24])


# what all have in common

PAGES = {
    (1, 1): (9, 6.2),
    (2, 4): (9, 6.2),
    (3, 1): (7.7, 8),
    (3, 2): (11.3, 7.2),
    (5, 4): (11.3, 12.2),
}


@pytest.mark.parametrize(("K", "P"), PAGES)
def test_the_same_sweep_gives_the_same_bytes_and_another_other_ones_of_the_same_size(K, P):
    one, other = (draw_weight_map(**sweep(K, 3, P, seed)) for seed in (0, 1))
    assert draw_weight_map(**sweep(K, 3, P, 0)) == one
    assert one != other
    assert size(one) == size(other) == tuple(int(50 * inches) for inches in PAGES[K, P])
    assert b"tEXt" not in one


def test_the_same_trade_off_gives_the_same_bytes_and_another_other_ones_of_the_same_size():
    one, other = draw_pareto(**trade(0)), draw_pareto(**trade(1))
    assert draw_pareto(**trade(0)) == one
    assert one != other
    assert size(one) == size(other) == (450, 360)


@pytest.mark.parametrize(("K", "P"), PAGES)
def test_no_text_leaves_the_page_whatever_teachers_are_called(K, P, figure_of):
    panels = [AWKWARD[p] for p in np.arange(P).repeat(len(simplex(K, 3)))]
    given = sweep(K, 3, P, names=AWKWARD[-K:], panels=panels, title="a title " * 30)
    figure = figure_of(draw_weight_map, given)
    figure.draw_without_rendering()  # legends find their places then
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            extent = text.get_window_extent()
            assert extent.x0 >= 0, text
            assert extent.y0 >= 0, text
            assert extent.x1 <= figure.bbox.width, text
            assert extent.y1 <= figure.bbox.height, text


@pytest.mark.parametrize("image", [lambda: draw_weight_map(**sweep(3, 3, 4)), lambda: draw_pareto(**trade())])
def test_a_figure_is_opaque_and_nothing_reaches_the_edge_of_the_page(image):
    seen = imread(BytesIO(image()))
    assert (seen[..., 3] == 1).all()
    assert all((edge == 1).all() for edge in (seen[:2], seen[-2:], seen[:, :2], seen[:, -2:]))


def test_what_is_found_is_written(figure_of):
    given = sweep(3, 10)
    given["values"][4] = NAN
    best = int(np.flatnonzero((given["weights"] == [0.6, 0.3, 0.1]).all(axis=1))[0])
    given["values"][best] = 0.91236
    given |= {"best": best, "plateau": np.arange(66) < 3}
    said = texts(figure_of(draw_weight_map, given))
    assert "Sweep of faces" in said
    assert "66 configurations · 3 within one paired standard error of the best · 1 not scored" in said
    assert "★ best macro_f1 0.9124: logit, 0.6 RN18 + 0.3 RN50 + 0.1 ViT" in said
    assert "best 0.9124 at 0.6 / 0.3 / 0.1" in said
    assert "macro_f1, more is better" in said
    assert "not scored" in said


def test_a_best_that_stands_alone_is_said_so(figure_of):
    given = sweep(plateau=np.zeros(21, bool))
    assert any(
        "no other one within one paired standard error" in said for said in texts(figure_of(draw_weight_map, given))
    )


@pytest.mark.parametrize("K", [3, 5])
def test_panels_stand_in_the_order_in_which_they_appear(K, figure_of):
    figure = figure_of(draw_weight_map, sweep(K, 2, 4))
    at = {}
    for text in figure.findobj(Text):
        if text.get_text() in PANELS:
            at[text.get_text()] = text.get_position()
    left, right = at["logit"][0], at["prob"][0]
    above, below = at["logit"][1], at["logit · clahe"][1]
    assert left < right
    assert above > below
    assert at == {
        "logit": (left, above),
        "prob": (right, above),
        "logit · clahe": (left, below),
        "prob · clahe": (right, below),
    }


# three teachers


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (simplex(3, 1), 1),
        (simplex(3, 4), 4),
        (simplex(3, 10), 10),
        (simplex(3, 100), 100),
        (np.vstack([simplex(3, 10), [[0.123, 0.456, 0.421]]]), 10),
        (simplex(3, 10)[::2], 10),
        (np.array([[0.1 * 3, 0.7, 0.0]]) * [[1, 1, 1]], None),
        (np.random.default_rng(0).dirichlet(np.ones(3), 90), None),
        (np.zeros((0, 3)), None),
    ],
)
def test_a_grid_is_found_where_there_is_one(weights, expected):
    assert grid_steps(weights) == expected


def test_a_cell_stands_where_its_weights_say(figure_of):
    given = sweep(3, 4)
    cells = named(figure_of(draw_weight_map, given), "cells")[0]
    middles = [path.vertices[:6].mean(axis=0) for path in cells.get_paths()]
    by_value = np.argsort(given["values"])
    expected = given["weights"][by_value] @ corners(np.ptp([x for x, _ in middles]))
    np.testing.assert_allclose(middles[1:], expected[1:], atol=1e-9)  # the first two share the palest colour


def test_the_first_teacher_is_on_top_and_the_others_follow_anticlockwise(figure_of):
    figure = figure_of(draw_weight_map, sweep(3, 5))
    at = {text.get_text(): text.get_window_extent().get_points().mean(axis=0) for text in figure.findobj(Text)}
    assert at["RN18"][1] > at["RN50"][1] == pytest.approx(at["ViT"][1], abs=3)
    assert at["RN50"][0] < at["RN18"][0] < at["ViT"][0]


@pytest.mark.parametrize("metric", ["f1/Fear", "ece_adaptive"])
@pytest.mark.parametrize("weights", [simplex(3, 5), np.random.default_rng(3).dirichlet(np.ones(3), 21)])
def test_better_is_darker_whichever_way_the_metric_goes(metric, weights, figure_of):
    lower = metric == "ece_adaptive"
    values = np.random.default_rng(4).permutation(np.linspace(0.5, 0.6, 21))
    best = int(values.argmin() if lower else values.argmax())
    given = sweep(weights=weights, values=values, metric=metric, best=best)
    figure = figure_of(draw_weight_map, given)
    found = [part for gid in ("cells", "dots") for part in named(figure, gid)]
    light = np.concatenate([part.get_facecolor()[:, :3].mean(axis=1) for part in found])
    assert len(light) == 21
    assert (np.diff(light) < 0).all()  # drawn from the worst to the best
    star = position(named(figure, "best")[0])
    darkest = [part for part in found if len(part.get_facecolor())][-1]
    last = (
        darkest.get_paths()[-1].vertices[:6].mean(axis=0) if darkest.get_gid() == "cells" else darkest.get_offsets()[-1]
    )
    np.testing.assert_allclose(star, last, atol=1e-9)


def test_the_star_is_at_the_best_and_open_ones_at_other_panels_best(figure_of):
    given = sweep(3, 4, 3)
    values = given["values"]
    values[[3, 15 + 7, 30 + 9]] = 0.9, 0.95, 0.8
    figure = figure_of(draw_weight_map, given | {"best": 22})
    (best,) = named(figure, "best")
    assert best.get_color() == ORANGE
    for star, row in zip([best, *named(figure, "best of its panel")], (22, 3, 39), strict=True):
        assert star.get_marker() == "*"
        x, y = position(star)
        side = 2 * np.abs(star.axes.lines[0].get_xdata()).max()  # of the border
        np.testing.assert_allclose((x, y), given["weights"][row] @ corners(side), atol=1e-9)
        assert PANELS[row // 15] in texts(figure)


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
    given = sweep(3, 10, 2)  # cells of two panels touch
    plateau = (given["weights"][:, None] == np.array(rows) / 10).all(axis=2).any(axis=1)
    plateau[66:] = False
    given |= {"plateau": plateau, "best": int(np.argmax(plateau))}
    outlines = [outline for outline in named(figure_of(draw_weight_map, given), "plateau") if outline.get_segments()]
    assert [len(outline.get_segments()) for outline in outlines] == [edges, edges]  # a white one below it
    middles = np.mean(outlines[-1].get_segments(), axis=1)
    at = given["weights"][plateau] @ corners(1)
    at *= np.ptp(middles[:, 0]) / (np.ptp(at[:, 0]) + 0.1)  # cells are as wide as a step
    near = np.linalg.norm(middles[:, None] - at, axis=2) < 1.01 * np.min(np.linalg.norm(middles[:, None] - at, axis=2))
    assert (near.sum(axis=1) == 1).all()  # an edge between two cells would be near both


def test_equal_weights_are_marked_in_the_middle_and_drawn_where_they_are_off_the_grid(figure_of):
    weights = np.vstack([simplex(3, 10), np.full((1, 3), 1 / 3)])
    figure = figure_of(draw_weight_map, sweep(weights=weights, values=np.linspace(0.6, 0.7, 67)))
    ring, dots = position(named(figure, "equal weights")[0]), named(figure, "dots")[0].get_offsets()
    assert len(named(figure, "cells")[0].get_paths()) == 66
    np.testing.assert_allclose(dots, [ring], atol=1e-9)


def test_what_is_not_scored_is_grey_and_below(figure_of):
    given = sweep(3, 5)
    given["values"][[2, 9]] = NAN
    colours = named(figure_of(draw_weight_map, given), "cells")[0].get_facecolor()[:, :3]
    assert np.ptp(colours[:2], axis=1).max() < 0.02  # no blue
    assert np.ptp(colours[3:], axis=1).min() > 0.02


def test_a_few_far_worse_values_do_not_take_the_colours(figure_of):
    given = sweep(3, 10)
    given["values"] = np.linspace(0.70, 0.72, 66)
    given["values"][:3] = 0.1
    given["best"] = 65
    figure = figure_of(draw_weight_map, given)
    assert "≤ 0.7018" in texts(figure)  # the seventh value of 66
    light = named(figure, "cells")[0].get_facecolor()[:, :3].mean(axis=1)
    assert np.ptp(light[3:]) > 0.5
    given |= {"values": 1 - given["values"], "metric": "nll"}
    assert "≥ 0.2982" in texts(figure_of(draw_weight_map, given))


def test_a_fine_grid_has_a_cell_for_each_configuration(figure_of):
    figure = figure_of(draw_weight_map, sweep(weights=simplex(3, 100), values=np.linspace(0, 1, 5151)))
    assert len(named(figure, "cells")[0].get_paths()) == 5151


# two teachers and one


@pytest.mark.parametrize("order", ["as they are", "shuffled"])
def test_two_teachers_are_a_line_over_the_first_ones_weight(order, figure_of):
    given = sweep(2, 10, 2)
    given["values"][4] = NAN
    if order == "shuffled":
        mixed = np.random.default_rng(0).permutation(22)
        mixed = np.concatenate([mixed[mixed < 11], mixed[mixed >= 11]])
        back = {
            "weights": given["weights"][mixed],
            "values": given["values"][mixed],
            "plateau": given["plateau"][mixed],
        }
        moved = given | back | {"best": int(np.flatnonzero(mixed == given["best"])[0])}
    else:
        moved = given
    figure = figure_of(draw_weight_map, moved)
    lines = named(figure, "line")
    assert [line.get_label() for line in lines] == ["logit", "prob"]
    for line, part in zip(lines, (slice(0, 11), slice(11, 22)), strict=True):
        np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 11), atol=1e-9)
        np.testing.assert_array_equal(line.get_ydata(), given["values"][part])  # with its gap
    best, near = given["best"], (given["plateau"] & ~np.isnan(given["values"])).sum()
    np.testing.assert_allclose(position(named(figure, "best")[0]), [given["weights"][best, 0], given["values"][best]])
    assert sum(len(dots.get_xdata()) for dots in named(figure, "plateau")) == near
    assert {"RN18 alone", "RN50 alone", "weight of RN18 →", "equal weights"} <= set(texts(figure))


def test_one_teacher_has_a_row_for_each_panel(figure_of):
    weights, values = np.ones((3, 1)), np.array([0.5, 0.7, NAN])
    given = sweep(1, weights=weights, values=values, panels=PANELS[:3])
    figure = figure_of(draw_weight_map, given)
    np.testing.assert_allclose(position(named(figure, "best")[0]), [0.7, 1])
    said = texts(figure)
    assert {"logit", "prob", "logit · clahe", "0.5000", "0.7000", "none scored"} <= set(said)
    assert any("one teacher, whose weight is always 1" in line for line in said)


# more than three


@pytest.mark.parametrize("metric", ["macro_f1", "nll"])
def test_many_teachers_have_parallel_axes_with_the_best_on_top(metric, figure_of):
    given = sweep(4, 4)
    if metric == "nll":
        given |= {"metric": "nll", "values": 1 - given["values"]}
    figure = figure_of(draw_weight_map, given)
    lines = [line for gid in ("lines", "plateau lines") for part in named(figure, gid) for line in part.get_segments()]
    assert len(lines) == 35
    by_weights = {tuple(np.round(line[:4, 1], 6)): line for line in lines}
    assert set(by_weights) == {tuple(row) for row in np.round(given["weights"], 6)}
    heights = [line[4, 1] for line in lines]
    assert heights == sorted(heights)  # drawn from the worst to the best
    assert (heights[0], heights[-1]) == (0, 1)
    np.testing.assert_allclose(position(named(figure, "best")[0]), [4, 1])
    (best,) = named(figure, "best line")
    np.testing.assert_allclose(best.get_ydata(), [*given["weights"][given["best"]], 1])


def test_the_plateaus_range_stands_on_each_axis(figure_of):
    given = sweep(5, 3)
    figure = figure_of(draw_weight_map, given)
    near = given["weights"][given["plateau"]]
    ranges = [segment[:, 1].tolist() for segment in named(figure, "plateau")[0].get_segments()]
    np.testing.assert_allclose(ranges[:5], np.column_stack([near.min(axis=0), near.max(axis=0)]))
    assert [label for label in NAMES if label in texts(figure)] == list(NAMES)


def test_of_many_lines_the_best_and_an_even_sample_are_drawn(figure_of):
    weights = np.random.default_rng(0).dirichlet(np.ones(6), 5000)
    values = np.random.default_rng(1).permutation(np.linspace(0, 1, 5000))
    panels = ["logit" if value > 0.2 else "prob" for value in values]
    given = sweep(weights=weights, values=values, panels=panels, names=[*NAMES, "more"])
    figure = figure_of(draw_weight_map, given)
    parts = [part for gid in ("lines", "plateau lines") for part in named(figure, gid)]
    drawn = np.sort([segment[-1, 1] for part in parts for segment in part.get_segments()])
    assert len(drawn) in (1500, 1501)  # the best of the second panel may be one more
    np.testing.assert_allclose(drawn[-500:], np.sort(values)[-500:], atol=1e-9)
    assert np.diff(drawn[:-500]).max() < 2 / 1000
    assert any("lines drawn: the best 500 and an even sample of the others" in said for said in texts(figure))
    assert np.isclose(drawn, values[values <= 0.2].max()).any()


# degenerate sweeps


@pytest.mark.parametrize("K", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "kind", ["one", "all equal", "one scored", "huge", "corners", "twice", "a panel without scores"]
)
def test_degenerate_sweeps_are_drawn(K, kind):
    weights = {"one": np.full((1, K), 1 / K), "corners": np.eye(K)}.get(kind, simplex(K, 2))
    M = len(weights)
    values = np.linspace(0.5, 0.6, M)
    given = {"weights": weights, "values": values, "panels": ["a"] * M, "plateau": np.zeros(M, bool), "best": M - 1}
    if kind == "all equal":
        given |= {"values": np.full(M, 0.3), "plateau": np.ones(M, bool)}
    elif kind == "one scored":
        given["values"] = np.where(np.arange(M) == M - 1, 0.0, NAN)
    elif kind == "huge":
        given |= {"values": values * 1e12, "metric": "nll", "best": 0}
    elif kind in ("twice", "a panel without scores"):
        given = {name: np.concatenate([part, part]) for name, part in given.items() if name != "best"} | {"best": 0}
        if kind != "twice":
            given |= {"panels": ["a"] * M + ["b"] * M, "values": np.concatenate([values, np.full(M, NAN)])}
    image = draw_weight_map(**{"names": NAMES[:K], "metric": "accuracy", "title": "", **given})
    assert image[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((0, 3))}, "0 configurations of 3 teachers"),
        ({"names": ()}, "of 0 teachers"),
        ({"names": NAMES[:2]}, r"weights is float64 of shape \(21, 3\); it must be numbers of shape \(21, 2\)"),
        ({"weights": np.full((21, 3), 0.3)}, r"weights\[0\] sum to 0.9; each row must sum to 1"),
        ({"weights": np.tile([1.5, -0.5, 0], (21, 1))}, r"weights\[0, 0\] is 1.5"),
        ({"weights": np.full((21, 3), NAN)}, r"weights\[0, 0\] is nan"),
        ({"values": np.ones(20), "plateau": np.ones(21, bool)}, r"values is float64 of shape \(20,\)"),
        ({"values": np.full(21, np.inf)}, r"values\[0\] is inf"),
        ({"panels": ["a"] * 20}, "21 configurations and 20 panels"),
        ({"panels": list("abcde") + ["a"] * 16}, "5 different panels"),
        ({"plateau": np.ones(20, bool)}, r"plateau is bool of shape \(20,\)"),
        ({"plateau": np.ones(21)}, "plateau is float64"),
        ({"best": 21}, "the best configuration is 21"),
        ({"best": -1}, "the best configuration is -1"),
        ({"best": 0, "values": np.array([NAN] + [0.5] * 20)}, "the best configuration is 0; .* scored"),
    ],
)
def test_a_map_refuses(changes, message):
    with pytest.raises(ContractError, match=message):
        draw_weight_map(**sweep() | changes)


# trade-offs


def test_every_configuration_is_drawn_once_and_the_front_stands_out(figure_of):
    given = trade(M=80, P=3)
    given["x"][5] = given["y"][6] = NAN
    given["marks"] = {}
    given["front"] = pareto_front(np.column_stack([given["x"], given["y"]]), np.array([True, False]))
    figure = figure_of(draw_pareto, given)
    offsets = [np.vstack([part.get_offsets() for part in named(figure, gid)]) for gid in ("points", "front points")]
    assert [len(part) for part in offsets] == [78 - given["front"].sum(), given["front"].sum()]
    expected = np.column_stack([given["x"], given["y"]])
    expected = expected[~np.isnan(expected).any(axis=1)]
    assert sorted(np.vstack(offsets).tolist()) == sorted(expected.tolist())
    front = given["front"].sum()
    assert f"80 configurations · {front} on the Pareto front · 2 not scored" in texts(figure)


@pytest.mark.parametrize("x_metric", ["ece", "f1/Fear"])
@pytest.mark.parametrize("y_metric", ["nll", "macro_f1"])
def test_the_steps_are_the_border_of_what_the_front_beats(x_metric, y_metric, figure_of):
    lower = np.array([x_metric == "ece", y_metric == "nll"])
    given = trade(3, x_metric=x_metric, y_metric=y_metric, marks={})
    values = np.column_stack([given["x"], given["y"]])
    given["front"] = pareto_front(values, lower)
    (line,) = named(figure_of(draw_pareto, given), "front")
    x, y = line.get_data()
    assert len(x) == given["front"].sum() > 3
    for i, middle in enumerate((x[1:] + x[:-1]) / 2):
        drawn = y[i] if line.get_drawstyle() == "steps-post" else y[i + 1]
        as_good = y[x <= middle] if lower[0] else y[x >= middle]
        assert drawn == (as_good.min() if lower[1] else as_good.max())


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (("ece", "macro_f1"), {"←  better      ece", "macro_f1      better  →"}),
        (("f1/Fear", "nll"), {"f1/Fear      better  →", "←  better      nll"}),
    ],
)
def test_axes_say_which_way_is_better(metrics, expected, figure_of):
    figure = figure_of(draw_pareto, trade(x_metric=metrics[0], y_metric=metrics[1], front=np.zeros(60, bool)))
    assert expected <= set(texts(figure))


def test_marks_are_ringed_and_named_once_each(figure_of):
    given = trade(marks={"equal weights": 7, "best macro_f1": 9, "chosen": 7})
    figure = figure_of(draw_pareto, given)
    rings = np.transpose(named(figure, "marks")[0].get_data())
    assert rings.tolist() == [[given["x"][row], given["y"][row]] for row in (7, 9)]
    assert {"equal weights = chosen", "best macro_f1"} <= set(texts(figure))


@pytest.mark.parametrize("crowding", ["one place", "a corner", "anywhere"])
@pytest.mark.parametrize("label", ["best macro_f1", "a very long name of a mark that goes on"])
def test_labels_neither_cover_each_other_nor_leave_the_axes(crowding, label):
    rng = np.random.default_rng(0)
    at = {"one place": np.full((12, 2), 0.5), "a corner": np.ones((12, 2)), "anywhere": rng.random((12, 2))}[crowding]
    with page(9, 7) as figure:
        axes = place(figure, 1, 1, 7, 5)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        found = place_labels(axes, at, [f"{label} {i}" for i in range(12)], rng.random((50, 2)), 2.0)
        boxes = [text.get_window_extent() for text in found]
        inside = axes.get_window_extent().padded(1)
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)
        for box in boxes:
            assert inside.x0 <= box.x0 < box.x1 <= inside.x1
            assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_a_far_worse_mark_is_drawn_at_the_edge_with_its_values(figure_of):
    given = trade()
    given["y"][1] = 0.05
    figure = figure_of(draw_pareto, given)
    ring = named(figure, "marks")[0]
    assert ring.get_ydata()[1] == ring.axes.get_ylim()[0] > 0.5
    assert f"RN18 alone ({given['x'][1]:.4f}, 0.0500)" in texts(figure)
    beyond = (given["y"] < ring.axes.get_ylim()[0]).sum()
    assert any(f"{beyond} beyond the axes, drawn at their edge" in said for said in texts(figure))


@pytest.mark.parametrize(
    "changes",
    [
        {"M": 2, "P": 1, "x": np.array([0.1, NAN]), "y": np.array([0.5, 0.6]), "marks": {"a": 0, "b": 0}},
        {"x": np.full(60, 0.1), "y": np.full(60, 0.5)},
        {"x": np.full(60, 0.0), "front": np.zeros(60, bool)},
        {"M": 20_000, "P": 4},
        {"x": np.linspace(0, 1, 60), "y": np.linspace(0, 1e12, 60)},
        {"marks": dict(zip(AWKWARD, range(5), strict=True)), "x_metric": "f1/怒り" * 30, "y_metric": "$" * 200},
        {"panels": [AWKWARD[m % 4] for m in range(60)], "title": "t" * 400},
    ],
)
def test_degenerate_trade_offs_are_drawn(changes):
    assert size(draw_pareto(**trade(**changes))) == (450, 360)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.ones(59), "front": np.ones(60, bool)}, r"y is float64 of shape \(59,\)"),
        ({"x": np.full(60, np.inf)}, r"x\[0\] is inf"),
        ({"x": np.full(60, NAN)}, "none of 60 configurations has both metrics"),
        ({"front": np.ones(59, bool)}, r"front is bool of shape \(59,\)"),
        ({"x": np.array([0.1] * 59 + [NAN]), "front": np.ones(60, bool)}, "configuration 59 is on the front"),
        ({"panels": ["a"]}, "60 configurations and 1 panels"),
        ({"marks": {"x": 60}}, "mark 'x' is configuration 60"),
        ({"marks": {"x": 0}, "x": np.array([NAN] + [0.1] * 59)}, "mark 'x' is configuration 0"),
        ({"marks": {str(i): i for i in range(13)}}, "13 marks"),
    ],
)
def test_a_trade_off_refuses(changes, message):
    given = trade(**{name: value for name, value in changes.items() if name == "M"})
    with pytest.raises(ContractError, match=message):
        draw_pareto(**given | changes)
