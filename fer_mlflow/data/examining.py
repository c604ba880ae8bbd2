"""What image files hold: hash, size, whether they decode, whether they show anything, how they look."""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.data.steps import Steps, unwatched
from fer_mlflow.errors import ImageError

_BLOCK = 256  # files that one thread takes at a time
_FAST_FILE_S = 1e-4  # files that are hashed faster than this gain nothing from threads
_SLOW_FILE_S = 3e-4  # slower ones wait for a disk or a network: many are asked for at once


@dataclass(frozen=True)
class Examined:
    """What N files hold.

    Attributes
    ----------
    sha256 : (N,) bytes objects of 32, zeros where a file cannot be read
    sides : (N, 2) int32 height and width; 0 where it was not decoded
    problems : row -> why it cannot be decoded
    is_constant : (N,) bool, all pixels are equal
    looks : (N,) uint64 perceptual hashes, see `look_of`; 0 where none was asked for
    """

    sha256: np.ndarray
    sides: np.ndarray
    problems: dict[int, str]
    is_constant: np.ndarray
    looks: np.ndarray


def examine_images(
    root: str | Path, paths: Sequence[str], *, decode: bool = True, looks: bool = False, steps: Steps = unwatched
) -> Examined:
    """Read N files once, and hash, decode and look at them on all cores.

    Small files of a fast disk that are only hashed are read one after the other: Python's lock is held most of
    the time, so that threads would be slower.

    Parameters
    ----------
    decode : decode as `export` does; without it files are hashed only
    looks : compute perceptual hashes too
    """
    root, paths = os.path.abspath(root), list(paths)
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    found = []

    def examine(block: list[str]) -> list[tuple]:
        if decode:
            return [_examine(root, path, looks) for path in block]
        return [_hash(root, path) for path in block]

    with steps("decoding images" if decode else "hashing images", len(paths)) as count:
        workers = os.cpu_count() or 1
        if blocks and not decode:
            began = time.perf_counter()
            found += examine(blocks[0])
            count(len(blocks[0]))
            each_s = (time.perf_counter() - began) / len(blocks.pop(0))
            workers = 1 if each_s < _FAST_FILE_S else max(workers, 16 if each_s > _SLOW_FILE_S else 1)
        with ThreadPoolExecutor(workers) as pool:
            for block in map(examine, blocks) if workers == 1 else pool.map(examine, blocks):
                found += block
                count(len(block))
    digests, sides, problems, constant, hashes = zip(*found, strict=True) if found else ((), (), (), (), ())
    sha256 = np.empty(len(found), object)
    sha256[:] = digests
    return Examined(
        sha256,
        np.array(sides, np.int32).reshape(-1, 2),
        {row: problem for row, problem in enumerate(problems) if problem is not None},
        np.array(constant, bool),
        np.array(hashes, np.uint64),
    )


def _hash(root: str | Path, path: str) -> tuple:
    """Return the same as `_examine` for a file that is not decoded."""
    try:
        return hashlib.sha256(read_image_bytes(root, path)).digest(), (0, 0), None, False, 0
    except ImageError as error:
        return bytes(32), (0, 0), str(error), False, 0


def _examine(root: str | Path, path: str, looks: bool) -> tuple:
    """Return hash, (height, width), problem or None, whether constant, look of one file."""
    try:
        data = read_image_bytes(root, path)
    except ImageError as error:
        return bytes(32), (0, 0), str(error), False, 0
    digest = hashlib.sha256(data).digest()
    try:
        image = decode_image(data)
    except ImageError as error:
        return digest, (0, 0), str(error), False, 0
    is_constant = bool((image[0, 0] == image[-1, -1]).all()) and bool((image == image[0, 0]).all())
    return digest, image.shape[:2], None, is_constant, look_of(image) if looks else 0


def look_of(image: np.ndarray) -> int:
    """Return 64 bits that change little when an image is scaled, compressed or made brighter.

    The image in grey is shrunk by area to 32 × 32; of its discrete cosine transform the 8 × 8 lowest frequencies
    are held against their median, the constant one left out (a bit that is always 0). Frequencies tell faces,
    which all have the same light and dark places, better apart than differences of neighbouring pixels do.

    Parameters
    ----------
    image : (H, W, 3) uint8 BGR

    References
    ----------
    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return int(np.packbits(bits).view(">u8")[0])
