"""What a teacher said of a benchmark's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Unreadable:
    """A row whose image could not be decoded: its position, path, why, and the hash of its bytes."""

    row: int
    path: str
    reason: str
    image_sha256: str


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """One teacher's logits on the readable rows of a benchmark.

    Attributes
    ----------
    rows : (N,) int64, positions in the benchmark, ascending
    logits : (N, C) float32 in the project's class order
    image_sha256 : (N, 32) uint8, of the bytes that were decoded
    unreadable : the benchmark's other rows
    description : how they were computed, for the alignment report
    checkpoint_sha256 : 64 hex digits
    """

    rows: np.ndarray
    logits: np.ndarray
    image_sha256: np.ndarray
    unreadable: tuple[Unreadable, ...]
    description: dict[str, Any]
    checkpoint_sha256: str


def stale_rows(outputs: "TeacherOutputs", current_sha256: np.ndarray) -> list[int]:
    """Return the rows whose image is not the one that was decoded then.

    `current_sha256` is (rows of the benchmark, 32) uint8, zeros for a file that cannot be read.
    """
    changed = (outputs.image_sha256 != current_sha256[outputs.rows]).any(axis=1)
    also = [bad.row for bad in outputs.unreadable if bad.image_sha256 != current_sha256[bad.row].tobytes().hex()]
    return sorted([*outputs.rows[changed].tolist(), *also])


def unreadable_message(unreadable: Sequence[Unreadable], shown: int = 10) -> str:
    """Return one line that names the first rows that could not be decoded, how many there are, and what to do."""
    named = ", ".join(f'row {bad.row + 1} "{bad.path}" ({bad.reason})' for bad in unreadable[:shown])
    more = f" and {len(unreadable) - shown:,} more" if len(unreadable) > shown else ""
    remedy = "mend them, or leave them out with --on-bad-image skip"
    return f"{len(unreadable):,} images cannot be decoded: {named}{more}; {remedy}"
