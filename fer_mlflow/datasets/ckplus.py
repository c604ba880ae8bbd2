"""CK+: sequences of frames with a label file each, or class-named folders of the last frames."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.folder import list_classes
from fer_mlflow.errors import ManifestError

_LABELS, _FRAMES = ("Emotion", "Emotion_labels"), ("cohn-kanade-images", "extended-cohn-kanade-images")
_ENDING = "_emotion.txt"


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the peak (last) frame of every labelled sequence, or all images of class-named folders.

    The column `identity` holds the subject. There are no splits.
    """
    classes = [name for word in CODES["ckplus"].names for name in (word, word.title())]
    folder = datasets.find_inside(request.folder, [*_LABELS, *classes], "CK+")
    label_folders = [folder / name for name in _LABELS if (folder / name).is_dir()]
    if label_folders:
        return _list_sequences(folder, label_folders[0])
    found = list_classes(folder, request.classes)
    subjects = found.rows["path"].str.extract(r"(?:^|/)(S\d+)[^/]*$", expand=False).fillna("")
    return replace(found, rows=found.rows.assign(identity=subjects))


def _list_sequences(folder: Path, labels: Path) -> datasets.Listing:
    """List the layout with one _emotion.txt for each labelled sequence."""
    files = sorted(labels.rglob(f"*{_ENDING}"))
    if not files:
        raise ManifestError(f"{labels}: no file *{_ENDING} below it; unpack the emotion labels there")
    frames = _folder_of_frames(folder)
    entries = []
    for file in files:
        where, line = next(datasets.read_lines(file))
        word = CODES["ckplus"].parse(line, where)
        subject, sequence = file.name.split("_")[:2]
        entries.append((_peak_of(frames, subject, sequence, file.name.removesuffix(_ENDING)), word, "", subject))
    rows = pd.DataFrame(entries, columns=["path", "label", "split", "identity"], dtype=str)
    sequences = {path.relative_to(frames).as_posix() for path in frames.glob("S*/*") if path.is_dir()}
    unlabelled = sequences - {path.rpartition("/")[0] for path in rows["path"]}
    skipped = {"sequences without a label file": len(unlabelled)} if unlabelled else {}
    return datasets.Listing(rows, frames, skipped=skipped)


def _folder_of_frames(folder: Path) -> Path:
    """Return the folder that holds S005/001/…png."""
    for name in _FRAMES:
        for each in (folder / name, folder / name / name, folder / _FRAMES[1] / _FRAMES[0]):
            if any(path.is_dir() for path in each.glob("S*")):
                return each
    raise ManifestError(
        f"{folder}: no folder {' or '.join(_FRAMES)} with subjects S… in it; unpack the images beside the labels"
    )


def _peak_of(frames: Path, subject: str, sequence: str, named: str) -> str:
    """Return the path of a sequence's last frame; where the folder is empty, the frame that the label names."""
    names = [name for name in datasets.image_names(frames / subject / sequence) if not name.startswith(".")]
    return f"{subject}/{sequence}/{max(names, default=f'{named}.png')}"
