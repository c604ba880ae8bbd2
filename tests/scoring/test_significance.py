"""Intervals and tests from tables of counts, against the same done row by row."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring import significance
from fer_mlflow.scoring.significance import (
    Interval,
    bootstrap_intervals,
    holm,
    mcnemar_p_value,
    paired_differences,
    paired_mean_difference,
)

C = 4
CLASSES = tuple("abcd")
NAMES = ("accuracy", "macro_f1", "balanced_accuracy", *(f"f1/{name}" for name in CLASSES))


def make(rows: int, seed: int, skill: tuple[float, float] = (0.6, 0.65)):
    """Return labels of uneven classes and two models' predictions, which are right together more than by chance."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(C, rows, p=[0.5, 0.3, 0.15, 0.05])
    luck = rng.random(rows)
    wrong = rng.integers(0, C, (2, rows))
    return labels, *(np.where(luck < each, labels, other) for each, other in zip(skill, wrong, strict=True))


def scores(labels, predictions) -> np.ndarray:
    """Return the metrics of NAMES, F1 of a class without rows as 0, row by row."""
    f1, recall, present = [], [], []
    for k in range(C):
        labelled, predicted = labels == k, predictions == k
        hits = (labelled & predicted).sum()
        f1.append(2 * hits / max(labelled.sum() + predicted.sum(), 1))
        recall.append(hits / max(labelled.sum(), 1))
        present.append(labelled.any())
    means = [np.mean(np.array(each)[present]) for each in (f1, recall)]
    return np.array([(labels == predictions).mean(), *means, *f1])


def test_the_scores_of_these_tests_are_scikit_learns():
    labels, a, _ = make(60, 9)
    present = np.unique(labels)
    macro = f1_score(labels, a, labels=present, average="macro", zero_division=0)
    each = f1_score(labels, a, labels=range(C), average=None, zero_division=0)
    expected = [accuracy_score(labels, a), macro, balanced_accuracy_score(labels, a), *each]
    np.testing.assert_allclose(scores(labels, a), expected)


def test_intervals_are_those_of_a_bootstrap_over_rows():
    labels, a, _ = make(400, 0)
    found = bootstrap_intervals(labels, a, CLASSES, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    drawn = np.array([scores(labels[i], a[i]) for i in (rng.integers(0, 400, 400) for _ in range(1500))])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    ours = [found[name] for name in NAMES]
    error = 4 * drawn.std(axis=0) * 0.069 + 1 / 400  # of a 2.5 % quantile from 1,500 draws, four times, and a step
    assert (np.abs([each.low for each in ours] - low) <= error).all()
    assert (np.abs([each.high for each in ours] - high) <= error).all()


def test_the_interval_of_accuracy_is_the_binomials():
    labels, a, _ = make(3000, 2)
    found = bootstrap_intervals(labels, a, CLASSES, np.random.default_rng(0))["accuracy"]
    accuracy = np.mean(labels == a)
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 3000)
    assert (found.low, found.high) == pytest.approx((accuracy - half, accuracy + half), abs=0.002)


def test_a_class_without_rows_has_no_interval_and_a_single_row_has_one_of_no_width():
    labels, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2])
    found = bootstrap_intervals(labels, predictions, CLASSES, np.random.default_rng(0))
    assert list(found) == ["accuracy", "macro_f1", "balanced_accuracy", "f1/a", "f1/b"]
    assert 0 <= found["f1/a"].low <= found["f1/a"].high <= 1
    one = bootstrap_intervals(np.array([1]), np.array([1]), CLASSES, np.random.default_rng(0))
    assert set(one.values()) == {Interval(1, 1)}


