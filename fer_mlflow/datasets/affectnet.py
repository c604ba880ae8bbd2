"""AffectNet, manually annotated: one .npy file for each image, or the older CSV files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.manifest import find_unusable
from fer_mlflow.data.published import CODES
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import track

_SETS = {"train_set": "train", "val_set": "val"}
_TABLES = {"training.csv": "train", "validation.csv": "val"}
_LISTS = "Manually_Annotated_file_lists"
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated", "Manually_Annotated_compressed", "images")
_ENDING = "_exp.npy"
_TRIED = 2000  # paths of a CSV that are looked for in each folder that may hold its images


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the rows of `train_set/` and `val_set/`, or of `training.csv` and `validation.csv`.

    Codes 8 to 10 are no faces and are left out; so is contempt unless the classes have it.
    """
    wanted = [f"{name}/annotations" for name in _SETS] + [*_TABLES, *(f"{_LISTS}/{name}" for name in _TABLES)]
    folder = datasets.find_inside(request.folder, wanted, "AffectNet")
    if any((folder / name / "annotations").is_dir() for name in _SETS):
        return _list_sets(folder, request)
    return _list_tables(folder)


def _list_sets(folder: Path, request: datasets.Request) -> datasets.Listing:
    """List the layout with ID_exp.npy files."""
    parts, unlisted = [], 0
    for name, split in _SETS.items():
        if not (folder / name / "annotations").is_dir():
            continue
        annotations = datasets.nested(folder / name, "annotations")[-1]
        files = sorted(file for file in os.listdir(annotations) if file.endswith(_ENDING))
        if not files:
            raise ManifestError(f"{annotations}: no ID{_ENDING} in it; unpack the annotations there")
        tracked = track(files, f"reading labels of {name}", len(files), request.progress)
        words = [_word_in(annotations / file) for file in tracked]
        stems = [file.removesuffix(_ENDING) for file in files]
        images = (datasets.nested(folder / name, "images") or [folder / name / "images"])[-1]
        there = {file.rpartition(".")[0]: file for file in os.listdir(images)} if images.is_dir() else {}
        prefix = images.relative_to(folder).as_posix()
        paths = [f"{prefix}/{there.get(stem, f'{stem}.jpg')}" for stem in stems]
        unlisted += len(there.keys() - set(stems))
        parts.append(pd.DataFrame({"path": paths, "label": words, "split": split}))
    return datasets.Listing(pd.concat(parts, ignore_index=True), folder, unlisted=unlisted)


def _word_in(path: Path) -> str | None:
    """Return the class in a .npy file of one integer, which some releases store as text."""
    try:
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ManifestError(f"{path}: not a .npy file of one label ({' '.join(str(error).split())})") from error
    if value.size != 1:
        raise ManifestError(f"{path}: found {value.size} values; the file of one image holds one label")
    return CODES["affectnet"].parse(str(value.item()), str(path))


def _list_tables(folder: Path) -> datasets.Listing:
    """List the layout with CSV files."""
    lists = folder / _LISTS if (folder / _LISTS).is_dir() else folder
    parts = []
    for path, split in ((lists / name, split) for name, split in _TABLES.items() if (lists / name).is_file()):
        table = datasets.read_table(path, ["subDirectory_filePath", "expression"])
        words = datasets.parse_codes(table["expression"], CODES["affectnet"], path)
        parts.append(pd.DataFrame({"path": table["subDirectory_filePath"], "label": words, "split": split}))
    rows = pd.concat(parts, ignore_index=True)
    folders = [folder, folder.parent] if lists == folder else [folder]
    for _ in range(2):  # such as Manually_Annotated/Manually_Annotated_Images
        folders += [each for top in tuple(folders) for name in _IMAGES for each in datasets.nested(top, name)]
    tried = rows["path"].head(_TRIED)
    images, _ = datasets.fullest((each, tried) for each in dict.fromkeys(folders))
    if find_unusable(tried, images)[0].all() and len(folders) > 2:
        images = folders[2]
    return datasets.Listing(rows, images)
