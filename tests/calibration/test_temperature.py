"""The temperature against scipy, on planted optima, and on everything that other tools get wrong."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from fer_mlflow.calibration import fit_temperature
from fer_mlflow.errors import ContractError


def make(rows: int, temperature: float, seed: int = 0, classes: int = 7, spread: float = 1.5):
    """Return logits whose best temperature is about `temperature`, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, spread, (rows, classes))
    labels = (softmax(z, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return z * temperature, labels


def nll(z, labels, temperature) -> float:
    return -log_softmax(np.asarray(z, float) / temperature, axis=1)[np.arange(len(z)), labels].mean()


def by_scipy(z, labels, near: float) -> float:
    at = np.log(near)
    found = minimize_scalar(lambda t: nll(z, labels, np.exp(t)), bracket=(at - 1, at, at + 1), tol=1e-12)
    return float(np.exp(found.x))


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 2.0, 4.5, 22.5, 1e4])
def test_it_is_scipys_optimum(temperature):
    z, labels = make(2000, temperature)
    fit = fit_temperature(z, labels)
    assert fit.status == "ok"
    assert fit.temperature == pytest.approx(by_scipy(z, labels, temperature), rel=2e-7)  # scipy compares values of NLL
    assert fit.temperature == pytest.approx(temperature, rel=5 * fit.standard_error / fit.temperature)
    slope = (softmax(z / fit.temperature, axis=1) * z).sum(axis=1) - z[np.arange(len(z)), labels]
    assert abs(slope.mean()) < 1e-9 * np.abs(z).mean()  # the derivative of NLL by 1/T is 0 to 1e-9


@pytest.mark.parametrize("rows", [1, 2, 5, 50_000])
def test_it_is_scipys_optimum_for_few_rows_and_for_many(rows):
    z, labels = make(rows, 3.0, seed=rows)
    fit = fit_temperature(z, labels)
    if fit.status == "ok":
        assert fit.temperature == pytest.approx(by_scipy(z, labels, fit.temperature), rel=1e-6)
    else:  # then going on in that direction is always better
        worse, better = (3.0, 1e-3) if fit.status == "separable" else (1e-3, 1e6)
        assert nll(z, labels, better) <= nll(z, labels, worse)
    assert fit.status == "ok" or rows <= 2


@pytest.mark.parametrize(("right", "rows"), [(3, 4), (51, 100), (999, 1000), (45_000, 60_000)])
@pytest.mark.parametrize("gap", [1e-3, 1.0, 250.0])
def test_two_classes_and_one_gap_by_hand(gap, right, rows):
    # softmax(z / T) is the share of right rows q: T = gap / log(q / (1 - q)), and 1/T has the binomial's error.
    z = np.tile([0.0, gap], (rows, 1))
    labels = (np.arange(rows) * 7 % rows < right).astype(int) if rows % 7 else (np.arange(rows) < right).astype(int)
    assert labels.sum() == right
    fit = fit_temperature(z, labels)
    q = right / rows
    temperature = gap / np.log(q / (1 - q))
    assert fit.temperature == pytest.approx(temperature, rel=1e-9)
    error = 1 / (gap * np.sqrt(rows * q * (1 - q)))
    assert fit.standard_error == pytest.approx(error * temperature**2, rel=1e-6)


@pytest.mark.parametrize("odd", ["right", "upside down", "sharp", "usual"])
def test_every_second_row_may_be_unlike_the_others(odd):
    # More than 40,000 rows are first looked at in part: the part may have no optimum, or one far away.
    z, labels = make(44_000, 2.0)
    if odd == "right":
        labels[::2] = z[::2].argmax(axis=1)
    if odd == "upside down":
        z[::2] *= -0.2
    if odd == "sharp":
        z[::2] *= 1e3
    fit = fit_temperature(z, labels)
    assert fit.status == "ok"
    assert fit.temperature == pytest.approx(by_scipy(z, labels, fit.temperature), rel=1e-6)


def test_one_row_by_hand():
    assert fit_temperature(np.array([[2.0, 0.0, 0.0]]), np.array([0])).status == "separable"
    assert fit_temperature(np.array([[2.0, 0.0, 0.0]]), np.array([1])).status == "no_positive_optimum"
    assert fit_temperature(np.array([[3.0, 0.0]]), np.array([1])).status == "no_positive_optimum"
    # E z = z_y = 2 for logits 3, 2, 0: e^b = 2 e^0 / e^0 ..., that is exp(3b) = 2 exp(0), b = log(2) / 3
    fit = fit_temperature(np.array([[3.0, 2.0, 0.0]]), np.array([1]))
    assert fit.temperature == pytest.approx(3 / np.log(2), rel=1e-9)


