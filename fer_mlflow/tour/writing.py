"""Drawn faces on disk: images, a manifest, and a sheet to look at."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from fer_mlflow.errors import ManifestError
from fer_mlflow.files import written_file
from fer_mlflow.tour.faces import SIZE, DrawnFace, draw_face

VERSION = 1  # raised when the same seed gives other faces
_MADE, _MANIFEST = "drawn.json", "manifest.csv"


def write_faces(folder: str | Path, count: int, seed: int, on_face: Callable[[], object] = lambda: None) -> Path:
    """Draw `count` faces into a folder and return the manifest's path.

    The manifest (path, label, split, source, identity) is written last, so where it is, all images are. A folder
    that is complete is left as it is; one that was interrupted is completed.

    Parameters
    ----------
    on_face : called after each face

    Raises
    ------
    ManifestError
        the folder holds faces of another count, seed or version
    """
    folder = Path(folder)
    wanted = {"count": count, "seed": seed, "version": VERSION}
    made, manifest = folder / _MADE, folder / _MANIFEST
    if made.exists() and (found := json.loads(made.read_text())) != wanted:
        raise ManifestError(f"{folder} holds drawn faces {found}, not {wanted}; remove it or choose another folder")
    if made.exists() and manifest.exists():
        return manifest
    with written_file(made) as file:
        file.write(json.dumps(wanted).encode())
    lines = ["path,label,split,source,identity"]
    for index in range(count):
        face = draw_face(seed, index)
        path = f"images/{face.source}/{index:05d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), face.image, [cv2.IMWRITE_JPEG_QUALITY, face.quality])
        lines.append(f"{path},{face.label},{face.split},{face.source},{face.person}")
        on_face()
    with written_file(manifest) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return manifest


def contact_sheet(faces: Iterable[DrawnFace], labels: list[str], sources: list[str], each: int = 3) -> np.ndarray:
    """Return a picture of faces by label (down) and source (across), `each` of a kind, with their names.

    Returns
    -------
    (20 + len(labels) * SIZE, 80 + len(sources) * each * SIZE, 3) uint8 BGR; grey where there is no such face
    """
    left, top = 80, 20
    shape = (top + len(labels) * SIZE, left + len(sources) * each * SIZE, 3)
    sheet = np.full(shape, 40, np.uint8)
    cells = [(label, source) for label in labels for source in sources]
    found: dict[tuple[str, str], list[np.ndarray]] = {cell: [] for cell in cells}
    for face in faces:
        kept = found.get((face.label, face.source), [])
        if len(kept) < each:
            kept.append(face.image)
        if all(len(images) == each for images in found.values()):
            break
    for (label, source), images in found.items():
        for number, image in enumerate(images):
            y = top + labels.index(label) * SIZE
            x = left + (sources.index(source) * each + number) * SIZE
            sheet[y : y + SIZE, x : x + SIZE] = image
    for number, label in enumerate(labels):
        _write(sheet, label, 6, top + number * SIZE + SIZE // 2)
    for number, source in enumerate(sources):
        _write(sheet, source, left + number * each * SIZE + 6, 14)
    return sheet


def _write(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
