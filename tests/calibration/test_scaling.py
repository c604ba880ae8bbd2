"""Scales, biases and coefficients against scipy, on planted optima, and where there is no optimum."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from fer_mlflow.calibration import (
    crossfit,
    fit_bias_corrected_temperature,
    fit_coefficients,
    fit_temperature,
    fit_vector_scaling,
    minimise_convex,
    stratified_folds,
)
from fer_mlflow.errors import ContractError

C = 5


def make(rows: int, seed: int = 0, scale=1.0, bias=0.0):
    """Return logits z and labels drawn from softmax(scale log softmax(z) + bias)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (rows, C))
    p = softmax(log_softmax(z, axis=1) * scale + bias, axis=1)
    return z, (p.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)


def nll(logits, labels) -> float:
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def test_bias_correction_is_scipys_optimum():
    z, labels = make(1500, bias=np.array([1.0, -1, 0, 0.5, -0.5]))
    fit = fit_bias_corrected_temperature(z, labels)
    theirs = minimize(lambda t: nll(z * t[0] + t[1:], labels), np.r_[1.0, np.zeros(C)], options={"gtol": 1e-8})
    assert fit.status == "ok"
    assert fit.scale == pytest.approx(np.full(C, theirs.x[0]), abs=1e-5)
    assert fit.bias == pytest.approx(theirs.x[1:] - theirs.x[1:].mean(), abs=1e-5)
    assert fit.bias == pytest.approx([1, -1, 0, 0.5, -0.5], abs=0.35)
    assert nll(fit.apply(z), labels) == pytest.approx(theirs.fun, abs=1e-10)


def test_vector_scaling_is_scipys_optimum():
    z, labels = make(1500, seed=1, scale=np.array([0.5, 1, 1.5, 1, 0.8]), bias=np.array([0.5, 0, 0, 0, -0.5]))
    fit = fit_vector_scaling(z, labels)
    x = log_softmax(z, axis=1)
    theirs = minimize(lambda t: nll(x * t[:C] + t[C:], labels), np.r_[np.ones(C), np.zeros(C)], options={"gtol": 1e-8})
    assert fit.scale == pytest.approx(theirs.x[:C], abs=1e-4)
    assert nll(fit.apply(z), labels) <= theirs.fun + 1e-11


def test_a_temperature_is_found_by_all_three():
    z, labels = make(20_000, seed=2, scale=0.5)
    alone = fit_temperature(z, labels).temperature
    assert alone == pytest.approx(2.0, rel=0.05)
    assert 1 / fit_bias_corrected_temperature(z, labels).scale[0] == pytest.approx(alone, rel=0.02)
    assert 1 / fit_vector_scaling(z, labels).scale == pytest.approx(np.full(C, alone), rel=0.1)
    assert fit_coefficients(z[None], labels).coefficients == pytest.approx([1 / alone], rel=1e-8)


@pytest.mark.parametrize("fit", [fit_bias_corrected_temperature, fit_vector_scaling])
def test_a_constant_per_row_changes_nothing(fit):
    z, labels = make(800, seed=3)
    shifted = z + np.random.default_rng(0).normal(0, 30, (800, 1))
    assert fit(shifted, labels).scale == pytest.approx(fit(z, labels).scale, rel=1e-6)
    np.testing.assert_allclose(
        softmax(fit(shifted, labels).apply(shifted), axis=1), softmax(fit(z, labels).apply(z), axis=1), atol=1e-8
    )


@pytest.mark.parametrize("fit", [fit_bias_corrected_temperature, fit_vector_scaling])
def test_no_finite_optimum_is_a_status(fit):
    z, labels = make(300, seed=4)
    assert fit(z, z.argmax(axis=1)).status == "separable"
    missing = fit(z[labels != 2], labels[labels != 2])
    assert missing.status == "separable"
    assert "without a labelled row" in missing.explanation
    assert np.isnan(missing.scale).all()
    assert np.isnan(missing.bias).all()
    assert fit(np.zeros((10, C)), np.arange(10) % C).status == "no_positive_optimum"
    assert fit(z, np.full(300, 1)).status == "separable"  # one class only
    assert fit(-z, labels).status == "no_positive_optimum"


def test_a_handful_of_rows_is_separated_by_ten_parameters():
    z, labels = make(C, seed=5)[0], np.arange(C)
    x = log_softmax(z, axis=1)
    lowest = minimize(lambda t: nll(x * t[:C] + t[C:], labels), np.r_[np.ones(C), np.zeros(C)]).fun
    assert lowest < 1e-4  # which is why: it can be made as small as one likes
    assert fit_vector_scaling(z, labels).status == "separable"


