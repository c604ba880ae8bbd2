"""Teachers' logits on a benchmark: read the shards that are kept, compute the others, keep them."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ImageError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers.shards import SHARD_ROWS, PredictedLogits, ShardStore, row_ranges, unreadable_message
from fer_mlflow.teachers.spec import TeacherSpec

logger = logging.getLogger(__name__)


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
