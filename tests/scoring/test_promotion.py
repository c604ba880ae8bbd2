"""Whether a challenger takes a champion's place: `Comparison.verdict`, by hand and on simulated models."""

import numpy as np
import pytest
from toys import CLASSES

from fer_mlflow.scoring.significance import PROMOTED, Comparison, Difference, Interval, compare_logits
from fer_mlflow.settings.scoring import PromoteSettings

LEVEL = PromoteSettings(run="abcd").level
ROWS, SEEDS = 3_000, range(20)


def verdict(value, low, high, p_value, metric="macro_f1", margin=None):
    nothing = np.empty(0, np.int64)
    comparison = Comparison({metric: Difference(value, Interval(low, high), p_value)}, nothing, nothing, nothing)
    return comparison.verdict(metric, 0.01, margin)


@pytest.mark.parametrize(
    ("difference", "margin", "expected"),
    [
        ((0.05, 0.02, 0.08, 0.001), None, "better"),
        ((0.05, 0.02, 0.08, 0.001), 0.01, "better"),
        ((0.05, 0.02, 0.08, 0.01), None, "not significantly better"),  # p is not below the level
        ((0.05, -0.001, 0.08, 0.001), None, "not significantly better"),  # the interval holds 0
        ((0.003, -0.012, 0.018, 0.7), None, "not significantly better"),
        ((0.003, -0.012, 0.018, 0.7), 0.01, "not significantly better"),
        ((0.003, -0.012, 0.018, 0.7), 0.02, "not worse"),
        ((-0.05, -0.08, -0.02, 0.001), None, "worse"),
        ((-0.05, -0.08, -0.02, 0.001), 0.01, "worse"),
        ((-0.004, -0.007, -0.001, 0.001), 0.01, "not worse"),  # surely worse, and surely by less than the margin
        ((0.0, np.nan, np.nan, np.nan), 0.01, "not significantly better"),
    ],
)
def test_a_verdict_needs_both_the_test_and_the_interval(difference, margin, expected):
    assert verdict(*difference, margin=margin) == expected


def test_where_lower_is_better_the_verdict_turns_round():
    assert verdict(-0.05, -0.08, -0.02, 0.001, "nll") == "better"
    assert verdict(0.05, 0.02, 0.08, 0.001, "nll") == "worse"
    assert verdict(-0.003, -0.018, 0.012, 0.7, "nll", margin=0.02) == "not worse"
    assert verdict(-0.003, -0.018, 0.012, 0.7, "nll", margin=0.01) == "not significantly better"


def simulated(seed, gain):
    """Return the comparison of two models with correlated errors on rows that both see; `gain` helps the second."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(CLASSES), ROWS, p=[0.138, 0.015, 0.143, 0.25, 0.169, 0.112, 0.173])
    signal, common = np.eye(len(CLASSES))[labels], np.sqrt(0.8) * rng.normal(size=(ROWS, len(CLASSES)))
    own = np.sqrt(0.2) * rng.normal(size=(2, ROWS, len(CLASSES)))
    a, b = 1.6 * signal + common + own[0], (1.6 + gain) * signal + common + own[1]
    return compare_logits(a, b, labels, CLASSES, rng, replicates=1_000)


def test_a_challenger_within_noise_is_not_promoted_and_a_better_one_is():
    """The seeds are the first twenty: twenty of twenty are expected in 90 % (noise) and 99 % (better) of such tests."""
    equal, better = ([simulated(seed, gain) for seed in SEEDS] for gain in (0.0, 0.17))
    assert [each.verdict("macro_f1", LEVEL) in PROMOTED for each in equal] == [False] * 20
    assert [each.verdict("macro_f1", LEVEL) for each in better] == ["better"] * 20
    gains = [each.differences["macro_f1"].value for each in better]
    assert np.mean(gains) == pytest.approx(0.05, abs=0.01)
