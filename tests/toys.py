"""Small data that every test may share: images, manifests, teachers of real architectures with random weights."""

import os
import sqlite3
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


def store_files(url: str, files: dict[str, bytes]) -> str:
    """Write files under a URL in an object store, whose bucket is made where it is not there; return the URL."""
    from fsspec.core import url_to_fs

    store, top = url_to_fs(url)
    if url.startswith("s3://") and not store.exists(top.partition("/")[0]):
        store.mkdir(top.partition("/")[0])
    store.pipe({f"{top}/{name}": data for name, data in files.items()})
    return url


def store_folder(folder: Path, url: str) -> str:
    """Copy a folder to a URL in an object store; return the URL."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return store_files(url, files)


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


def draw_logits(
    rows: int, *, temperature: float = 2.0, seed: int = 0, classes: int = len(CLASSES), spread: float = 1.5
):
    """Return (rows, classes) float32 logits and int64 labels that are calibrated at a temperature, about."""
    rng = np.random.default_rng(seed)
    log_probs = rng.normal(0, spread, (rows, classes))
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    labels = np.array([rng.choice(classes, p=np.exp(row) / np.exp(row).sum()) for row in log_probs])
    return (temperature * log_probs).astype(np.float32), labels


def write_bundle(
    folder: Path,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    classes: tuple[str, ...] = CLASSES,
    paths: list[str] | None = None,
    split: str = "test",
    sources: list[str] | None = None,
    images: list[str] | None = None,
    weights: dict[str, float] | None = None,
    space: str = "logit",
    precision: str = "fp32",
    clahe: dict | None = None,
    manifest_sha256: str = "ab" * 32,
    benchmark: str = "faces:test",
    **report,
):
    """Write the bundle that `export` would make of such logits, and return it; a label of -1 is none.

    `images` are texts, each standing for the content of a file; without them each path is an image of its own.
    """
    import hashlib

    import pandas as pd

    from fer_mlflow import SoftLabels
    from fer_mlflow.data.manifest import selection_digest

    rows, weights, labels = len(logits), weights or {"A": 0.5, "B": 0.5}, np.asarray(labels)
    paths = [f"images/f{row:04d}.jpg" for row in range(rows)] if paths is None else paths
    known = labels >= 0
    index = pd.DataFrame(
        {
            "row": np.arange(rows),
            "path": paths,
            "label": [classes[label] if label >= 0 else "" for label in labels],
            "split": split,
            "source": ["web" if row % 2 else "lab" for row in range(rows)] if sources is None else sources,
            "image_sha256": [
                hashlib.sha256(text.encode()).hexdigest() for text in (paths if images is None else images)
            ],
        }
    )
    content = {
        "benchmark": {
            "name": benchmark,
            "selected_rows": rows,
            "selected_sha256": selection_digest(index),
            "rows": rows,
            "labelled_rows": int(known.sum()),
        },
        "ensemble": {"weights": weights, "space": space, "dtype": logits.dtype.name, "precision": precision},
        "teachers": {name: teacher(clahe=clahe) for name in weights},
        "unreadable": [],
        "checks": [],
    }
    return SoftLabels.of(
        logits=logits,
        index=index,
        classes=classes,
        report=content | report,
        manifest_sha256=manifest_sha256,
        checkpoints={name: hashlib.sha256(name.encode()).hexdigest() for name in weights},
    ).write(folder)


def teacher(size: int = 32, clahe: dict | None = None, in_sample: str = "unknown") -> dict:
    """Return a teacher as the alignment report has it; `clahe` has clip, tile and pattern_sha256."""
    from fer_mlflow.data.preprocessing import Preprocessing

    preprocessing = Preprocessing(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).as_json() | {"clahe": clahe}
    return {"preprocessing": preprocessing, "in_sample": in_sample}


def publish(
    workplace, bundle, kind: str = "export", *, name: str = "", params: dict[str, str] | None = None, **tags: str
) -> str:
    """Log a bundle as a finished run of a workplace, as `export` does, and return the run's id."""
    from unittest.mock import patch

    from fer_mlflow.tracking.bundles import publish_bundle
    from fer_mlflow.tracking.runs import open_run

    with patch.dict(os.environ, workplace.env), open_run(kind, name or f"a toy {kind}") as run:
        run.log(params or {})
        key = f"{bundle.selection_sha256[:32]}.{bundle.sha256[:32]}"
        publish_bundle(run, bundle, key, {"fer.kind": kind} | tags)
    return run.run_id


