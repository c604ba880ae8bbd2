"""The forward pass: rows of images in, shards of logits out, each row checked to be its own.

`predict_shards` is the unit of work. It takes rows, teachers and settings, gives logits, and knows nothing of its
caller: one range of rows is one call that a cluster engine can make elsewhere; given many ranges it reads ahead
across their borders, so that nothing waits.
"""

import gc
import hashlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fer_mlflow.data.images import prepare_images, read_image_bytes
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.teachers.checkpoint import Teacher
from fer_mlflow.teachers.predictor import ForwardSettings, Predictor, choose_device, numerics
from fer_mlflow.teachers.shards import Unreadable, unreadable_message
from fer_mlflow.teachers.spec import TOLERANCE

RECHECKED = 2  # rows of each shard that are predicted again, alone


class ImageBatches(Dataset):
    """Rows in, pixels out, a batch for each preprocessing with pixels of its own: runs in the decoding processes."""

    def __init__(self, root: Path, paths: Sequence[str], preprocessings: Sequence[Preprocessing]):
        self.root, self.paths = root, paths
        self.by_key = {each.pixel_key: each for each in sorted(preprocessings, key=lambda each: each.pixel_key)}

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return a batch: `rows` (b,), `sha256` (b, 32), `pixels` {pixel key: (b, size, size, 3) uint8}, `unreadable`.

        Rows that cannot be decoded are under `unreadable` alone.
        """
        preprocessings = list(self.by_key.values())
        good, digests, unreadable = [], [], []
        images: list[list[np.ndarray]] = []
        for row in rows:
            digest = bytes(32)
            try:
                data = read_image_bytes(self.root, self.paths[row])
                digest = hashlib.sha256(data).digest()
                images.append(prepare_images(data, preprocessings))
            except ImageError as error:
                unreadable.append((row, str(error), digest.hex()))
                continue
            good.append(row)
            digests.append(digest)
        pixels = {
            key: np.stack([image[position] for image in images])
            if images
            else np.empty((0, each.side, each.side, 3), np.uint8)
            for position, (key, each) in enumerate(self.by_key.items())
        }
        return {
            "rows": np.array(good, np.int64),
            "sha256": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy(),
            "pixels": pixels,
            "unreadable": unreadable,
        }


def load_batches(
    dataset: ImageBatches, batches: Sequence[range], workers: int | None, device: torch.device
) -> DataLoader:
    """Return a loader that gives one dictionary of tensors for each range of rows, in order."""
    count = default_workers(device) if workers is None else workers
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,  # each item is the range of a batch's rows
        num_workers=min(count, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def default_workers(device: torch.device) -> int:
    """Return how many processes decode: on a CPU the models need the cores, and a fraction of one feeds them."""
    cores = torch.multiprocessing.cpu_count()
    return min(16, cores) if device.type == "cuda" else max(1, cores // 8)


def start_worker(_: int) -> None:
    """Leave signals to the parent, which ends its workers itself, cores to the others, and memory shared."""
    gc.freeze()  # a collection would write to every object that the parent shares, and so copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    cv2.setNumThreads(0)


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


def predict_shards(
    root: Path,
    paths: Sequence[str],
    ranges: Iterable[tuple[int, int]],
    teachers: Sequence[Teacher],
    settings: ForwardSettings,
    *,
    compiled: bool = False,
    skip_unreadable: bool = False,
    on_rows: Callable[[int], None] | None = None,
) -> Iterator[Shard]:
    """Yield one shard for each range of rows, in order.

    An image is read, hashed, decoded and equalised once for all teachers. Two rows of each shard are then read
    again and predicted alone, uncompiled: if they do not get the same logits, rows and logits are out of step.

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
        a logit is not finite, a row predicted alone disagrees, the device is out of memory, or decoding died
    """
    device = choose_device(settings.device)
    ranges = list(ranges)
    batches = [
        range(first, min(first + settings.batch_size, stop))
        for start, stop in ranges
        for first in range(start, stop, settings.batch_size)
    ]
    dataset = ImageBatches(root, paths, [teacher.preprocessing for teacher in teachers])
    loader = load_batches(dataset, batches, settings.workers, device)
    predictors = [Predictor(teacher, device, settings, compiled) for teacher in teachers]
    loaded = iter(loader)
    for start, stop in ranges:
        yield _compute_shard(start, stop, loaded, dataset, predictors, settings, skip_unreadable, on_rows)


def _compute_shard(
    start: int,
    stop: int,
    batches: Iterator[dict[str, Any]],
    dataset: ImageBatches,
    predictors: Sequence[Predictor],
    settings: ForwardSettings,
    skip_unreadable: bool,
    on_rows: Callable[[int], None] | None,
) -> Shard:
    """Take a shard's batches from the loader, predict with every teacher, and check the logits."""
    rows, digests, unreadable = [], [], []
    logits: dict[str, list[np.ndarray]] = {predictor.name: [] for predictor in predictors}
    taken = 0
    with numerics(predictors[0].device, settings.precision):
        while taken < stop - start:
            batch = _next_batch(batches)
            taken += len(batch["rows"]) + len(batch["unreadable"])
            unreadable += [Unreadable(row, dataset.paths[row], why, sha) for row, why, sha in batch["unreadable"]]
            rows.append(batch["rows"].numpy())
            digests.append(batch["sha256"].numpy())
            if len(batch["rows"]) and (skip_unreadable or not unreadable):
                prepared: dict[Preprocessing, Tensor] = {}  # teachers of one preprocessing share a tensor
                for predictor in predictors:
                    how = predictor.preprocessing
                    if how not in prepared:
                        prepared[how] = predictor.prepare(batch["pixels"][how.pixel_key])
                    logits[predictor.name].append(predictor.predict_batch(prepared[how]))
            if on_rows is not None:
                on_rows(len(batch["rows"]) + len(batch["unreadable"]))
        if unreadable and not skip_unreadable:
            raise ImageError(unreadable_message(unreadable))
        shard = Shard(
            start,
            stop,
            np.concatenate(rows),
            {name: np.concatenate(parts) if parts else np.empty((0, 0), np.float32) for name, parts in logits.items()},
            np.concatenate(digests),
            tuple(unreadable),
        )
        _check_shard(shard, dataset, predictors, settings.precision)
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


