"""The forward pass: rows of images in, shards of logits out, each row checked to be its own.

`predict_shards` is the unit of work. It takes rows, teachers and settings, gives logits, and knows nothing of its
caller: one range of rows is one call that a cluster engine can make elsewhere; given many ranges it reads ahead
across their borders, so that nothing waits.
"""

import gc
import hashlib
import logging
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader, Dataset

from fer_mlflow.data.images import Unreadable, image_prefixes, image_readers, prepare_images, unreadable_message
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import ContractError, FerError, ImageError, JobError
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers.checkpoint import Teacher
from fer_mlflow.teachers.spec import TOLERANCE, PredictedLogits

logger = logging.getLogger(__name__)
AUTO_BATCH = {"cpu": 32, "cuda": 256}  # rows in a forward pass, halved where the memory of a GPU is full
RECHECKED = 2  # rows of each shard that are predicted again, alone
# `--compile auto` compiles where a benchmark has more rows than compiling costs; measured by benchmarks/export.py.
COMPILE_FROM_ROWS = {"cpu": 50_000, "cuda": 100_000}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ContractError where there is no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ContractError(f"device {name!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ContractError(f"device {name}: found {torch.cuda.device_count()} CUDA devices; use --device cpu or auto")
    return device


def choose_compile(choice: str, rows: int, device: torch.device) -> bool:
    """Return whether to compile; `auto` does where so many rows repay the minutes that it takes.

    Depends on the benchmark's whole length, never on what is left of it, so that a resumed run computes like
    an uninterrupted one.
    """
    if choice != "auto":
        return choice == "true"
    has_compiler = device.type == "cuda" or any(map(shutil.which, ("g++", "clang++", "c++")))
    return has_compiler and rows >= COMPILE_FROM_ROWS.get(device.type, 1 << 62)


def choose_batch_size(given: int | None, device: torch.device) -> int:
    """Return how many rows a forward pass has at first."""
    return given or AUTO_BATCH.get(device.type, AUTO_BATCH["cpu"])


class ImageBatches(Dataset):
    """Rows in, pixels out, a batch for each preprocessing with pixels of its own: runs in the decoding processes."""

    def __init__(self, root: Path | str, paths: Sequence[str], preprocessings: Sequence[Preprocessing]):
        self.root, self.paths = root, paths
        self.by_key = {each.pixel_key: each for each in sorted(preprocessings, key=lambda each: each.pixel_key)}

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return a batch: `rows` (b,), `sha256` (b, 32), `pixels` {pixel key: (b, size, size, 3) uint8}, `unreadable`.

        Rows that cannot be decoded are under `unreadable` alone.
        """
        preprocessings = list(self.by_key.values())
        good, digests, unreadable = [], [], []
        images: list[list[np.ndarray]] = []
        for row, read in zip(rows, image_readers(self.root, [self.paths[row] for row in rows]), strict=True):
            digest = bytes(32)
            try:
                data = read()
                digest = hashlib.sha256(data).digest()
                images.append(prepare_images(data, preprocessings))
            except ImageError as error:
                unreadable.append((row, str(error), digest.hex()))
                continue
            good.append(row)
            digests.append(digest)
        return {
            "rows": np.array(good, np.int64),
            "sha256": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy(),
            "pixels": {
                key: np.array([image[at] for image in images], np.uint8).reshape(-1, each.side, each.side, 3)
                for at, (key, each) in enumerate(self.by_key.items())
            },
            "unreadable": unreadable,
        }


def load_batches(
    dataset: ImageBatches, batches: Iterable[range], most: int, workers: int | None, device: torch.device
) -> DataLoader:
    """Return a loader that gives one dictionary of tensors for each of at most `most` ranges of rows, in order.

    Ranges are taken from `batches` when a decoding process is free for them. `workers` of None: on a CPU the models
    need the cores, and a fraction of one feeds them.
    """
    if workers is None:
        cores = torch.multiprocessing.cpu_count()
        workers = min(16, cores) if device.type == "cuda" else max(1, cores // 8)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,  # each item is the range of a batch's rows
        num_workers=min(workers, most),
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def start_worker(_: int) -> None:
    """Leave signals to the parent, which ends its workers itself, cores to the others, and memory shared."""
    gc.freeze()  # a collection would write to every object that the parent shares, and so copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    cv2.setNumThreads(0)


class Predictor:
    """One teacher on one device: pixels in, logits in the project's class order out, in the precision of settings."""

    def __init__(self, teacher: Teacher, device: torch.device, settings: ForwardSettings, compiled: bool):
        self.teacher, self.device, self.settings, self.compiled = teacher, device, settings, compiled
        self.name = teacher.name
        self.batch_size = choose_batch_size(settings.batch_size, device)
        self.columns = torch.from_numpy(teacher.columns).to(device)
        model = teacher.model.to(device)
        self.eager: Callable[[torch.Tensor], torch.Tensor] = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = self.eager
        if compiled:  # for one input shape, the weights folded in
            self.model = torch.compile(teacher.model, dynamic=False, options={"freezing": True})
        channels = teacher.preprocessing.mean, teacher.preprocessing.std
        self.mean, self.std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in channels)

    @property
    def environment(self) -> dict[str, Any]:
        """On what and with which versions logits are computed."""
        versions = {"torch": torch.__version__, "timm": timm.__version__}
        versions |= {"opencv": cv2.__version__, "numpy": np.__version__}
        is_cuda = self.device.type == "cuda"
        return {
            "device": f"cuda ({torch.cuda.get_device_name(self.device)})" if is_cuda else self.device.type,
            "compiled": self.compiled,
            "batch_size": self.batch_size,
            "versions": versions,
        }

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (b, 3, size, size) float32 for (b, size, size, 3) uint8 RGB pixels, on the device, channels last."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return images.div_(255).sub_(self.mean).div_(self.std)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return (b, C) float32 logits for prepared images, on the device; nothing waits for it.

        Raises JobError: memory is full at a batch size that was given, or compiling fails. One that was not given is
        halved.
        """
        logits: list[torch.Tensor] = []
        done = 0
        while done < len(images):
            chunk = images[done : done + self.batch_size]
            try:
                logits.append(self._forward(chunk))
                done += len(chunk)
                continue
            except torch.OutOfMemoryError as error:
                if self.settings.batch_size is not None or self.batch_size == 1:
                    raise JobError(
                        f"teacher {self.name}: {self.device} is out of memory at --batch-size {self.batch_size}; "
                        "finished shards are kept: run the same command again with a smaller one"
                    ) from error
            self.batch_size //= 2
            logger.warning("teacher %s: out of memory; going on with --batch-size %d", self.name, self.batch_size)
            torch.cuda.empty_cache()
        return torch.cat(logits)

    def predict_alone(self, image: torch.Tensor) -> np.ndarray:
        """Return (C,) float32 logits of one prepared image, uncompiled and without padding."""
        return self.eager(image).float()[0, self.columns].cpu().numpy()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits of at most a batch, which is padded where it is short.

        The shape of a batch decides how sums are split among threads, and so the last bits of the logits; and a
        compiled model has one shape.
        """
        count = len(images)
        if count < self.batch_size:
            images = torch.cat([images, images[:1].expand(self.batch_size - count, -1, -1, -1)])
            images = images.contiguous(memory_format=torch.channels_last)
        try:
            return self.model(images)[:count, self.columns].float()
        except Exception as error:
            if not self.compiled or isinstance(error, torch.OutOfMemoryError):
                raise
            raise JobError(
                f"teacher {self.name} does not compile here ({str(error).splitlines()[0]}); use --compile false"
            ) from error


