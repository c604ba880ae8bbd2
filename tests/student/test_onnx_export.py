"""ONNX Runtime's logits beside torch's: rounding passes, another prediction does not."""

import numpy as np
import pytest

from fer_mlflow.errors import JobError
from fer_mlflow.student.onnx_export import OnnxCheck, compare_logits

OURS = np.array([[2.0, 1.0, 0.0], [0.5, 0.5 + 1e-6, -3.0]], np.float32)


def test_rounding_and_a_tie_that_changes_places_pass():
    theirs = OURS.copy()
    theirs[1, :2] = OURS[1, 1::-1]
    check = compare_logits(OURS, theirs, ["a.jpg", "b.jpg"])
    assert check == OnnxCheck(2, float(np.abs(OURS - theirs).max()), 1)
    assert 0 < check.max_difference < 2e-6


@pytest.mark.parametrize("wrong", [[0.0, 0.51, -3.0], [np.nan, 0.5, -3.0], [0.5, 0.5, -2.9]], ids=str)
def test_logits_that_differ_by_more_than_rounding_are_refused_with_their_row(wrong):
    with pytest.raises(JobError, match=r'^ONNX: row 2 "b.jpg" gets logits that differ .*; use --onnx false$'):
        compare_logits(OURS, np.array([OURS[0], wrong], np.float32), ["a.jpg", "b.jpg"])


def test_another_prediction_that_was_no_tie_is_refused():
    ours = np.array([[1.0, 1.0005]])
    with pytest.raises(JobError, match=r'row 1 "a.jpg"'):
        compare_logits(ours, ours[:, ::-1], ["a.jpg"])
