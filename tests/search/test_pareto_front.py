"""The Pareto front against its definition, and its degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from fer_mlflow.search.choices import pareto_front

NAN = float("nan")


def defined(values: np.ndarray, lower: np.ndarray) -> list[bool]:
    """Return the front by its definition, one pair of rows after another."""
    losses = [[x if low else -x for x, low in zip(row, lower, strict=True)] for row in values.tolist()]

    def is_better(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    return [not any(np.isnan(row)) and not any(is_better(other, row) for other in losses) for row in losses]


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_the_one_defined(levels, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (300, 2)).astype(float)  # few levels: many rows are equal
    values[rng.random((300, 2)) < 0.03] = NAN
    lower = rng.random(2) < 0.5
    assert pareto_front(values, lower).tolist() == defined(values, lower)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_front_is_the_one_defined_on_awkward_values(data):
    M = data.draw(st.integers(0, 12))
    element = st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 1e308, np.inf, -np.inf, NAN])
    values = data.draw(arrays(np.float64, (M, 2), elements=element))
    lower = data.draw(arrays(np.bool_, (2,)))
    assert pareto_front(values, lower).tolist() == defined(values, lower)


def test_a_front_by_hand():
    # macro_f1 and ece: another row is better where it is as good in both and better in one
    values = np.array([[0.80, 0.05], [0.80, 0.04], [0.78, 0.02], [0.77, 0.03], [0.60, 0.01], [0.59, 0.01]])
    found = pareto_front(values, np.array([False, True]))
    assert np.flatnonzero(found).tolist() == [1, 2, 4]


def test_equal_rows_are_all_kept():
    values = np.array([[1.0, 2], [1, 2], [1, 3], [0, 9]])
    assert pareto_front(values, np.ones(2, bool)).tolist() == [True, True, False, True]
    assert pareto_front(np.full((5, 2), 0.3), np.zeros(2, bool)).all()


@pytest.mark.parametrize(("M", "expected"), [(0, []), (1, [True])])
def test_none_and_one_row(M, expected):
    assert pareto_front(np.ones((M, 2)), np.ones(2, bool)).tolist() == expected


def test_rows_that_are_not_scored_are_never_on_it():
    assert not pareto_front(np.full((3, 2), NAN), np.ones(2, bool)).any()
    assert pareto_front(np.array([[0.0, NAN], [5, 5]]), np.ones(2, bool)).tolist() == [False, True]


def test_turning_every_column_around_is_the_same_as_turning_the_directions():
    values = np.random.default_rng(1).normal(size=(2000, 2))
    lower = np.array([True, False])
    assert (pareto_front(values, lower) == pareto_front(-values, ~lower)).all()
