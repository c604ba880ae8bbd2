"""Calibration errors against torchmetrics, plain loops and row-wise simulation."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torchmetrics.classification import MulticlassCalibrationError

from fer_mlflow.scoring.evaluation import (
    adaptive_calibration_error,
    classwise_calibration_error,
    equal_mass_bins,
    expected_calibration_error,
    null_calibration_error,
)
from fer_mlflow.scoring.metrics import equal_width_bins


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


@pytest.mark.parametrize("rows", [1, 7, 500, 3000])
def test_ece_is_torchmetrics(rows):
    probs, labels, confidence, correct = make(rows, rows)
    metric = MulticlassCalibrationError(num_classes=7, n_bins=15, norm="l1")
    theirs = metric(torch.tensor(probs, dtype=torch.float64), torch.tensor(labels)).item()
    assert expected_calibration_error(confidence, correct) == pytest.approx(theirs, abs=1e-6)  # theirs sums float32


def test_a_confidence_of_exactly_one_belongs_to_the_last_bin_and_not_to_a_bin_of_its_own():
    probs = np.array([[1.0, 0.0], [0.97, 0.03], [0.96, 0.04]])
    labels, correct = np.array([1, 0, 0]), np.array([False, True, True])
    theirs = MulticlassCalibrationError(num_classes=2, n_bins=15, norm="l1")(torch.tensor(probs), torch.tensor(labels))
    ours = expected_calibration_error(probs.max(axis=1), correct)
    assert ours == pytest.approx(abs((1 + 0.97 + 0.96) - 2) / 3)
    assert theirs.item() == pytest.approx((1 + abs(0.97 + 0.96 - 2)) / 3, abs=1e-6)


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
