"""Teachers' logits on a benchmark: shards that are kept on disk are read, the others computed and kept.

A store is a folder for one content key, and a shard is one file that is whole where it is there: all that survives a
kill. Work on a key is done under a lock that the system releases when its holder dies, however it dies.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fer_mlflow.data.images import Unreadable, unreadable_message
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers.spec import PredictedLogits, TeacherSpec

_ARRAYS = ("rows", "logits", "image_sha256")
SHARD_ROWS = 512  # a minute of three large teachers on two cores: the most that a kill can cost
logger = logging.getLogger(__name__)


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


def compute_logits(
    benchmark: Benchmark,
    specs: Mapping[str, TeacherSpec],
    keys: Mapping[str, str],
    settings: ForwardSettings,
    cache: Path,
    *,
    image_sha256: Callable[[], np.ndarray | None] = lambda: None,
    shard_rows: int = SHARD_ROWS,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, PredictedLogits]:
    """Return every teacher's logits on a benchmark, computing only what no shard in `cache` holds.

    Where all shards are there, no checkpoint is loaded. The caller holds the keys' locks (`held_keys`).

    Parameters
    ----------
    specs, keys : teacher name -> description, content key
    image_sha256 : gives the (rows, 32) uint8 hashes of the images as they are now, so that a kept shard of an
        image that changed since is computed again, or None to trust what was kept
    warn : called with each sentence that a user should read

    Raises ImageError: images cannot be decoded, all that the shard at hand has. TeacherError: a checkpoint cannot be
    used. JobError: the forward pass failed; finished shards are kept.
    """
    ranges = row_ranges(len(benchmark), shard_rows)
    stores = {name: ShardStore(cache, keys[name]) for name in specs}
    read = {(name, span): store.read(*span) for name, store in stores.items() for span in ranges}
    kept = {place: shard for place, shard in read.items() if shard is not None}
    current = image_sha256() if kept else None
    if current is not None:
        for (name, span), shard in list(kept.items()):
            if (shard.image_sha256 != current[shard.rows]).any():
                warn(f"rows {span[0] + 1}-{span[1]}: images changed since {name} predicted them; predicting again")
                del kept[name, span]
    if settings.on_bad_image == "fail":
        for name in specs:
            if unreadable := [bad for (own, _), shard in kept.items() if own == name for bad in shard.unreadable]:
                raise ImageError(unreadable_message(unreadable))
    lacking = {span: tuple(name for name in specs if (name, span) not in kept) for span in ranges}
    missing = {span: names for span, names in lacking.items() if names}
    if missing:
        from fer_mlflow.teachers.checkpoint import load_teacher
        from fer_mlflow.teachers.forward import choose_compile, choose_device, predict_shards

        needed = set().union(*missing.values())
        teachers = {name: load_teacher(spec, benchmark.classes) for name, spec in specs.items() if name in needed}
        for name, teacher in teachers.items():
            if teacher.assumed:
                assumed = ", ".join(teacher.assumed)
                warn(f"teacher {name}: assuming {assumed}; neither teachers.yaml nor the checkpoint gives it")
        compiled = choose_compile(settings.compile, len(benchmark), choose_device(settings.device))
        left = sum(stop - start for start, stop in missing)
        kept_rows = f", {len(benchmark) - left:,} kept from an earlier run" if left < len(benchmark) else ""
        doing = f"predicting with {', '.join(teachers)}"
        logger.info("%s: %s rows%s", doing, f"{len(benchmark):,}", kept_rows)
        with progress(doing, len(benchmark), len(benchmark) - left) as count:
            # Ranges that lack the same teachers form one pass: usually all of them do.
            for names in sorted(set(missing.values())):
                spans = [span for span, lacking in missing.items() if lacking == names]
                shards = predict_shards(
                    benchmark.root,
                    benchmark.paths.to_numpy(object),
                    spans,
                    [teachers[name] for name in names],
                    settings,
                    compiled=compiled,
                    on_rows=count,
                )
                for span, found in zip(spans, shards, strict=True):
                    for name in names:
                        stores[name].write(*span, found[name])
                        kept[name, span] = found[name]
    return {
        name: PredictedLogits.joined([kept[name, span] for span in ranges], len(benchmark.classes)) for name in specs
    }
