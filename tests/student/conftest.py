"""A manifest with three splits, and soft labels of its training rows."""

import pytest
from student_toys import write_bundle
from toys import write_faces

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark


@pytest.fixture
def manifest(tmp_path):
    """Return a manifest: of 84 images every fourth is for validation, every seventh for tests."""
    path = write_faces(tmp_path / "faces", 84)
    lines = path.read_text().splitlines()
    splits = ["val" if i % 4 == 0 else "test" if i % 7 == 1 else "train" for i in range(len(lines))]
    rows = [line.replace(",test,", f",{split},") for line, split in zip(lines, splits, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def train(manifest):
    """Return the training part."""
    return read_benchmark(manifest, FER7, split="train")


@pytest.fixture
def bundle(tmp_path, train):
    """Return the soft labels of the training part."""
    return write_bundle(tmp_path / "softlabels", train)