def publish_ensemble(
    workplace, folder: Path, logits: dict[str, np.ndarray], labels, weights: dict[str, float], **parts
):
    """Log teacher runs and the export run of their mean in a space, and return the export run's id and bundle."""
    from fer_mlflow.scoring.fusion import fuse

    teachers = {}
    for name, own in logits.items():
        alone = write_bundle(folder / name, own, labels, weights={name: 1.0}, **(parts | {"space": "logit"}))
        teachers[f"fer.teacher_run/{name}"] = publish(workplace, alone, "teacher")
    fused = fuse(logits, weights, parts.get("space", "logit")).astype(np.float32)
    bundle = write_bundle(folder / "ensemble", fused, labels, weights=weights, **parts)
    return publish(workplace, bundle, **teachers), bundle


def count_runs(workplace) -> dict[str, int]:
    """Return status -> number of a workplace's runs, read from its SQLite store, which takes no time."""
    connection = sqlite3.connect(workplace.folder / "mlflow.db")
    counts = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall())
    connection.close()
    return counts


def repeated_params(run) -> list[str]:
    """Return names of a run's params that have no value, or say what another says."""
    params = run.data.params
    pairs = [("ensemble", "weights"), *((name, f"ensemble/{name}") for name in params)]
    twice = [" and ".join(pair) for pair in pairs if params.keys() >= set(pair)]
    return twice + [name for name, text in params.items() if text.strip("'\"") == ""]


def error_line(result) -> str:
    """Return the one line that a refused command says, after checking that it is all."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fer-mlflow: ")
    return result.stderr.removeprefix("fer-mlflow: ").rstrip("\n")


def artifact(run, path: str) -> Path:
    """Return an artifact of a run of a local store."""
    return Path(run.info.artifact_uri.removeprefix("file://")) / path


def binned_gap(confidence, outcome, edges) -> float:
    """Return the bin-weighted gap over bins (lo, hi], the first from 0 on, a loop."""
    total = 0.0
    for low, high in zip([-1, *edges[1:-1]], edges[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - outcome[inside].mean())
    return total / len(confidence)


def expected_metrics(logits, labels, classes: tuple[str, ...] = CLASSES) -> dict[str, float]:
    """Return every metric of labelled logits by other means than the package's; the null is simulated, so not here."""
    import sklearn.metrics
    from scipy.special import log_softmax, softmax

    logits = logits.astype(np.float64)
    probs, predictions = softmax(logits, axis=1), logits.argmax(axis=1)
    confidence, correct = probs.max(axis=1), predictions == labels
    present = sorted(set(labels.tolist()))
    f1 = sklearn.metrics.f1_score(labels, predictions, labels=present, average=None, zero_division=0)
    recall = sklearn.metrics.recall_score(labels, predictions, labels=present, average=None, zero_division=0)
    edges = np.linspace(0, 1, 16)
    ordered = np.sort(confidence)  # no ties in these tests
    ends = sorted({round(k * len(labels) / 15) for k in range(1, 16)} - {0})
    mass = [0.0, *(ordered[end - 1] for end in ends)]
    one_hot = np.eye(len(classes))[labels]
    return {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "macro_f1": f1.mean(),
        "balanced_accuracy": recall.mean(),
        **{f"f1/{classes[k]}": score for k, score in zip(present, f1, strict=True)},
        "nll": -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean(),
        "brier": np.square(probs - one_hot).sum(axis=1).mean(),
        "ece": binned_gap(confidence, correct, edges),
        "ece_adaptive": binned_gap(confidence, correct, mass),
        "ece_classwise": np.mean([binned_gap(probs[:, k], labels == k, edges) for k in range(len(classes))]),
        "mean_max_prob": confidence.mean(),
        "p99_max_prob": np.quantile(confidence, 0.99),
    }


SHARES = {"A": 0.7, "B": 0.3}


def logits_of(part, name: str) -> np.ndarray:
    """Return logits that every path has of its own, whatever its row."""
    rows = [np.random.default_rng(sum(map(ord, name + path))).normal(0, 2, len(CLASSES)) for path in part.paths]
    return np.array(rows, dtype=np.float32)


def write_soft_labels(folder: Path, part, *, space: str = "logit", dtype: str = "float32", shares=SHARES):
    """Write the soft labels of a benchmark as `export` would, of teachers whose logits are `logits_of`."""
    from fer_mlflow.data.scan import hash_images
    from fer_mlflow.softlabels.configuration import Configuration
    from fer_mlflow.softlabels.ensemble import fuse_ensemble, soft_labels_of_teacher
    from fer_mlflow.teachers.spec import PredictedLogits

    digests = hash_images(part.root, part.paths)
    described = teacher() | {"trained_with_clahe": None}
    teachers = {}
    for name in shares:
        logits = PredictedLogits(np.arange(len(part)), logits_of(part, name), digests, (), described, (), 0)
        teachers[name] = soft_labels_of_teacher(part, name, logits, "0" * 64, "fp32", images_verified=True)
    configuration = Configuration(shares, space, dtype)
    return fuse_ensemble(part, teachers, configuration, images_verified=True).write(folder)
