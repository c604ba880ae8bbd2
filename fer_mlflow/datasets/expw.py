"""ExpW: boxes of faces in photographs, whose crops are written out."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.data.published import CODES
from fer_mlflow.errors import ImageError, ManifestError

_LIST = "label.lst"


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the faces of `label.lst`; a line is image, face id, top, left, right, bottom, confidence, label.

    Crops are written as `NAME_FACEID.png`. The columns `photo` and `confidence` hold the photograph and the box's
    score: faces of one photograph should stay in one split. There are no splits.
    """
    folder = datasets.find_inside(request.folder, [_LIST, f"label/{_LIST}"], "ExpW")
    path = folder / _LIST if (folder / _LIST).is_file() else folder / "label" / _LIST
    rows, boxes = _read_faces(path)
    tops = (folder, folder / "data", folder / "image", folder / "data" / "image")
    inner = [each for top in tops for name in ("image", "origin") for each in datasets.nested(top, name)]
    photos, _ = datasets.fullest((each, rows["photo"]) for each in dict.fromkeys([folder, *inner]))
    unlisted = max(len(datasets.image_names(photos)) - rows["photo"].nunique(), 0)
    write = partial(_write_crops, boxes=boxes, photos=photos, request=request)
    return datasets.Listing(rows, request.images, searched=photos, tried="photo", unlisted=unlisted, write=write)


def _read_faces(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the faces of a list, and their boxes, (N, 4) int64: top, left, right, bottom."""
    faces, boxes = [], []
    for where, line in datasets.read_lines(path):
        try:
            photo, face, *box, confidence, code = line.rsplit(maxsplit=7)
            top, left, right, bottom = map(int, box)
            float(confidence)
        except ValueError as error:
            raise ManifestError(
                f'{where}: found "{line}"; a line is image face_id top left right bottom confidence label. '
                "Is the file complete?"
            ) from error
        if top >= bottom or left >= right:
            raise ManifestError(f"{where}: box top {top}, left {left}, right {right}, bottom {bottom} holds no pixel")
        faces.append((f"{photo.rpartition('.')[0]}_{face}", CODES["expw"].parse(code, where), "", photo, confidence))
        boxes.append((top, left, right, bottom))
    frame = pd.DataFrame(faces, columns=["path", "label", "split", "photo", "confidence"], dtype=str)
    again = frame.groupby("path").cumcount()  # a face id that a photograph has twice
    frame["path"] = frame["path"] + again.map(lambda n: f"_{n}" if n else "").astype(str) + ".png"
    return frame, np.array(boxes, np.int64)


def _write_crops(found: pd.DataFrame, boxes: np.ndarray, photos: Path, request: datasets.Request) -> dict[int, str]:
    """Write crops, each photograph decoded once; return the faces that have none, and why."""

    def crop(group: tuple[str, pd.Series]) -> dict[int, str]:
        photo, paths = group
        try:
            image = decode_image(read_image_bytes(photos, photo))
        except ImageError:
            return dict.fromkeys(paths.index, "whose photograph cannot be decoded")
        failed = {}
        for row, path in paths.items():
            top, left, right, bottom = boxes[row].clip(0)
            pixels = image[top:bottom, left:right]
            if pixels.size:
                datasets.write_png(request.images / path, pixels)
            else:
                failed[row] = "whose box lies outside its photograph"
        return failed

    groups = list(found.groupby("photo", sort=False)["path"])
    results = datasets.on_all_cores(crop, groups, "cropping faces", len(groups), request.progress)
    return {row: reason for failed in results for row, reason in failed.items()}