def test_paired_differences_are_those_of_a_paired_bootstrap_over_rows():
    labels, a, b = make(400, 3)
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0))
    ours = [found[name] for name in NAMES]
    np.testing.assert_allclose([d.value for d in ours], np.subtract(scores(labels, b), scores(labels, a)), atol=1e-12)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(1500):
        i = rng.integers(0, 400, 400)
        drawn.append(np.subtract(scores(labels[i], b[i]), scores(labels[i], a[i])))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    error = 4 * np.std(drawn, axis=0) * 0.069 + 1 / 400
    assert (np.abs([d.interval.low for d in ours] - low) <= error).all()
    assert (np.abs([d.interval.high for d in ours] - high) <= error).all()


def test_p_values_are_those_of_exchanging_a_and_b_row_by_row():
    labels, a, b = make(250, 4, skill=(0.55, 0.68))
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0))
    observed = np.abs(np.subtract(scores(labels, b), scores(labels, a)))
    rng, extreme = np.random.default_rng(1), np.zeros(len(NAMES))
    for _ in range(2000):
        swap = rng.random(250) < 0.5
        drawn = np.subtract(scores(labels, np.where(swap, a, b)), scores(labels, np.where(swap, b, a)))
        extreme += np.abs(drawn) >= observed - 1e-12
    expected = (1 + extreme) / 2001
    ours = np.array([found[name].p_value for name in NAMES[1:]])
    error = 4 * np.sqrt(expected[1:] * (1 - expected[1:]) * (1 / 2000 + 1 / 10_000)) + 1e-3
    assert (np.abs(ours - expected[1:]) <= error).all(), (ours, expected)
    assert 0.0001 < ours[0] < 0.2  # neither trivially small nor trivially large


def test_p_values_of_few_rows_are_shares_of_all_exchanges():
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 0])
    a = np.array([0, 1, 2, 2, 0, 0, 0, 1])
    b = np.array([1, 0, 1, 1, 2, 2, 2, 0])
    observed = np.abs(np.subtract(scores(labels, b), scores(labels, a)))
    extreme = np.zeros(len(NAMES))
    for swap in itertools.product([False, True], repeat=8):
        drawn = np.subtract(scores(labels, np.where(swap, a, b)), scores(labels, np.where(swap, b, a)))
        extreme += np.abs(drawn) >= observed - 1e-12
    expected = extreme / 2**8
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0), replicates=20_000)
    assert "f1/d" not in found  # the last class has no row
    ours = [found[name].p_value for name in NAMES[1:-1]]
    assert ours == pytest.approx(expected[1:-1], abs=4 * 0.5 / np.sqrt(20_000))
    assert expected[1] < 0.2  # it is no test of nothing


def test_the_observed_difference_counts_as_one_of_the_replicates():
    labels, a, b = np.zeros(40, int), np.full(40, 1), np.zeros(40, int)
    found = paired_differences(labels, a, b, ("a", "b"), np.random.default_rng(0), replicates=99)
    assert found["f1/a"].p_value == found["macro_f1"].p_value == 1 / 100
    assert found["accuracy"].p_value == pytest.approx(2 / 2**40)
    assert (found["f1/a"].value, found["accuracy"].value) == (1, 1)


def test_only_the_table_of_counts_matters_and_not_the_order_or_the_type_of_the_rows():
    labels, a, b = make(200, 12)
    first = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0), replicates=300)
    order = np.random.default_rng(1).permutation(200)
    small = (each[order].astype(np.int8) for each in (labels, a, b))
    assert paired_differences(*small, CLASSES, np.random.default_rng(0), replicates=300) == first
    alone = bootstrap_intervals(labels, a, CLASSES, np.random.default_rng(0), replicates=300)
    again = bootstrap_intervals(
        labels[order].astype(np.int8), a[order], CLASSES, np.random.default_rng(0), replicates=300
    )
    assert alone == again


