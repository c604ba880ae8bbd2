"""What stands on each figure, that the same input gives the same bytes, and what input is an error."""

import re
import struct
import subprocess
import sys
from io import BytesIO

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from sweeps import AWKWARD, sweep, trade, weight_map

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import style
from fer_mlflow.figures.scores import (
    calibration_bins,
    draw_class_scores,
    draw_confusion,
    draw_differences,
    draw_mistakes,
    draw_predictions,
    draw_reliability,
    draw_sharpness,
)
from fer_mlflow.figures.sweep import draw_pareto
from fer_mlflow.scoring.evaluation import Sharpness

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
NAN = float("nan")


def reliability(seed=0, N=400, **options):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, N)
    return draw_reliability({"before": (confidence, rng.random(N) < confidence**2)}, **options)


def confusion(seed=0, classes=CLASSES):
    C = len(classes)
    return draw_confusion(np.random.default_rng(seed).integers(0, 30, (C, C)) + 200 * np.eye(C, dtype=int), classes)


def class_table(precision, recall, f1, f1_low, f1_high, support, classes):
    scores = {"precision": precision, "recall": recall, "f1": f1, "f1_low": f1_low, "f1_high": f1_high}
    return pd.DataFrame(scores | {"support": support}, index=pd.Index(classes, dtype=object))


def class_scores(seed=0, classes=CLASSES):
    rng, C = np.random.default_rng(seed), len(classes)
    precision, recall, f1 = rng.uniform(0.4, 0.9, (3, C))
    support = rng.integers(1, 900, C)
    return draw_class_scores(class_table(precision, recall, f1, f1 - 0.05, f1 + 0.05, support, classes))


def mistakes(seed=0, count=5):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (40 + i, 30, 3)).astype(np.uint8) for i in range(count)]
    return draw_mistakes(images, [f"Sad → Happy\n0.{i}" for i in range(count)])


def sharpness(seed=0, classes=CLASSES, R=4, band=(0.5, 0.8), recommended=(1.5, 2.5), **changes):
    rng, C = np.random.default_rng(seed), len(classes)
    falling = np.sort(rng.uniform(0.3, 1, R))[::-1]
    given = {
        "temperatures": np.arange(1.0, R + 1),
        "mean": falling,
        "median": falling**0.8,
        "p90": falling**0.6,
        "p99": np.sqrt(falling),
        "entropy": (1 - falling) * np.log(C),
        "nearly_sure": falling**9,
        "mean_by_class": np.tile(falling[:, None], C),
        "rows_by_class": np.full(C, 9),
    }
    return draw_sharpness(Sharpness(**given | changes), classes, band=band, recommended=recommended)


def difference_table(names, difference, low, high, p_value):
    metrics = pd.Series(names, dtype=object)  # a lone surrogate is no text of Arrow
    return pd.DataFrame({"metric": metrics, "difference": difference, "low": low, "high": high, "p_value": p_value})


def differences(seed=0, names=("accuracy", "macro_f1", "f1/Sad", "nll")):
    rng, M = np.random.default_rng(seed), len(names)
    difference = rng.normal(0, 0.02, M)
    return draw_differences(difference_table(names, difference, difference - 0.01, difference + 0.02, rng.random(M)))


def line(seed=0):
    return weight_map(**sweep(2, 5, 2, seed))


def triangles(seed=0):
    return weight_map(**sweep(3, 4, 3, seed))


def parallel(seed=0):
    return weight_map(**sweep(4, 3, 1, seed))


def pareto(seed=0):
    return draw_pareto(**trade(seed))


KINDS = (reliability, confusion, class_scores, mistakes, sharpness, differences, line, triangles, parallel, pareto)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()  # ticks are made then
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def named(figure: Figure, gid: str) -> list:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


# all figures


