"""The Pareto front against its definition, and its degenerate cases."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fer_mlflow.errors import ContractError
from fer_mlflow.search.pareto import pareto_front

NAN = float("nan")


def defined(values: np.ndarray, lower: np.ndarray) -> list[bool]:
    """Return the front by its definition, one pair of rows after another."""
    losses = [[x if low else -x for x, low in zip(row, lower, strict=True)] for row in values.tolist()]

    def beats(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    return [not any(np.isnan(row)) and not any(beats(other, row) for other in losses) for row in losses]


@pytest.mark.parametrize("D", [1, 2, 3, 5])
@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_the_one_defined(D, levels, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (300, D)).astype(float)  # few levels: many rows are equal
    values[rng.random((300, D)) < 0.03] = NAN
    lower = rng.random(D) < 0.5
    assert pareto_front(values, lower).tolist() == defined(values, lower)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_front_is_the_one_defined_on_awkward_values(data):
    M, D = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 4))
    element = st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 1e308, np.inf, -np.inf, NAN])
    values = data.draw(arrays(np.float64, (M, D), elements=element))
    lower = data.draw(arrays(np.bool_, (D,)))
    assert pareto_front(values, lower).tolist() == defined(values, lower)


def test_a_front_by_hand():
    # macro_f1 and ece: a row is beaten by one that is as good in both and better in one
    values = np.array([[0.80, 0.05], [0.80, 0.04], [0.78, 0.02], [0.77, 0.03], [0.60, 0.01], [0.59, 0.01]])
    found = pareto_front(values, np.array([False, True]))
    assert np.flatnonzero(found).tolist() == [1, 2, 4]


def test_equal_rows_are_all_kept():
    values = np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 4], [0, 9, 9]])
    assert pareto_front(values, np.ones(3, bool)).tolist() == [True, True, False, True]
    assert pareto_front(np.full((5, 2), 0.3), np.zeros(2, bool)).all()


@pytest.mark.parametrize(("M", "expected"), [(0, []), (1, [True])])
def test_none_and_one_row(M, expected):
    assert pareto_front(np.ones((M, 3)), np.ones(3, bool)).tolist() == expected


def test_rows_that_are_not_scored_are_never_on_it():
    assert not pareto_front(np.full((3, 2), NAN), np.ones(2, bool)).any()
    assert pareto_front(np.array([[0.0, NAN], [5, 5]]), np.ones(2, bool)).tolist() == [False, True]


def test_whole_numbers_are_compared_as_they_are():
    assert pareto_front(np.array([[1, 9], [2, 8], [2, 9]], np.uint8), np.zeros(2, bool)).tolist() == [
        False,
        False,
        True,
    ]


def test_turning_every_column_around_is_the_same_as_turning_the_directions():
    values = np.random.default_rng(1).normal(size=(2000, 3))
    lower = np.array([True, False, True])
    assert (pareto_front(values, lower) == pareto_front(-values, ~lower)).all()


@pytest.mark.parametrize("kind", ["a ball", "all on the front"])
def test_twenty_thousand_rows_of_three_metrics_take_moments(kind):
    values = np.random.default_rng(2).normal(size=(20_000, 3))
    if kind == "all on the front":
        values = np.abs(values) / np.linalg.norm(values, axis=1, keepdims=True)
    start = time.perf_counter()
    front = pareto_front(values, np.zeros(3, bool))
    assert time.perf_counter() - start < 10  # the pairs in Python would take minutes
    assert front.all() == (kind == "all on the front")


@pytest.mark.parametrize(
    ("values", "lower", "message"),
    [
        (np.ones(3), np.ones(1, bool), r"float64 of shape \(3,\)"),
        (np.ones((3, 0)), np.ones(0, bool), r"shape \(3, 0\)"),
        (np.array([["a"]]), np.ones(1, bool), "values are <U1"),
        (np.ones((3, 2)), np.ones(3, bool), r"lower_is_better is bool of shape \(3,\)"),
        (np.ones((3, 2)), np.ones(2), "lower_is_better is float64"),
    ],
)
def test_a_front_of_other_shapes_is_refused(values, lower, message):
    with pytest.raises(ContractError, match=message):
        pareto_front(values, lower)