def _check_shard(shard: Shard, dataset: ImageBatches, predictors: Sequence[Predictor], precision: str) -> None:
    """Refuse rows out of place, logits that are not finite, and rows that get other logits when predicted alone."""
    expected = [r for r in range(shard.start, shard.stop) if r not in {bad.row for bad in shard.unreadable}]
    if shard.rows.tolist() != expected:
        raise JobError(f"rows {shard.start}-{shard.stop - 1} came back in another order; report this")
    for predictor in predictors:
        finite = np.isfinite(shard.logits[predictor.name]).all(axis=1)
        if not finite.all():
            row = int(shard.rows[np.argmin(finite)])
            raise JobError(
                f'teacher {predictor.name}: row {row + 1} "{dataset.paths[row]}" has logits that are not finite in '
                f"{precision}; use --precision fp32, or mend the checkpoint"
            )
    rng = np.random.default_rng(shard.start)
    for position in sorted(rng.choice(len(shard.rows), min(RECHECKED, len(shard.rows)), replace=False).tolist()):
        row = int(shard.rows[position])
        alone = dataset[[row]]
        if not len(alone["rows"]) or (alone["sha256"][0] != shard.image_sha256[position]).any():
            raise JobError(f'row {row + 1} "{dataset.paths[row]}" changed while it was read; run the command again')
        for predictor in predictors:
            stored = shard.logits[predictor.name][position]
            image = predictor.prepare(torch.from_numpy(alone["pixels"][predictor.preprocessing.pixel_key]))
            again = predictor.predict(image, eager=True).numpy()[0]
            difference, allowed = np.abs(again - stored).max(), TOLERANCE[precision] * (1 + np.abs(again).max())
            if difference > allowed:
                raise JobError(
                    f'teacher {predictor.name}: row {row + 1} "{dataset.paths[row]}" predicted alone gets logits that '
                    f"differ by {difference:.3g} (at most {allowed:.3g} is rounding): rows and logits are out of step"
                )
