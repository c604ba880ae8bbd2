"""The forward pass: rows of images in, shards of logits out, each row checked to be its own.

`infer` is the unit of work. It takes rows, teachers and settings, gives logits, and knows nothing of who called it:
one range of rows is one call that a cluster engine can make elsewhere; given many ranges it reads ahead across
their borders, so that nothing waits.
"""

import gc
import hashlib
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fer_mlflow.data.images import Clahe, prepare_image, read_image_bytes
from fer_mlflow.errors import ContractError, ImageError, JobError
from fer_mlflow.teachers.checkpoint import Teacher
from fer_mlflow.teachers.outputs import Unreadable, unreadable_message

RECHECKED = 2  # rows of each shard that are asked again, alone
# How far a row asked alone may be from the same row in its batch, relative to 1 + its largest logit.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}
# `--compile auto` compiles where a benchmark has more rows than compiling costs; measured by benchmarks/export.py.
COMPILE_FROM_ROWS = {"cpu": 50_000, "cuda": 100_000}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How to compute; of these only `clahe` and `precision` are meant to shape the numbers.

    Attributes
    ----------
    compile : `auto`, `true` or `false`
    device : `auto`, `cpu`, `cuda` or `cuda:N`
    workers : processes that decode; None chooses by device
    """

    clahe: Clahe | None = None
    precision: str = "fp32"
    compile: str = "auto"
    device: str = "auto"
    batch_size: int = 32
    workers: int | None = None


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


def choose_device(name: str) -> torch.device:
    """Return the device that a name asks for.

    Raises
    ------
    ContractError
        there is no such device here
    """
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
    """Return whether to compile: as told, or for `auto` where so many rows repay the minutes that it takes.

    Depends on the benchmark's whole length, never on what is left of it, so that a resumed run computes like
    an uninterrupted one.
    """
    if choice != "auto":
        return choice == "true"
    has_compiler = device.type == "cuda" or any(map(shutil.which, ("g++", "clang++", "c++")))
    return has_compiler and rows >= COMPILE_FROM_ROWS.get(device.type, 1 << 62)


def describe_settings(settings: Settings, device: torch.device, compiled: bool) -> dict[str, Any]:
    """Return what shaped a shard's numbers beside its teacher, for the alignment report."""
    named = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return {
        "device": named,
        "precision": settings.precision,
        "compiled": compiled,
        "batch_size": settings.batch_size,
        "versions": {
            "torch": torch.__version__,
            "timm": timm.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
    }


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
    sizes = sorted({teacher.img_size for teacher in teachers})
    dataset = ImageBatches(root, paths, sizes, settings.clahe)
    workers = _default_workers(device) if settings.workers is None else settings.workers
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,  # each item is the range of a batch's rows
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    askers = [Asker(teacher, device, settings, compiled) for teacher in teachers]
    loaded = iter(loader)
    for start, stop in ranges:
        yield _compute_shard(start, stop, loaded, dataset, askers, settings, skip_unreadable, on_rows)


def _default_workers(device: torch.device) -> int:
    """Return how many processes decode: on a CPU the models need the cores, and a fraction of one feeds them."""
    cores = torch.multiprocessing.cpu_count()
    return min(16, cores) if device.type == "cuda" else max(1, cores // 8)


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which ends its workers itself, cores to the others, and memory shared."""
    gc.freeze()  # a collection would write to every object that the parent shares, and so copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    cv2.setNumThreads(0)


class ImageBatches(Dataset):
    """Rows in, pixels out: what runs in the decoding processes."""

    def __init__(self, root: Path, paths: Sequence[str], sizes: Sequence[int], clahe: Clahe | None):
        self.root, self.paths, self.sizes, self.clahe = root, paths, sizes, clahe

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return a batch: `rows` (b,), `sha256` (b, 32), `pixels` {size: (b, size, size, 3) uint8}, `unreadable`.

        Rows that cannot be decoded are under `unreadable` alone.
        """
        good, digests, unreadable = [], [], []
        images: list[list[np.ndarray]] = []
        for row in rows:
            digest = bytes(32)
            try:
                data = read_image_bytes(self.root, self.paths[row])
                digest = hashlib.sha256(data).digest()
                images.append(prepare_image(data, self.sizes, self.clahe))
            except ImageError as error:
                unreadable.append((row, str(error), digest.hex()))
                continue
            good.append(row)
            digests.append(digest)
        pixels = {
            size: np.stack([image[position] for image in images]) if images else np.empty((0, size, size, 3), np.uint8)
            for position, size in enumerate(self.sizes)
        }
        return {
            "rows": np.array(good, np.int64),
            "sha256": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy(),
            "pixels": pixels,
            "unreadable": unreadable,
        }


class Asker:
    """One teacher on one device: pixels in, logits in the project's class order out."""

    def __init__(self, teacher: Teacher, device: torch.device, settings: Settings, compiled: bool):
        self.name, self.img_size = teacher.name, teacher.img_size
        self.device, self.settings = device, settings
        self.columns = torch.from_numpy(teacher.columns)
        model = teacher.model.to(device)
        self.plain: Callable[[Tensor], Tensor] = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = _compile(teacher.model) if compiled else self.plain
        self.compiled = compiled
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(teacher.mean, device=device).view(shape)
        self.std = torch.tensor(teacher.std, device=device).view(shape)

    def ask(self, pixels: Tensor, *, plainly: bool = False) -> Tensor:
        """Return (b, C) float32 logits on the CPU for (b, size, size, 3) uint8 RGB pixels."""
        count = len(pixels)
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()  # stays channels-last
        images = images.div_(255).sub_(self.mean).div_(self.std)
        model = self.plain if plainly else self.model
        if self.compiled and not plainly and count < self.settings.batch_size:
            images = torch.cat([images, images[:1].expand(self.settings.batch_size - count, -1, -1, -1)])
            images = images.contiguous(memory_format=torch.channels_last)
        logits = model(images)[:count]
        return logits.float().cpu()[:, self.columns]


def _compile(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the model compiled for one input shape, its weights folded in."""
    return torch.compile(model, dynamic=False, options={"freezing": True})


@contextmanager
def _numerics(device: torch.device, precision: str) -> Iterator[None]:
    """Hold the precision for a block: autocast where asked for, and no TF32 behind the name fp32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    cast = nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_AUTOCAST[precision])
    try:
        with torch.no_grad(), cast:  # weights are cast once for the whole block, not once a batch
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


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
    with _numerics(askers[0].device, settings.precision):
        while taken < stop - start:
            batch = _next_batch(batches)
            taken += len(batch["rows"]) + len(batch["unreadable"])
            unreadable += [Unreadable(row, dataset.paths[row], why, sha) for row, why, sha in batch["unreadable"]]
            rows.append(batch["rows"].numpy())
            digests.append(batch["sha256"].numpy())
            if len(batch["rows"]) and (skip_unreadable or not unreadable):
                for asker in askers:
                    answers[asker.name].append(_ask(asker, batch["pixels"][asker.img_size]))
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


def _ask(asker: Asker, pixels: Tensor) -> np.ndarray:
    """Ask a teacher; running out of memory, and a model that does not compile, become messages."""
    try:
        return asker.ask(pixels).numpy()
    except torch.OutOfMemoryError as error:
        raise JobError(
            f"teacher {asker.name}: {asker.device} is out of memory at --batch-size {asker.settings.batch_size}; "
            "finished shards are kept: run the same command again with a smaller one"
        ) from error
    except Exception as error:
        if not asker.compiled:
            raise
        raise JobError(
            f"teacher {asker.name} does not compile here ({str(error).splitlines()[0]}); use --compile false"
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
            again = asker.ask(torch.from_numpy(alone["pixels"][asker.img_size]), plainly=True).numpy()[0]
            difference, allowed = np.abs(again - stored).max(), TOLERANCE[precision] * (1 + np.abs(again).max())
            if difference > allowed:
                raise JobError(
                    f'teacher {asker.name}: row {row + 1} "{dataset.paths[row]}" asked alone gets logits that differ '
                    f"by {difference:.3g} (at most {allowed:.3g} is rounding): rows and logits are out of step"
                )


def row_ranges(rows: int, shard_rows: int) -> list[tuple[int, int]]:
    """Return the ranges of whole shards that make up a benchmark; the last may be shorter.

    >>> row_ranges(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]
