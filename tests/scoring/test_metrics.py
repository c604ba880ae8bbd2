"""Scores by value: hand-computed, against scikit-learn, against loops, and under what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix as sklearn_confusion,
    f1_score,
    log_loss,
    recall_score,
)

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.evaluation import expected_calibration_error
from fer_mlflow.scoring.metrics import (
    METRICS,
    confusion_matrix,
    is_lower_better,
    metric_names,
    row_losses,
    score as score_named,
)

SCALARS = ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "ece", "mean_max_prob", "p99_max_prob")


def score(logits, labels):
    """Return the scores under class names a, b, c, …"""
    return score_named(logits, labels, tuple("abcdefghijkl"[: np.shape(logits)[-1]]))


def f1_of(found, C: int) -> np.ndarray:
    """Return (C,) F1, NaN where a class has none."""
    return np.array([found.get(f"f1/{name}", np.nan) for name in "abcdefghijkl"[:C]])


def simulated(seed: int, N: int = 500, C: int = 7, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are right more often than not, and labels of unequal frequency."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(C, size=N, p=rng.dirichlet(np.full(C, 3.0)))
    return sharpness * (rng.normal(size=(N, C)) + np.eye(C)[labels]), labels


def softmax(logits: np.ndarray) -> list[list[float]]:
    """Probabilities by the textbook, row by row."""
    rows = [[math.exp(value - max(row)) for value in row] for row in logits.astype(float).tolist()]
    return [[value / math.fsum(row) for value in row] for row in rows]


def ece_by_loop(confidence, correct, n_bins: int = 15) -> float:
    total = 0.0
    for m in range(n_bins):
        lo, hi = m / n_bins, (m + 1) / n_bins
        inside = [i for i, p in enumerate(confidence) if lo < p <= hi or (m == 0 and p == 0)]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = math.fsum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def brier_by_loop(probs, labels) -> float:
    rows = [math.fsum((p - (c == y)) ** 2 for c, p in enumerate(row)) for row, y in zip(probs, labels, strict=True)]
    return math.fsum(rows) / len(rows)


@pytest.mark.parametrize("seed", range(10))
def test_scores_agree_with_scikit_learn_and_with_loops(seed):
    C = 2 + seed
    logits, labels = simulated(seed, C=C, sharpness=0.5 + seed / 4)  # log_loss clips at 2e-16
    found, probs, predictions = score(logits, labels), softmax(logits), logits.argmax(axis=1)
    present = sorted(set(labels.tolist()))
    per_class = f1_score(labels, predictions, labels=range(C), average=None, zero_division=0)
    confidence = [max(row) for row in probs]
    expected = {
        "accuracy": accuracy_score(labels, predictions),
        "macro_f1": f1_score(labels, predictions, labels=present, average="macro", zero_division=0),
        "balanced_accuracy": recall_score(labels, predictions, labels=present, average="macro", zero_division=0),
        "nll": log_loss(labels, probs, labels=range(C)),
        "brier": brier_by_loop(probs, labels),
        "ece": ece_by_loop(confidence, predictions == labels),
        "mean_max_prob": math.fsum(confidence) / len(confidence),
        "p99_max_prob": np.quantile(confidence, 0.99),
    }
    assert {name: found[name] for name in SCALARS} == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(f1_of(found, C)[present], per_class[present], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_confusion_matrix_is_scikit_learns(seed):
    logits, labels = simulated(seed, N=80)
    predictions = logits.argmax(axis=1)
    np.testing.assert_array_equal(
        confusion_matrix(labels, predictions, 7), sklearn_confusion(labels, predictions, labels=range(7))
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_losses_of_rows_are_log_losses_of_rows(dtype):
    logits, labels = simulated(3, N=60)
    logits = logits.astype(dtype)
    losses = row_losses(logits, labels)
    assert losses.dtype == np.float64
    expected = [log_loss([y], [p], labels=range(7)) for y, p in zip(labels, softmax(logits), strict=True)]
    np.testing.assert_allclose(losses, expected, atol=1e-9)
    assert losses.mean() == pytest.approx(score(logits, labels)["nll"], abs=1e-12)
    shifted = row_losses(logits.astype(float) + np.arange(60)[:, None], labels)
    np.testing.assert_allclose(shifted, losses, atol=1e-9)


def test_losses_of_rows_by_hand():
    logits = np.array([[math.log(3), 0.0], [0.0, 0.0], [1e4, -1e4], [-1e4, 1e4], [-1e4, -1e4]])
    expected = [math.log(4), math.log(2), 2e4, 0.0, math.log(2)]
    np.testing.assert_allclose(row_losses(logits, np.array([1, 0, 1, 1, 0])), expected, rtol=1e-12)
    assert row_losses(np.empty((0, 3)), np.empty(0, int)).shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_extreme_logits_have_the_nll_of_exact_arithmetic(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.uniform(-1e4, 1e4, (50, 7)), rng.integers(0, 7, 50)
    logits[0, :2] = logits[0].max() + 1  # a tie at the top
    total = math.fsum(
        max(row) - row[y] + math.log(math.fsum(math.exp(z - max(row)) for z in row))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert score(logits, labels)["nll"] == pytest.approx(total / 50, rel=1e-13)


def test_three_rows_by_hand():
    probs = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    found = score(np.log(probs) + 5, np.array([0, 1, 2]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(f1_of(found, 3), [2 / 3, 0, 1])
    assert found["macro_f1"] == pytest.approx(5 / 9)
    assert found["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.9)) / 3)
    assert found["brier"] == pytest.approx((0.09 + 0.04 + 0.01 + 0.25 + 0.49 + 0.04 + 0.0025 + 0.0025 + 0.01) / 3)
    assert found["ece"] == pytest.approx((0.3 + 0.5 + 0.1) / 3)  # each in a bin of its own
    assert found["mean_max_prob"] == pytest.approx(0.7)
    assert found.keys() == {*SCALARS, "f1/a", "f1/b", "f1/c"}


@pytest.mark.parametrize(("label", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_one_row(label, accuracy):
    found = score(np.array([[math.log(3), 0.0]]), np.array([label]))
    p = 0.75 if label == 0 else 0.25
    expected = {
        "accuracy": accuracy,
        "macro_f1": accuracy,
        "balanced_accuracy": accuracy,
        "nll": -math.log(p),
        "brier": 2 * (1 - p) ** 2,
    }
    expected |= {"ece": abs(accuracy - 0.75), "mean_max_prob": 0.75, "p99_max_prob": 0.75}
    assert {name: found[name] for name in SCALARS} == pytest.approx(expected)


def test_a_class_without_a_labelled_row_has_no_f1_and_no_say_in_macro_f1():
    found = score(np.log([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]), np.array([0, 1, 1]))
    np.testing.assert_allclose(
        f1_of(found, 3), [1, 2 / 3, np.nan]
    )  # the third class was predicted, and is not labelled
    assert found["macro_f1"] == pytest.approx(5 / 6)
    assert "f1/c" not in found
    assert not any(math.isnan(value) for value in found.values())


def test_a_class_that_is_labelled_and_never_predicted_scores_zero():
    found = score(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([0, 2]))
    np.testing.assert_allclose(f1_of(found, 3), [2 / 3, np.nan, 0])
    assert found["macro_f1"] == pytest.approx(1 / 3)


def test_balanced_accuracy_is_the_mean_recall_of_classes_with_a_row():
    logits, labels = simulated(5, N=400, C=4)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert score(logits, labels)["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
    found = score(np.eye(3)[[0, 0, 1, 2]], np.array([0, 0, 0, 1]))  # 2 of 3, 0 of 1; no row of the third
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["accuracy"] == 0.5


def test_every_row_of_the_table_is_scored_and_ranked_in_its_direction():
    logits, labels = simulated(6, C=3)
    assert list(score(logits, labels)) == metric_names("abc")
    assert len({row.name for row in METRICS}) == len(METRICS)
    for row in METRICS:
        assert row.direction in ("higher", "lower", "")
        assert is_lower_better(row.name) == (row.direction == "lower")
        assert row.from_counts or not row.has_interval
        assert {"mcnemar": row.from_counts, "randomisation": row.from_counts, "t": row.row_values, "": True}[row.test]


def test_a_tie_goes_to_the_first_column():
    found = score(np.zeros((4, 4)), np.array([0, 1, 2, 3]))
    assert (found["accuracy"], found["nll"], found["brier"]) == pytest.approx((0.25, math.log(4), 0.75))
    assert found["ece"] == pytest.approx(0)


@pytest.mark.parametrize("right", [True, False])
def test_huge_logits_stay_finite_when_all_is_right_and_when_all_is_wrong(right):
    labels = np.arange(14) % 7
    logits = np.where(np.eye(7)[labels] > 0, 1e4, -1e4) * (1 if right else -1)
    found = score(logits, labels)
    expected = dict.fromkeys(SCALARS, 0.0) | {"mean_max_prob": 1.0, "p99_max_prob": 1.0}
    if right:
        expected |= {"accuracy": 1.0, "macro_f1": 1.0, "balanced_accuracy": 1.0}
    else:  # six columns share all probability
        expected |= {"nll": 2e4 + math.log(6), "brier": 1 + 1 / 6, "ece": 1 / 6, "mean_max_prob": 1 / 6}
        expected |= {"p99_max_prob": 1 / 6}
    assert {name: found[name] for name in SCALARS} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_are_scored_as_the_numbers_they_hold(dtype):
    logits, labels = simulated(1)
    narrow = logits.astype(dtype)
    assert score(narrow, labels) == score(narrow.astype(float), labels)
    assert narrow.dtype == dtype


@pytest.mark.parametrize("n_bins", [2, 10, 15, 20])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(n_bins):
    edges = np.arange(n_bins + 1) / n_bins
    correct = np.arange(n_bins + 1) % 3 == 0
    assert expected_calibration_error(edges, correct, n_bins) == pytest.approx(ece_by_loop(edges, correct, n_bins))
    inner = edges[1:-1]
    values = np.concatenate([inner - 1e-12, inner, inner + 1e-12])
    correct = np.repeat([True, False, True], len(inner))
    assert expected_calibration_error(values, correct, n_bins) == pytest.approx(
        ece_by_loop(values, correct, n_bins), abs=1e-12
    )


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0], [False], 1.0),
        ([0.0], [False], 0.0),
        ([0.95, 0.99], [True, False], 0.47),  # one bin: |0.97 - 0.5|
        ([0.90, 0.99], [True, False], (0.1 + 0.99) / 2),  # two bins
        ([0.6, 0.6, 0.6, 0.6, 0.6], [True, True, True, False, False], 0.0),
    ],
)
def test_ece_by_hand(confidence, correct, expected):
    assert expected_calibration_error(np.array(confidence), np.array(correct)) == pytest.approx(expected, abs=1e-12)


def test_ece_of_no_rows_is_no_number():
    assert math.isnan(expected_calibration_error(np.array([]), np.array([], bool)))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, 1], [0, math.nan]], [0, 1], r"logits row 1: \[0\.0, nan\] is not finite \(1 such rows\)"),
        ([[math.inf, 1], [0, -math.inf]], [0, 1], r"logits row 0: .* \(2 such rows\)"),
        ([0.0, 1.0], [0, 1], r"logits are float64 of shape \(2,\); they must be floats of shape \(rows, 2 or more"),
        ([[1.0], [2.0]], [0, 0], r"of shape \(2, 1\)"),
        ([[0, 1], [1, 0]], [0, 1], r"logits are int64 of shape \(2, 2\)"),
        ([[0.0, 1.0]], [0, 1], r"labels are int64 of shape \(2,\); they must be integers of shape \(1,\)"),
        ([[0.0, 1.0]], [[0]], r"labels are int64 of shape \(1, 1\)"),
        ([[0.0, 1.0]], [0.0], r"labels are float64"),
        ([[0.0, 1.0]], [True], r"labels are bool"),
        ([[0.0, 1.0], [0.0, 1.0]], [0, 2], r"labels row 1: 2 is not a class in 0\.\.1"),
        ([[0.0, 1.0], [0.0, 1.0]], [-1, 0], r"labels row 0: -1 is not a class"),
        (np.empty((0, 7)), np.empty(0, int), "no labelled row: there is nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, labels, message):
    with pytest.raises(ContractError, match=message):
        score(np.array(logits), np.array(labels))


# Multiples of 1/8 keep a constant added to a row exact, so that no tie appears or goes.
LOGITS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.integers(2, 8)), elements=st.integers(-80, 80).map(lambda i: i / 8)
)


@settings(deadline=None)
@given(LOGITS, st.randoms(use_true_random=False))
def test_row_order_and_constants_change_nothing_and_classes_only_their_names(logits, random):
    N, C = logits.shape
    labels = np.array([random.randrange(C) for _ in range(N)])
    before = score(logits, labels)
    scalars = {name: before[name] for name in SCALARS}
    assert all(0 <= scalars[name] <= 1 for name in SCALARS if name not in ("nll", "brier"))
    assert scalars["nll"] >= 0
    assert 0 <= scalars["brier"] <= 2

    rows = np.array(random.sample(range(N), N))
    constants = np.array([random.randrange(-80, 80) / 8 for _ in range(N)])
    after = score((logits + constants[:, None])[rows], labels[rows])
    assert {name: after[name] for name in SCALARS} == pytest.approx(scalars, abs=1e-9)
    np.testing.assert_array_equal(f1_of(after, C), f1_of(before, C))

    logits = logits + np.arange(C) / 64  # no ties, which a permutation would break in another way
    before, columns = score(logits, labels), np.array(random.sample(range(C), C))
    after = score(logits[:, columns], np.argsort(columns)[labels])
    for name in SCALARS:
        assert after[name] == pytest.approx(before[name], abs=1e-9)
    np.testing.assert_array_equal(f1_of(after, C), f1_of(before, C)[columns])


def test_scoring_changes_no_argument():
    logits, labels = simulated(2, N=50)
    copies = logits.copy(), labels.copy()
    score(logits, labels)
    np.testing.assert_array_equal(logits, copies[0])
    np.testing.assert_array_equal(labels, copies[1])
