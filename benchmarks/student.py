"""What reading soft labels costs in a training step: the same images, loader and model, with and without them.

    python benchmarks/student.py [--rows 512] [--steps 60]

Steps with and without soft labels take turns in one thread, and processor time is counted, so that other work of the
machine counts little. Both compute the cross-entropy alone: what is timed is the reading, not the arithmetic of a
distillation loss, which a last line tells.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from limits import finish, verdict
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms

from fer_mlflow import SoftLabelDataset, kd_loss
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.images import describe_preprocessing
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.data.scan import hash_images
from fer_mlflow.softlabels.ensemble import soft_labels_of_teacher
from fer_mlflow.teachers.spec import PredictedLogits
from fer_mlflow.tour.faces import write_faces

LIMIT = 1.02
SIDE, BATCH = 64, 32


class WithoutSoftLabels(SoftLabelDataset):
    """The same rows as (image, label)."""

    def __getitem__(self, row):
        return self.read_image(row), int(self.labels[row])


def make_soft_labels(folder: Path, rows: int) -> tuple[Path, Path]:
    """Draw faces, and write soft labels of all of them that are random numbers; return manifest and bundle."""
    manifest = write_faces(folder / "faces", rows, 0)
    part = read_benchmark(manifest, FER7)
    logits = np.random.default_rng(0).normal(0, 2, (rows, len(FER7))).astype(np.float32)
    teacher = {"preprocessing": describe_preprocessing(Preprocessing(SIDE)), "trained_with_clahe": None}
    digests = hash_images(part.root, part.paths.tolist())
    predicted = PredictedLogits(np.arange(rows), logits, digests, (), teacher, (), 0)
    soft_labels = soft_labels_of_teacher(part, "A", predicted, "0" * 64, "fp32", images_verified=True)
    soft_labels.write(folder / "softlabels")
    return manifest, folder / "softlabels"


def forever(dataset) -> Iterator:
    """Yield shuffled batches without end."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=1 << 20)
    yield from DataLoader(dataset, batch_size=BATCH, sampler=sampler)


def step(batches: Iterator, model, optimizer, temperature: float | None = None) -> float:
    """Take one step and return its seconds of processor time."""
    began = time.process_time()
    images, labels, *logits = next(batches)
    outputs = model(images)
    loss = cross_entropy(outputs, labels)
    if temperature is not None:
        loss = loss + kd_loss(outputs, logits[0], temperature)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    with tempfile.TemporaryDirectory() as folder:
        manifest, softlabels = make_soft_labels(Path(folder), options.rows)
        torch.manual_seed(0)
        torch.set_num_threads(1)
        model = timm.create_model("resnet10t", num_classes=len(FER7))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        plain = forever(WithoutSoftLabels(manifest, softlabels, transform))
        soft = forever(SoftLabelDataset(manifest, softlabels, transform))
        for _ in range(5):
            step(plain, model, optimizer)
            step(soft, model, optimizer)
        times: dict[str, list[float]] = {"plain": [], "soft": [], "kd": []}
        for number in range(options.steps):
            turns = [("plain", plain, None), ("soft", soft, None), ("kd", soft, 4.0)]
            for name, batches, temperature in turns[number % 3 :] + turns[: number % 3]:
                times[name].append(step(batches, model, optimizer, temperature))
    best = {name: float(np.median(each)) for name, each in times.items()}
    ratio = best["soft"] / best["plain"]
    print(f"resnet10t, {SIDE} px, batches of {BATCH}, {options.steps} steps of each, one thread")
    print(f"  (image, label)                     {best['plain'] * 1000:8.2f} ms a step")
    print(f"  (image, label, logits)             {best['soft'] * 1000:8.2f} ms a step")
    print(f"  ratio                              {ratio:8.4f}  {verdict(ratio, LIMIT)}")
    print(f"  with KD computed from them too     {best['kd'] * 1000:8.2f} ms a step, {best['kd'] / best['plain']:.4f}")
    finish()


if __name__ == "__main__":
    main()
