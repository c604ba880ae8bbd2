"""One teacher on one device: pixels in, logits out, in the precision that was chosen."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn

from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.teachers.checkpoint import Teacher

# `--compile auto` compiles where a benchmark has more rows than compiling costs; measured by benchmarks/export.py.
COMPILE_FROM_ROWS = {"cpu": 50_000, "cuda": 100_000}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ForwardSettings:
    """How a forward pass runs; of these only `precision` is meant to change the logits.

    Attributes
    ----------
    compile : `auto`, `true` or `false`
    device : `auto`, `cpu`, `cuda` or `cuda:N`
    workers : processes that decode; None chooses by device
    """

    precision: str = "fp32"
    compile: str = "auto"
    device: str = "auto"
    batch_size: int = 32
    workers: int | None = None


def choose_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises
    ------
    ContractError
        there is no such device here
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ContractError(f"device {name!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ContractError(f"device {name}: found {torch.cuda.device_count()} CUDA devices; use --device cpu or auto")
    return device


def choose_compile(choice: str, rows: int, device: torch.device) -> bool:
    """Return whether to compile; `auto` does where so many rows repay the minutes that it takes.

    Depends on the benchmark's whole length, never on what is left of it, so that a resumed run computes like
    an uninterrupted one.
    """
    if choice != "auto":
        return choice == "true"
    has_compiler = device.type == "cuda" or any(map(shutil.which, ("g++", "clang++", "c++")))
    return has_compiler and rows >= COMPILE_FROM_ROWS.get(device.type, 1 << 62)


def describe_environment(settings: ForwardSettings, device: torch.device, compiled: bool) -> dict[str, Any]:
    """Return on what and with which versions logits are computed."""
    return {
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
        "compiled": compiled,
        "batch_size": settings.batch_size,
        "versions": {
            "torch": torch.__version__,
            "timm": timm.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
    }


class Predictor:
    """One teacher on one device: pixels in, logits in the project's class order out."""

    def __init__(self, teacher: Teacher, device: torch.device, settings: ForwardSettings, compiled: bool):
        self.name, self.preprocessing = teacher.name, teacher.preprocessing
        self.device, self.settings = device, settings
        self.columns = torch.from_numpy(teacher.columns)
        model = teacher.model.to(device)
        self.eager: Callable[[Tensor], Tensor] = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = _compile(teacher.model) if compiled else self.eager
        self.compiled = compiled
        self.mean, self.std = (
            torch.tensor(channels, device=device).view(1, 3, 1, 1)
            for channels in (teacher.preprocessing.mean, teacher.preprocessing.std)
        )

    def prepare(self, pixels: Tensor) -> Tensor:
        """Return (b, 3, size, size) float32 for (b, size, size, 3) uint8 RGB pixels, on the device, channels last."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return images.div_(255).sub_(self.mean).div_(self.std)

    def predict(self, images: Tensor, *, eager: bool = False) -> Tensor:
        """Return (b, C) float32 logits on the CPU for prepared images."""
        count = len(images)
        model = self.eager if eager else self.model
        if self.compiled and not eager and count < self.settings.batch_size:
            images = torch.cat([images, images[:1].expand(self.settings.batch_size - count, -1, -1, -1)])
            images = images.contiguous(memory_format=torch.channels_last)
        logits = model(images)[:count]
        return logits.float().cpu()[:, self.columns]

    def predict_batch(self, images: Tensor) -> np.ndarray:
        """Return (b, C) float32 logits; a full memory, and a model that does not compile, become messages."""
        try:
            return self.predict(images).numpy()
        except torch.OutOfMemoryError as error:
            raise JobError(
                f"teacher {self.name}: {self.device} is out of memory at --batch-size {self.settings.batch_size}; "
                "finished shards are kept: run the same command again with a smaller one"
            ) from error
        except Exception as error:
            if not self.compiled:
                raise
            raise JobError(
                f"teacher {self.name} does not compile here ({str(error).splitlines()[0]}); use --compile false"
            ) from error


def _compile(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the model compiled for one input shape, its weights folded in."""
    return torch.compile(model, dynamic=False, options={"freezing": True})


@contextmanager
def numerics(device: torch.device, precision: str) -> Iterator[None]:
    """Hold the precision for a block: autocast where asked for, and no TF32 behind the name fp32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    cast = nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_AUTOCAST[precision])
    try:
        with torch.no_grad(), cast:  # weights are cast once for the whole block, not once a batch
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
