"""Figures: the numbers behind them by value, what is drawn where by pixel, and that nothing else is touched."""

import struct
import subprocess
import sys
from dataclasses import astuple
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import binomtest

from fer_mlflow.errors import ContractError
from fer_mlflow.figures import (
    draw_class_scores,
    draw_confusion,
    draw_differences,
    draw_mistakes,
    draw_reliability,
    draw_sharpness,
)
from fer_mlflow.figures.calibration_bins import calibration_bins, wilson_interval
from fer_mlflow.figures.style import fit, page, readable_names, write
from fer_mlflow.scoring.calibration_error import expected_calibration_error

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
AWKWARD = (
    "$x_1$",
    "$",
    "怒り",
    "悲しみ",
    "a_very_long_name " * 5,
    "tab\there\nand there",
    "",
    "\\frac{",
    "Ärger ☺",
    "\ud800",
)
NAN = float("nan")


def reliability(seed=0, N=400, **options):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, N)
    return draw_reliability({"before": (confidence, rng.random(N) < confidence**2)}, **options)


def confusion(seed=0, classes=CLASSES):
    C = len(classes)
    return draw_confusion(np.random.default_rng(seed).integers(0, 30, (C, C)) + 200 * np.eye(C, dtype=int), classes)


def class_scores(seed=0, classes=CLASSES):
    rng, C = np.random.default_rng(seed), len(classes)
    precision, recall, f1 = rng.uniform(0.4, 0.9, (3, C))
    return draw_class_scores(precision, recall, f1, f1 - 0.05, f1 + 0.05, rng.integers(1, 900, C), classes)


def mistakes(seed=0, count=5):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (40 + i, 30, 3)).astype(np.uint8) for i in range(count)]
    return draw_mistakes(images, [f"Sad → Happy\n0.{i}" for i in range(count)])


def sharpness(seed=0, classes=CLASSES, R=4, **changes):
    rng, C = np.random.default_rng(seed), len(classes)
    falling = np.sort(rng.uniform(0.3, 1, R))[::-1]
    given = {
        "temperatures": np.arange(1.0, R + 1),
        "quantiles": {"mean": falling, "p99": np.sqrt(falling)},
        "entropy": (1 - falling) * np.log(C),
        "share_above": falling**9,
        "classes": classes,
        "mean_by_class": np.tile(falling[:, None], C),
        "recommended": (1.5, 2.5),
    }
    return draw_sharpness(**given | changes)


def differences(seed=0, names=("accuracy", "macro_f1", "f1/Sad", "nll")):
    rng, M = np.random.default_rng(seed), len(names)
    difference = rng.normal(0, 0.02, M)
    return draw_differences(names, difference, difference - 0.01, difference + 0.02, rng.random(M))


SIZES = {
    reliability: (798, 1140),
    confusion: (1200, 1200),
    class_scores: (1350, 990),
    mistakes: (1470, 2004),
    sharpness: (1350, 1290),
    differences: (1350, 1080),
}
kinds = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def pixels(png: bytes) -> np.ndarray:
    """Return (H, W, 3) float in [0, 1]."""
    return imread(BytesIO(png))[..., :3]


