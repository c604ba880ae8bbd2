"""Calibration of teachers each on its own and of their pool, and the fit that a method means."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import log_softmax, softmax
from toys import draw_logits

from fer_mlflow.calibration import (
    NO_POSITIVE_OPTIMUM,
    OK,
    SEPARABLE,
    fit_bias_corrected_temperature,
    fit_coefficients,
    fit_of,
    fit_pool,
    fit_temperature,
    fit_vector_scaling,
)
from fer_mlflow.errors import ContractError


def nll(logits, labels) -> float:
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def draw_teachers(rows=400, seed=0):
    """Return three teachers of which each says the same a different way, (3, N, C), and labels."""
    base, labels = draw_logits(rows, temperature=1, seed=seed)
    noise = np.random.default_rng(seed + 1).normal(0, 1, (3, *base.shape))
    return np.array([4.0, 1.0, 0.5])[:, None, None] * (base + noise), labels


def test_a_method_means_its_fit():
    weights = {"A": 1.0}
    assert fit_of("temperature", False, weights, "logit") is fit_temperature
    assert fit_of("bias-corrected", False, weights, "prob") is fit_bias_corrected_temperature
    assert fit_of("vector", False, weights, "logit") is fit_vector_scaling
    assert fit_of("temperature", True, weights, "logit") is fit_coefficients
    with pytest.raises(ContractError, match="space power: temperatures of single teachers are known for logit, prob"):
        fit_of("temperature", True, weights, "power")
    teachers, labels = draw_teachers()
    pooled = fit_of("temperature", True, {"A": 0.2, "B": 0.3, "C": 0.5}, "prob")(teachers, labels)
    assert pooled.temperatures.shape == (3,)


def test_a_pool_is_fitted_teacher_by_teacher_and_then_as_a_whole():
    teachers, labels = draw_teachers()
    weights = {"C": 0.5, "A": 0.2, "B": 0.3}  # teachers come in order of their names, however weights are written
    fit = fit_pool(teachers, labels, weights)
    assert fit.status == OK
    for teacher, temperature in zip(teachers, fit.temperatures, strict=True):
        around = [nll(teacher / (temperature * factor), labels) for factor in (0.999, 1, 1.001)]
        assert around[1] == min(around)
    assert fit.temperatures[0] > fit.temperatures[1] > fit.temperatures[2]
    shares = np.array([0.2, 0.3, 0.5])[:, None, None]
    pool = np.log((shares * softmax(teachers / fit.temperatures[:, None, None], axis=2)).sum(axis=0))
    np.testing.assert_allclose(fit.apply(teachers), pool / fit.pool.temperature, atol=1e-9)
    best = scipy.optimize.minimize_scalar(lambda t: nll(pool / t, labels), bounds=(0.05, 20), method="bounded").x
    assert fit.pool.temperature == pytest.approx(best, rel=1e-4)
    assert fit.pool.temperature < 1  # a mean of calibrated probabilities is not sure enough


def test_a_pool_of_one_teacher_is_that_teachers_temperature():
    teachers, labels = draw_teachers()
    fit = fit_pool(teachers[:1], labels, {"A": 1.0})
    assert fit.pool.temperature == pytest.approx(1)
    assert fit.temperatures[0] == pytest.approx(fit_temperature(teachers[0], labels).temperature)


@pytest.mark.parametrize(("bad", "status"), [("right", SEPARABLE), ("wrong", NO_POSITIVE_OPTIMUM)])
def test_a_teacher_without_a_temperature_leaves_none_to_the_pool_and_is_named(bad, status):
    teachers, labels = draw_teachers()
    teachers[1] = (1 if bad == "right" else -1) * np.eye(7)[labels]
    fit = fit_pool(teachers, labels, {"A": 0.2, "B": 0.3, "C": 0.5})
    assert fit.status == status
    assert fit.explanation.startswith("B: ")
