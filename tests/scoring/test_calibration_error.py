"""Calibration errors against torchmetrics, plain loops and row-wise simulation."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torchmetrics.classification import MulticlassCalibrationError

from fer_mlflow.scoring.calibration_error import (
    adaptive_calibration_error,
    classwise_calibration_error,
    equal_mass_bins,
    equal_width_bins,
    expected_calibration_error,
    null_calibration_error,
)
from fer_mlflow.scoring.metrics import score


def make(rows: int, seed: int, sharpness: float = 2.0, classes: int = 7):
    """Return probabilities, labels drawn from sharper ones, confidence and correctness."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, sharpness, (rows, classes))
    labels = (softmax(z, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    probs = softmax(1.7 * z, axis=1)
    return probs, labels, probs.max(axis=1), probs.argmax(axis=1) == labels


def by_loop(values, outcomes, bins) -> float:
    total = 0.0
    for each in set(bins.tolist()):
        inside = bins == each
        total += inside.sum() / len(values) * abs(values[inside].mean() - outcomes[inside].mean())
    return total


def by_torchmetrics(probs, labels) -> float:
    """Return torchmetrics' ECE of float64 confidences; its own update narrows them to float32."""
    probs = np.asarray(probs, dtype=np.float64)
    metric = MulticlassCalibrationError(num_classes=probs.shape[1], n_bins=15, norm="l1")
    metric.update(torch.tensor(probs), torch.tensor(labels))
    metric.confidences = [torch.tensor(probs.max(axis=1))]
    metric.accuracies = [metric.accuracies[0].double()]
    return metric.compute().item()


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("rows", [1, 7, 500, 3000])
def test_ece_is_torchmetrics(rows, classes):
    probs, labels, confidence, correct = make(rows, rows, classes=classes)
    ours = expected_calibration_error(confidence, correct)
    assert ours == pytest.approx(by_torchmetrics(probs, labels), abs=1e-9)
    metric = MulticlassCalibrationError(num_classes=classes, n_bins=15, norm="l1")
    assert ours == pytest.approx(metric(torch.tensor(probs), torch.tensor(labels)).item(), abs=1e-6)


@pytest.mark.parametrize("case", ["absent class", "ties", "float16", "extreme"])
def test_ece_of_degenerate_logits_is_torchmetrics(case):
    rng = np.random.default_rng(11)
    logits, labels = rng.normal(0, 2, (400, 7)), rng.integers(0, 6, 400)  # the last class has no row
    if case == "ties":
        logits = np.round(logits / 2)
        labels[:] = rng.integers(0, 7, 400)
    if case == "float16":
        logits = logits.astype(np.float16)
    if case == "extreme":
        logits = logits / np.abs(logits).max() * 1e4
        logits[(np.diff(np.sort(logits, axis=1), axis=1)[:, -1] > 30)] /= 1e4  # none of exactly 1, see below
    found = score(logits, labels)
    assert found.ece == pytest.approx(by_torchmetrics(softmax(logits.astype(float), axis=1), labels), abs=1e-9)


def test_a_confidence_of_exactly_one_belongs_to_the_last_bin_and_not_to_a_bin_of_its_own():
    probs = np.array([[1.0, 0.0], [0.97, 0.03], [0.96, 0.04]])
    labels, correct = np.array([1, 0, 0]), np.array([False, True, True])
    theirs = MulticlassCalibrationError(num_classes=2, n_bins=15, norm="l1")(torch.tensor(probs), torch.tensor(labels))
    ours = expected_calibration_error(probs.max(axis=1), correct)
    assert ours == pytest.approx(abs((1 + 0.97 + 0.96) - 2) / 3)
    assert theirs.item() == pytest.approx((1 + abs(0.97 + 0.96 - 2)) / 3, abs=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_and_in_torchmetrics_to_the_one_above():
    probs = np.array([[0.2] * 5, [0.19, 0.21, 0.2, 0.2, 0.2], [0.22, 0.18, 0.2, 0.2, 0.2]])  # 0.2 is 3 / 15
    labels, correct = np.array([0, 0, 0]), np.array([True, False, True])
    ours = expected_calibration_error(probs.max(axis=1), correct)
    assert ours == pytest.approx((0.8 + abs(0.21 + 0.22 - 1)) / 3)
    assert by_torchmetrics(probs, labels) == pytest.approx(abs(0.2 + 0.21 + 0.22 - 2) / 3)
    alone = np.full((6, 5), 0.2)  # without neighbours the bin does not matter
    labels = np.arange(6) % 5
    assert expected_calibration_error(alone.max(axis=1), labels == 0) == pytest.approx(by_torchmetrics(alone, labels))


def test_bins_are_right_closed_and_zero_is_in_the_first():
    edges = np.array([0, 1, 2, 3, 4, 5]) / 5
    assert equal_width_bins(edges, 5).tolist() == [0, 0, 1, 2, 3, 4]
    assert equal_width_bins(np.nextafter(edges[1:5], 1), 5).tolist() == [1, 2, 3, 4]


def test_bins_of_equal_mass_hold_as_many_rows_each_and_keep_ties_together():
    rng = np.random.default_rng(0)
    values = rng.random(3001)
    counts = np.bincount(equal_mass_bins(values, 15))
    assert len(counts) == 15
    assert counts.max() - counts.min() <= 1
    order = np.argsort(values)
    assert (np.diff(equal_mass_bins(values, 15)[order]) >= 0).all()
    tied = np.round(values, 1)
    bins = equal_mass_bins(tied, 15)
    for value in np.unique(tied):
        assert len(np.unique(bins[tied == value])) == 1
    assert equal_mass_bins(np.full(10, 0.3), 15).tolist() == [0] * 10
    assert equal_mass_bins(np.array([0.9, 0.2]), 15).tolist() == [1, 0]  # fewer rows than bins


@pytest.mark.parametrize("rows", [1, 14, 400])
def test_adaptive_and_classwise_are_loops_over_bins(rows):
    probs, labels, confidence, correct = make(rows, rows + 1)
    assert adaptive_calibration_error(confidence, correct) == pytest.approx(
        by_loop(confidence, correct, equal_mass_bins(confidence)), abs=1e-12
    )
    each = [by_loop(probs[:, k], labels == k, equal_width_bins(probs[:, k])) for k in range(7)]
    assert classwise_calibration_error(probs, labels) == pytest.approx(np.mean(each), abs=1e-12)


def mass_bins_by_loop(confidence, n_bins: int) -> list[list[int]]:
    """Return the rows of each bin: as many as are due, and then all that equal the last."""
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    bins, taken = [], 0
    for k in range(1, n_bins + 1):
        end = round(k * len(order) / n_bins)  # half to even, as numpy has it
        if end <= taken:
            continue
        while end < len(order) and confidence[order[end]] == confidence[order[end - 1]]:
            end += 1
        bins.append(order[taken:end])
        taken = end
    return bins


@pytest.mark.parametrize("n_bins", [1, 3, 15])
@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("rows", [1, 2, 16, 333])
def test_bins_of_equal_mass_are_dealt_out_in_order(rows, digits, n_bins):
    confidence = np.random.default_rng(rows).random(rows).round(digits)
    expected = np.empty(rows, int)
    for at, members in enumerate(mass_bins_by_loop(confidence, n_bins)):
        expected[members] = at
    assert equal_mass_bins(confidence, n_bins).tolist() == expected.tolist()


def test_adaptive_and_classwise_by_hand():
    confidence = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    correct = np.array([True, False, True, False, True])
    # two bins end after rows round(2.5) = 2 and 5
    expected = (abs(1.1 - 1) + abs(2.4 - 2)) / 5
    assert adaptive_calibration_error(confidence, correct, 2) == pytest.approx(expected)
    tied = np.array([0.5, 0.6, 0.6, 0.8, 0.9])  # the first bin goes on to the second 0.6
    assert adaptive_calibration_error(tied, correct, 2) == pytest.approx((abs(1.7 - 2) + abs(1.7 - 1)) / 5)
    probs, labels = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 1, 1])
    # two bins: class 0 has (0.2) and (0.7, 0.9), class 1 has (0.1, 0.3) and (0.8)
    expected = ((abs(0.2 - 0) + abs(1.6 - 1)) / 3 + (abs(0.4 - 1) + abs(0.8 - 1)) / 3) / 2
    assert classwise_calibration_error(probs, labels, 2) == pytest.approx(expected)


def test_an_absent_class_counts_in_the_classwise_error_and_dilutes_it():
    probs, labels = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]), np.array([0, 1])
    expected = (0.4 + 0.2 + 0.3 + 0.3 + 2 * 0.1) / 2 / 3
    assert classwise_calibration_error(probs, labels) == pytest.approx(expected)
    sure = np.full(300, 0.95)
    spread = np.column_stack([sure, *[np.full(300, 0.05 / 6)] * 6])
    labels = np.r_[np.zeros(180, int), np.arange(120) % 6 + 1]  # right in 60 %
    assert expected_calibration_error(sure, labels == 0) == pytest.approx(0.35)
    assert classwise_calibration_error(spread, labels) == pytest.approx(0.1)  # (0.35 + 6 (0.4 / 6 - 0.05 / 6)) / 7


