"""Tiny data sets with the names and layouts in which the real ones are shipped."""

from pathlib import Path

import cv2
import numpy as np
import toys

CONTEMPT_TOO = (*toys.CLASSES, "Contempt")


def put(path: Path, number: int = 0) -> None:
    """Write an image that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), toys.face(number))


RAFDB_LIST = """train_00001.jpg 5
train_00002.jpg 4
train_00003.jpg 1
test_0001.jpg 7
test_0002.jpg 3
test_0003.jpg 6
test_0004.jpg 2"""  # like the real file, without a newline at the end


def rafdb(root: Path, images: str = "Image/aligned", suffix: str = "_aligned", lines: str = RAFDB_LIST) -> Path:
    """Write RAF-DB's basic set: a list of labels and aligned faces."""
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text(lines)
    for number, line in enumerate(RAFDB_LIST.splitlines()):
        stem = line.split(".")[0]
        put(root / images / f"{stem}{suffix}.jpg", number)
    return root


def affectnet_sets(root: Path, labels: dict[str, object]) -> Path:
    """Write AffectNet's layout of .npy files; `labels` maps `train_set/12` to what ID_exp.npy holds."""
    for number, (name, value) in enumerate(labels.items()):
        folder, _, stem = name.partition("/")
        put(root / folder / "images" / f"{stem}.jpg", number)
        (root / folder / "annotations").mkdir(exist_ok=True)
        np.save(root / folder / "annotations" / f"{stem}_exp.npy", value)
        np.save(root / folder / "annotations" / f"{stem}_val.npy", np.array("0.12"))
    return root


def pixels(number: int) -> np.ndarray:
    """Return (48, 48) uint8 grey values that no other number has."""
    return cv2.resize(cv2.cvtColor(toys.face(number), cv2.COLOR_BGR2GRAY), (48, 48))


def fer2013_csv(path: Path, rows: list[tuple[object, str]], header: str = "emotion,pixels,Usage") -> Path:
    """Write a CSV of pixels: rows of (code, usage); columns in the order of the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name.strip() for name in header.split(",")]
    lines = [header]
    for number, (code, usage) in enumerate(rows):
        text = " ".join(map(str, pixels(number).ravel()))
        values = {"emotion": str(code), "pixels": text, "Usage": usage}
        lines.append(",".join(values[name] for name in names))
    path.write_text("\n".join(lines) + "\n")
    return path


FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def expw(root: Path, lines: list[str], photos: dict[str, np.ndarray], images: str = "image/origin") -> Path:
    """Write ExpW: a list of boxes, and photographs (saved without loss under their .jpg names)."""
    (root / "label").mkdir(parents=True)
    (root / "label" / "label.lst").write_text("\n".join(lines) + "\n")
    (root / images).mkdir(parents=True)
    for name, photo in photos.items():
        (root / images / name).write_bytes(cv2.imencode(".png", photo)[1].tobytes())
    return root


def ckplus(root: Path, labels: dict[str, str], frames: dict[str, int], images: str = "cohn-kanade-images") -> Path:
    """Write CK+: `labels` maps S005/001/…_emotion.txt to its text, `frames` maps S005/001 to a number of frames."""
    for name, text in labels.items():
        path = root / "Emotion" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for number, (sequence, count) in enumerate(frames.items()):
        stem = sequence.replace("/", "_")
        for frame in range(1, count + 1):
            put(root / images / sequence / f"{stem}_{frame:08d}.png", 10 * number + frame)
    return root
