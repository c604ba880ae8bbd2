"""The rows that a data set's label files name, and what builders need to find its files and read its labels."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fer_mlflow.data.classes import SYNONYMS, ClassOrder
from fer_mlflow.data.paths import find_unusable
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import Progress, no_progress

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_EXPRESSIONS = frozenset(word for group in SYNONYMS for word in group)


@dataclass(frozen=True)
class Request:
    """What a builder is given.

    Attributes
    ----------
    folder : where the data set lies
    images : folder for images that must be written first (pixels of a CSV, crops)
    min_agreement : least share of the votes for the label, where there are votes
    """

    folder: Path
    classes: ClassOrder
    images: Path
    min_agreement: float = 0.0
    progress: Progress = no_progress


@dataclass(frozen=True)
class Listing:
    """The rows that a data set's label files name.

    Attributes
    ----------
    rows : str columns path, label, split, then extra ones; in the order of the label files
    folder : what `path` is relative to
    searched, tried : the folder of the images that the rows are from, and (N,) paths in it, where these are not
        the rows' own: whether those files are there decides about a row
    skipped : reason -> rows that were left out on purpose
    unlisted : images that no label file names
    write : given the rows that were found, writes their images and returns the rows that it could write, with
        a Counter of reasons for the others
    """

    rows: pd.DataFrame
    folder: Path
    searched: Path | None = None
    tried: pd.Series | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    unlisted: int = 0
    write: Callable[[pd.DataFrame], tuple[pd.DataFrame, Counter]] | None = None


def select_labels(names: Iterable[str | None], classes: ClassOrder, dropped: Counter) -> list[str | None]:
    """Return the class name for each of a data set's words; None, counted in `dropped`, for those that are no class.

    A word that means no class of the order (contempt among seven) leaves its row out; None stands for
    no expression at all.
    """
    by_name: dict[str | None, str | None] = {None: None}
    selected = []
    for name in names:
        if name is not None and name not in by_name:
            position = classes.index_of(name)
            by_name[name] = None if position is None else classes.names[position]
        if by_name[name] is None:
            dropped["of no expression" if name is None else f"of class {name}, which is not among the classes"] += 1
        selected.append(by_name[name])
    return selected


def is_expression(word: str) -> bool:
    """Return whether a word is a usual name of an expression."""
    return word.strip().casefold() in _EXPRESSIONS


def find_inside(folder: Path, wanted: Iterable[str], what: str, depth: int = 2) -> Path:
    """Return the folder that holds one of the `wanted` files or folders: this one, or one at most `depth` below.

    Raises ManifestError: there is no such folder, or two at the same depth.
    """
    wanted = tuple(wanted)
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that {what} lies in")
    level = [folder]
    for _ in range(depth + 1):
        holding = [each for each in level if any((each / name).exists() for name in wanted)]
        if len(holding) > 1:
            raise ManifestError(
                f"{folder} holds {what} more than once: {holding[0]} and {holding[1]}; give one of them"
            )
        if holding:
            return holding[0]
        level = [below for each in level for below in _folders_in(each)]
    there = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing"
    raise ManifestError(
        f"{folder} is not {what}: looked for {' or '.join(wanted)} there and in the folders below, found {there}; "
        "give the folder that it was unpacked into"
    )


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def nested(folder: Path, name: str, depth: int = 3) -> Iterator[Path]:
    """Yield `folder/name`, `folder/name/name`, … as far as they are there: unpacking often doubles a folder."""
    for _ in range(depth):
        folder = folder / name
        if not folder.is_dir():
            return
        yield folder


def fullest(candidates: Iterable[tuple[Path, pd.Series]]) -> tuple[Path, pd.Series]:
    """Return the candidate (folder, paths in it) with the most files; of equal ones, the first."""
    return max(candidates, key=lambda candidate: int((~find_unusable(candidate[1], candidate[0])[0]).sum()))


def image_names(folder: Path) -> list[str]:
    """Return the names of the images directly in a folder; none where it is not there."""
    if not folder.is_dir():
        return []
    return [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_ENDINGS)]
