"""Folders named after classes, with folders named after splits above them or not."""

import os
from pathlib import Path

import pandas as pd

from fer_mlflow.data.classes import SYNONYMS, ClassOrder
from fer_mlflow.data.published import SPLIT_WORDS
from fer_mlflow.datasets import IMAGE_ENDINGS, Listing, Request, folders_in
from fer_mlflow.errors import ManifestError

_EXPRESSIONS = frozenset(word for group in SYNONYMS for word in group)
_WRAPPED = 3  # folders with nothing but one folder in them that are gone through


def list_rows(request: Request) -> Listing:
    """List the images of class-named folders, which may be wrapped in others."""
    folder = request.folder
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the one that holds the class-named folders")
    for _ in range(_WRAPPED):
        names = _folder_names(folder)
        if len(names) != 1 or names[0].casefold() in SPLIT_WORDS or _is_expression(names[0], request.classes):
            break
        folder = folder / names[0]
    return list_classes(folder, request.classes)


def list_classes(folder: Path, classes: ClassOrder) -> Listing:
    """List the images under class-named folders, in the order of their paths; other folders are refused."""
    rows, unlisted = [], 0
    for name in _folder_names(folder):
        split = SPLIT_WORDS.get(name.casefold(), "")
        above = f"{name}/" if split else ""
        for word in _folder_names(folder / name) if split else [name]:
            _check_word(word, classes, folder / above.rstrip("/"))
            for path in _files_under(folder, f"{above}{word}"):
                if path.lower().endswith(IMAGE_ENDINGS):
                    rows.append((path, word, split))
                else:
                    unlisted += 1
    if not rows:
        raise ManifestError(
            f"{folder}: no image in folders named after {', '.join(classes.names)}, with train, val, test above them "
            f"or not; found {', '.join(_folder_names(folder)[:8]) or 'no folder'}"
        )
    return Listing(pd.DataFrame(rows, columns=["path", "label", "split"], dtype=str), folder, unlisted=unlisted)


def _is_expression(word: str, classes: ClassOrder) -> bool:
    """Return whether a word is a class, or a usual name of another expression."""
    return classes.index_of(word) is not None or word.strip().casefold() in _EXPRESSIONS


def _check_word(word: str, classes: ClassOrder, above: Path) -> None:
    """Refuse a folder that is named after neither a class nor another expression."""
    if word.isdecimal() and classes.integers:
        raise ManifestError(
            f'{above}: folder "{word}" is named by a number, and data sets number classes differently; '
            'define the numbers with --classes (a YAML file, such as Happy: ["4"])'
        )
    if not _is_expression(word, classes):
        raise ManifestError(
            f'{above}: folder "{word}" is neither a class ({", ".join(classes.names)}) nor a split; '
            "move it away, or add the word with --classes"
        )


def _folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, hidden ones left out."""
    return [each.name for each in folders_in(folder) if not each.name.startswith((".", "__"))]


def _files_under(top: Path, folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to `top`, sorted; hidden files left out."""
    found = []
    for here, _, names in os.walk(top / folder):
        prefix = os.path.relpath(here, top).replace(os.sep, "/")
        found += [f"{prefix}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)
