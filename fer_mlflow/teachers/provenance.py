"""What a teacher was trained on: which rows of a benchmark it has seen, and with which preprocessing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

UNKNOWN = "unknown"


def image_prefixes(sha256: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of (N, 32) uint8 hashes as (N,) int64: enough to tell images apart.

    Two of a million different images share one with a probability of 3e-8.
    """
    return np.ascontiguousarray(sha256[:, :8]).view(">i8").ravel().astype(np.int64)


def trained_prefixes(content: Mapping[str, Any]) -> np.ndarray | None:
    """Return the sorted prefixes of the images that a checkpoint says it was trained on, None where it does not."""
    trained_on = content.get("trained_on")
    if not isinstance(trained_on, Mapping) or "image_prefixes" not in trained_on:
        return None
    prefixes = np.asarray(trained_on["image_prefixes"])  # a tensor; importing torch for that would cost a second
    return np.sort(prefixes) if prefixes.dtype == np.int64 and prefixes.ndim == 1 else None


def count_in_sample(sha256: np.ndarray, trained: np.ndarray | None) -> int | None:
    """Return how many of (N, 32) image hashes were trained on, None where that is not known."""
    return None if trained is None else int(np.isin(image_prefixes(sha256), trained).sum())


def in_sample(rows: int | None) -> str:
    """Return the word for a count of rows that were trained on: `true`, `false` or `unknown`."""
    return UNKNOWN if rows is None else "true" if rows else "false"


def trained_clahe(content: Mapping[str, Any]) -> Any:
    """Return the CLAHE settings that a checkpoint says it was trained with (None for none), else `unknown`."""
    clahe = content.get("clahe", UNKNOWN)
    if clahe is None:
        return None
    return {"clip": clahe["clip"], "tile": clahe["tile"]} if isinstance(clahe, Mapping) and len(clahe) == 2 else UNKNOWN
