"""Finished shards on disk: what survives a kill, and what makes the next run short.

A store is a folder for one content key. Each shard is one file, written to a temporary name, flushed and renamed,
so a file that is there is whole. Work on a key is done under a lock that the system releases when its holder
dies, however it dies.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fer_mlflow.files import written_file
from fer_mlflow.teachers.outputs import TeacherOutputs, Unreadable
from fer_mlflow.teachers.provenance import in_sample

SHARD_ROWS = 512  # a minute of three large teachers on two cores: the most that a kill can cost


@dataclass(frozen=True, eq=False)
class StoredShard:
    """One teacher's part of a shard.

    Attributes
    ----------
    rows, logits, image_sha256 : see `TeacherOutputs`
    teacher : the teacher's description
    in_sample_rows : how many of the rows it was trained on, None if unknown
    computed_with : device, precision and versions
    """

    rows: np.ndarray
    logits: np.ndarray
    image_sha256: np.ndarray
    unreadable: tuple[Unreadable, ...]
    teacher: dict[str, Any]
    computed_with: dict[str, Any]
    in_sample_rows: int | None = None


class ShardStore:
    """The shards of one content key."""

    def __init__(self, cache: Path, key: str):
        self.folder = cache / "logits" / key

    def write(self, start: int, stop: int, shard: StoredShard) -> None:
        """Keep a shard; on a full disk the folder is as it was."""
        meta = {
            "unreadable": [asdict(bad) for bad in shard.unreadable],
            "teacher": shard.teacher,
            "computed_with": shard.computed_with,
            "in_sample_rows": shard.in_sample_rows,
        }
        with written_file(self._path(start, stop)) as file:
            np.savez(
                file,
                rows=shard.rows,
                logits=shard.logits,
                image_sha256=shard.image_sha256,
                meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            )

    def read(self, start: int, stop: int) -> StoredShard | None:
        """Return a kept shard; None where there is none, or none that is whole (a zip file checks its sums)."""
        try:
            with self._path(start, stop).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                rows, logits, digests = arrays["rows"], arrays["logits"], arrays["image_sha256"]
                meta = json.loads(arrays["meta"].tobytes())
            unreadable = tuple(Unreadable(**bad) for bad in meta["unreadable"])
            told = (meta["teacher"], meta["computed_with"], meta["in_sample_rows"])
            shard = StoredShard(rows, logits, digests, unreadable, *told)
        except Exception:  # whatever is wrong with the file, computing it again is right
            return None
        everything = sorted([*rows.tolist(), *(bad.row for bad in unreadable)]) == list(range(start, stop))
        fits = len(rows) == len(logits) == len(digests) and np.isfinite(logits).all()
        return shard if everything and fits else None

    def drop(self, start: int, stop: int) -> None:
        """Forget a shard."""
        self._path(start, stop).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the whole key, once its results are kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:09d}-{stop:09d}.npz"


def row_ranges(rows: int, shard_rows: int) -> list[tuple[int, int]]:
    """Return the ranges of whole shards that make up a benchmark; the last may be shorter.

    >>> row_ranges(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]


def assemble(shards: list[StoredShard], n_classes: int, checkpoint_sha256: str) -> TeacherOutputs:
    """Join a teacher's shards, in order, into its outputs on the whole benchmark."""
    computed_with: list[dict[str, Any]] = []
    for shard in shards:
        if shard.computed_with not in computed_with:
            computed_with.append(shard.computed_with)
    return TeacherOutputs(
        rows=np.concatenate([shard.rows for shard in shards]),
        logits=np.concatenate([shard.logits.reshape(-1, n_classes) for shard in shards]),
        image_sha256=np.concatenate([shard.image_sha256 for shard in shards]),
        unreadable=tuple(bad for shard in shards for bad in shard.unreadable),
        description={**shards[0].teacher, **_seen(shards), "computed_with": computed_with},
        checkpoint_sha256=checkpoint_sha256,
    )


def _seen(shards: list[StoredShard]) -> dict[str, Any]:
    """Return whether, and how many of, the rows were trained on."""
    counts = [shard.in_sample_rows for shard in shards]
    rows = None if any(count is None for count in counts) else sum(count or 0 for count in counts)
    return {"in_sample": in_sample(rows), "in_sample_rows": rows}


@contextmanager
def held_keys(cache: Path, keys: list[str], on_wait=None) -> Iterator[bool]:
    """Hold the locks of content keys for a block; yields whether another process had one of them.

    Locks are taken in the order of the keys, so that two processes never wait for each other.
    """
    waited = False
    with ExitStack() as stack:
        for key in sorted(set(keys)):
            path = cache / "locks" / f"{key}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waited = True
                if on_wait is not None:
                    on_wait()
                lock.acquire()
            stack.callback(lock.release)
        yield waited