@pytest.mark.usefixtures("coarse_figures")
@kinds
def test_the_same_input_gives_the_same_bytes_and_another_other_ones_of_the_same_size(kind):
    one, other = kind(0), kind(1)
    assert kind(0) == one
    assert one != other
    assert size(one) == size(other)
    assert b"tEXt" not in one  # no software, no time


@kinds
def test_a_figure_is_opaque_and_nothing_reaches_the_edge_of_the_page(kind):
    image = imread(BytesIO(kind(0)))
    assert (image[..., 3] == 1).all()
    frame = np.ones(image.shape[:2], bool)
    frame[3:-3, 3:-3] = False
    assert (image[frame] == 1).all()


@pytest.mark.usefixtures("coarse_figures")
@kinds
def test_global_settings_are_neither_followed_nor_changed(kind):
    expected = kind(0)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "figure.facecolor": "red"}):
        before = dict(matplotlib.rcParams.copy())
        assert kind(0) == expected
        assert dict(matplotlib.rcParams.copy()) == before


def test_settings_come_back_after_an_error():
    before = dict(matplotlib.rcParams.copy())
    with pytest.raises(RuntimeError), style.page(1, 1, ""):
        raise RuntimeError
    assert dict(matplotlib.rcParams.copy()) == before


def test_pyplot_is_never_loaded():
    code = (
        "import sys, numpy as np\n"
        "from fer_mlflow.figures.scores import draw_reliability\n"
        "draw_reliability({'a': (np.ones(2), np.ones(2, bool))})\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False False\n"


@pytest.mark.parametrize("kind", [confusion, class_scores, sharpness, differences])
@pytest.mark.parametrize("names", [AWKWARD, CLASSES[:2], [f"class number {i} of twenty" for i in range(20)]])
def test_any_names_are_drawn_on_the_page_and_stay_apart(kind, names, figure_of):
    figure = figure_of(kind, 0, names)
    assert set(style.readable_names(names)) <= {text.split("\n")[0] for text in texts(figure)}
    assert len(set(style.readable_names(names))) == len(names)
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > 0


def test_names_that_the_font_lacks_or_that_are_too_long_stay_apart():
    assert style.readable_names(["怒り", "喜び", "Sad"]) == ["□□ (0)", "□□ (1)", "Sad"]
    assert style.readable_names(["$a_b$", "a\tb\n", "e\u200bf"]) == ["$a_b$", "a b", "ef"]
    assert style.readable_names(["first long", "firms long", "x"], 7) == ["fir…ong (0)", "fir…ong (1)", "x"]


def test_a_heading_that_is_too_long_loses_its_middle():
    with style.page(4, 1, "short", "as long as can be" * 15) as figure:
        title, detail = figure.texts
        assert title.get_text() == "short"
        assert re.fullmatch("as long as .*….*can be", detail.get_text())
        assert detail.get_window_extent().x1 < figure.bbox.x1


# reliability


def test_bins_by_hand():
    # four bins (0, .25] (.25, .5] (.5, .75] (.75, 1]: an edge belongs to the bin that it ends
    confidence = np.array([0.25, 0.3, 0.5, 0.75, 0.8, 1.0, 0.9])
    correct = np.array([False, True, False, True, True, True, False])
    bins = calibration_bins(confidence, correct, 4)
    assert bins.rows.tolist() == [1, 2, 1, 3]
    np.testing.assert_allclose(bins.confidence, [0.25, 0.4, 0.75, 0.9])
    np.testing.assert_allclose(bins.accuracy, [0, 0.5, 1, 2 / 3])
    np.testing.assert_allclose([bins.low[0], bins.high[0]], [0, 0.79345], atol=1e-5)  # z² / (1 + z²), z = 1.95996


def test_empty_bins_hold_nothing():
    bins = calibration_bins(np.array([0.0, 0.95]), np.array([True, True]), 3)
    assert bins.rows.tolist() == [1, 0, 1]
    assert all(np.isnan(values[1]) for values in bins[1:])


def test_each_panel_has_its_numbers(figure_of):
    sure, unsure = (np.full(50, 0.9), np.zeros(50, bool)), (np.full(1200, 0.5), np.ones(1200, bool))
    drawn = texts(figure_of(draw_reliability, {"before": sure, "after": unsure}, null={"after": 0.02}))
    assert "before\nECE 0.900\naccuracy 0.000   mean confidence 0.900   N 50" in drawn
    calibrated = "ECE 0.500   a calibrated model: ≤ 0.020"
    assert f"after\n{calibrated}\naccuracy 1.000   mean confidence 0.500   N 1,200" in drawn
    assert {"50", "1,200", "gap: overconfident", "gap: underconfident"} <= set(drawn)


def test_gaps_are_drawn_between_accuracy_and_confidence(figure_of):
    confidence = np.repeat([0.9, 0.5], 50)
    figure = figure_of(draw_reliability, {"a": (confidence, confidence < 0.7)})
    gaps = [bar for bars in figure.axes[0].containers[1:3] for bar in bars if bar.get_height() > 0]
    np.testing.assert_allclose([(bar.get_y(), bar.get_height()) for bar in gaps], [(0, 0.9), (0.5, 0.5)])
    assert gaps[0].get_facecolor() != gaps[1].get_facecolor()


@pytest.mark.usefixtures("coarse_figures")
@pytest.mark.parametrize(
    "panel",
    [
        (np.array([0.43]), np.array([True])),
        (np.array([0.0]), np.array([False])),
        (np.ones(30), np.zeros(30, bool)),
        (np.linspace(0, 1, 100_000), np.ones(100_000, bool)),
        (np.linspace(0.2, 1, 50).astype(np.float16), np.arange(50) % 2 == 0),
    ],
    ids=["one row", "confidence 0", "all wrong", "all right", "float16"],
)
def test_degenerate_reliability_is_drawn(panel):
    assert size(draw_reliability({"x": panel})) == (265, 390)


# classes


def test_rows_are_labels_whose_shares_are_written_and_shaded(figure_of):
    figure = figure_of(draw_confusion, np.array([[1, 0, 3], [0, 0, 0], [0, 2000, 0]]), ("a", "b", "c"))
    (axes,) = figure.axes
    shares = axes.collections[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(shares, -1), [[0.25, 0, 0.75], [-1, -1, -1], [0, 1, 0]])
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0.5, 0.5): "25%\n1", (2.5, 0.5): "75%\n3", (1.5, 2.5): "100%\n2,000"}
    assert {"a\nn = 4", "b\nno row", "c\nn = 2,000", "predicted", "labelled"} <= set(texts(figure))
    assert axes.yaxis_inverted()
    assert any("accuracy 0.000   1 of 2,004 rows" in text for text in texts(figure))


