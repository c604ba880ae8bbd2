"""The Pareto front, against its definition row by row."""

import numpy as np
import pytest

from fer_mlflow.scoring.pareto import pareto_front


def by_definition(values, lower):
    cost = np.where(lower, values, -values)
    found = []
    for row in cost:
        beaten = any((other <= row).all() and (other < row).any() for other in cost if not np.isnan(other).any())
        found.append(not np.isnan(row).any() and not beaten)
    return found


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("M", [1, 2, 7, 300, 1500])
def test_it_is_the_definition(M, D):
    rng = np.random.default_rng(M + D)
    values = rng.integers(0, 12, (M, D)) / 4 if M % 2 else rng.random((M, D))  # with many ties, and without
    values[rng.random((M, D)) < 0.02] = np.nan
    lower = rng.random(D) < 0.5
    assert pareto_front(values, lower).tolist() == by_definition(values, lower)


def test_equal_rows_are_on_the_front_together():
    values = np.array([[0.5, 0.1], [0.5, 0.1], [0.4, 0.2]])
    assert pareto_front(values, np.array([False, True])).tolist() == [True, True, False]


def test_everything_may_be_on_the_front():
    x = np.linspace(0, 1, 3000)
    assert pareto_front(np.column_stack([x, 1 - x]), np.array([True, True])).all()
