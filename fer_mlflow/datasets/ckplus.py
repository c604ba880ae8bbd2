"""CK+: sequences of frames with a label file each, or class-named folders of the last frames."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.files import parse_code, read_lines
from fer_mlflow.datasets.folder import list_classes
from fer_mlflow.datasets.listing import IMAGE_ENDINGS, Listing, Request, find_inside, select_labels
from fer_mlflow.errors import ManifestError

_LABELS, _FRAMES = ("Emotion", "Emotion_labels"), ("cohn-kanade-images", "extended-cohn-kanade-images")
_ENDING = "_emotion.txt"
_SUBJECT = re.compile(r"S\d+")


def list_rows(request: Request) -> Listing:
    """List the peak (last) frame of every labelled sequence, or all images of class-named folders.

    The column `identity` holds the subject. There are no splits.

    Raises ManifestError: neither layout is there, or a label is out of range.
    """
    classes = [name for word in CODES["ckplus"].names for name in (word, word.title())]
    folder = find_inside(request.folder, [*_LABELS, *classes], "CK+")
    label_folders = [folder / name for name in _LABELS if (folder / name).is_dir()]
    if not label_folders:
        return list_classes(folder, request.classes, identity_of=_subject_of)
    return _list_sequences(folder, label_folders[0], request)


def _subject_of(name: str) -> str:
    found = _SUBJECT.match(name)
    return found[0] if found else ""


def _list_sequences(folder: Path, labels: Path, request: Request) -> Listing:
    """List the layout with one _emotion.txt for each labelled sequence."""
    files = sorted(labels.rglob(f"*{_ENDING}"))
    if not files:
        raise ManifestError(f"{labels}: no file *{_ENDING} below it; unpack the emotion labels there")
    frames = _folder_of_frames(folder)
    rows, words = [], []
    for file in files:
        number, line = next(read_lines(file))
        words.append(parse_code(line, CODES["ckplus"], file, number))
        subject, sequence = file.name.split("_")[:2]
        rows.append((_peak_of(frames, subject, sequence, file.name.removesuffix(_ENDING)), subject))
    dropped: Counter[str] = Counter()
    frame = pd.DataFrame(rows, columns=["path", "identity"], dtype=str)
    frame.insert(1, "label", select_labels(words, request.classes, dropped))
    frame.insert(2, "split", "")
    labelled = {path.rpartition("/")[0] for path in frame["path"]}
    sequences = {path.relative_to(frames).as_posix() for path in frames.glob("S*/*") if path.is_dir()}
    if unlabelled := len(sequences - labelled):
        dropped["sequences without a label file"] += unlabelled
    return Listing(frame.dropna(subset="label").reset_index(drop=True), frames, skipped=dropped)


def _folder_of_frames(folder: Path) -> Path:
    """Return the folder that holds S005/001/…png."""
    for name in _FRAMES:
        for each in (folder / name, folder / name / name, folder / _FRAMES[1] / _FRAMES[0]):
            if each.is_dir() and any(path.is_dir() for path in each.glob("S*")):
                return each
    raise ManifestError(
        f"{folder}: no folder {' or '.join(_FRAMES)} with subjects S… in it; unpack the images beside the labels"
    )


def _peak_of(frames: Path, subject: str, sequence: str, named: str) -> str:
    """Return the path of a sequence's last frame; where the folder is empty, the frame that the label names."""
    folder = frames / subject / sequence
    names = [path.name for path in folder.glob("*") if path.name.lower().endswith(IMAGE_ENDINGS)]
    last = max((name for name in names if not name.startswith(".")), default=f"{named}.png")
    return f"{subject}/{sequence}/{last}"
