"""Two models on the same rows: differences per metric, and which rows changed."""

import numpy as np
import pytest
from toys import CLASSES, draw_logits, expected_metrics

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.significance import compare_logits


def compare(a, b, labels, classes=CLASSES, seed=0):
    return compare_logits(a, b, labels, classes, np.random.default_rng(seed))


def test_a_case_by_hand():
    a = np.log([[0.8, 0.2], [0.6, 0.4], [0.4, 0.6], [0.9, 0.1]])
    b = np.log([[0.8, 0.2], [0.4, 0.6], [0.6, 0.4], [0.9, 0.1]])
    result = compare(a, b, np.array([0, 1, 1, 1]), ("no", "yes"))
    assert result.predictions_a.tolist() == [0, 0, 1, 0]
    assert result.predictions_b.tolist() == [0, 1, 0, 0]
    assert result.changed.tolist() == [False, True, True, False]
    assert result.only_b_right.tolist() == [False, True, False, False]
    assert result.only_a_right.tolist() == [False, False, True, False]
    assert list(result.differences) == ["accuracy", "macro_f1", "balanced_accuracy", "nll", "f1/no", "f1/yes"]
    assert {name: each.value for name, each in result.differences.items()} == pytest.approx(
        dict.fromkeys(result.differences, 0), abs=1e-12
    )
    assert result.differences["accuracy"].p_value == 1


def test_differences_are_b_less_a_of_every_metric():
    logits, labels = draw_logits(300, seed=1)
    worse = logits + np.random.default_rng(2).normal(0, 2, logits.shape)
    a, b = expected_metrics(worse, labels), expected_metrics(logits, labels)
    result = compare(worse, logits, labels)
    for name, difference in result.differences.items():
        assert difference.value == pytest.approx(b[name] - a[name], abs=1e-12)
        assert difference.interval.low <= difference.value <= difference.interval.high
    assert result.differences["nll"].value < 0 < result.differences["accuracy"].value


def test_a_class_without_a_labelled_row_is_left_out():
    logits, labels = draw_logits(90, seed=3)
    labels = np.where(labels == 2, 4, labels)
    result = compare(logits, -logits, labels)
    assert "f1/Fear" not in result.differences
    assert {f"f1/{name}" for name in CLASSES if name != "Fear"} < set(result.differences)


def test_a_constant_per_row_and_a_permutation_of_rows_and_classes_change_nothing():
    logits, labels = draw_logits(120, seed=4)
    logits = logits.astype(np.float64)
    other = logits + np.random.default_rng(5).normal(0, 2, logits.shape)
    reference = compare(logits, other, labels)
    rng = np.random.default_rng(6)
    rows, columns = rng.permutation(120), rng.permutation(7)
    moved = compare(
        (logits + 7.5)[rows][:, columns],
        (other - rng.normal(0, 50, (120, 1)))[rows][:, columns],
        np.argsort(columns)[labels[rows]],
        tuple(CLASSES[k] for k in columns),
    )
    assert {name: each.value for name, each in moved.differences.items()} == pytest.approx(
        {name: each.value for name, each in reference.differences.items()}, abs=1e-9
    )
    assert moved.changed.tolist() == reference.changed[rows].tolist()
    assert moved.only_b_right.tolist() == reference.only_b_right[rows].tolist()


def test_extreme_and_float16_logits_have_finite_differences():
    logits, labels = draw_logits(60, seed=7)
    result = compare(logits.astype(np.float16), logits.astype(np.float64) * 1e4, labels)
    assert all(np.isfinite([each.value, each.p_value]).all() for each in result.differences.values())
    assert not result.changed.any()


@pytest.mark.parametrize(
    ("a", "b", "labels"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), [0, 0, 0]),
        (np.zeros((3, 2)), np.zeros((3, 2)), [0, 0]),
        (np.zeros((3, 3)), np.zeros((3, 2)), [0, 1, 2]),
        (np.zeros((3, 2)), np.zeros((3, 2)), [0, 0, -1]),
        (np.zeros((0, 2)), np.zeros((0, 2)), []),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), [0]),
        (np.zeros((1, 2)), np.full((1, 2), np.inf), [0]),
    ],
)
def test_what_does_not_fit_together_is_refused(a, b, labels):
    with pytest.raises(ContractError):
        compare(a, b, np.array(labels, dtype=int), ("x", "y"))
