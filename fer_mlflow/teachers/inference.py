"""The forward pass: rows of images in, shards of logits out, each row checked to be its own.

`infer` is the unit of work. It takes rows, teachers and settings, gives logits, and knows nothing of who called it:
one range of rows is one call that a cluster engine can make elsewhere; given many ranges it reads ahead across
their borders, so that nothing waits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.teachers.asking import Asker, Settings, ask_or_say_why, choose_device, numerics
from fer_mlflow.teachers.checkpoint import Teacher
from fer_mlflow.teachers.decoding import ImageBatches, load_batches
from fer_mlflow.teachers.outputs import Unreadable, unreadable_message

RECHECKED = 2  # rows of each shard that are asked again, alone
# How far a row asked alone may be from the same row in its batch, relative to 1 + its largest logit.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}


@dataclass(frozen=True, eq=False)
class Shard:
    """Logits of every teacher for one range of rows.

    Attributes
    ----------
    rows : (n,) int64, the readable rows of start..stop-1
    logits : teacher name -> (n, C) float32 in the project's class order
    image_sha256 : (n, 32) uint8
    """

    start: int
    stop: int
    rows: np.ndarray
    logits: dict[str, np.ndarray]
    image_sha256: np.ndarray
    unreadable: tuple[Unreadable, ...]


def infer(
    root: Path,
    paths: Sequence[str],
    ranges: Iterable[tuple[int, int]],
    teachers: Sequence[Teacher],
    settings: Settings,
    *,
    compiled: bool = False,
    skip_unreadable: bool = False,
    on_rows: Callable[[int], None] | None = None,
) -> Iterator[Shard]:
    """Yield one shard for each range of rows, in order.

    An image is read, hashed, decoded and equalised once for all teachers. Two rows of each shard are then read
    again and asked alone, uncompiled: if they do not get the same logits, rows and logits are out of step.

    Parameters
    ----------
    paths : (N,) paths under `root`
    ranges : (start, stop) with 0 <= start < stop <= N
    compiled : compile each model for the one shape of a full batch; shorter batches are padded
    skip_unreadable : leave rows out that cannot be decoded
    on_rows : called with the number of rows done, batch by batch

    Raises
    ------
    ImageError
        images of a range cannot be decoded: all that it has, once it is scanned
    JobError
        a logit is not finite, a row asked alone disagrees, the device is out of memory, or decoding died
    """
    device = choose_device(settings.device)
    ranges = list(ranges)
    batches = [
        range(first, min(first + settings.batch_size, stop))
        for start, stop in ranges
        for first in range(start, stop, settings.batch_size)
    ]
    dataset = ImageBatches(root, paths, sorted({teacher.img_size for teacher in teachers}), settings.clahe)
    loader = load_batches(dataset, batches, settings.workers, device)
    askers = [Asker(teacher, device, settings, compiled) for teacher in teachers]
    loaded = iter(loader)
    for start, stop in ranges:
        yield _compute_shard(start, stop, loaded, dataset, askers, settings, skip_unreadable, on_rows)


def _compute_shard(
    start: int,
    stop: int,
    batches: Iterator[dict[str, Any]],
    dataset: ImageBatches,
    askers: Sequence[Asker],
    settings: Settings,
    skip_unreadable: bool,
    on_rows: Callable[[int], None] | None,
) -> Shard:
    """Take a shard's batches from the loader, ask every teacher, and check the answers."""
    rows, digests, unreadable = [], [], []
    answers: dict[str, list[np.ndarray]] = {asker.name: [] for asker in askers}
    taken = 0
    with numerics(askers[0].device, settings.precision):
        while taken < stop - start:
            batch = _next_batch(batches)
            taken += len(batch["rows"]) + len(batch["unreadable"])
            unreadable += [Unreadable(row, dataset.paths[row], why, sha) for row, why, sha in batch["unreadable"]]
            rows.append(batch["rows"].numpy())
            digests.append(batch["sha256"].numpy())
            if len(batch["rows"]) and (skip_unreadable or not unreadable):
                prepared: dict[tuple, Tensor] = {}
                for asker in askers:
                    if asker.shown not in prepared:
                        prepared[asker.shown] = asker.prepare(batch["pixels"][asker.img_size])
                    answers[asker.name].append(ask_or_say_why(asker, prepared[asker.shown]))
            if on_rows is not None:
                on_rows(len(batch["rows"]) + len(batch["unreadable"]))
        if unreadable and not skip_unreadable:
            raise ImageError(unreadable_message(unreadable))
        shard = Shard(
            start,
            stop,
            np.concatenate(rows),
            {name: np.concatenate(parts) if parts else np.empty((0, 0), np.float32) for name, parts in answers.items()},
            np.concatenate(digests),
            tuple(unreadable),
        )
        _check_shard(shard, dataset, askers, settings.precision)
    return shard


def _next_batch(batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Take a decoded batch; a worker's death becomes a message."""
    try:
        return next(batches)
    except RuntimeError as error:
        raise JobError(
            f"decoding died ({str(error).splitlines()[0]}); finished shards are kept: run the same command again, "
            "with --workers 0 or a smaller --batch-size where shared memory is short"
        ) from error


def _check_shard(shard: Shard, dataset: ImageBatches, askers: Sequence[Asker], precision: str) -> None:
    """Refuse rows out of place, logits that are not finite, and rows that get other logits when asked alone."""
    expected = [r for r in range(shard.start, shard.stop) if r not in {bad.row for bad in shard.unreadable}]
    if shard.rows.tolist() != expected:
        raise JobError(f"rows {shard.start}-{shard.stop - 1} came back in another order; report this")
    for asker in askers:
        finite = np.isfinite(shard.logits[asker.name]).all(axis=1)
        if not finite.all():
            row = int(shard.rows[np.argmin(finite)])
            raise JobError(
                f'teacher {asker.name}: row {row + 1} "{dataset.paths[row]}" has logits that are not finite in '
                f"{precision}; use --precision fp32, or mend the checkpoint"
            )
    rng = np.random.default_rng(shard.start)
    for position in sorted(rng.choice(len(shard.rows), min(RECHECKED, len(shard.rows)), replace=False).tolist()):
        row = int(shard.rows[position])
        alone = dataset[[row]]
        if not len(alone["rows"]) or (alone["sha256"][0] != shard.image_sha256[position]).any():
            raise JobError(f'row {row + 1} "{dataset.paths[row]}" changed while it was read; run the command again')
        for asker in askers:
            stored = shard.logits[asker.name][position]
            image = asker.prepare(torch.from_numpy(alone["pixels"][asker.img_size]))
            again = asker.ask(image, plainly=True).numpy()[0]
            difference, allowed = np.abs(again - stored).max(), TOLERANCE[precision] * (1 + np.abs(again).max())
            if difference > allowed:
                raise JobError(
                    f'teacher {asker.name}: row {row + 1} "{dataset.paths[row]}" asked alone gets logits that differ '
                    f"by {difference:.3g} (at most {allowed:.3g} is rounding): rows and logits are out of step"
                )
