"""Teachers' logits in shards on disk: what survives a kill, and what makes the next run short.

A store is a folder for one content key, and a shard is one file that is whole where it is there. Work on a key is done
under a lock that the system releases when its holder dies, however it dies.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fer_mlflow.errors import JobError, listed
from fer_mlflow.files import written_file

_ARRAYS = ("rows", "logits", "image_sha256")
SHARD_ROWS = 512  # a minute of three large teachers on two cores: the most that a kill can cost


@dataclass(frozen=True)
class Unreadable:
    """A row whose image could not be decoded: its position, path, why, and the hash of its bytes."""

    row: int
    path: str
    reason: str
    image_sha256: str


def unreadable_message(
    unreadable: Sequence[Unreadable],
    where: str = "",
    remedy: str = "repair them, or leave them out with --on-bad-image skip",
) -> str:
    """Return one line that names the first rows that could not be decoded, how many there are, and what to do."""
    named = listed([f'row {bad.row + 1} "{bad.path}" ({bad.reason})' for bad in unreadable])
    return f"{len(unreadable):,} images cannot be decoded: {named}{where}; {remedy}"


@dataclass(frozen=True, eq=False)
class PredictedLogits:
    """One teacher's logits on the readable rows of a benchmark, or of one range of its rows."""

    rows: np.ndarray  # (N,) int64, positions in the benchmark, ascending
    logits: np.ndarray  # (N, C) float32 in the project's class order
    image_sha256: np.ndarray  # (N, 32) uint8, of the bytes that were decoded
    unreadable: tuple[Unreadable, ...]  # the other rows of the benchmark or the range
    teacher: Mapping[str, Any]  # its description
    environments: tuple[Mapping[str, Any], ...]  # device, batch size and versions of each session that computed a part
    in_sample_rows: int | None = None  # how many of the rows the teacher was trained on, None where that is not known

    @classmethod
    def joined(cls, shards: Sequence["PredictedLogits"], n_classes: int) -> "PredictedLogits":
        """Return a teacher's shards, in order, as its logits on the whole benchmark."""
        environments: list[Mapping[str, Any]] = []
        for shard in shards:
            environments += [each for each in shard.environments if each not in environments]
        counts = [shard.in_sample_rows for shard in shards]
        return cls(
            rows=np.concatenate([shard.rows for shard in shards]),
            logits=np.concatenate([shard.logits.reshape(-1, n_classes) for shard in shards]),
            image_sha256=np.concatenate([shard.image_sha256 for shard in shards]),
            unreadable=tuple(bad for shard in shards for bad in shard.unreadable),
            teacher=shards[0].teacher,
            environments=tuple(environments),
            in_sample_rows=None if None in counts else sum(count or 0 for count in counts),
        )


class ShardStore:
    """The shards of one content key."""

    def __init__(self, cache: Path, key: str):
        self.folder = cache / "logits" / key

    def write(self, start: int, stop: int, shard: PredictedLogits) -> None:
        """Keep a shard; JobError where the disk is full, or refuses (the folder is as it was)."""
        meta = {
            "unreadable": [asdict(bad) for bad in shard.unreadable],
            "teacher": shard.teacher,
            "environments": shard.environments,
            "in_sample_rows": shard.in_sample_rows,
        }
        arrays = {name: getattr(shard, name) for name in _ARRAYS}
        try:
            with written_file(self._path(start, stop)) as file:
                np.savez(file, **arrays, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
            raise JobError(
                f"{self.folder}: {reason}; finished shards are kept there: make room and run the same command again"
            ) from error

    def read(self, start: int, stop: int) -> PredictedLogits | None:
        """Return a kept shard; None where there is none, or none that is whole (a zip file checks its sums)."""
        try:
            with self._path(start, stop).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                parts = {name: arrays[name] for name in _ARRAYS}
                meta = json.loads(arrays["meta"].tobytes())
            meta["unreadable"] = tuple(Unreadable(**bad) for bad in meta["unreadable"])
            shard = PredictedLogits(**parts, **meta | {"environments": tuple(meta["environments"])})
        except Exception:  # whatever is wrong with the file, computing it again is right
            return None
        rows = sorted([*shard.rows.tolist(), *(bad.row for bad in shard.unreadable)])
        fits = len(shard.rows) == len(shard.logits) == len(shard.image_sha256) and np.isfinite(shard.logits).all()
        return shard if fits and rows == list(range(start, stop)) else None

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


@contextmanager
def held_keys(cache: Path, keys: list[str], on_wait: Callable[[], object] | None = None) -> Iterator[bool]:
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
