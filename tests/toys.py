"""Small data that every test may share: images, manifests, teachers of real architectures with random weights."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
# name -> (timm architecture made for tests, image size, mean and std of all channels)
TEACHERS = {
    "A": ("test_resnet", 32, 0.5, 0.25),
    "B": ("test_convnext", 32, 0.4, 0.3),
    "C": ("test_efficientnet", 48, 0.5, 0.5),
}


def face(number: int, side: int = 40) -> np.ndarray:
    """Return a (side, side + number % 3, 3) uint8 image that no other number has."""
    rng = np.random.default_rng(number)
    image = cv2.resize(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8), (side + number % 3, side))
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def write_faces(folder: Path, count: int, *, split: str = "test", labelled: bool = True) -> Path:
    """Write `count` JPEGs and their manifest; labels go round the classes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = ["path,label,split,source"]
    for number in range(count):
        name = f"images/f{number:04d}.jpg"
        cv2.imwrite(str(folder / name), face(number))
        label = CLASSES[number % 7] if labelled else ""
        lines.append(f"{name},{label},{split},{'web' if number % 2 else 'lab'}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_many_faces(folder: Path, count: int, distinct: int = 50) -> Path:
    """Write a manifest of many rows whose images are links to few files."""
    write_faces(folder, distinct)
    lines = ["path,label,split,source"]
    for number in range(count):
        name = f"images/m{number:05d}.jpg"
        (folder / name).hardlink_to(folder / f"images/f{number % distinct:04d}.jpg")
        lines.append(f"{name},{CLASSES[number % 7]},test,web")
    path = folder / "many.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_model(name: str):
    """Return a toy teacher's model: random weights that give each image logits of its own."""
    import timm
    import torch

    torch.manual_seed(sum(map(ord, name)))
    model = timm.create_model(TEACHERS[name][0], num_classes=len(CLASSES))
    with torch.no_grad():
        model.get_classifier().weight.mul_(20)  # timm starts the last layer near zero
    return model.eval()


def write_teachers(folder: Path, names: str = "ABC") -> Path:
    """Write checkpoints of toy teachers and their teachers.yaml."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in names:
        arch, size, mean, std = TEACHERS[name]
        torch.save({"model": make_model(name).state_dict(), "classes": list(CLASSES)}, folder / f"{name}.pt")
        lines.append(
            f"{name}: {{arch: {arch}, checkpoint: {name}.pt, img_size: {size}, mean: {[mean] * 3}, std: {[std] * 3}}}"
        )
    path = folder / "teachers.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
