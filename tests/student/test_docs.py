"""The training loops of docs/student.md run as they are written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs/student.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


def test_there_are_two():
    assert ["lightning" in code for code in EXAMPLES] == [False, True]


@pytest.mark.parametrize("code", EXAMPLES, ids=["torch", "lightning"])
def test_an_example_runs_as_it_is_written(code, split_faces, train_bundle, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "data").symlink_to(split_faces.parent)
    (place / "softlabels").symlink_to(train_bundle.folder)
    # Only looked at from outside: every loss that is computed.
    watch = """
import torch
_backward = torch.Tensor.backward
def _watched(self, *arguments, **named):
    print(f"loss={float(self):.6f}")
    return _backward(self, *arguments, **named)
torch.Tensor.backward = _watched
torch.manual_seed(0)
"""
    (place / "example.py").write_text(f"exec({watch!r})\n{code}")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "example.py"], cwd=place, capture_output=True, text=True, timeout=240, env=env
    )
    assert result.returncode == 0, result.stderr
    losses = [float(text) for text in re.findall(r"loss=([0-9.]+)", result.stdout)]  # among bars of progress
    steps = -(-len(train_bundle) // 16)
    assert len(losses) == steps * (2 if "lightning" in code else 3)
    assert sum(losses[-steps:]) < sum(losses[:steps])
