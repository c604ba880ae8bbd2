"""The subsets of rows that `evaluate --by` scores."""

from types import SimpleNamespace

import numpy as np

from fer_mlflow.workflows.evaluate import read_slices


def test_slices_are_the_labelled_rows_of_each_value():
    values = np.array(["b", "a", "b", "", "c"], dtype=object)
    known = np.array([True, True, False, True, False])
    slices = read_slices(SimpleNamespace(column=lambda name: values), "light", known)
    assert {value: rows.tolist() for value, rows in slices.items()} == {
        "": [False, False, False, True, False],
        "a": [False, True, False, False, False],
        "b": [True, False, False, False, False],
    }
    assert list(slices) == ["", "a", "b"]