@contextmanager
def numerics(device: torch.device, precision: str) -> Iterator[None]:
    """Hold the precision for a block: autocast for lower ones, and no TF32 behind the name fp32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    cast = nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_AUTOCAST[precision])
    try:
        with torch.no_grad(), cast:  # weights are cast once for the whole block, not once a batch
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def predict_shards(
    root: Path | str,
    paths: Sequence[str],
    ranges: Iterable[tuple[int, int]],
    teachers: Sequence[Teacher],
    settings: ForwardSettings,
    *,
    compiled: bool = False,
    on_rows: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[tuple[int, int], dict[str, PredictedLogits]]]:
    """Yield each range of rows, in order, with each teacher's logits by name.

    An image is read, hashed, decoded and equalised once for all teachers. Two rows of each shard are then read
    again and predicted alone, uncompiled: if they do not get the same logits, rows and logits are out of step.

    A range is (start, stop) of the (N,) paths, and is taken when its first images are to be read. Models are compiled
    for the one shape of a full batch. `on_rows` is called with the number of rows done, batch by batch.

    Raises ImageError: images of a range cannot be decoded, all that it has. JobError: a logit is not finite, a row
    predicted alone disagrees, the device is out of memory, or decoding died.
    """
    device = choose_device(settings.device)
    size = choose_batch_size(settings.batch_size, device)
    taken: deque[tuple[int, int]] = deque()

    def batches() -> Iterator[range]:
        for start, stop in ranges:
            taken.append((start, stop))
            yield from (range(first, min(first + size, stop)) for first in range(start, stop, size))

    dataset = ImageBatches(root, paths, [teacher.preprocessing for teacher in teachers])
    loaded: Iterator[dict[str, Any]] = iter(
        load_batches(dataset, batches(), -(-len(paths) // size), settings.workers, device)
    )
    if device.type == "cuda":
        loaded = _copied_ahead(loaded, device)
    predictors = [Predictor(teacher, device, settings, compiled) for teacher in teachers]
    while (first := _next_batch(loaded)) is not None:
        start, stop = taken.popleft()
        with numerics(device, settings.precision):
            shard = _compute_shard(stop - start, chain([first], loaded), dataset, predictors, on_rows)
            _check_shard(start, stop, shard, dataset, predictors)
        yield (start, stop), shard


def _copied_ahead(batches: Iterator[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield batches with their pixels on a GPU, each copied on a stream of its own while the one before is computed."""
    stream = torch.cuda.Stream(device)

    def copied(batch: dict[str, Any]) -> dict[str, Any]:
        with torch.cuda.stream(stream):
            pixels = {key: each.to(device, non_blocking=True) for key, each in batch["pixels"].items()}
        return {**batch, "pixels": pixels, "copied": stream.record_event()}

    for batch, _ in pairwise(chain(map(copied, batches), [{}])):  # the next one is copied before this one is given
        main = torch.cuda.current_stream(device)
        main.wait_event(batch["copied"])
        for pixels in batch["pixels"].values():
            pixels.record_stream(main)  # keeps their memory until the main stream has read them
        yield batch


