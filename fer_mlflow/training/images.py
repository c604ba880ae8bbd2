"""Training rows as batches: decoded once, augmented by timm, rare classes drawn as often as the recipe says."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler
from torchvision.transforms import Compose, InterpolationMode, RandomAffine

from fer_mlflow.data.images import image_prefixes, prepare_image, read_image_bytes
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ImageError
from fer_mlflow.teachers.forward import ImageBatches, load_batches, start_worker
from fer_mlflow.teachers.shards import Unreadable, unreadable_message
from fer_mlflow.training.recipe import Recipe

KEPT_PIXELS_BYTES = 2 << 30  # decoded training images up to this much stay in memory


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Training images: their pixels where they fit into memory, and the start of each file's hash."""

    pixels: np.ndarray | None
    image_prefixes: np.ndarray


def read_images(part: Benchmark, recipe: Recipe, workers: int | None) -> ReadImages:
    """Decode every image once, so that a broken one is named before the first step."""
    size, paths = recipe.img_size, part.paths.to_numpy(object)
    keep = len(part) * size * size * 3 <= KEPT_PIXELS_BYTES
    pixels = np.empty((len(part), size, size, 3), np.uint8) if keep else None
    digests, unreadable = np.empty((len(part), 32), np.uint8), []
    dataset = ImageBatches(part.root, paths, [recipe.preprocessing])
    batches = [range(start, min(start + 64, len(part))) for start in range(0, len(part), 64)]
    for batch in load_batches(dataset, batches, decoding_workers(workers), torch.device("cpu")):
        unreadable += [Unreadable(row, paths[row], why, sha) for row, why, sha in batch["unreadable"]]
        digests[batch["rows"].numpy()] = batch["sha256"].numpy()
        if pixels is not None:
            pixels[batch["rows"].numpy()] = batch["pixels"][recipe.preprocessing.pixel_key].numpy()
    if unreadable:
        raise ImageError(unreadable_message(unreadable).partition("; mend them")[0] + f" in {part.name}; mend them")
    return ReadImages(pixels, image_prefixes(digests))


def check_val_images(val: Benchmark, trained: np.ndarray, recipe: Recipe, workers: int | None, warn) -> None:
    """Name broken validation images before the first step, and say where images are in both parts."""
    rows = read_images(val, recipe, workers)
    both = int(np.isin(rows.image_prefixes, trained).sum())
    if both:
        warn(f"{both} of {len(val)} validation images are also trained on, under another path: its scores are too good")


def decoding_workers(workers: int | None) -> int:
    """Return how many processes decode and augment."""
    return max(1, torch.multiprocessing.cpu_count() - 1) if workers is None else workers


class _TrainingImages(Dataset):
    """A training row: its augmented image, scaled by mean and std, its label, and its position in the part."""

    def __init__(self, part: Benchmark, pixels: np.ndarray | None, recipe: Recipe, transform: Callable):
        self.root, self.paths, self.labels = part.root, part.paths.to_numpy(object), part.labels
        self.pixels, self.recipe, self.transform = pixels, recipe, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        if self.pixels is not None:
            image = self.pixels[row]
        else:
            data = read_image_bytes(self.root, self.paths[row])
            image = prepare_image(data, self.recipe.preprocessing)
        return self.transform(Image.fromarray(image)), int(self.labels[row]), row


def make_loader(part, rows: ReadImages, recipe: Recipe, mean, std, device, workers) -> DataLoader:
    """Return the loader of augmented batches: timm's transform, with the crop taken out and an affine put in."""
    transform = create_transform(
        recipe.img_size,
        is_training=True,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=recipe.flip,
        color_jitter=recipe.color_jitter,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        mean=mean,
        std=std,
    )
    if recipe.affine:
        move = RandomAffine(
            recipe.affine, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=InterpolationMode.BILINEAR
        )
        transform = Compose([move, transform])
    dataset = _TrainingImages(part, rows.pixels, recipe, transform)
    sampler: Sampler = RandomSampler(dataset)
    if recipe.balance == "sampling":
        weights = class_weights(part)[part.labels]
        sampler = WeightedRandomSampler(weights.tolist(), len(part))
    count = decoding_workers(workers)
    return DataLoader(
        dataset,
        batch_size=recipe.batch_size,
        sampler=sampler,
        drop_last=len(part) >= 2 * recipe.batch_size,  # batch norm learns nothing from a batch of one
        num_workers=count,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def class_weights(part: Benchmark) -> np.ndarray:
    """Return (C,) weights inverse to the classes' frequency, 1 on average over the rows; 0 for an absent class."""
    counts = np.bincount(part.labels, minlength=len(part.classes))
    present = counts > 0
    return np.where(present, len(part) / (present.sum() * np.maximum(counts, 1)), 0.0)
