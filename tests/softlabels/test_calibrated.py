"""Fits of bundles and of their teachers, and the bundle that a calibration makes."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import log_softmax, softmax
from toys import draw_logits, expected_metrics, write_bundle

from fer_mlflow import SoftLabels
from fer_mlflow.calibration.scaling import (
    fit_bias_corrected_temperature,
    fit_coefficients,
    fit_of,
    fit_pool,
    fit_vector_scaling,
)
from fer_mlflow.calibration.temperature import NO_POSITIVE_OPTIMUM, OK, SEPARABLE, fit_temperature
from fer_mlflow.errors import ContractError
from fer_mlflow.softlabels.ensemble import calibrated

CALIBRATION = {"method": "temperature", "temperature": 2.0, "fitted_on": {"name": "faces:val"}}


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


def made(folder, dtype=np.float32, labels=None, logits=None):
    drawn, own = draw_logits(50, seed=2)
    source = write_bundle(folder / "a", drawn.astype(dtype), own if labels is None else labels)
    scaled = source.logits.astype(np.float64) / 2 if logits is None else logits
    return source, calibrated(source, scaled, CALIBRATION).write(folder / "b")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_calibrated_bundle_verifies_and_says_what_was_done(tmp_path, dtype):
    source, bundle = made(tmp_path, dtype)
    read = SoftLabels.open(tmp_path / "b")
    assert read.sha256 == bundle.sha256 != source.sha256
    assert read.logits.dtype == dtype
    np.testing.assert_allclose(
        softmax(read.logits.astype(float), axis=1), softmax(source.logits.astype(float) / 2, axis=1), atol=2e-3
    )
    assert read.report == {**source.report, "calibration": {**CALIBRATION, "source_bundle_sha256": source.sha256}}
    assert read.selection_sha256 == source.selection_sha256
    assert read.manifest_sha256 == source.manifest_sha256
    assert read.checkpoints == source.checkpoints
    assert read.index.to_dict("list") == source.index.to_dict("list")


def test_its_metrics_are_of_the_stored_logits(tmp_path):
    source, bundle = made(tmp_path, np.float16)  # which are rounded by more than metrics are compared to
    expected = expected_metrics(bundle.logits, bundle.labels)
    assert bundle.metrics == pytest.approx({name: expected[name] for name in bundle.metrics}, abs=1e-9)
    assert bundle.metrics.keys() == source.metrics.keys()
    assert bundle.metrics["accuracy"] == source.metrics["accuracy"]
    assert bundle.metrics["nll"] != source.metrics["nll"]


def test_rows_without_labels_are_calibrated_too_and_not_scored(tmp_path):
    _, some = made(tmp_path / "some", labels=np.where(np.arange(50) % 2, 3, -1))
    expected = expected_metrics(some.logits[1::2], np.full(25, 3))
    assert some.metrics["nll"] == pytest.approx(expected["nll"])
    source, none = made(tmp_path / "none", labels=np.full(50, -1))
    assert none.metrics == {}
    np.testing.assert_array_equal(none.logits, (source.logits / np.float64(2)).astype(np.float32))


def test_logits_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ContractError, match=r"does not fit into float16; use a wider --dtype"):
        made(tmp_path, np.float16, logits=np.full((50, 7), 1e6) * np.arange(7))
    assert not (tmp_path / "b").exists()
