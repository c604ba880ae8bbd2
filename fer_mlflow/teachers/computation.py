"""Teachers' logits on a benchmark: read the shards that are kept, compute the others, keep them."""

import errno
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_mlflow.data.images import image_prefixes
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.teachers.shards import SHARD_ROWS, ShardStore, TeacherLogits, row_ranges, unreadable_message
from fer_mlflow.teachers.spec import TeacherSpec

if TYPE_CHECKING:
    from fer_mlflow.teachers.predictor import ForwardSettings

logger = logging.getLogger(__name__)
_Kept = dict[str, dict[tuple[int, int], TeacherLogits | None]]  # teacher name -> range of rows -> its shard


def compute_logits(
    benchmark: Benchmark,
    specs: Mapping[str, TeacherSpec],
    keys: Mapping[str, str],
    settings: "ForwardSettings",
    cache: Path,
    *,
    image_sha256: Callable[[], np.ndarray] | None = None,
    skip_unreadable: bool = False,
    shard_rows: int = SHARD_ROWS,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, TeacherLogits]:
    """Return every teacher's logits on a benchmark, computing only what no shard in `cache` holds.

    Where all shards are there, no checkpoint is loaded. The caller holds the keys' locks (`held_keys`).

    Parameters
    ----------
    specs, keys : teacher name -> description, content key
    image_sha256 : gives the (rows, 32) uint8 hashes of the images as they are now, so that a kept shard of an
        image that changed since is computed again; None trusts what was kept
    skip_unreadable : leave rows out that cannot be decoded; otherwise they are an error
    progress : reports the rows that are done
    warn : called with each sentence that a user should read

    Raises
    ------
    ImageError
        images cannot be decoded: all that the shard at hand has, once it is scanned
    TeacherError
        a checkpoint cannot be used
    JobError
        the forward pass failed; finished shards are kept
    """
    ranges = row_ranges(len(benchmark), shard_rows)
    stores = {name: ShardStore(cache, keys[name]) for name in specs}
    kept: _Kept = {name: {span: store.read(*span) for span in ranges} for name, store in stores.items()}
    if image_sha256 is not None and any(shard for shards in kept.values() for shard in shards.values()):
        _forget_changed(kept, image_sha256(), warn)
    if not skip_unreadable:
        for shards in kept.values():
            _refuse_unreadable([shard for shard in shards.values() if shard is not None])
    missing = {span: [name for name in specs if kept[name][span] is None] for span in ranges}
    missing = {span: names for span, names in missing.items() if names}
    if missing:
        _compute_missing(
            benchmark, specs, settings, missing, kept, stores, skip_unreadable, len(ranges), progress, warn
        )
    return {
        name: TeacherLogits.joined([shard for shard in kept[name].values() if shard], len(benchmark.classes))
        for name in specs
    }


def _forget_changed(kept: _Kept, current_sha256: np.ndarray, warn) -> None:
    """Drop kept shards that decoded other bytes than the images hold now."""
    for name, shards in kept.items():
        for span, shard in shards.items():
            if shard is not None and (shard.image_sha256 != current_sha256[shard.rows]).any():
                warn(f"rows {span[0] + 1}-{span[1]}: images changed since {name} predicted them; predicting again")
                shards[span] = None


def _refuse_unreadable(shards: list[TeacherLogits]) -> None:
    """Raise for rows that could not be decoded."""
    if unreadable := [bad for shard in shards for bad in shard.unreadable]:
        raise ImageError(unreadable_message(unreadable))


def _compute_missing(
    benchmark, specs, settings, missing, kept, stores, skip_unreadable, n_ranges, progress, warn
) -> None:
    """Load the teachers, run the forward pass over the missing shards, and keep each as it comes."""
    from fer_mlflow.teachers.checkpoint import load_teacher
    from fer_mlflow.teachers.forward import predict_shards
    from fer_mlflow.teachers.predictor import choose_compile, choose_device, describe_environment

    names = [name for name in specs if any(name in needed for needed in missing.values())]
    teachers = {name: load_teacher(specs[name], benchmark.classes) for name in names}
    for teacher in teachers.values():
        if teacher.assumed:
            warn(
                f"teacher {teacher.name}: assuming {', '.join(teacher.assumed)}; neither teachers.yaml nor the "
                "checkpoint says so"
            )
    device = choose_device(settings.device)
    compiled = choose_compile(settings.compile, len(benchmark), device)
    environment = describe_environment(settings, device, compiled)
    paths = benchmark.paths.to_numpy(object)
    left = sum(stop - start for start, stop in missing)
    kept_rows = f", {len(benchmark) - left:,} kept from an earlier run" if left < len(benchmark) else ""
    logger.info("predicting with %s: %s rows%s", ", ".join(names), f"{len(benchmark):,}", kept_rows)
    with progress(f"predicting with {', '.join(names)}", len(benchmark), len(benchmark) - left) as count:
        # Ranges that lack the same teachers form one pass: usually all of them do.
        for needed in sorted({tuple(needed) for needed in missing.values()}):
            spans = [span for span, lacking in missing.items() if tuple(lacking) == needed]
            shards = predict_shards(
                benchmark.root,
                paths,
                spans,
                [teachers[name] for name in needed],
                settings,
                compiled=compiled,
                skip_unreadable=skip_unreadable,
                on_rows=count,
            )
            for span, shard in zip(spans, shards, strict=True):
                for name in needed:
                    part = TeacherLogits(
                        rows=shard.rows,
                        logits=shard.logits[name],
                        image_sha256=shard.image_sha256,
                        unreadable=shard.unreadable,
                        teacher=teachers[name].description,
                        environments=(environment,),
                        in_sample_rows=_count_in_sample(shard.image_sha256, teachers[name].trained_on),
                    )
                    _keep(stores[name], span, part)
                    kept[name][span] = part


def _count_in_sample(image_sha256: np.ndarray, trained_on: np.ndarray | None) -> int | None:
    return None if trained_on is None else int(np.isin(image_prefixes(image_sha256), trained_on).sum())


def _keep(store: ShardStore, span: tuple[int, int], shard: TeacherLogits) -> None:
    """Write a shard; a full disk becomes a message."""
    try:
        store.write(*span, shard)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
        raise JobError(
            f"{store.folder}: {reason}; finished shards are kept there: make room and run the same command again"
        ) from error