def test_bars_are_f1_in_class_order_with_the_scores_beside_them(figure_of):
    precision, recall, f1 = np.array([0.5, NAN, 0.25]), np.array([1.0, 0, NAN]), np.array([2 / 3, 0, NAN])
    table = class_table(precision, recall, f1, f1 - f1 / 4, f1 + 0.1, [1200, 9, 0], ("a", "b", "c"))
    figure = figure_of(draw_class_scores, table)
    axes = figure.axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [2 / 3, 0, 0])
    rows = [re.split("  +", text.strip()) for text in texts(figure)]
    assert ["precision", "recall", "F1 [95 %]", "n"] in rows
    assert ["0.50", "1.00", "0.67 [0.50, 0.77]", "1,200"] in rows
    assert ["none", "0.00", "0.00 [0.00, 0.10]", "9"] in rows
    assert ["0.25", "none", "none", "0"] in rows
    assert "macro-F1 0.333 over 2 of 3 classes   N 1,209" in texts(figure)


# mistakes


def test_images_are_drawn_in_order_with_their_captions(figure_of):
    images = [np.full((20 + 30 * i, 50, 3), 50 * i, np.uint8) for i in range(3)]
    figure = figure_of(draw_mistakes, images, ["first", "$a_b$ → 怒り\n0.9\nface.png\nmore", ""], 2)
    for axes, image in zip(figure.axes, images, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    assert [axes.get_title("center") for axes in figure.axes] == ["first", "$a_b$ → □□", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "0.9\nface.png", "", ""]


@pytest.mark.parametrize("name", ["Sad", "Surprise", "Contemptuousness"])
def test_captions_of_mistakes_are_whole_and_stay_in_their_column(figure_of, name):
    captions = [f"label {name}\npredicted {name} 0.72"] * 6
    figure = figure_of(draw_mistakes, [np.zeros((48, 48, 3), np.uint8)] * 6, captions)
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label):
            assert name in text.get_text()
            assert text.get_window_extent().width <= figure.bbox.width / 6


