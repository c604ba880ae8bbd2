"""A trained student, asked about a benchmark through the same forward pass as an export."""

from pathlib import Path

import numpy as np

from fer_mlflow.data.images import Clahe
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.teachers.asking import Settings
from fer_mlflow.teachers.checkpoint import load_teacher
from fer_mlflow.teachers.inference import infer
from fer_mlflow.teachers.spec import TeacherSpec


def predict(
    checkpoint: Path, part: Benchmark, clahe: Clahe | None, *, device: str = "auto", workers: int | None = None
) -> np.ndarray:
    """Return a student's (N, C) float32 logits of a benchmark's rows.

    Raises
    ------
    FerError
        the checkpoint or an image cannot be used
    """
    student = load_teacher(TeacherSpec("student", checkpoint), part.classes)
    settings = Settings(clahe=clahe, device=device, workers=workers)
    (shard,) = infer(part.root, part.paths.to_numpy(object), [(0, len(part))], [student], settings)
    return shard.logits["student"]
