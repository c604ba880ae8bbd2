"""Standard errors of scores and of their differences, against resampled rows; the plateau against all pairs."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fer_mlflow.errors import ContractError
from fer_mlflow.search.choices import simplex_grid
from fer_mlflow.search.teacher_logits import (
    TeacherLogits,
    check_metric,
    count_rows,
    find_plateau,
    row_influences,
    standard_errors,
)

CLASSES = ("Angry", "Happy", "Sad", "Fear")
METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "nll", "brier", "f1/Sad")
WEIGHTS = simplex_grid(3, 4)


def make(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
    common = rng.normal(0, 1, (rows, 4))
    common[np.arange(rows), labels] += 1.2
    return TeacherLogits([common + rng.normal(0, 1, common.shape) for _ in range(3)], labels)


def resampled(metric, pool, outcomes, draws, rng):
    """Return the metric on rows drawn with replacement, row by row."""
    values = []
    for _ in range(draws):
        rows = rng.integers(0, pool.rows, pool.rows)
        labels, predictions = pool.labels[rows], outcomes.predictions[rows]
        if metric == "accuracy":
            values.append(accuracy_score(labels, predictions))
        elif metric == "macro_f1":
            values.append(f1_score(labels, predictions, average="macro"))
        elif metric == "balanced_accuracy":
            values.append(balanced_accuracy_score(labels, predictions))
        elif metric == "f1/Sad":
            values.append(f1_score(labels, predictions, labels=[2], average="macro"))
        else:
            values.append({"nll": outcomes.loss, "brier": outcomes.brier}[metric][rows].mean())
    return np.array(values)


@pytest.mark.parametrize("metric", METRICS)
def test_an_error_is_the_spread_of_resampled_scores(metric):
    pool = make()
    found = standard_errors(metric, CLASSES, count_rows(pool, "logit", WEIGHTS[:1]))[0]
    drawn = resampled(metric, pool, pool.row_scores("logit", WEIGHTS[0]), 400, np.random.default_rng(1))
    assert found == pytest.approx(drawn.std(), rel=0.13)  # 400 draws know a deviation to 3.5 %


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy", "f1/Sad"])
def test_an_error_of_a_difference_is_that_of_paired_resampling(metric):
    pool = make(seed=2)
    a, b = (pool.row_scores("logit", WEIGHTS[m]) for m in (3, 9))
    found = (row_influences(metric, CLASSES, pool.labels, a) - row_influences(metric, CLASSES, pool.labels, b)).std()
    drawn = [resampled(metric, pool, each, 400, np.random.default_rng(5)) for each in (a, b)]  # the same rows for both
    assert found / np.sqrt(pool.rows) == pytest.approx((drawn[0] - drawn[1]).std(), rel=0.15)


@pytest.mark.parametrize("metric", METRICS)
def test_influences_have_the_error_that_the_tallies_tell(metric):
    pool = make(seed=3)
    counts = count_rows(pool, "prob", WEIGHTS)
    errors = standard_errors(metric, CLASSES, counts)
    for m in (0, 7, 14):
        influences = row_influences(metric, CLASSES, pool.labels, pool.row_scores("prob", WEIGHTS[m]))
        assert influences.mean() == pytest.approx(0, abs=1e-9)
        assert influences.std() / np.sqrt(pool.rows) == pytest.approx(errors[m], rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_the_plateau_is_what_pairing_everything_finds(metric):
    pool = make(seed=4)
    counts = count_rows(pool, "logit", WEIGHTS)
    counts_wanted = []

    def outcomes_of(m):
        counts_wanted.append(m)
        return pool.row_scores("logit", WEIGHTS[m])

    best, within = find_plateau(metric, CLASSES, counts, pool.labels, outcomes_of)
    values = counts.scores(CLASSES)[metric]
    assert values[best] == (values.min() if metric in ("nll", "brier") else values.max())
    influences = [row_influences(metric, CLASSES, pool.labels, pool.row_scores("logit", each)) for each in WEIGHTS]
    expected = [
        abs(values[m] - values[best]) <= (influences[m] - influences[best]).std() / np.sqrt(pool.rows) or m == best
        for m in range(len(WEIGHTS))
    ]
    assert within.tolist() == expected
    assert 1 <= within.sum() < len(WEIGHTS)


def test_equal_configurations_are_all_on_the_plateau_and_the_first_is_the_best():
    pool = make(seed=5)
    weights = np.tile(WEIGHTS[4], (3, 1))
    best, within = find_plateau(
        "macro_f1",
        CLASSES,
        count_rows(pool, "prob", weights),
        pool.labels,
        lambda m: pool.row_scores("prob", weights[m]),
    )
    assert best == 0
    assert within.all()


@pytest.mark.parametrize("metric", ["ece", "f1/Joy", "accurancy"])
def test_metrics_without_an_error_are_refused_and_the_others_named(metric):
    with pytest.raises(
        ContractError, match="ranked by one of accuracy, macro_f1, balanced_accuracy, nll, brier, f1/Angry"
    ):
        check_metric(metric, CLASSES)
