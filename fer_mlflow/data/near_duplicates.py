"""Perceptual hashes of images, and the pairs of near-duplicates whose hashes differ in few bits."""

import cv2
import numpy as np

from fer_mlflow.progress import Progress, no_progress, track

_BITS = 64
_MOST_PAIRS = 1 << 22  # candidate pairs that are compared at a time


def perceptual_hash(image: np.ndarray) -> int:
    """Return 64 bits that change little when an image is scaled, compressed or made brighter.

    The image in grey is shrunk by area to 32 × 32; of its discrete cosine transform the 8 × 8 lowest frequencies
    are compared with their median, the constant one left out (a bit that is always 0). Frequencies separate faces,
    which all have the same light and dark places, better than differences of neighbouring pixels do.

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


def near_duplicate_pairs(hashes: np.ndarray, distance: int, progress: Progress = no_progress) -> np.ndarray:
    """Return the pairs of hashes that differ in at most `distance` bits, (P, 2) int64 rows a < b, sorted.

    Two hashes that differ in d bits agree in at least one of d + 1 groups of bits, so only hashes with an equal
    group are compared: memory grows with the pairs that agree in a group, never with N².

    Parameters
    ----------
    hashes : (N,) uint64
    distance : 0 to 15
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