@pytest.mark.usefixtures("coarse_figures")
@pytest.mark.parametrize("columns", [1, 5, 36])
def test_odd_images_and_any_number_of_columns(columns):
    images = [np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (1, 400, 3), (300, 2, 3))]
    assert size(draw_mistakes(images, ["long " * 40, "", "\n\n"], columns))[0] == 80 * columns


# sharpness


def test_the_recommended_range_is_shaded_where_it_is(figure_of):
    figure = figure_of(sharpness, recommended=(2.0, 4.0))
    for span in named(figure, "recommended"):
        assert (span.get_x(), span.get_x() + span.get_width()) == (2, pytest.approx(4))
    assert "recommended T 2–4: a mean top probability of 0.5–0.8" in texts(figure)
    assert any("no temperature recommended" in text for text in texts(figure_of(sharpness, recommended=None)))


def test_a_cell_of_the_table_belongs_to_its_class_and_temperature(figure_of):
    values = np.full((2, 4), 0.1)
    values[1, 2], values[:, 0] = 0.9, NAN
    table = figure_of(sharpness, classes=CLASSES[:4], R=2, mean_by_class=values).axes[2]
    cells = {text.get_position(): text.get_text() for text in table.texts}
    assert cells[1.5, 2.5] == "0.90"
    assert cells[0.5, 2.5] == cells[1.5, 1.5] == "0.10"
    assert cells[0.5, 0.5] == "none"


@pytest.mark.usefixtures("coarse_figures")
@pytest.mark.parametrize(
    "changes",
    [
        {"R": 1, "recommended": None},
        {"R": 1, "recommended": (1.0, 1.0)},
        {"R": 20},
        {"recommended": (0.01, 1000.0)},
        {"mean_by_class": np.full((4, 7), NAN)},
        {"entropy": np.full(4, np.log(7)), "nearly_sure": np.zeros(4)},
        {"temperatures": np.array([1, 2, 3, 1000])},
        {name: np.ones(4) for name in ("mean", "median", "p90", "p99")},
    ],
)
def test_degenerate_sharpness_is_drawn(changes):
    assert size(sharpness(**changes)) == (450, 430)


# differences


@pytest.mark.parametrize(
    ("name", "difference", "p_value", "colour"),
    [
        ("accuracy", 0.05, 0.01, style.BLUE),
        ("accuracy", -0.05, 0.01, style.VERMILLION),
        ("nll", -0.05, 0.01, style.BLUE),
        ("nll", 0.05, 0.01, style.VERMILLION),
        ("accuracy", 0.05, 0.05, "white"),
        ("accuracy", 0.05, NAN, "white"),
    ],
)
def test_a_significant_difference_is_filled_by_which_run_is_better(name, difference, p_value, colour, figure_of):
    one = np.array([difference])
    figure = figure_of(draw_differences, difference_table([name], one, one - 0.02, one + 0.02, p_value))
    (dot,) = named(figure, f"difference {name}")
    assert dot.get_markerfacecolor() == colour
    assert dot.get_xdata() == [difference]
    less = "less" if name == "nll" else "more"
    assert {"B better", "A better", f"B − A, {less} is better"} <= set(texts(figure))


