"""Splits of a manifest: stratified by label and source, groups kept together, the same for the same seed."""

import hashlib
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from fer_mlflow.errors import ManifestError

UNGROUPED = ""


def split_rows(frame: pd.DataFrame, shares: Mapping[str, float], seed: int, group: str | None = None) -> np.ndarray:
    """Return the split of each row, (N,) str objects.

    Within each label of each source, rows come in an order that hashes of seed and path give; a split gets its
    share of them, and what rounding leaves over is corrected in the next stratum. The order of the rows and the
    global random state do not matter. With groups, the largest go first, each to where it brings the counts of its
    strata closest to the shares.

    Parameters
    ----------
    frame : N rows with str columns path, label, source
    shares : split -> share, summing to 1
    group : column whose equal values stay in one split; rows with an empty value are groups of their own

    Raises ManifestError: there is no such column, or there are fewer groups than splits.
    """
    strata = frame.groupby(["label", "source"], sort=True).ngroup().to_numpy()
    names = np.array(list(shares), object)
    if group is None:
        return names[_split_alone(frame["path"], strata, np.array(list(shares.values())), seed)]
    if group not in frame:
        raise ManifestError(f"no column {group} for --group; there are {', '.join(frame.columns)}")
    own = frame[group].str.strip()
    keys = own.where(own != UNGROUPED, "\0" + frame["path"])  # no value holds a NUL
    codes, distinct = pd.factorize(keys)
    if len(distinct) < len(shares):
        raise ManifestError(f"column {group} has {len(distinct)} values, too few for {len(shares)} splits")
    return names[_split_groups(codes, list(distinct), strata, np.array(list(shares.values())), seed)]


def _lot(seed: int, text: str) -> bytes:
    """Return what a row or a group is ordered by."""
    return hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()


def _split_alone(paths: pd.Series, strata: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return each row's split by number, (N,) int64."""
    lots = np.array([_lot(seed, path) for path in paths], dtype="S8")
    order = np.lexsort((lots, strata))
    chosen = np.empty(len(paths), np.int64)
    owed = np.zeros(len(shares))  # rows that each split should have had so far and has not
    bounds = np.flatnonzero(np.r_[True, np.diff(strata[order]) != 0, True])
    for start, stop in pairwise(bounds):
        owed += shares * (stop - start)
        counts = np.maximum(np.floor(owed), 0).astype(np.int64)
        while counts.sum() > stop - start:  # what earlier strata left over may be more than there is
            counts[np.argmax(counts / shares)] -= 1
        for _ in range(stop - start - counts.sum()):
            counts[np.argmax(owed - counts)] += 1
        owed -= counts
        chosen[order[start:stop]] = np.repeat(np.arange(len(shares)), counts)
    return chosen


def _split_groups(codes: np.ndarray, names: list[str], strata: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return each row's split by number, (N,) int64; rows of one code in one split."""
    n_strata = int(strata.max()) + 1
    sizes = np.bincount(codes, minlength=len(names))
    lots = np.array([_lot(seed, name) for name in names], dtype="S8")
    order = np.lexsort((lots, -sizes))
    by_group = np.argsort(codes, kind="stable")
    ends = np.cumsum(sizes)
    wanted = np.outer(shares, np.bincount(strata, minlength=n_strata)).astype(float)
    have = np.zeros_like(wanted)
    chosen = np.empty(len(names), np.int64)
    for group in order:
        rows = strata[by_group[ends[group] - sizes[group] : ends[group]]]
        own, counts = np.unique(rows, return_counts=True)
        # what the sum of squared deviations, each relative to its target, grows by when the group goes to a split
        cost = ((2 * (have[:, own] - wanted[:, own]) + counts) * counts / np.maximum(wanted[:, own], 1e-9)).sum(axis=1)
        best = int(np.argmin(cost))
        chosen[group] = best
        have[best, own] += counts
    _fill_empty(chosen, sizes, len(shares))
    return chosen[codes]


def _fill_empty(chosen: np.ndarray, sizes: np.ndarray, n_splits: int) -> None:
    """Give a split that got no group the smallest one of a split that has several."""
    for split in range(n_splits):
        if not (chosen == split).any():
            spare = [g for g in np.argsort(sizes, kind="stable") if (chosen == chosen[g]).sum() > 1]
            chosen[spare[0]] = split