def test_a_permutation_of_the_classes_moves_only_their_f1():
    labels, a, b = make(300, 13)
    named = np.array([2, 0, 3, 1])
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0))
    moved = paired_differences(named[labels], named[a], named[b], CLASSES, np.random.default_rng(0))
    assert (moved["accuracy"].value, moved["macro_f1"].value) == pytest.approx(
        (found["accuracy"].value, found["macro_f1"].value)
    )
    for k in range(C):
        assert moved[f"f1/{CLASSES[named[k]]}"].value == pytest.approx(found[f"f1/{CLASSES[k]}"].value)
        assert moved[f"f1/{CLASSES[named[k]]}"].p_value == pytest.approx(found[f"f1/{CLASSES[k]}"].p_value, abs=0.03)


def test_a_class_without_rows_has_neither_difference_nor_p_value():
    labels = np.array([0, 0, 1, 1, 1])
    found = paired_differences(
        labels, np.array([0, 1, 1, 2, 1]), labels, CLASSES, np.random.default_rng(0), replicates=200
    )
    assert list(found) == ["accuracy", "macro_f1", "balanced_accuracy", "f1/a", "f1/b"]
    assert found["macro_f1"].value == pytest.approx(1 - (2 / 3 + 2 / 3) / 2)
    one = paired_differences(
        np.array([1]), np.array([0]), np.array([1]), CLASSES, np.random.default_rng(0), replicates=100
    )
    assert (one["accuracy"].value, one["accuracy"].interval.low, one["accuracy"].p_value, one["macro_f1"].p_value) == (
        1,
        1,
        1,
        1,
    )


def test_an_interval_of_accuracy_holds_the_truth_in_95_of_100_benchmarks():
    held = 0
    for seed in range(300):
        labels, a, _ = make(200, seed, skill=(0.6, 0.6))
        found = bootstrap_intervals(labels, a, CLASSES, np.random.default_rng(seed), replicates=400)["accuracy"]
        held += found.low <= 0.7 <= found.high  # 0.6, and a quarter of the rest by luck
    assert 0.95 - 4 * np.sqrt(0.95 * 0.05 / 300) <= held / 300 <= 0.985


@pytest.mark.parametrize("replicates", [1, 7, 1000])
def test_there_are_as_many_replicates_as_asked_for(monkeypatch, replicates):
    monkeypatch.setattr(significance, "_CELLS_AT_ONCE", 90)
    labels, a, b = make(50, 14)
    drawn = []
    monkeypatch.setattr(significance, "_central", lambda values: drawn.append(len(values)) or Interval(0, 0))
    bootstrap_intervals(labels, a, CLASSES, np.random.default_rng(0), replicates)
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0), replicates)
    assert set(drawn) == {replicates}
    assert found["macro_f1"].p_value * (1 + replicates) == pytest.approx(
        round(found["macro_f1"].p_value * (1 + replicates))
    )


def test_equal_models_do_not_differ():
    labels, a, _ = make(100, 5)
    found = paired_differences(labels, a, a, CLASSES, np.random.default_rng(0))
    for each in found.values():
        assert (each.value, each.interval.low, each.interval.high, each.p_value) == (0, 0, 0, 1)


def test_exchanging_a_and_b_turns_the_difference_round():
    labels, a, b = make(300, 6)
    there, back = (paired_differences(labels, *pair, CLASSES, np.random.default_rng(0)) for pair in ((a, b), (b, a)))
    assert there["macro_f1"].value == -back["macro_f1"].value
    assert there["accuracy"].p_value == back["accuracy"].p_value
    assert there["macro_f1"].p_value == pytest.approx(back["macro_f1"].p_value, abs=0.02)


def test_p_values_hold_their_level_where_nothing_differs():
    small = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.choice(C, 120)
        a, b = (np.where(rng.random(120) < 0.6, labels, rng.integers(0, C, 120)) for _ in range(2))
        found = paired_differences(labels, a, b, CLASSES, rng, replicates=400)
        small += found["macro_f1"].p_value < 0.05
    assert small <= stats.binom.ppf(0.999, 200, 0.05)
    assert small >= 1


