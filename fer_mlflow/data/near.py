"""Pairs of perceptual hashes that differ in few bits, found without comparing all with all."""

import numpy as np

from fer_mlflow.data.steps import Steps, counted, unwatched

BITS = 64
_MOST_PAIRS = 1 << 22  # candidate pairs that are compared at a time


def near_pairs(looks: np.ndarray, distance: int, steps: Steps = unwatched) -> np.ndarray:
    """Return the pairs of hashes that differ in at most `distance` bits, (P, 2) int64 rows a < b, sorted.

    Two hashes that differ in d bits agree in at least one of d + 1 groups of bits, so only hashes with an equal
    group are compared: memory grows with the pairs that agree in a group, never with N².

    Parameters
    ----------
    looks : (N,) uint64
    distance : 0 to 15
    """
    groups = np.array_split(np.arange(BITS, dtype=np.uint64), distance + 1)
    found: list[np.ndarray] = []
    for group in counted(groups, "comparing looks", len(groups), steps):
        mask = np.bitwise_or.reduce(np.left_shift(np.uint64(1), group))
        keys = looks & mask
        order = np.argsort(keys, kind="stable")
        keys, members = keys[order], order
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)
        ends = np.r_[starts[1:], len(keys)]
        found += _pairs_within(looks, members, ends, distance)
    if not found:
        return np.empty((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0)


def _pairs_within(looks: np.ndarray, members: np.ndarray, ends: np.ndarray, distance: int) -> list[np.ndarray]:
    """Compare each member with those behind it in its bucket, a bounded number of pairs at a time.

    Parameters
    ----------
    members : (N,) rows, bucket after bucket
    ends : (buckets,) where each bucket ends
    """
    sizes = np.diff(np.r_[0, ends]) if len(ends) else np.empty(0, np.int64)
    last = np.repeat(ends, sizes)
    behind = last - np.arange(len(members)) - 1  # partners of each member
    found, start = [], 0
    total = np.cumsum(behind)
    while start < len(members):
        before = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, before + _MOST_PAIRS, side="right")), start + 1)
        counts = behind[start:stop]
        if counts.any():
            left = np.repeat(np.arange(start, stop), counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            a, b = members[left], members[left + 1 + within]
            close = np.bitwise_count(looks[a] ^ looks[b]) <= distance
            found.append(np.sort(np.stack([a[close], b[close]], axis=1), axis=1))
        start = stop
    return found