def test_differences_are_written_and_losses_have_an_axis_of_their_own(figure_of):
    values = np.array([-0.0124, NAN, 4.0]), np.array([-0.02, NAN, NAN]), np.array([-0.001, NAN, NAN])
    runs = ("$a$", "b" * 300)
    names = ["accuracy", "f1/怒り", "nll"]
    figure = figure_of(draw_differences, difference_table(names, *values, [0.0004, NAN, 0.2]), runs=runs)
    rows = [re.split("  +", text.strip()) for text in texts(figure)]
    assert ["−0.012 [−0.020, −0.001]", "<0.001"] in rows
    assert ["none", "n/a"] in rows
    assert ["+4.000", "0.200"] in rows
    assert "A: $a$" in texts(figure)
    limits = [axes.get_xlim() for axes in figure.axes]
    assert [low + high for low, high in limits] == [0, 0]
    assert limits[0][1] < 0.03
    assert limits[1][1] > 4


@pytest.mark.usefixtures("coarse_figures")
@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12, NAN])
def test_degenerate_differences_are_drawn(value):
    one = np.array([value])
    assert size(draw_differences(difference_table(["f1/怒り"], one, one, one, NAN)))[0] == 450


# errors

HALF, ROW = np.full(2, 0.5), (np.ones(1), np.ones(1, bool))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (draw_reliability, [{}], "0 panels"),
        (draw_reliability, [dict.fromkeys("abc", ROW)], "3 panels"),
        (draw_reliability, [{"a": (np.ones(0), np.ones(0, bool))}], "a: no labelled row"),
        (draw_reliability, [{"a": (np.ones(2), np.ones(3, bool))}], r"a: confidence is float64 of shape \(2,\)"),
        (draw_reliability, [{"a": (np.ones(2), np.ones(2))}], "correct is float64"),
        (draw_reliability, [{"a": (np.array([0.5, 1.5]), np.ones(2, bool))}], r"confidence\[1\] is 1.5"),
        (draw_reliability, [{"a": (np.array([NAN, 0.5]), np.ones(2, bool))}], r"confidence\[0\] is nan"),
        (draw_confusion, [np.eye(2), "ab"], "confusion is float64"),
        (draw_confusion, [np.array([[1, -1], [0, 1]]), "ab"], r"confusion\[0, 1\] is -1"),
        (draw_class_scores, [class_table(HALF, HALF, HALF, -np.inf, HALF, 1, ["a", "b"])], r"f1_low\[0\] is -inf"),
        (draw_mistakes, [[], []], "0 images"),
        (draw_mistakes, [[np.zeros((4, 4, 3), np.uint8)], []], "1 images and 0 captions"),
        (draw_differences, [difference_table(["a"], np.inf, 0, 1, 0.5)], r"difference\[0\] is inf"),
    ],
)
def test_input_that_cannot_be_drawn_is_one_error_that_names_it(kind, given, message):
    with pytest.raises(ContractError, match=message):
        kind(*given)


def test_the_common_figures_are_the_confusion_and_the_reliability_of_the_predictions():
    rng = np.random.default_rng(0)
    labels, predictions, confidence = rng.integers(0, 3, 90), rng.integers(0, 3, 90), rng.random(90)
    drawn = draw_predictions((labels, predictions, confidence), ("a", "b", "c"), "m:test", {"m:test": 0.1})
    confusion = np.array(
        [[((labels == row) & (predictions == column)).sum() for column in range(3)] for row in range(3)]
    )
    assert drawn["confusion_matrix.png"] == draw_confusion(confusion, ("a", "b", "c"))
    correct = predictions == labels
    expected = draw_reliability({"m:test": (confidence, correct)}, null={"m:test": 0.1})
    assert drawn["reliability.png"] == expected
    assert set(drawn) == {"confusion_matrix.png", "reliability.png"}