def changed(one: bytes, other: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the columns of the pixels in which two figures differ."""
    return np.nonzero(np.abs(pixels(one) - pixels(other)).max(axis=2) > 0.02)


def count(png: bytes, colour: tuple[int, int, int]) -> int:
    """Return how many pixels have a colour, nearly."""
    return int((np.abs(255 * pixels(png) - colour).max(axis=2) < 4).sum())


# what is computed


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 12), (12_000, 12_345)])
def test_wilson_interval_agrees_with_scipy(hits, rows):
    expected = binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(np.array([hits]), np.array([rows]))
    np.testing.assert_allclose([low[0], high[0]], expected, atol=1e-12)


def test_wilson_interval_of_no_rows_is_none():
    low, high = wilson_interval(np.array([0]), np.array([0]))
    assert np.isnan([low[0], high[0]]).all()


def test_bins_by_hand():
    # four bins (0, .25] (.25, .5] (.5, .75] (.75, 1]: an edge belongs to the bin that it ends
    confidence = np.array([0.25, 0.3, 0.5, 0.75, 0.8, 1.0, 0.9])
    correct = np.array([False, True, False, True, True, True, False])
    bins = calibration_bins(confidence, correct, 4)
    assert bins.count.tolist() == [1, 2, 1, 3]
    np.testing.assert_allclose(bins.confidence, [0.25, 0.4, 0.75, 0.9])
    np.testing.assert_allclose(bins.accuracy, [0, 0.5, 1, 2 / 3])
    np.testing.assert_allclose(bins.low[3], binomtest(2, 3).proportion_ci(method="wilson").low)
    np.testing.assert_allclose(bins.ece, (0.25 + 2 * 0.1 + 0.25 + 3 * (0.9 - 2 / 3)) / 7)


def test_empty_bins_hold_nothing():
    bins = calibration_bins(np.array([0.0, 0.95]), np.array([True, True]), 3)
    assert bins.count.tolist() == [1, 0, 1]
    assert all(np.isnan(values[1]) for values in astuple(bins)[1:])


@pytest.mark.parametrize("seed", range(5))
def test_the_ece_that_is_written_is_the_metric(seed):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(300), 2)  # many on edges
    correct = rng.random(300) < 0.6
    found = calibration_bins(confidence, correct, 10).ece
    assert found == pytest.approx(expected_calibration_error(confidence, correct, 10), abs=1e-12)


# what all figures have in common


@kinds
def test_the_same_input_gives_the_same_bytes_and_another_other_ones_of_the_same_size(kind):
    one, other = kind(0), kind(1)
    assert kind(0) == one
    assert one != other
    assert size(one) == size(other) == SIZES[kind]
    assert b"tEXt" not in one  # no software, no time


@kinds
def test_a_figure_is_opaque_and_nothing_reaches_the_edge_of_the_page(kind):
    image = imread(BytesIO(kind(0)))
    assert (image[..., 3] == 1).all()
    frame = np.ones(image.shape[:2], bool)
    frame[3:-3, 3:-3] = False
    assert (image[frame] == 1).all()


@kinds
def test_global_settings_are_neither_followed_nor_changed(kind):
    expected = kind(0)
    with matplotlib.rc_context(
        {"font.size": 30, "lines.linewidth": 9, "figure.facecolor": "red", "text.color": "blue"}
    ):
        before = dict(matplotlib.rcParams.copy())
        assert kind(0) == expected
        assert dict(matplotlib.rcParams.copy()) == before


def test_settings_come_back_after_an_error():
    before = dict(matplotlib.rcParams.copy())
    with pytest.raises(RuntimeError), page(1, 1):
        raise RuntimeError
    assert dict(matplotlib.rcParams.copy()) == before


def test_pyplot_is_never_loaded():
    code = (
        "import sys, numpy as np\n"
        "from fer_mlflow.figures import draw_reliability\n"
        "draw_reliability({'a': (np.ones(2), np.ones(2, bool))})\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False False\n"


@pytest.mark.parametrize("kind", [confusion, class_scores, sharpness])
@pytest.mark.parametrize("classes", [AWKWARD, CLASSES[:2], [f"class number {i}" for i in range(20)]])
def test_any_class_names_can_be_drawn(kind, classes):
    assert size(kind(0, classes)) == SIZES[kind]  # the tests turn Matplotlib's warnings into errors


@pytest.mark.parametrize("kind", [confusion, class_scores, sharpness])
def test_names_are_drawn_beside_their_rows(kind):
    rows, columns = changed(kind(0), kind(0, ("Other", *CLASSES[1:])))
    height, width = SIZES[kind][::-1]
    beside = columns < 0.22 * width
    assert beside.sum() > 50
    assert np.ptp(rows[beside]) < 0.05 * height


def test_names_that_the_font_lacks_stay_apart():
    assert readable_names(["怒り", "喜び", "Sad"]) == ["□□ (0)", "□□ (1)", "Sad"]
    assert readable_names(["$a_b$", "a\tb\n", "e\u200bf"]) == ["$a_b$", "a b", "ef"]


def test_text_is_made_to_fit():
    with page(4, 1) as figure:
        texts = [write(figure, 0, 0.5, text, size=10) for text in ("short", "as long as can be" * 5)]
        fit(texts, 1.0)
        widths = [text.get_window_extent().width / figure.dpi for text in texts]
        assert max(widths) <= 1.0
        assert texts[0].get_text() == "short"
        assert texts[1].get_text().startswith("as l")
        assert texts[1].get_text().endswith("be")
        assert texts[0].get_fontsize() == texts[1].get_fontsize() == 8


# reliability

TOO_SURE, NOT_SURE_ENOUGH = (234, 174, 128), (229, 188, 211)


def test_gaps_are_coloured_by_their_side():
    sure = draw_reliability({"a": (np.full(50, 0.9), np.zeros(50, bool))})
    unsure = draw_reliability({"a": (np.full(50, 0.5), np.ones(50, bool))})
    none = draw_reliability({"a": (np.full(50, 0.5), np.arange(50) % 2 == 0)})
    bare = {colour: count(none, colour) for colour in (TOO_SURE, NOT_SURE_ENOUGH)}  # the legend
    # one bin of 15 in a diagram of 652 pixels: 43 wide, 0.9 and 0.5 high
    assert count(sure, TOO_SURE) - bare[TOO_SURE] == pytest.approx(0.9 * 652 * 43, rel=0.2)
    assert count(unsure, NOT_SURE_ENOUGH) - bare[NOT_SURE_ENOUGH] == pytest.approx(0.5 * 652 * 43, rel=0.2)
    assert abs(count(sure, NOT_SURE_ENOUGH) - bare[NOT_SURE_ENOUGH]) < 50
    assert abs(count(unsure, TOO_SURE) - bare[TOO_SURE]) < 50


def test_two_panels_stand_side_by_side_at_the_same_place():
    rng = np.random.default_rng(3)
    panel = (rng.random(99), rng.random(99) < 0.5)
    both = pixels(draw_reliability({"x": panel, "y": panel}))
    assert both.shape == (1140, 1596, 3)
    one, other = both[:, :798], both[:, 798:]
    different = np.nonzero(np.abs(one - other).max(axis=2) > 0.1)
    assert max(different[0]) < 60  # only the title


def test_the_null_is_written_in_its_panel():
    rng = np.random.default_rng(4)
    panel = (rng.random(99), rng.random(99) < 0.5)
    panels = {"x": panel, "y": panel}
    rows, columns = changed(draw_reliability(panels), draw_reliability(panels, null={"y": 0.02}))
    assert columns.min() > 798
    assert rows.max() < 120


@pytest.mark.parametrize(
    "panel",
    [
        (np.array([0.43]), np.array([True])),
        (np.array([0.0]), np.array([False])),
        (np.ones(30), np.ones(30, bool)),
        (np.ones(30), np.zeros(30, bool)),
        (np.linspace(0, 1, 100_000), np.ones(100_000, bool)),
        (np.linspace(0.2, 1, 50).astype(np.float16), np.arange(50) % 2 == 0),
    ],
    ids=["one row", "confidence 0", "all sure, all right", "all sure, all wrong", "all right", "float16"],
)
def test_degenerate_reliability_is_drawn(panel):
    assert size(draw_reliability({"x": panel})) == SIZES[reliability]


@pytest.mark.parametrize("n_bins", [1, 100])
def test_any_number_of_bins_is_drawn(n_bins):
    assert size(reliability(n_bins=n_bins)) == SIZES[reliability]


@pytest.mark.parametrize(
    ("panels", "options", "message"),
    [
        ({}, {}, "0 panels"),
        (dict.fromkeys("abc", (np.ones(1), np.ones(1, bool))), {}, "3 panels"),
        ({"a": (np.ones(0), np.ones(0, bool))}, {}, "a: no labelled row"),
        ({"a": (np.ones(2), np.ones(3, bool))}, {}, r"a: confidence is float64 of shape \(2,\)"),
        ({"a": (np.ones(2), np.ones(2))}, {}, "correct is float64"),
        ({"a": (np.array([0.5, 1.5]), np.ones(2, bool))}, {}, r"confidence\[1\] is 1.5"),
        ({"a": (np.array([NAN, 0.5]), np.ones(2, bool))}, {}, r"confidence\[0\] is nan"),
        ({"a": (np.ones(1), np.ones(1, bool))}, {"n_bins": 0}, "0 bins"),
        ({"a": (np.ones(1), np.ones(1, bool))}, {"null": {"b": 0.1}}, r"null names the panels \['b'\]"),
        ({"a": (np.ones(1), np.ones(1, bool))}, {"null": {"a": NAN}}, "null of a"),
    ],
)
def test_reliability_refuses(panels, options, message):
    with pytest.raises(ContractError, match=message):
        draw_reliability(panels, **options)


# confusion


def test_rows_are_labels_and_columns_predictions():
    counts = 10 * np.eye(3, dtype=int)
    moved = counts.copy()
    moved[0] = [0, 0, 10]  # all of class 0 are taken for class 2
    left, top, cell = 270, 135, 892.5 / 3  # of the matrix, pixels
    image = pixels(draw_confusion(moved, ("a", "b", "c")))

    def corner(i: int, j: int) -> np.ndarray:
        return image[int(top + (i + 0.1) * cell), int(left + (j + 0.1) * cell)]

    dark = np.array([[corner(i, j).mean() < 0.5 for j in range(3)] for i in range(3)])
    assert dark.tolist() == (moved > 0).tolist()


def test_colours_are_shares_of_the_row():
    rare_and_common = draw_confusion(np.array([[1, 1], [5000, 5000]]), ("a", "b"))
    image = pixels(rare_and_common)
    corners = [image[150 + 446 * i, 290 + 446 * j] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(corners, np.tile(corners[0], (4, 1)))


def test_a_class_without_a_row_is_hatched():
    counts = 10 * np.eye(3, dtype=int)
    absent = counts.copy()
    absent[1] = 0
    rows, _ = changed(draw_confusion(counts, ("a", "b", "c")), draw_confusion(absent, ("a", "b", "c")))
    body = rows[rows > 130]  # below the heading
    third = 892.5 / 3
    assert 135 + third - 3 <= body.min()
    assert body.max() <= 135 + 2 * third + 3


@pytest.mark.parametrize(
    ("counts", "classes", "message"),
    [
        (np.eye(3, dtype=int), ("a", "b"), "confusion is int64"),
        (np.eye(2), ("a", "b"), "confusion is float64"),
        (np.array([[1, -1], [0, 1]]), ("a", "b"), "holds -1"),
        (np.zeros((2, 2), int), ("a", "b"), "no labelled row"),
        (np.ones((1, 1), int), ("a",), "1 class names"),
    ],
)
def test_confusion_refuses(counts, classes, message):
    with pytest.raises(ContractError, match=message):
        draw_confusion(counts, classes)


# scores of each class


def test_bars_are_f1_and_stand_in_class_order():
    zeros, n = np.zeros(3), np.ones(3, int)
    f1 = np.array([1.0, 0.5, 0.0])
    image = pixels(draw_class_scores(zeros, zeros, f1, f1, f1, n, ("a", "b", "c")))
    left, width, top, row = 232, 577, 165, 727 / 3  # pixels
    lengths = []
    for k in range(3):
        line = image[int(top + (k + 0.6) * row), left + 15 : left + width - 3]  # between the marks
        lengths.append(np.mean(np.abs(255 * line - (187, 225, 246)).max(axis=1) < 12))
    np.testing.assert_allclose(lengths, f1, atol=0.06)


def test_absent_and_never_predicted_classes_are_drawn():
    scores = [np.array([NAN, 0.5]), np.array([0.0, NAN]), np.array([0.0, NAN]), np.array([NAN, NAN]), np.full(2, NAN)]
    assert size(draw_class_scores(*scores, np.array([3, 0]), ("a", "b"))) == SIZES[class_scores]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.ones(3)}, "precision is float64"),
        ({2: np.array([0.5, 1.2])}, r"f1\[1\] is 1.2"),
        ({3: np.array([0.5, -np.inf])}, r"f1_low\[1\] is -inf"),
        ({2: np.full(2, NAN)}, "f1 is NaN for every class"),
        ({5: np.zeros(2, int)}, "no labelled row"),
        ({5: np.ones(2)}, "support is float64"),
    ],
)
def test_class_scores_refuse(changes, message):
    given = [np.full(2, 0.5)] * 5 + [np.ones(2, int)]
    with pytest.raises(ContractError, match=message):
        draw_class_scores(*[changes.get(i, value) for i, value in enumerate(given)], ("a", "b"))


# mistakes


def test_images_are_drawn_in_order_in_their_own_colours():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [np.full((20 + 30 * i, 50, 3), colour, np.uint8) for i, colour in enumerate(colours)]
    image = 255 * pixels(draw_mistakes(images, ["", "", ""], columns=6))
    centres = [image[127 + 217 - 10, int(37 + 108 + i * 235)] for i in range(3)]  # just above the captions
    np.testing.assert_allclose(centres, colours, atol=1)


@pytest.mark.parametrize("count", [1, 2, 7, 36])
def test_sheets_of_any_number_are_of_one_size(count):
    assert size(mistakes(count=count)) == SIZES[mistakes]


@pytest.mark.parametrize("columns", [1, 5, 36])
def test_other_numbers_of_columns_and_odd_images(columns):
    images = [np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (1, 400, 3), (300, 2, 3))]
    few = draw_mistakes(images, ["$a_b$ → 怒り\n" + "long " * 40 + "\nthree\nfour", "", "\n\n"], columns)
    assert size(few)[0] == round((0.5 + columns * 1.45 + (columns - 1) * 0.12) * 150)


IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "captions", "columns", "message"),
    [
        ([], [], 6, "0 images"),
        ([IMAGE] * 37, [""] * 37, 6, "37 images"),
        ([IMAGE], [], 6, "1 images and 0 captions"),
        ([IMAGE], [""], 0, "0 columns"),
        ([IMAGE, IMAGE[..., 0]], ["", ""], 6, "image 1 is uint8"),
        ([IMAGE / 255], [""], 6, "image 0 is float64"),
        ([IMAGE[:0]], [""], 6, "image 0 is uint8"),
    ],
)
def test_mistakes_refuse(images, captions, columns, message):
    with pytest.raises(ContractError, match=message):
        draw_mistakes(images, captions, columns)


# sharpness


def test_the_recommended_range_is_shaded_where_it_is():
    plain, shaded = sharpness(recommended=None), sharpness(recommended=(2.0, 4.0))
    rows, columns = changed(plain, shaded)
    body = columns[(rows > 200) & (columns < 620)]  # the left panel, below the heading
    # temperatures 1 to 4 on a logarithmic axis with 3 % on either side, from 112.5 on, 502.5 wide
    halfway = 112.5 + 502.5 * (0.03 + np.log(2) / np.log(4)) / 1.06
    assert body.min() == pytest.approx(halfway, abs=2)
    assert body.max() == pytest.approx(112.5 + 502.5 * 1.03 / 1.06, abs=2)


def test_a_cell_of_the_table_belongs_to_its_class_and_temperature():
    values = np.full((2, 4), 0.1)
    values[1, 2] = 0.9
    image = pixels(sharpness(classes=CLASSES[:4], R=2, mean_by_class=values))
    left, top, width, height = 225, 750, 1080 / 2, 442.5 / 4
    dark = [
        [image[int(top + (k + 0.2) * height), int(left + (r + 0.2) * width)].mean() < 0.5 for r in (0, 1)]
        for k in range(4)
    ]
    assert dark == [[False, False], [False, False], [False, True], [False, False]]


@pytest.mark.parametrize(
    "changes",
    [
        {"R": 1, "recommended": None},
        {"R": 1, "recommended": (1.0, 1.0)},
        {"R": 20},
        {"recommended": (0.01, 1000.0)},
        {"mean_by_class": np.full((4, 7), NAN)},
        {"entropy": np.full(4, np.log(7)), "share_above": np.zeros(4)},
        {"temperatures": np.array([1, 2, 3, 1000])},
        {"quantiles": {f"$q_{i}$": np.ones(4) for i in range(5)}},
    ],
)
def test_degenerate_sharpness_is_drawn(changes):
    assert size(sharpness(**changes)) == SIZES[sharpness]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": np.array([1.0, 2, 2, 3])}, "positive and rising"),
        ({"temperatures": np.array([0.0, 1, 2, 3])}, "positive and rising"),
        ({"temperatures": np.array([1.0, 2, 3, NAN])}, r"temperatures\[3\] is nan"),
        ({"temperatures": np.zeros(0)}, "one or more"),
        ({"temperatures": np.ones((2, 2))}, r"temperatures is float64 of shape \(2, 2\)"),
        ({"quantiles": {}}, "0 curves"),
        ({"quantiles": {"mean": np.ones(3)}}, "mean is float64"),
        ({"entropy": np.full(4, 2.0)}, "entropy"),
        ({"share_above": np.full(4, -0.1)}, "share_above"),
        ({"mean_by_class": np.ones((7, 4))}, "mean_by_class"),
        ({"band": (0.8, 0.5)}, "band"),
        ({"recommended": (3.0, 2.0)}, "recommended"),
        ({"classes": ("a",)}, "1 class names"),
    ],
)
def test_sharpness_refuses(changes, message):
    with pytest.raises(ContractError, match=message):
        sharpness(**changes)


# differences

B_BETTER, A_BETTER = (0, 114, 178), (213, 94, 0)


@pytest.mark.parametrize(
    ("name", "difference", "p_value", "expected"),
    [
        ("accuracy", 0.05, 0.01, B_BETTER),
        ("accuracy", -0.05, 0.01, A_BETTER),
        ("nll", -0.05, 0.01, B_BETTER),
        ("nll", 0.05, 0.01, A_BETTER),
        ("accuracy", 0.05, 0.05, None),
        ("accuracy", 0.05, NAN, None),
    ],
)
def test_significance_is_marked_by_who_is_better(name, difference, p_value, expected):
    one = np.array([difference])
    found = draw_differences([name], one, one - 0.02, one + 0.02, np.array([p_value]))
    none = draw_differences([name], one, one - 0.02, one + 0.02, np.ones(1))
    for colour in (B_BETTER, A_BETTER):
        more = count(found, colour) - count(none, colour)  # the legend has both colours
        assert (more > 100) == (colour == expected)


def test_scales_are_symmetric_and_losses_have_their_own():
    alone = draw_differences(["accuracy"], np.array([0.01]), np.zeros(1), np.array([0.015]), np.ones(1))
    names, values = ["accuracy", "nll"], np.array([0.01, 4.0])
    both = draw_differences(names, values, np.array([0, 3.0]), np.array([0.015, 5]), np.ones(2))
    rows, _ = changed(alone, both)
    assert rows.min() > 300  # the accuracy's plot is as it was


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12, NAN])
def test_degenerate_differences_are_drawn(value):
    one = np.array([value])
    assert size(draw_differences(["f1/怒り"], one, one, one, np.array([NAN]), runs=("$a$", "b" * 300))) == (1350, 1080)


def test_thirty_rows_fit_on_the_page():
    assert size(differences(names=[f"f1/{i}" for i in range(28)] + ["nll", "brier"])) == SIZES[differences]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ([], {}, "no difference"),
        (["a", "b"], {}, r"difference is float64 of shape \(1,\)"),
        (["a"], {0: np.array([np.inf])}, r"difference\[0\] is inf"),
        (["a"], {3: np.array([1.1])}, r"p_values\[0\] is 1.1"),
        (["a"], {2: np.array(["x"])}, "high is <U1"),
    ],
)
def test_differences_refuse(names, changes, message):
    with pytest.raises(ContractError, match=message):
        draw_differences(names, *[changes.get(i, np.zeros(1)) for i in range(4)])