def three_teachers(rows: int = 3000, seed: int = 6):
    """Return the logits of a good teacher, one that adds to it, and one of noise; and labels."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 2, (2, rows, C))
    p = softmax(0.6 * a + 0.3 * b, axis=1)
    labels = (p.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return np.stack([a, b, rng.normal(0, 2, (rows, C))]), labels


def test_coefficients_are_scipys_optimum_and_the_planted_ones():
    stack, labels = three_teachers()
    fit = fit_coefficients(stack, labels)
    assert fit.status == "ok"
    theirs = minimize(
        lambda a: nll(np.einsum("k,knc->nc", a, stack), labels),
        np.full(3, 0.3),
        bounds=[(0, None)] * 3,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    assert fit.coefficients == pytest.approx(theirs.x, abs=2e-5)
    assert fit.coefficients == pytest.approx([0.6, 0.3, 0.0], abs=0.06)
    np.testing.assert_allclose(fit.apply(stack), np.einsum("k,knc->nc", fit.coefficients, stack))


def test_no_coefficient_is_negative():
    stack, labels = three_teachers()
    stack[2] = -stack[0] + np.random.default_rng(0).normal(0, 1, stack[0].shape)  # alone it would want a < 0
    fit = fit_coefficients(stack[[0, 2]], labels)
    assert fit.coefficients[1] >= 0
    alone = fit_coefficients(-stack[:1], labels)
    assert alone.status == "no_positive_optimum"
    bound = fit_coefficients(np.stack([stack[0], -stack[1]]), labels)
    assert bound.coefficients[1] == 0
    assert bound.coefficients[0] == pytest.approx(1 / fit_temperature(stack[0], labels).temperature, rel=1e-6)


def test_twins_share_one_coefficient():
    stack, labels = three_teachers()
    alone = fit_coefficients(stack[:2], labels).coefficients
    twins = fit_coefficients(stack[[0, 0, 1]], labels)
    assert twins.status == "ok"
    assert twins.coefficients[:2].sum() == pytest.approx(alone[0], rel=1e-6)
    assert twins.coefficients[2] == pytest.approx(alone[1], rel=1e-6)


def test_the_order_of_teachers_is_the_order_of_coefficients():
    stack, labels = three_teachers()
    fit, turned = fit_coefficients(stack, labels), fit_coefficients(stack[[2, 0, 1]], labels)
    assert turned.coefficients == pytest.approx(fit.coefficients[[2, 0, 1]], abs=1e-7)


def test_teachers_that_together_are_always_right_are_separable():
    stack, _ = three_teachers(400)
    fit = fit_coefficients(stack[:2], (0.7 * stack[0] + 0.3 * stack[1]).argmax(axis=1))
    assert fit.status == "separable"
    assert np.isnan(fit.coefficients).all()
    assert fit_coefficients(np.zeros((2, 10, C)), np.arange(10) % C).status == "no_positive_optimum"


@pytest.mark.parametrize(
    "fit", [fit_bias_corrected_temperature, fit_vector_scaling, lambda z, y: fit_coefficients(z[None], y)]
)
def test_what_is_no_benchmark_is_refused(fit):
    with pytest.raises(ContractError, match="not finite"):
        fit(np.array([[0.0, np.nan]]), np.array([0]))
    with pytest.raises(ContractError, match="not a class"):
        fit(np.zeros((1, 2)), np.array([2]))
    with pytest.raises(ContractError, match="no labelled row"):
        fit(np.empty((0, 3)), np.empty(0, int))


def test_newton_finds_a_quadratics_minimum_inside_its_bounds_and_none_of_an_exponential():
    h, g = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([-2.0, 3.0])

    def quadratic(x):
        return float(x @ h @ x / 2 + g @ x), h @ x + g, h

    free = minimise_convex(quadratic, np.zeros(2))
    assert free == pytest.approx(-np.linalg.solve(h, g))
    bound = minimise_convex(quadratic, np.ones(2), lowest=np.zeros(2))
    assert bound == pytest.approx([1.0, 0.0])
    falling = minimise_convex(lambda x: (float(np.exp(-x[0])), -np.exp(-x), np.exp(-x)[:, None]), np.zeros(1))
    assert falling is None


def test_folds_hold_as_many_rows_of_each_class():
    labels = np.random.default_rng(0).choice(4, 1003, p=[0.6, 0.3, 0.09, 0.01])
    folds = stratified_folds(labels, 5, np.random.default_rng(1))
    assert set(folds) == set(range(5))
    for k in range(4):
        counts = np.bincount(folds[labels == k], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1
    again, other = (stratified_folds(labels, 5, np.random.default_rng(seed)) for seed in (1, 2))
    assert (again == folds).all()
    assert (other != folds).any()


@pytest.mark.parametrize(("rows", "k"), [(10, 1), (3, 4), (0, 2)])
def test_folds_that_cannot_be_made_are_refused(rows, k):
    with pytest.raises(ContractError, match="folds"):
        stratified_folds(np.zeros(rows, int), k, np.random.default_rng(0))


def test_a_row_is_never_calibrated_by_itself():
    z, labels = make(200, seed=7, scale=0.5)
    folds = stratified_folds(labels, 4, np.random.default_rng(0))
    calibrated, fits = crossfit(fit_temperature, z, labels, folds)
    for k in range(4):
        by_hand = fit_temperature(z[folds != k], labels[folds != k]).temperature
        assert fits[k].temperature == by_hand
        np.testing.assert_array_equal(calibrated[folds == k], z[folds == k] / by_hand)
    other = labels.copy()
    row = int(np.flatnonzero(folds == 2)[0])
    other[row] = (other[row] + 1) % C
    again, _ = crossfit(fit_temperature, z, other, folds)
    np.testing.assert_array_equal(again[folds == 2], calibrated[folds == 2])  # its own label does not count
    assert (again[folds == 1] != calibrated[folds == 1]).any()
    stack, teacher_labels = three_teachers(200)
    assert crossfit(fit_coefficients, stack, teacher_labels, folds)[0].shape == (200, C)


def test_a_fold_without_an_optimum_leaves_nothing_calibrated():
    z, _ = make(40, seed=8)
    labels = z.argmax(axis=1)
    folds = np.arange(40) % 4
    labels[folds == 1] = (labels[folds == 1] + 1) % C  # only fold 1 has mistakes: without it all rows are right
    calibrated, fits = crossfit(fit_temperature, z, labels, folds)
    assert calibrated is None
    assert [fit.status for fit in fits][1] == "separable"
