"""The grid of weightings."""

from itertools import product
from math import comb

import numpy as np
import pytest

from fer_mlflow.errors import ContractError
from fer_mlflow.search.choices import count_weightings, finest_step, simplex_grid, steps_in


@pytest.mark.parametrize(("teachers", "steps"), [(1, 10), (2, 1), (2, 20), (3, 10), (4, 5), (6, 3)])
def test_it_has_every_weighting_once_and_its_shares_are_exact(teachers, steps):
    grid = simplex_grid(teachers, steps)
    expected = {each for each in product(range(steps + 1), repeat=teachers) if sum(each) == steps}
    assert grid.shape == (len(expected), teachers) == (count_weightings(teachers, steps), teachers)
    assert {tuple(row) for row in grid.tolist()} == {tuple(k / steps for k in each) for each in expected}
    assert np.abs(grid.sum(axis=1) - 1).max() < 1e-12


def test_counts_are_binomials():
    assert [count_weightings(k, 100) for k in (1, 2, 3, 5)] == [1, 101, 5151, comb(104, 4)]


@pytest.mark.parametrize(("step", "steps"), [(1, 1), (0.5, 2), (0.1, 10), (0.05, 20), (0.333333333, 3), (0.001, 1000)])
def test_steps_that_fit(step, steps):
    assert steps_in(step) == steps


@pytest.mark.parametrize(
    ("step", "message"), [(0.3, "0.333333 or 0.25"), (0.15, "0.166667 or 0.142857"), (0, "above 0"), (1.5, "at most 1")]
)
def test_steps_that_do_not_fit_are_refused_and_near_ones_named(step, message):
    with pytest.raises(ContractError, match=message.replace(".", r"\.")):
        steps_in(step)


@pytest.mark.parametrize(("teachers", "most"), [(2, 5), (3, 20_000), (5, 20_000), (8, 1000), (8, 7)])
def test_the_finest_step_fits_and_the_next_does_not(teachers, most):
    step = finest_step(teachers, most)
    if step == 0:
        assert count_weightings(teachers, 1) > most
        return
    assert count_weightings(teachers, steps_in(step)) <= most
    finer = [each for each in (0.001, 0.002, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5) if each < step]
    assert all(count_weightings(teachers, steps_in(each)) > most for each in finer)
