"""A scan of image files: hash, size, whether they decode, whether they are constant, and near-duplicates among them."""

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
from fer_mlflow.data.roots import AT_ONCE, absolute, is_url
from fer_mlflow.errors import ImageError
from fer_mlflow.progress import Progress, no_progress, track

_BLOCK = 256  # files that one thread takes at a time
_FAST_FILE_S = 1e-4  # files that are hashed faster than this gain nothing from threads
_SLOW_FILE_S = 3e-4  # slower ones wait for a disk or a network: many are read at once
_BITS = 64
_MOST_PAIRS = 1 << 22  # candidate pairs that are compared at a time


@dataclass(frozen=True)
class Scan:
    """What N files hold."""

    sha256: np.ndarray  # (N,) bytes objects of 32, zeros where a file cannot be read
    sides: np.ndarray  # (N, 2) int32 height and width; 0 where it was not decoded
    problems: dict[int, str]  # row -> why it cannot be decoded
    is_constant: np.ndarray  # (N,) bool, all pixels are equal
    hashes: np.ndarray  # (N,) uint64 perceptual hashes; 0 where none was computed


def scan_images(
    root: str | Path,
    paths: Sequence[str],
    *,
    decode: bool = True,
    perceptual: bool = False,
    progress: Progress = no_progress,
) -> Scan:
    """Read N files once, on all cores, decode them as `export` does or only hash them, and return what they hold.

    Small files of a fast disk that are only hashed are read one after the other: Python's lock is held most of
    the time, so that threads would be slower.
    """
    root, paths = absolute(root), list(paths)
    size = AT_ONCE if is_url(root) else _BLOCK
    blocks = [paths[start : start + size] for start in range(0, len(paths), size)]
    files: list[tuple] = []

    def scan(block: list[str]) -> list[tuple]:
        return [_scan_file(root, path, decode, perceptual) for path in block]

    with progress("decoding images" if decode else "hashing images", len(paths)) as count:
        workers = AT_ONCE if is_url(root) else os.cpu_count() or 1
        if blocks and not decode and not is_url(root):
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


def hash_images(root: str | Path, paths: Sequence[str]) -> np.ndarray:
    """Return the SHA-256 of each file's bytes, (N, 32) uint8; zeros where a file cannot be read."""
    scan = scan_images(root, paths, decode=False)
    return np.frombuffer(b"".join(scan.sha256), np.uint8).reshape(-1, 32)


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


def perceptual_hash(image: np.ndarray) -> int:
    """Return 64 bits that change little when an (H, W, 3) uint8 BGR image is scaled, compressed or made brighter.

    The image in grey is shrunk by area to 32 × 32; of its discrete cosine transform the 8 × 8 lowest frequencies
    are compared with their median, the constant one left out (a bit that is always 0). Frequencies separate faces,
    which all have the same light and dark places, better than differences of neighbouring pixels do.

    Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return int(np.packbits(bits).view(">u8")[0])


def near_duplicate_pairs(hashes: np.ndarray, distance: int, progress: Progress = no_progress) -> np.ndarray:
    """Return the pairs of hashes that differ in at most `distance` bits, (P, 2) int64 rows a < b, sorted.

    Two (N,) uint64 hashes that differ in d bits agree in at least one of d + 1 groups of bits, so only hashes with an
    equal group are compared: memory grows with the pairs that agree in a group, never with N².
    """
    pairs = [np.empty((0, 2), np.int64)]
    groups = np.array_split(np.arange(_BITS, dtype=np.uint64), distance + 1)
    for group in track(groups, "comparing perceptual hashes", len(groups), progress):
        keys = hashes & np.bitwise_or.reduce(np.left_shift(np.uint64(1), group))
        members = np.argsort(keys, kind="stable")
        keys = keys[members]
        ends = np.searchsorted(keys, keys, side="right")  # of the members with an equal key
        pairs += _pairs_within(hashes, members, ends, distance)
    return np.unique(np.concatenate(pairs), axis=0)


def _pairs_within(hashes: np.ndarray, members: np.ndarray, ends: np.ndarray, distance: int) -> list[np.ndarray]:
    """Compare each member with those behind it up to its (N,) end, a bounded number of pairs at a time."""
    behind = ends - np.arange(len(members)) - 1  # partners of each member
    total = np.cumsum(behind)
    pairs, start = [], 0
    while start < len(members):
        before = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, before + _MOST_PAIRS, side="right")), start + 1)
        counts = behind[start:stop]
        if counts.any():
            left = np.repeat(np.arange(start, stop), counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            a, b = members[left], members[left + 1 + within]
            is_near = np.bitwise_count(hashes[a] ^ hashes[b]) <= distance
            pairs.append(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)[is_near])
        start = stop
    return pairs
