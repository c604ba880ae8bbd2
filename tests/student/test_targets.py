"""Three targets from the same teachers, held against the definitions."""

import numpy as np
import pytest
from scipy.special import softmax
from toys import SHARES, logits_of, write_soft_labels

from fer_mlflow.errors import ContractError
from fer_mlflow.softlabels.ensemble import calibrated
from fer_mlflow.student.distillation import make_targets, mix_tempered

T = 3.0


def shown(targets):
    return softmax(targets.logits.astype(np.float64) / targets.temperature, axis=1)


def expected(kind, logits, temperature):
    a, b = (logits[name].astype(np.float64) for name in "AB")
    if kind == "logit":
        return softmax((0.7 * a + 0.3 * b) / temperature, axis=1)
    if kind == "prob":
        p = 0.7 * softmax(a, axis=1) + 0.3 * softmax(b, axis=1)
        powers = p ** (1 / temperature)
        return powers / powers.sum(axis=1, keepdims=True)
    return 0.7 * softmax(a / temperature, axis=1) + 0.3 * softmax(b / temperature, axis=1)


@pytest.fixture
def teachers(train_part):
    return {name: logits_of(train_part, name) for name in SHARES}


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize("kind", ["logit", "prob", "mixture"])
def test_each_target_is_its_definition_from_either_bundle(tmp_path, train_part, teachers, space, kind):
    train_bundle = write_soft_labels(tmp_path / space, train_part, space=space)
    targets = make_targets(train_bundle, teachers, kind, T)
    np.testing.assert_allclose(shown(targets), expected(kind, teachers, T), atol=1e-6)
    assert (targets.kind, targets.temperature, targets.effective_temperature) == (kind, T, T)
    assert targets.sharpness == pytest.approx(expected(kind, teachers, T).max(axis=1).mean(), abs=1e-6)


def test_the_three_are_different(teachers):
    kinds = [expected(kind, teachers, T) for kind in ("logit", "prob", "mixture")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(kinds[one] - kinds[other]).max() > 0.01


def test_a_bundle_gives_its_own_space_without_teachers(tmp_path, train_part, train_bundle):
    assert make_targets(train_bundle, {}, None, T).kind == "logit"
    np.testing.assert_array_equal(make_targets(train_bundle, {}, None, T).logits, train_bundle.logits)
    half = write_soft_labels(tmp_path / "half", train_part, space="prob", dtype="float16")
    targets = make_targets(half, {}, None, T)
    assert (targets.kind, targets.logits.dtype) == ("prob", np.float32)


def test_one_teacher_is_all_three(tmp_path, train_part):
    alone = write_soft_labels(tmp_path / "alone", train_part, shares={"A": 1.0})
    for kind in ("prob", "mixture"):
        np.testing.assert_array_equal(make_targets(alone, {}, kind, T).logits, alone.logits)
    logits = {"A": logits_of(train_part, "A").astype(np.float64)}
    np.testing.assert_allclose(softmax(mix_tempered(logits, {"A": 1.0}, T) / T, axis=1), softmax(logits["A"] / T, 1))


@pytest.mark.parametrize("kind", ["logit", "prob", "mixture"])
def test_the_temperature_of_a_calibration_multiplies(tmp_path, train_bundle, teachers, kind):
    calibration = {"method": "temperature", "temperature": 2.5, "fitted_on": {"name": "m:val"}}
    scaled = calibrated(train_bundle, train_bundle.logits.astype(np.float64) / 2.5, calibration)
    targets = make_targets(scaled, teachers, kind, T)
    assert targets.effective_temperature == 7.5
    np.testing.assert_allclose(shown(targets), expected(kind, teachers, 7.5), atol=1e-6)


def test_what_cannot_be_had_is_said(tmp_path, train_part, train_bundle, teachers):
    with pytest.raises(ContractError, match=r"target mixture: .* logits of B are not to be had; name a run"):
        make_targets(train_bundle, {"A": teachers["A"]}, "mixture", T)
    with pytest.raises(ContractError, match="target 'mean' is not one of logit, prob, mixture"):
        make_targets(train_bundle, teachers, "mean", T)
    calibration = {"method": "vector", "fitted_on": {"name": "m:val"}}
    vector = calibrated(train_bundle, train_bundle.logits.astype(np.float64) * 2, calibration)
    with pytest.raises(ContractError, match=r"were calibrated \(vector\) after fusion in logit space"):
        make_targets(vector, teachers, "prob", T)
    assert make_targets(vector, teachers, "logit", T).effective_temperature == T


@pytest.mark.parametrize("temperature", [0.0, -2.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused(train_bundle, teachers, temperature):
    for call in (
        lambda: make_targets(train_bundle, {}, None, temperature),
        lambda: mix_tempered(teachers, SHARES, temperature),
    ):
        with pytest.raises(ContractError, match="must be a finite number above 0"):
            call()
