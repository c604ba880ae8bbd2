"""Teachers' logits on a benchmark: shards that are kept on disk are read, the others computed and kept.

A store is a folder for one content key, and a shard is one file that is whole where it is there: all that survives a
kill. A process claims each shard before it computes it, by a lock that the system releases when its holder dies,
however it dies: processes that want the same logits share the shards among them.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from fer_mlflow.data.images import Unreadable, unreadable_message
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers.spec import PredictedLogits, TeacherSpec

if TYPE_CHECKING:
    from fer_mlflow.teachers.checkpoint import Teacher

Span = tuple[int, int]  # the first row of a shard, and the row behind its last
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
            with written_file(self.path(start, stop)) as file:
                np.savez(file, **arrays, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))
        except OSError as error:
            raise self._refused(error) from error

    def read(self, start: int, stop: int) -> PredictedLogits | None:
        """Return a kept shard; None where there is none, or none that is whole (a zip file checks its sums)."""
        try:
            with self.path(start, stop).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                parts = {name: arrays[name] for name in _ARRAYS}
                meta = json.loads(arrays["meta"].tobytes())
            meta["unreadable"] = tuple(Unreadable(**bad) for bad in meta["unreadable"])
            shard = PredictedLogits(**parts, **meta | {"environments": tuple(meta["environments"])})
        except Exception:  # whatever is wrong with the file, computing it again is right
            return None
        rows = sorted([*shard.rows.tolist(), *(bad.row for bad in shard.unreadable)])
        fits = len(shard.rows) == len(shard.logits) == len(shard.image_sha256) and np.isfinite(shard.logits).all()
        return shard if fits and rows == list(range(start, stop)) else None

    def claim(self, start: int, stop: int) -> FileLock:
        """Return the lock of whoever computes a shard, not yet acquired; JobError where the disk refuses one."""
        path = self.folder / f"{start:09d}-{stop:09d}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise self._refused(error) from error
        return FileLock(path)

    def _refused(self, error: OSError) -> JobError:
        reason = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
        return JobError(
            f"{self.folder}: {reason}; finished shards are kept there: make room and run the same command again"
        )

    def clear(self) -> None:
        """Forget the whole key, once its results are kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self, start: int, stop: int) -> None:
        """Forget one shard."""
        self.path(start, stop).unlink(missing_ok=True)

    def path(self, start: int, stop: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{start:09d}-{stop:09d}.npz"


def row_ranges(rows: int, shard_rows: int) -> list[Span]:
    """Return the ranges of whole shards that make up a benchmark; the last may be shorter.

    >>> row_ranges(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]


@contextmanager
def held_keys(cache: Path, keys: list[str], on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the locks of content keys for a block; `on_wait` is called where another process has one of them.

    Locks are taken in the order of the keys, so that two processes never wait for each other.
    """
    with ExitStack() as stack:
        for key in sorted(set(keys)):
            path = cache / "locks" / f"{key}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                on_wait()
                stack.enter_context(lock)
        yield


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
    """Return teachers' logits on a benchmark, computing only what no shard in `cache` holds.

    Processes that call this at the same time share the shards: each computes those that no other has claimed, and then
    waits for the others. A teacher is missing from the result where another process died, or published the logits and
    removed its shards meanwhile: the caller looks for them elsewhere, and calls again.

    Where all shards are there, no checkpoint is loaded. `image_sha256` gives the (rows, 32) uint8 hashes of the images
    as they are now, so that a kept shard of an image that changed since is computed again; None trusts what was kept.

    Raises ImageError: images cannot be decoded, all that the shard at hand has. TeacherError: a checkpoint cannot be
    used. JobError: the forward pass failed; finished shards are kept.
    """
    ranges = row_ranges(len(benchmark), shard_rows)
    stores = {name: ShardStore(cache, keys[name]) for name in specs}
    read = {(name, span): store.read(*span) for name, store in stores.items() for span in ranges}
    kept = {place: shard for place, shard in read.items() if shard is not None}
    if kept and (current := image_sha256()) is not None:
        for (name, span), shard in list(kept.items()):
            if (shard.image_sha256 != current[shard.rows]).any():
                warn(f"rows {span[0] + 1}-{span[1]}: images changed since {name} predicted them; predicting again")
                stores[name].remove(*span)
                del kept[name, span]
    if settings.on_bad_image == "fail":
        for name in specs:
            if unreadable := [bad for (own, _), shard in kept.items() if own == name for bad in shard.unreadable]:
                raise ImageError(unreadable_message(unreadable))
    missing = {span: names for span in ranges if (names := tuple(n for n in specs if (n, span) not in kept))}
    if missing:
        from fer_mlflow.teachers.checkpoint import load_teacher

        teachers = {
            name: load_teacher(specs[name], benchmark.classes) for name in sorted(set().union(*missing.values()))
        }
        for name, teacher in teachers.items():
            if assumed := ", ".join(teacher.assumed):
                warn(f"teacher {name}: assuming {assumed}; neither teachers.yaml nor the checkpoint gives it")
        done = len(benchmark) - sum(stop - start for start, stop in missing)
        doing = f"predicting with {', '.join(teachers)}"
        passes = sum((stop - start) * len(names) for (start, stop), names in missing.items())
        size_mb = passes * len(benchmark.classes) * 4 / 1e6
        what = f"{len(benchmark):,} rows" + f", {done:,} kept from an earlier run" * bool(done)
        logger.info("%s: %s; %s forward passes, %.1f MB of logits", doing, what, f"{passes:,}", size_mb)
        with progress(doing, len(benchmark), done) as count:
            _compute_missing(benchmark, teachers, stores, settings, missing, kept, count)
            _await_others(stores, missing, kept, count)
    return {
        name: PredictedLogits.joined([kept[name, span] for span in ranges], len(benchmark.classes))
        for name in specs
        if all((name, span) in kept for span in ranges)
    }


def _compute_missing(
    benchmark: Benchmark,
    teachers: Mapping[str, "Teacher"],
    stores: Mapping[str, ShardStore],
    settings: ForwardSettings,
    missing: Mapping[Span, tuple[str, ...]],
    kept: dict[tuple[str, Span], PredictedLogits],
    count: Callable[[int], object],
) -> None:
    """Compute the shards that no other process has claimed, and put them into their stores and `kept`.

    Ranges that lack the same teachers form one pass: usually all of them do.
    """
    from fer_mlflow.teachers.forward import choose_compile, choose_device, predict_shards

    compiled = choose_compile(settings.compile, len(benchmark), choose_device(settings.device))
    for names in sorted(set(missing.values())):
        own = {name: stores[name] for name in names}
        claims: dict[Span, ExitStack] = {}
        spans = _claim_spans([span for span in missing if missing[span] == names], own, claims, kept, count)
        if (first := next(spans, None)) is None:
            continue
        try:
            for span, found in predict_shards(
                benchmark.root,
                benchmark.paths.to_numpy(object),
                chain([first], spans),
                [teachers[name] for name in names],
                settings,
                compiled=compiled,
                on_rows=count,
            ):
                for name, store in own.items():
                    store.write(*span, found[name])
                    kept[name, span] = found[name]
                claims.pop(span).close()
        finally:
            for claim in claims.values():
                claim.close()


def _claim_spans(
    spans: Iterable[Span],
    stores: Mapping[str, ShardStore],
    claims: dict[Span, ExitStack],
    kept: dict[tuple[str, Span], PredictedLogits],
    count: Callable[[int], object],
) -> Iterator[Span]:
    """Yield the ranges that are to be computed here, each with its claims on all stores in `claims`.

    Ranges of which another process has a claim are passed over, and those that it has finished are put into `kept`.
    """
    for span in spans:
        with ExitStack() as held:
            try:
                for store in stores.values():
                    held.enter_context(store.claim(*span).acquire(timeout=0))
            except Timeout:
                continue
            found = {(name, span): shard for name, store in stores.items() if (shard := store.read(*span)) is not None}
            if len(found) == len(stores):
                kept.update(found)
                count(span[1] - span[0])
                continue
            claims[span] = held.pop_all()
        yield span


def _await_others(
    stores: Mapping[str, ShardStore],
    missing: Mapping[Span, tuple[str, ...]],
    kept: dict[tuple[str, Span], PredictedLogits],
    count: Callable[[int], object],
) -> None:
    """Wait for the shards that other processes have claimed, and put them into `kept`."""
    awaited = {span: left for span, names in missing.items() if (left := [n for n in names if (n, span) not in kept])}
    if awaited:
        rows = sum(stop - start for start, stop in awaited)
        logger.info("other processes compute %s of the rows; waiting for them", f"{rows:,}")
    for span, names in awaited.items():
        for name in names:
            with stores[name].claim(*span):
                shard = stores[name].read(*span)
            if shard is not None:
                kept[name, span] = shard
        count(span[1] - span[0])
