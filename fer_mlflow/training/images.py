"""Training rows as batches: decoded once, augmented by timm, rare classes drawn as often as the recipe says."""

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler
from torchvision.transforms import Compose, InterpolationMode, RandomAffine

from fer_mlflow.data.images import Unreadable, image_prefixes, prepare_image, read_image_bytes, unreadable_message
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.errors import ImageError
from fer_mlflow.settings.training import Recipe
from fer_mlflow.teachers.checkpoint import usual_channels
from fer_mlflow.teachers.forward import ImageBatches, load_batches, start_worker

KEPT_PIXELS_BYTES = 2 << 30  # decoded training images up to this much stay in memory


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return the preprocessing of a recipe, with the mean and std of timm's configuration of its architecture."""
    return Preprocessing(img_size=recipe.img_size, clahe=Clahe.of(recipe), **usual_channels(recipe.arch))


def read_images(part: Benchmark, preprocessing: Preprocessing, workers: int | None):
    """Decode every image once, so that ImageError names the broken ones before the first step.

    Return their pixels, (N, S, S, 3) uint8, None where they take more memory than `KEPT_PIXELS_BYTES`, and the (N,)
    `image_prefixes` of the files.
    """
    shape, paths = (len(part), preprocessing.side, preprocessing.side, 3), part.paths.to_numpy(object)
    pixels = np.empty(shape, np.uint8) if np.prod(shape, dtype=np.int64) <= KEPT_PIXELS_BYTES else None
    digests, unreadable = np.empty((len(part), 32), np.uint8), []
    batches = [range(start, min(start + 64, len(part))) for start in range(0, len(part), 64)]
    dataset = ImageBatches(part.root, paths, [preprocessing])
    for batch in load_batches(dataset, batches, len(batches), decoding_workers(workers), torch.device("cpu")):
        unreadable += [Unreadable(row, paths[row], why, sha) for row, why, sha in batch["unreadable"]]
        digests[batch["rows"].numpy()] = batch["sha256"].numpy()
        if pixels is not None:
            pixels[batch["rows"].numpy()] = batch["pixels"][preprocessing.pixel_key].numpy()
    if unreadable:
        raise ImageError(unreadable_message(unreadable, f" in {part.name}", "repair them"))
    return pixels, image_prefixes(digests)


def decoding_workers(workers: int | None) -> int:
    """Return how many processes decode and augment."""
    return max(1, torch.multiprocessing.cpu_count() - 1) if workers is None else workers


class TrainingImages(Dataset):
    """A training row: its augmented image, scaled by mean and std, its label, and its position in the part.

    The augmentation is timm's, with the crop taken out and an affine put in.
    """

    def __init__(self, part: Benchmark, pixels: np.ndarray | None, recipe: Recipe, preprocessing: Preprocessing):
        self.root, self.paths, self.labels = part.root, part.paths.to_numpy(object), part.labels
        self.pixels, self.preprocessing = pixels, preprocessing
        self.transform = create_transform(
            recipe.img_size,
            is_training=True,
            scale=(1.0, 1.0),
            ratio=(1.0, 1.0),
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter,
            re_prob=recipe.random_erasing,
            re_mode="pixel",
            **usual_channels(recipe.arch),
        )
        if recipe.affine:
            move = RandomAffine(recipe.affine, (0.05, 0.05), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
            self.transform = Compose([move, self.transform])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        if self.pixels is not None:
            image = self.pixels[row]
        else:
            image = prepare_image(read_image_bytes(self.root, self.paths[row]), self.preprocessing)
        return self.transform(Image.fromarray(image)), int(self.labels[row]), row


def make_loader(
    part: Benchmark,
    pixels: np.ndarray | None,
    recipe: Recipe,
    preprocessing: Preprocessing,
    device: torch.device,
    workers: int | None,
) -> DataLoader:
    """Return the loader of augmented batches."""
    dataset = TrainingImages(part, pixels, recipe, preprocessing)
    sampler: Sampler = RandomSampler(dataset)
    if recipe.balance == "sampling":
        sampler = WeightedRandomSampler(class_weights(part)[part.labels].tolist(), len(part))
    return DataLoader(
        dataset,
        batch_size=recipe.batch_size,
        sampler=sampler,
        drop_last=len(part) >= 2 * recipe.batch_size,  # batch norm learns nothing from a batch of one
        num_workers=decoding_workers(workers),
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def class_weights(part: Benchmark) -> np.ndarray:
    """Return (C,) weights inverse to the classes' frequency, 1 on average over the rows; 0 for an absent class."""
    counts = np.bincount(part.labels, minlength=len(part.classes))
    present = counts > 0
    return np.where(present, len(part) / (present.sum() * np.maximum(counts, 1)), 0.0)
