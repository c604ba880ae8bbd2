"""A bundle of each frozen format is committed, and is read as it was written. These files are never made anew."""

import json
from pathlib import Path

import numpy as np
import pytest

from fer_mlflow import SoftLabels
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.softlabels.files import HASHES, read_parts
from fer_mlflow.softlabels.verification import check_contents

FOLDER = Path(__file__).parents[1] / "golden/softlabels_format_2"
SHA256 = "d7aaf1107d1387523318a4c185d4bf360bc5185822ca798129709d4093353807"
FIRST_ROW = [-2.052734375, -1.109375, -0.156494140625, -0.84521484375, -0.9755859375, 0.0, -1.06640625]


def test_the_bundle_of_format_2_is_read(tmp_path):
    bundle = SoftLabels.open(FOLDER)
    assert bundle.name == "prob · clahe 3/4 · bf16 · float16 · B3 0.75 · RN18 0.25  on  golden:test"
    assert [(each.img_size, each.clahe) for each in bundle.configuration.preprocessing.values()] == [
        (300, Clahe(3.0, 4)),
        (224, Clahe(3.0, 4)),
    ]
    assert (bundle.logits.dtype, bundle.logits.shape) == (np.float16, (5, 7))
    assert bundle.logits[0].tolist() == FIRST_ROW
    assert bundle.labels.tolist() == [3, 4, -1, 6, 3]
    assert bundle.index["group"].tolist() == ["p1", "p1", "p2", "p2", "p4"]
    assert [bad["row"] for bad in bundle.report["unreadable"]] == [3]
    assert bundle.environment["teachers"]["B3"][0]["batch_size"] == 32
    assert bundle.metrics["nll"] == pytest.approx(2.3874836404393815)
    assert bundle.sha256 == SHA256
    # Written again it is the same to the byte, but for the zip headers of the logits: Python 3.11.4 changed them.
    again = bundle.write(tmp_path / "again")
    assert np.array_equal(again.logits, bundle.logits)
    descriptors = [json.loads((folder / HASHES).read_text()) for folder in (FOLDER, again.folder)]
    for each in descriptors:
        each["files"].pop("softlabels.npz")
    assert descriptors[0] == descriptors[1]


def test_the_bundle_of_format_2_verifies():
    reading = read_parts(FOLDER)
    checks = [*reading.checks, *check_contents(reading)]
    assert [check for check in checks if check.verdict == "fail"] == []