def test_it_does_not_depend_on_how_the_same_logits_are_written():
    z, labels = make(3000, 2.0)
    rng = np.random.default_rng(1)
    fit = fit_temperature(z, labels)
    shifted = z + rng.normal(0, 100, (3000, 1))
    assert fit_temperature(shifted, labels).temperature == pytest.approx(fit.temperature, rel=1e-9)
    order, classes = rng.permutation(3000), rng.permutation(7)
    assert fit_temperature(z[order], labels[order]).temperature == pytest.approx(fit.temperature, rel=1e-9)
    moved = fit_temperature(z[:, classes], np.argsort(classes)[labels])
    assert moved.temperature == pytest.approx(fit.temperature, rel=1e-9)
    scaled = fit_temperature(1000 * z, labels)
    assert (scaled.temperature, scaled.standard_error) == pytest.approx(
        (1000 * fit.temperature, 1000 * fit.standard_error)
    )
    as_float32 = fit_temperature(z.astype(np.float32), labels)
    assert as_float32.temperature == pytest.approx(fit.temperature, rel=1e-5)


def test_the_standard_error_is_the_spread_over_benchmarks():
    fits = [fit_temperature(*make(500, 4.5, seed=seed)) for seed in range(200)]
    spread = np.std([fit.temperature for fit in fits])
    assert np.mean([fit.standard_error for fit in fits]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(("rows", "error"), [(500, 0.24), (3068, 0.09), (50_000, 0.03)])
def test_the_standard_error_is_what_was_measured(rows, error):
    assert fit_temperature(*make(rows, 4.5)).standard_error == pytest.approx(error, abs=0.015)


def test_the_standard_error_does_not_assume_that_the_model_is_right():
    # Half of the rows are far too sure, half far too unsure: the spread is greater than the curvature alone says.
    def mixed(seed):
        (a, ya), (b, yb) = make(300, 8.0, seed), make(300, 0.5, seed + 1000)
        return fit_temperature(np.concatenate([a, b]), np.concatenate([ya, yb]))

    fits = [mixed(seed) for seed in range(150)]
    spread = np.std([fit.temperature for fit in fits])
    assert np.mean([fit.standard_error for fit in fits]) == pytest.approx(spread, rel=0.25)


def test_every_row_right_is_separable():
    z, _ = make(200, 1.0)
    fit = fit_temperature(z, z.argmax(axis=1))
    assert fit.status == "separable"
    assert np.isnan(fit.temperature)
    assert np.isnan(fit.standard_error)
    assert "no best temperature" in fit.explanation


def test_one_wrong_row_is_enough_for_a_temperature():
    z, _ = make(3000, 1.0)
    labels = z.argmax(axis=1)
    labels[0] = z[0].argmin()
    fit = fit_temperature(z, labels)
    assert fit.status == "ok"
    assert fit.temperature == pytest.approx(by_scipy(z, labels, fit.temperature), rel=1e-6)


def test_ties_with_the_label_among_the_greatest_are_separable():
    z = np.array([[2.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    assert fit_temperature(z, np.array([1, 0])).status == "separable"
    assert fit_temperature(z, np.array([2, 0])).status != "separable"


@pytest.mark.parametrize(
    "z",
    [np.zeros((6, 3)), np.full((6, 3), 7.5), -make(6, 1.0, classes=3)[0]],
    ids=["zero", "constant", "upside down"],
)
def test_logits_no_better_than_equal_ones_have_no_optimum(z):
    labels = (-z).argmax(axis=1) if z.std() else np.array([0, 1, 2, 0, 1, 2])
    fit = fit_temperature(z, labels)
    assert fit.status == "no_positive_optimum"
    assert np.isnan(fit.temperature)
    assert nll(z, labels, 1e9) <= nll(z, labels, 10.0) + 1e-15


def test_noise_has_an_optimum_exactly_where_its_slope_at_zero_is_negative():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z, labels = rng.normal(0, 3, (300, 5)), rng.integers(0, 5, 300)
        better = z[np.arange(300), labels].mean() > z.mean()
        fit = fit_temperature(z, labels)
        assert (fit.status == "ok") == better
        if better:
            assert fit.temperature == pytest.approx(by_scipy(z, labels, fit.temperature), rel=1e-5)


def test_one_class_only_may_have_a_temperature():
    z, _ = make(400, 1.0)
    labels = np.full(400, 3)
    z[:, 3] += 1.0
    fit = fit_temperature(z, labels)
    assert fit.status == "ok"
    assert fit.temperature == pytest.approx(by_scipy(z, labels, fit.temperature), rel=1e-6)


# --- what other tools got wrong (docs/decisions.md and their issue lists) ---------------------------------------


def test_never_a_negative_temperature():
    # LBFGS without a check of success walked to T < 0 on logits that are worse than chance, and to T = -1242.
    z, labels = make(500, 1.0)
    assert fit_temperature(-z, labels).status == "no_positive_optimum"
    for seed in range(30):
        rng = np.random.default_rng(seed)
        fit = fit_temperature(rng.normal(0, 50, (60, 7)), rng.integers(0, 7, 60))
        assert fit.status == "no_positive_optimum" or fit.temperature > 0


def test_never_a_temperature_that_only_says_infinity():
    # T = 2.4e7 was reported where nothing but T -> infinity is better.
    z, labels = make(500, 1.0)
    assert np.isnan(fit_temperature(-1e-3 * z, labels).temperature)


def test_not_stuck_near_the_start():
    # A step size that suited other logits left T at 1.495, and finite differences of a float32 loss at exactly 1.
    for temperature in (0.05, 0.9, 1.1, 60.0):
        fit = fit_temperature(*make(4000, temperature))
        assert fit.temperature == pytest.approx(temperature, rel=0.1)


def test_the_temperature_divides_and_is_not_its_own_inverse():
    z, labels = make(4000, 5.0)
    fit = fit_temperature(z, labels)
    assert fit.temperature > 4
    assert nll(z, labels, fit.temperature) < nll(z, labels, 1.0) < nll(z, labels, 1 / fit.temperature)
    np.testing.assert_array_equal(fit.apply(z), z / fit.temperature)


def test_no_grid_that_ends_and_no_cap():
    # A cap of 5 reported T = 5.000 and NLL 2.81 where the optimum was T = 22.5 and NLL 1.29; a grid ended at 8.
    z, labels = make(3000, 22.5)
    fit = fit_temperature(z, labels)
    assert fit.temperature == pytest.approx(22.5, rel=0.05)
    assert nll(z, labels, fit.temperature) < nll(z, labels, 8.0) - 0.1 < nll(z, labels, 5.0) - 0.3


@pytest.mark.parametrize(
    "values", [(1.3, 0.7, 0.1), (0.1, 0.2, 0.3), (-4.1, 9.7, 0.3), (5.0, 1e4, -1e4), (1e-9, 0.0, 3e-9)]
)
@pytest.mark.parametrize("rows", [3, 300, 60_000])
def test_a_teacher_that_says_the_same_of_every_row_has_no_temperature_on_a_balanced_benchmark(values, rows):
    # The slope at 1/T = 0 is 0, and a rounding error below it made T = 2e16.
    z, labels = np.tile(values, (rows, 1)), np.arange(rows) % 3
    assert fit_temperature(z, labels).status == "no_positive_optimum"
    assert fit_temperature(z + 0.1 * np.arange(rows)[:, None], labels).status == "no_positive_optimum"


def test_balanced_labels_of_repeated_logits_have_no_temperature():
    for seed in range(20):
        z = np.repeat(np.random.default_rng(seed).normal(0, 3, (5, 7)), 7, axis=0)  # every label once for each
        assert fit_temperature(z, np.arange(35) % 7).status == "no_positive_optimum"


def test_a_gain_that_is_small_and_real_is_found():
    z, labels = np.tile([1.0, 0.0], (1_000, 1)), np.arange(1_000) % 2
    labels[1] = 0  # right in 501 of 1,000 rows
    assert fit_temperature(z, labels).temperature == pytest.approx(1 / np.log(501 / 499), rel=1e-8)


def test_extreme_logits_do_not_overflow():
    z, labels = make(500, 1e4)
    z[0] = [1e4, -1e4, 0, 0, 0, 0, 0]
    fit = fit_temperature(z, labels)
    assert fit.status == "ok"
    assert np.isfinite([fit.temperature, fit.standard_error]).all()


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        ([[0.0, np.nan]], [0], "row 0"),
        ([[0.0, 1.0], [np.inf, 1.0]], [0, 1], "row 1"),
        ([[0.0, 1.0]], [2], "not a class"),
        ([[0.0, 1.0]], [0, 1], "integers of shape"),
        (np.empty((0, 2)), np.empty(0, int), "no labelled row"),
        ([[0.0], [1.0]], [0, 0], "2 or more classes"),
    ],
)
def test_what_is_no_benchmark_is_refused(z, labels, message):
    with pytest.raises(ContractError, match=message):
        fit_temperature(np.array(z), np.array(labels))
