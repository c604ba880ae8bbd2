"""Folders named after classes, with folders named after splits above them or not."""

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.published import SPLIT_WORDS
from fer_mlflow.datasets.listing import IMAGE_ENDINGS, Listing, Request, is_expression
from fer_mlflow.errors import ManifestError

_WRAPPED = 3  # folders with nothing but one folder in them that are gone through


def list_rows(request: Request) -> Listing:
    """List the images of class-named folders.

    Raises ManifestError: a folder's name is neither a class nor a split, or there is no image.
    """
    return list_classes(_unwrapped(request.folder, request.classes), request.classes)


def list_classes(folder: Path, classes: ClassOrder, identity_of: Callable[[str], str] | None = None) -> Listing:
    """List the images under class-named folders, in the order of their paths.

    Parameters
    ----------
    identity_of : file name -> the person, for a column of that name
    """
    rows, unlisted = [], 0
    for name in _folder_names(folder):
        split = SPLIT_WORDS.get(name.casefold())
        class_folders = _folder_names(folder / name) if split else [name]
        above = f"{name}/" if split else ""
        for word in class_folders:
            _check_word(word, classes, folder / above.rstrip("/"))
            for path in _files_under(folder, f"{above}{word}"):
                if path.lower().endswith(IMAGE_ENDINGS):
                    rows.append((path, word, split or ""))
                else:
                    unlisted += 1
    if not rows:
        raise ManifestError(
            f"{folder}: no image in folders named after {', '.join(classes.names)}, with train, val, test above them "
            f"or not; found {', '.join(_folder_names(folder)[:8]) or 'no folder'}"
        )
    frame = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=str)
    if identity_of is not None:
        frame["identity"] = [identity_of(path.rpartition("/")[2]) for path in frame["path"]]
    return Listing(frame, folder, unlisted=unlisted)


def _unwrapped(folder: Path, classes: ClassOrder) -> Path:
    """Return the folder itself, or the one below it when it holds nothing else."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the one that holds the class-named folders")
    for _ in range(_WRAPPED):
        names = _folder_names(folder)
        is_wrapping = len(names) == 1 and names[0].casefold() not in SPLIT_WORDS
        if not is_wrapping or classes.index_of(names[0]) is not None or is_expression(names[0]):
            break
        folder = folder / names[0]
    return folder


def _check_word(word: str, classes: ClassOrder, above: Path) -> None:
    """Refuse a folder that is named after neither a class nor another expression."""
    if word.isdecimal() and classes.integers:
        raise ManifestError(
            f'{above}: folder "{word}" is named by a number, and data sets number classes differently; '
            'define the numbers with --classes (a YAML file, such as Happy: ["4"])'
        )
    if classes.index_of(word) is None and not is_expression(word):
        raise ManifestError(
            f'{above}: folder "{word}" is neither a class ({", ".join(classes.names)}) nor a split; '
            "move it away, or add the word with --classes"
        )


def _folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__")))


def _files_under(top: Path, folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to `top`, sorted; hidden files left out."""
    base, found = str(top), []
    for here, below, names in os.walk(os.path.join(base, folder)):
        below.sort()
        prefix = os.path.relpath(here, base).replace(os.sep, "/")
        found += [f"{prefix}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)
