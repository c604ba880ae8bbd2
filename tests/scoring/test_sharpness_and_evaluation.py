"""Sharpness against plain loops; an evaluation against the functions that it is made of, and scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.evaluation import class_scores, evaluate, measure_sharpness, recommended_temperatures
from fer_mlflow.scoring.metrics import row_losses

CLASSES = tuple("abcdef")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (500, 6))
LABELS = np.where(RNG.random(500) < 0.6, LOGITS.argmax(axis=1), RNG.integers(0, 6, 500))


def test_sharpness_is_a_loop_over_rows():
    found = measure_sharpness(LOGITS, np.array([0.5, 1.0, 4.0]))
    for at, temperature in enumerate((0.5, 1.0, 4.0)):
        p = softmax(LOGITS / temperature, axis=1)
        top = p.max(axis=1)
        assert found.mean[at] == pytest.approx(top.mean())
        assert (found.median[at], found.p90[at], found.p99[at]) == pytest.approx(
            tuple(np.percentile(top, [50, 90, 99]))
        )
        assert found.entropy[at] == pytest.approx(np.mean([-(row * np.log(row)).sum() for row in p]))
        assert found.nearly_sure[at] == np.mean(top > 0.99)
        for k in range(6):
            assert found.mean_by_class[at, k] == pytest.approx(top[p.argmax(axis=1) == k].mean())
    assert found.rows_by_class.tolist() == np.bincount(LOGITS.argmax(axis=1), minlength=6).tolist()


def test_sharpness_at_the_ends():
    found = measure_sharpness(LOGITS, np.array([1e-6, 1e9]))
    assert found.mean == pytest.approx([1.0, 1 / 6])
    assert found.entropy == pytest.approx([0.0, np.log(6)])
    assert found.nearly_sure.tolist() == [1.0, 0.0]
    none = measure_sharpness(np.array([[9.0, 0.0, 0.0]]), np.array([1.0]))
    assert np.isnan(none.mean_by_class[0, 1:]).all()


def test_the_mean_top_probability_at_the_ends_of_the_recommended_range_is_the_band():
    low, high = recommended_temperatures(LOGITS, (0.4, 0.7))
    assert low < high
    assert measure_sharpness(LOGITS, np.array([low, high])).mean == pytest.approx([0.7, 0.4], abs=1e-8)
    scaled = recommended_temperatures(1000 * LOGITS, (0.4, 0.7))
    assert scaled == pytest.approx((1000 * low, 1000 * high))
    assert recommended_temperatures(np.zeros((5, 3)), (0.5, 0.8)) is None
    assert recommended_temperatures(np.array([[1.0, 1.0, 0.0, 0.0]]), (0.6, 0.8)) is None  # never above a half
    tied = recommended_temperatures(np.array([[1.0, 1.0, 0.0, 0.0]]), (0.3, 0.8))
    assert tied[0] == 0.0  # any small temperature is below the upper end


@pytest.mark.parametrize("band", [(0.1, 0.5), (0.5, 0.5), (0.8, 0.5), (0.5, 1.0)])
def test_a_band_that_cannot_be_is_refused(band):
    with pytest.raises(ContractError, match="band"):
        recommended_temperatures(LOGITS, band)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(ContractError, match="above 0"):
        measure_sharpness(LOGITS, np.array([1.0, temperature]))


def test_no_rows_have_no_sharpness():
    with pytest.raises(ContractError, match="no row"):
        measure_sharpness(np.empty((0, 3)), np.array([1.0]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("case", ["usual", "absent class", "one row", "ties", "extreme"])
def test_every_metric_is_scikit_learns(dtype, case):
    logits, labels = LOGITS.copy(), LABELS.copy()
    if case == "absent class":
        labels[labels == 2] = 3
    if case == "one row":
        logits, labels = logits[:1], labels[:1]
    if case == "ties":
        logits = np.round(logits / 4) * 4
    if case == "extreme":
        logits[::2] *= 1e4 / np.abs(logits).max()
    logits = logits.astype(dtype)
    result = evaluate(logits, labels, CLASSES, np.random.default_rng(0))
    probs = softmax(logits.astype(np.float64), axis=1)
    predictions, present = logits.argmax(axis=1), np.unique(labels)
    named = result.named()
    assert named["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions), abs=1e-9)
    f1 = sklearn.metrics.f1_score(labels, predictions, labels=present, average=None, zero_division=0)
    assert named["macro_f1"] == pytest.approx(f1.mean(), abs=1e-9)
    recall = sklearn.metrics.recall_score(labels, predictions, labels=present, average="macro", zero_division=0)
    assert named["balanced_accuracy"] == pytest.approx(recall, abs=1e-9)
    assert [named[f"f1/{'abcdef'[k]}"] for k in present] == pytest.approx(f1.tolist(), abs=1e-9)
    assert len([name for name in named if name.startswith("f1/")]) == len(present)
    if probs[np.arange(len(labels)), labels].min() > 1e-12:  # scikit-learn clips probabilities
        assert named["nll"] == pytest.approx(sklearn.metrics.log_loss(labels, probs, labels=range(6)), abs=1e-9)
    else:
        assert np.isfinite(named["nll"])
    one_hot = np.eye(6)[labels]
    assert named["brier"] == pytest.approx(np.square(probs - one_hot).sum(axis=1).mean(), abs=1e-9)
    assert result.losses.mean() == pytest.approx(named["nll"])
    assert all(np.isfinite(list(named.values())))


def test_brier_is_scikit_learns():
    probs = softmax(LOGITS, axis=1)
    theirs = sklearn.metrics.brier_score_loss(LABELS, probs, labels=range(6), scale_by_half=False)
    named = evaluate(LOGITS, LABELS, CLASSES, np.random.default_rng(0)).named()
    assert named["brier"] == pytest.approx(theirs, abs=1e-9)


def test_intervals_are_named_beside_their_metric_and_hold_it():
    result = evaluate(LOGITS, LABELS, CLASSES, np.random.default_rng(0))
    named = result.named()
    keys = {"accuracy": "accuracy", "macro_f1": "macro_f1", "f1/a": "f1 a", "f1/f": "f1 f"}
    for name, key in keys.items():
        assert named[f"ci95/{key}_low"] < named[name] < named[f"ci95/{key}_high"]
    assert (result.correct == (result.predictions == LABELS)).all()
    again = evaluate(LOGITS, LABELS, CLASSES, np.random.default_rng(0)).named()
    assert again == named


def test_class_scores_by_hand():
    confusion, precision, recall = class_scores(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 2]), 3)
    assert confusion.tolist() == [[1, 2, 0], [0, 1, 1], [0, 0, 0]]
    np.testing.assert_allclose(precision, [1, 1 / 3, 0])
    np.testing.assert_allclose(recall, [1 / 3, 1 / 2, np.nan])  # no labelled row
    _, precision, recall = class_scores(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)
    np.testing.assert_allclose(precision, [2 / 3, np.nan, np.nan])  # never predicted
    np.testing.assert_allclose(recall, [1, 0, np.nan])


def test_losses_are_finite_wherever_logits_are():
    losses = row_losses(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([1, 1]))
    assert losses.tolist() == [2e4, 0.0]