def test_no_rows_have_no_error():
    nothing = np.empty(0)
    assert np.isnan(adaptive_calibration_error(nothing, nothing.astype(bool)))
    assert np.isnan(classwise_calibration_error(np.empty((0, 3)), nothing.astype(int)))
    assert np.isnan(null_calibration_error(nothing, np.random.default_rng(0))).all()


def test_the_null_is_what_labels_drawn_from_the_probabilities_give():
    _, _, confidence, _ = make(600, 3)
    rng = np.random.default_rng(1)
    row_by_row = [expected_calibration_error(confidence, rng.random(600) < confidence) for _ in range(3000)]
    drawn = null_calibration_error(confidence, np.random.default_rng(2), replicates=3000)
    assert drawn.shape == (3000,)
    assert drawn.mean() == pytest.approx(np.mean(row_by_row), abs=4 * np.std(row_by_row) * np.sqrt(2 / 3000))
    assert np.std(drawn) == pytest.approx(np.std(row_by_row), rel=0.1)
    assert np.quantile(drawn, 0.95) == pytest.approx(np.quantile(row_by_row, 0.95), rel=0.03)


@pytest.mark.parametrize(
    ("confidence", "n_bins"),
    [
        (np.repeat([0.9, 0.4], [30, 50]), 15),  # two bins of one value each
        (np.r_[np.linspace(0.34, 0.39, 40), np.linspace(0.81, 0.86, 25)], 15),  # two bins, many values each
        (np.r_[np.linspace(0.2, 0.5, 30), np.linspace(0.51, 0.99, 30)], 2),
        (np.array([0.7]), 15),
        (np.arange(1, 16) / 15, 15),  # every value on the edge of its bin
    ],
)
def test_the_null_has_the_mean_and_the_spread_of_rows_drawn_one_by_one(confidence, n_bins):
    rng = np.random.default_rng(3)
    drawn = [expected_calibration_error(confidence, rng.random(len(confidence)) < confidence, n_bins) for _ in range(2000)]
    null = null_calibration_error(confidence, np.random.default_rng(4), n_bins, replicates=4000)
    assert null.mean() == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) * np.sqrt(1 / 2000 + 1 / 4000))
    assert null.std() == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize(("rows", "expected", "error"), [(500, 0.052, 0.006), (3068, 0.022, 0.003), (50_000, 0.005, 0.001)])