def _compute_shard(
    count: int,
    batches: Iterator[dict[str, Any]],
    dataset: ImageBatches,
    predictors: Sequence[Predictor],
    on_rows: Callable[[int], object],
) -> dict[str, PredictedLogits]:
    """Take the batches of a shard's `count` rows from the loader, and predict with every teacher."""
    skips_unreadable = predictors[0].settings.on_bad_image == "skip"
    rows, digests, unreadable = [], [], []
    logits: dict[str, list[torch.Tensor]] = {predictor.name: [] for predictor in predictors}
    while count > 0:
        batch = _next_batch(batches)
        assert batch is not None  # a range that was begun is loaded to its end
        taken = len(batch["rows"]) + len(batch["unreadable"])
        count -= taken
        unreadable += [Unreadable(row, dataset.paths[row], why, sha) for row, why, sha in batch["unreadable"]]
        rows.append(batch["rows"].numpy())
        digests.append(batch["sha256"].numpy())
        if len(batch["rows"]) and (skips_unreadable or not unreadable):
            prepared: dict[Preprocessing, torch.Tensor] = {}  # teachers of one preprocessing share a tensor
            for predictor in predictors:
                how = predictor.teacher.preprocessing
                if how not in prepared:
                    prepared[how] = predictor.prepare(batch["pixels"][how.pixel_key])
                logits[predictor.name].append(predictor.predict(prepared[how]))
        on_rows(taken)
    if unreadable and not skips_unreadable:
        raise ImageError(unreadable_message(unreadable))
    image_sha256 = np.concatenate(digests)
    prefixes = image_prefixes(image_sha256)
    return {
        each.name: PredictedLogits(
            rows=np.concatenate(rows),
            logits=torch.cat(logits[each.name] or [torch.empty(0, 0)]).cpu().numpy(),  # the one wait for the device
            image_sha256=image_sha256,
            unreadable=tuple(unreadable),
            teacher=each.teacher.description,
            environments=(each.environment,),
            in_sample_rows=None if (seen := each.teacher.trained_on) is None else int(np.isin(prefixes, seen).sum()),
        )
        for each in predictors
    }


def _next_batch(batches: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """Take a decoded batch, None behind the last; a worker's death becomes a message."""
    try:
        return next(batches, None)
    except FerError as error:  # of a worker: the message is the last line of its traceback
        kind = type(error)
        line = str(error).strip().rpartition("\n")[2]
        raise kind(line.removeprefix(f"{kind.__module__}.{kind.__name__}: ")) from error
    except RuntimeError as error:
        raise JobError(
            f"decoding died ({str(error).splitlines()[0]}); finished shards are kept: run the same command again, "
            "with --workers 0 or a smaller --batch-size where shared memory is short"
        ) from error


def _check_shard(
    start: int, stop: int, shard: dict[str, PredictedLogits], dataset: ImageBatches, predictors: Sequence[Predictor]
) -> None:
    """Refuse rows out of place, logits that are not finite, and rows that get other logits when predicted alone."""
    first, precision = shard[predictors[0].name], predictors[0].settings.precision
    rows = first.rows
    if rows.tolist() != sorted(set(range(start, stop)) - {bad.row for bad in first.unreadable}):
        raise JobError(f"rows {start}-{stop - 1} came back in another order; report this")
    for name, each in shard.items():
        finite = np.isfinite(each.logits).all(axis=1)
        if not finite.all():
            row = int(rows[np.argmin(finite)])
            raise JobError(
                f'teacher {name}: row {row + 1} "{dataset.paths[row]}" has logits that are not finite in {precision}; '
                "use --precision fp32, or another checkpoint"
            )
    chosen = np.random.default_rng(start).choice(len(rows), min(RECHECKED, len(rows)), replace=False)
    for position in sorted(chosen.tolist()):
        row = int(rows[position])
        alone = dataset[[row]]
        if not len(alone["rows"]) or (alone["sha256"][0] != first.image_sha256[position]).any():
            raise JobError(f'row {row + 1} "{dataset.paths[row]}" changed while it was read; run the command again')
        for predictor in predictors:
            pixels = torch.from_numpy(alone["pixels"][predictor.teacher.preprocessing.pixel_key])
            again = predictor.predict_alone(predictor.prepare(pixels))
            difference = np.abs(again - shard[predictor.name].logits[position]).max()
            if difference > (allowed := TOLERANCE[precision] * (1 + np.abs(again).max())):
                raise JobError(
                    f'teacher {predictor.name}: row {row + 1} "{dataset.paths[row]}" predicted alone gets logits that '
                    f"differ by {difference:.3g} (at most {allowed:.3g} is rounding): rows and logits are out of step"
                )
