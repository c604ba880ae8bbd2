"""A student as an ONNX file that takes pixels, compared with torch on real rows."""

import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.images import prepare_image, read_image_bytes
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.teachers.checkpoint import Teacher, load_teacher
from fer_mlflow.teachers.spec import TeacherSpec

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# How far ONNX Runtime's logits may be from torch's, relative to 1 + the row's largest.
TOLERANCE = 1e-3
TIE = 1e-4  # two logits of a row that are this near, relative to the same, may change places
_BATCH = 64


@dataclass(frozen=True)
class OnnxCheck:
    """ONNX Runtime beside torch: rows compared, the largest difference of a logit, rows with another prediction."""

    rows: int
    max_difference: float
    changed: int


def check_onnx_packages() -> None:
    """Raise ContractError where a package that writes or runs ONNX files is not installed."""
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise ContractError(
            f"--onnx true needs {', '.join(lacking)}; install them with pip install 'fer-mlflow[onnx]', or use "
            "--onnx false"
        )


class _FromPixels(torch.nn.Module):
    """A model behind its own scaling: uint8 RGB pixels in, logits in the project's class order out."""

    mean: torch.Tensor
    std: torch.Tensor
    columns: torch.Tensor

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.model = teacher.model
        for name in ("mean", "std"):
            channels = torch.tensor(getattr(teacher.preprocessing, name))
            self.register_buffer(name, channels.view(1, 3, 1, 1) * 255)
        self.register_buffer("columns", torch.from_numpy(np.asarray(teacher.columns, dtype=np.int64)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.permute(0, 3, 1, 2).float()
        return self.model((images - self.mean) / self.std).index_select(1, self.columns)


def export_onnx(checkpoint: Path, classes: ClassOrder, path: Path) -> int:
    """Write a student's ONNX file and return the side of its images.

    Input `pixels` (rows, side, side, 3) uint8 RGB; output `logits` (rows, C) float32 in the order of `classes`. The
    scaling by mean and std is part of the file.

    Raises FerError: the checkpoint cannot be used. JobError: torch cannot export the architecture.
    """
    student = load_teacher(TeacherSpec("student", checkpoint), classes)
    side = student.preprocessing.side
    example = torch.zeros((2, side, side, 3), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            torch.onnx.export(
                _FromPixels(student).eval(),
                (example,),
                str(path),
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("rows")}},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise JobError(f"{checkpoint.name}: torch cannot export it to ONNX ({first}); use --onnx false") from error
    return side


def check_onnx(path: Path, checkpoint: Path, part: Benchmark, clahe: Clahe | None) -> OnnxCheck:
    """Compare an ONNX file with its checkpoint on every row of a benchmark, as `compare_logits` does."""
    import onnxruntime

    student = load_teacher(TeacherSpec("student", checkpoint), part.classes)
    preprocessing = replace(student.preprocessing, clahe=clahe)
    plain = _FromPixels(student).eval()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours, theirs = [], []
    for start in range(0, len(part), _BATCH):
        paths = part.paths.iloc[start : start + _BATCH]
        pixels = np.stack([prepare_image(read_image_bytes(part.root, each), preprocessing) for each in paths])
        with torch.no_grad():
            ours.append(plain(torch.from_numpy(pixels)).numpy())
        theirs += session.run(["logits"], {"pixels": pixels})
    return compare_logits(np.concatenate(ours), np.concatenate(theirs), part.paths.tolist())


def compare_logits(ours: np.ndarray, theirs: np.ndarray, paths: list[str]) -> OnnxCheck:
    """Compare torch's (N, C) logits with ONNX Runtime's.

    Raises JobError: a logit differs by more than rounding, or a row's largest is in another column and was no tie.
    """
    difference = np.abs(ours - theirs).max(axis=1)
    scale = 1 + np.abs(ours).max(axis=1)
    prediction = theirs.argmax(axis=1)
    margin = ours.max(axis=1) - ours[np.arange(len(ours)), prediction]
    wrong = ~(difference <= TOLERANCE * scale) | (margin > TIE * scale)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise JobError(
            f'ONNX: row {row + 1} "{paths[row]}" gets logits that differ from torch\'s by {difference[row]:.3g}; '
            "use --onnx false"
        )
    return OnnxCheck(len(ours), float(difference.max()), int((prediction != ours.argmax(axis=1)).sum()))
