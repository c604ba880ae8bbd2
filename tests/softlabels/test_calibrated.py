"""The bundle that a calibration makes."""

import numpy as np
import pytest
from scipy.special import softmax
from toys import draw_logits, expected_metrics, write_bundle

from fer_mlflow import SoftLabels
from fer_mlflow.errors import ContractError
from fer_mlflow.softlabels.ensemble import calibrated

CALIBRATION = {"method": "temperature", "temperature": 2.0, "fitted_on": {"name": "faces:val"}}


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
