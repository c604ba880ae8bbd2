"""Images in batches: what the decoding processes run."""

import gc
import hashlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fer_mlflow.data.images import Clahe, prepare_image, read_image_bytes
from fer_mlflow.errors import ImageError


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