def test_the_null_of_seven_classes_is_what_was_measured(rows, expected, error):
    confidence = softmax(np.random.default_rng(0).normal(0, 1.5, (rows, 7)), axis=1).max(axis=1)
    null = null_calibration_error(confidence, np.random.default_rng(1))
    assert null.shape == (2000,)
    assert null.mean() == pytest.approx(expected, abs=error)
    if rows == 3068:
        assert null.std() < 0.005


def test_the_null_is_the_same_for_the_same_seed_and_changes_no_argument():
    confidence = np.array([0.3, 0.99, 0.6])
    first, again = (null_calibration_error(confidence, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert confidence.tolist() == [0.3, 0.99, 0.6]


def test_the_null_falls_with_the_rows_and_is_zero_for_certainty():
    # A calibrated 7-class model shows about 0.05 at 500 rows, 0.02 at 3,068 and 0.005 at 50,000.
    means = []
    for rows in (500, 3068, 50_000):
        confidence = make(rows, rows)[2] ** 0.5  # spread over the bins
        means.append(null_calibration_error(confidence, np.random.default_rng(0)).mean())
    assert 0.03 < means[0] < 0.07
    assert 0.012 < means[1] < 0.03
    assert 0.003 < means[2] < 0.008
    assert null_calibration_error(np.ones(50), np.random.default_rng(0)).max() == 0


def test_a_calibrated_model_stays_below_the_null_and_a_sure_one_does_not():
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.3, 1, 2000)
    null = np.quantile(null_calibration_error(confidence, rng), 0.95)
    calibrated = [expected_calibration_error(confidence, rng.random(2000) < confidence) for _ in range(400)]
    assert 0.92 < np.mean(np.array(calibrated) <= null) < 0.98
    assert expected_calibration_error(confidence, rng.random(2000) < confidence - 0.1) > null
