"""Rows of a manifest and rows of a bundle, joined by path and held against each other."""

import numpy as np
import pandas as pd

from fer_mlflow.data.images import hash_images
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.softlabels.bundle import SoftLabels

SHOWN = 5  # rows that a message names
_SAME = ("label", "split", "source")


def join_rows(part: Benchmark, bundle: SoftLabels) -> np.ndarray:
    """Return the bundle's row of each of a benchmark's N rows, (N,) int64, -1 where it has none.

    A row is found by its path; what the manifest says of it (label, split, source) must be what it said when the soft
    labels were exported. The bundle may have more rows, in any order.

    Raises
    ------
    ContractError
        other classes, or in another order
    BundleError
        rows differ: how many, and the first of them with what is in each
    """
    check_classes(part, bundle)
    positions = pd.Index(bundle.index["path"]).get_indexer(part.paths).astype(np.int64)
    found = np.flatnonzero(positions >= 0)
    theirs = bundle.index.iloc[positions[found]]
    differs = np.zeros(len(found), dtype=bool)
    for name in _SAME:
        differs |= part.frame[name].to_numpy(object)[found] != theirs[name].to_numpy(object)
    if differs.any():
        named = []
        for at in np.flatnonzero(differs)[:SHOWN]:
            mine, its = part.frame.iloc[found[at]], theirs.iloc[at]
            what = ", ".join(f'{name} "{mine[name]}", then "{its[name]}"' for name in _SAME if mine[name] != its[name])
            named.append(f'row {found[at] + 1} "{mine["path"]}" ({what})')
        raise BundleError(
            f"{part.name}: {differs.sum():,} rows are not what they were when the soft labels were exported: "
            f"{', '.join(named)}{_more(int(differs.sum()))}; export again"
        )
    return positions


def check_classes(part: Benchmark, bundle: SoftLabels) -> None:
    """Check that columns of logits mean what labels mean.

    Raises
    ------
    ContractError
        they do not
    """
    if part.classes.names != bundle.classes:
        raise ContractError(
            f"soft labels are of the classes {', '.join(bundle.classes)}, {part.name} has "
            f"{', '.join(part.classes.names)}; give the bundle's with --classes, or export again"
        )


def name_missing(part: Benchmark, positions: np.ndarray) -> str:
    """Return how many rows have no soft labels, and the first of them; empty where all have."""
    missing = np.flatnonzero(positions < 0)
    if not len(missing):
        return ""
    named = ", ".join(f'row {row + 1} "{part.paths.iloc[row]}"' for row in missing[:SHOWN])
    return f"{part.name}: {len(missing):,} of {len(part):,} rows have no soft labels: {named}{_more(len(missing))}"


def check_same_images(part: Benchmark, bundle: SoftLabels, positions: np.ndarray, digests: np.ndarray) -> None:
    """Check that the images are the ones that the teachers saw.

    Parameters
    ----------
    digests : (N, d) uint8, the first d bytes of each image's SHA-256

    Raises
    ------
    BundleError
        images changed: how many, and the first of them
    """
    found = np.flatnonzero(positions >= 0)
    hexadecimal = "".join(bundle.index["image_sha256"].iloc[positions[found]])
    seen = np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)[:, : digests.shape[1]]
    changed = found[(seen != digests[found]).any(axis=1)]
    if len(changed):
        named = ", ".join(f'row {row + 1} "{part.paths.iloc[row]}"' for row in changed[:SHOWN])
        raise BundleError(
            f"{part.name}: {len(changed):,} images are not the ones that the teachers saw: {named}"
            f"{_more(len(changed))}; export again"
        )


def check_images_on_disk(part: Benchmark, bundle: SoftLabels, positions: np.ndarray) -> None:
    """Read every image once and check it; see `check_same_images`."""
    check_same_images(part, bundle, positions, hash_images(part.root, part.paths.tolist()))


def _more(count: int) -> str:
    return f" and {count - SHOWN:,} more" if count > SHOWN else ""