def test_a_real_difference_is_found():
    labels, a, b = make(2000, 7, skill=(0.5, 0.7))
    found = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0))
    assert found["macro_f1"].p_value == 1 / 10_001
    assert found["accuracy"].p_value < 1e-20
    assert found["macro_f1"].interval.low > 0


def test_many_cells_are_taken_in_parts(monkeypatch):
    labels, a, b = make(300, 8)
    whole = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0), replicates=2000)
    monkeypatch.setattr(significance, "_CELLS_AT_ONCE", 700)
    parts = paired_differences(labels, a, b, CLASSES, np.random.default_rng(0), replicates=2000)
    assert parts["macro_f1"].interval.low == pytest.approx(whole["macro_f1"].interval.low, abs=0.01)
    assert parts["macro_f1"].p_value == pytest.approx(whole["macro_f1"].p_value, abs=0.04)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (3, 9), (40, 40), (70, 30)])
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b + [True] * 7 + [False] * 5)
    b = np.array([False] * only_a + [True] * only_b + [True] * 7 + [False] * 5)
    n, k = only_a + only_b, min(only_a, only_b)
    expected = min(1.0, 2 * stats.binom.cdf(k, n, 0.5)) if n else 1.0
    assert mcnemar_p_value(a, b) == pytest.approx(expected)


def test_the_mean_of_losses_is_compared_by_the_paired_t_test():
    rng = np.random.default_rng(0)
    a = rng.gamma(1, 1, 80)
    b = a + rng.normal(0.05, 0.3, 80)
    found = paired_mean_difference(a, b)
    theirs = stats.ttest_rel(b, a)
    interval = theirs.confidence_interval()
    assert (found.value, found.p_value) == pytest.approx(((b - a).mean(), theirs.pvalue))
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    one = paired_mean_difference(a[:1], b[:1])
    assert np.isnan([one.interval.low, one.p_value]).all()
    same = paired_mean_difference(a, a)
    assert (same.value, same.interval.low, same.interval.high, same.p_value) == (0, 0, 0, 1)
    shifted = paired_mean_difference(np.zeros(4), np.ones(4))
    assert (shifted.value, shifted.interval.low, shifted.p_value) == (1, 1, 0)


def test_the_t_test_of_two_rows_by_hand():
    found = paired_mean_difference(np.array([0.0, 0.0]), np.array([1.0, 3.0]))
    # mean 2, error 1, and Student's t with one degree of freedom is Cauchy's
    assert (found.value, found.p_value) == pytest.approx((2, 1 - 2 * np.arctan(2) / np.pi))
    half = np.tan(0.475 * np.pi)
    assert (found.interval.low, found.interval.high) == pytest.approx((2 - half, 2 + half))


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.011, 0.04])).tolist() == pytest.approx(
        [0.03, 0.03, 0.04]
    )  # never below the one before
    tied = holm(np.array([0.2, 0.01, 0.01, 0.3]))
    assert tied.tolist() == pytest.approx([0.4, 0.04, 0.04, 0.4])
    assert holm(np.array([0.04, 0.01, 0.02, 0.6])).tolist() == pytest.approx([0.08, 0.04, 0.06, 0.6])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "no labelled row"),
        ([0, 1], [0], "one per row"),
        ([0, 4], [0, 1], "must be in 0..3"),
        ([0, 1], [0, -1], "must be in 0..3"),
    ],
)
def test_tables_that_make_no_sense_are_refused(labels, predictions, message):
    labels, predictions = np.array(labels, int), np.array(predictions, int)
    with pytest.raises(ContractError, match=message):
        bootstrap_intervals(labels, predictions, CLASSES, np.random.default_rng(0))
    with pytest.raises(ContractError, match=message):
        paired_differences(labels, labels.clip(0, 3), predictions, CLASSES, np.random.default_rng(0))
    with pytest.raises(ContractError, match=message):
        paired_differences(labels, predictions, labels.clip(0, 3), CLASSES, np.random.default_rng(0))
