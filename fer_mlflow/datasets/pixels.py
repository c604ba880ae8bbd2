"""Images that a builder writes itself: made on all cores, each file whole or absent, unchanged ones left alone."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from fer_mlflow.data.steps import Steps
from fer_mlflow.errors import ContractError

_BLOCK = 256
Item = TypeVar("Item")
Result = TypeVar("Result")


def encode_png(image: np.ndarray) -> bytes:
    """Return an image's PNG: nothing is lost, and the same pixels give the same bytes."""
    done, data = cv2.imencode(".png", image)
    if not done:
        raise ContractError(f"an image of shape {image.shape} cannot be written as PNG")
    return data.tobytes()


def write_image(path: Path, data: bytes) -> None:
    """Put bytes into a file, whole or not at all; a file that holds them already stays as it is.

    Files are not flushed one by one, which would take longer than all else: `flush_images` does it for all.
    """
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def flush_images() -> None:
    """Bring everything written to disk, so that a manifest never outlives its images."""
    if hasattr(os, "sync"):
        os.sync()


def on_all_cores(
    work: Callable[[Item], Result], items: Iterable[Item], what: str, total: int, steps: Steps
) -> Iterator[Result]:
    """Yield the result of each item in order; a few hundred are in hand at a time."""
    items = iter(items)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, steps(what, total) as count:
        while block := list(islice(items, _BLOCK)):
            for result in pool.map(work, block):
                yield result
                count(1)
