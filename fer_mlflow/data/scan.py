"""A scan of image files: hash, size, whether they decode, whether they are constant, and their perceptual hash."""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.data.near_duplicates import perceptual_hash
from fer_mlflow.errors import ImageError
from fer_mlflow.progress import Progress, no_progress

_BLOCK = 256  # files that one thread takes at a time
_FAST_FILE_S = 1e-4  # files that are hashed faster than this gain nothing from threads
_SLOW_FILE_S = 3e-4  # slower ones wait for a disk or a network: many are read at once


@dataclass(frozen=True)
class Scan:
    """What N files hold.

    Attributes
    ----------
    sha256 : (N,) bytes objects of 32, zeros where a file cannot be read
    sides : (N, 2) int32 height and width; 0 where it was not decoded
    problems : row -> why it cannot be decoded
    is_constant : (N,) bool, all pixels are equal
    hashes : (N,) uint64 perceptual hashes; 0 where none was computed
    """

    sha256: np.ndarray
    sides: np.ndarray
    problems: dict[int, str]
    is_constant: np.ndarray
    hashes: np.ndarray


def scan_images(
    root: str | Path,
    paths: Sequence[str],
    *,
    decode: bool = True,
    perceptual: bool = False,
    progress: Progress = no_progress,
) -> Scan:
    """Read N files once, on all cores, and return what they hold.

    Small files of a fast disk that are only hashed are read one after the other: Python's lock is held most of
    the time, so that threads would be slower.

    Parameters
    ----------
    decode : decode as `export` does; without it files are hashed only
    perceptual : compute perceptual hashes too
    """
    root, paths = os.path.abspath(root), list(paths)
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    files: list[tuple] = []

    def scan(block: list[str]) -> list[tuple]:
        return [_scan_file(root, path, decode, perceptual) for path in block]

    with progress("decoding images" if decode else "hashing images", len(paths)) as count:
        workers = os.cpu_count() or 1
        if blocks and not decode:
            began = time.perf_counter()
            files += scan(blocks[0])
            count(len(blocks[0]))
            each_s = (time.perf_counter() - began) / len(blocks.pop(0))
            workers = 1 if each_s < _FAST_FILE_S else max(workers, 16 if each_s > _SLOW_FILE_S else 1)
        with ThreadPoolExecutor(workers) as pool:
            for block in map(scan, blocks) if workers == 1 else pool.map(scan, blocks):
                files += block
                count(len(block))
    digests, sides, problems, constant, hashes = zip(*files, strict=True) if files else ((), (), (), (), ())
    sha256 = np.empty(len(files), object)
    sha256[:] = digests
    return Scan(
        sha256,
        np.array(sides, np.int32).reshape(-1, 2),
        {row: problem for row, problem in enumerate(problems) if problem is not None},
        np.array(constant, bool),
        np.array(hashes, np.uint64),
    )


def _scan_file(root: str | Path, path: str, decode: bool, perceptual: bool) -> tuple:
    """Return SHA-256, (height, width), problem or None, whether constant, and perceptual hash of one file."""
    digest = bytes(32)
    try:
        data = read_image_bytes(root, path)
        digest = hashlib.sha256(data).digest()
        if not decode:
            return digest, (0, 0), None, False, 0
        image = decode_image(data)
    except ImageError as error:
        return digest, (0, 0), str(error), False, 0
    is_constant = bool((image[0, 0] == image[-1, -1]).all()) and bool((image == image[0, 0]).all())
    return digest, image.shape[:2], None, is_constant, perceptual_hash(image) if perceptual else 0
