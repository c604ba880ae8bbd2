"""What a data set's label files name, held against the images that are there."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import SYNONYMS, ClassOrder
from fer_mlflow.data.paths import find_unusable
from fer_mlflow.data.steps import Steps, unwatched
from fer_mlflow.errors import ManifestError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MOST_MISSING = 0.01  # share of the expected images that may be missing without a word from the user
_SHOWN = 3
_KNOWN_WORDS = frozenset(word for group in SYNONYMS for word in group)


@dataclass(frozen=True)
class Request:
    """What is to be built.

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
    steps: Steps = unwatched


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
    unlisted : images lying there that no label file names
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


@dataclass(frozen=True)
class Built:
    """Rows that can be written as a manifest, and what became of the others.

    Attributes
    ----------
    frame : str columns path (relative to `folder`), label, split, source, then extra ones
    counts : index split, label; int columns expected, found, missing
    missing : the first paths that were tried in vain
    similar : where files with such names lie
    skipped, unlisted : as in `Listing`
    """

    frame: pd.DataFrame
    folder: Path
    counts: pd.DataFrame
    missing: tuple[str, ...]
    similar: tuple[str, ...]
    skipped: Mapping[str, int]
    unlisted: int


def settle(listing: Listing, request: Request, source: str, allow_missing: bool) -> Built:
    """Look for a listing's images, refuse where too many are missing, write those that must be, and count.

    Raises
    ------
    ManifestError
        the listing is empty, or more than 1 % of its images are missing and that is not allowed
    """
    rows = listing.rows
    if rows.empty:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in listing.skipped.items())
        raise ManifestError(f"{request.folder}: no row is left" + (f" ({reasons})" if reasons else ""))
    searched = listing.searched or listing.folder
    tried = rows["path"] if listing.tried is None else listing.tried
    is_missing = _is_missing(listing, searched, tried)
    missing = tuple(str(searched / path) for path in tried[is_missing].drop_duplicates().head(_SHOWN))
    similar: tuple[str, ...] = ()
    if is_missing.mean() > MOST_MISSING:
        similar = tuple(similar_files(request.folder, tried[is_missing]))
        if not allow_missing:
            lie = f"; similar files lie in {'; '.join(similar)}" if similar else "; no similar file lies there"
            raise ManifestError(
                f"{request.folder}: {is_missing.sum():,} of {len(rows):,} images are missing, first tried "
                f"{', '.join(missing)}{lie}; complete the data set, or leave them out with --allow-missing true"
            )
    if is_missing.all():
        raise ManifestError(f"{request.folder}: none of its {len(rows):,} images is there, first tried {missing[0]}")
    frame, unwritten = rows[~is_missing].reset_index(drop=True), Counter[str]()
    if listing.write is not None:
        frame, unwritten = listing.write(frame)
    counts = _counts(rows, is_missing, frame)
    frame.insert(3, "source", source)
    skipped = Counter(listing.skipped) + unwritten
    return Built(frame, listing.folder, counts, missing, similar, skipped, listing.unlisted)


def _is_missing(listing: Listing, searched: Path, tried: pd.Series) -> np.ndarray:
    """Return which rows have no image, (N,) bool; a listing that writes all of them from a file misses none."""
    if listing.write is not None and listing.tried is None:
        return np.zeros(len(tried), bool)
    return find_unusable(tried, searched)[0]


def _counts(rows: pd.DataFrame, is_missing: np.ndarray, written: pd.DataFrame) -> pd.DataFrame:
    """Count rows by split and label: expected, found, missing."""
    by = ["split", "label"]
    counts = pd.DataFrame(
        {
            "expected": rows.groupby(by, sort=False).size(),
            "found": written.groupby(by, sort=False).size(),
            "missing": rows[is_missing].groupby(by, sort=False).size(),
        }
    )
    return counts.fillna(0).astype(int).sort_index()


def select_labels(names: Iterable[str | None], classes: ClassOrder, dropped: Counter) -> list[str | None]:
    """Return the class name for each of a data set's words; None, counted in `dropped`, for those that are no class.

    A word that means no class of the order (contempt among seven) leaves its row out; None stands for
    no expression at all.
    """
    found: dict[str | None, str | None] = {None: None}
    selected = []
    for name in names:
        if name is not None and name not in found:
            position = classes.index_of(name)
            found[name] = None if position is None else classes.names[position]
        if found[name] is None:
            dropped["of no expression" if name is None else f"of class {name}, which is not among the classes"] += 1
        selected.append(found[name])
    return selected


def is_expression(word: str) -> bool:
    """Return whether a word is a usual name of an expression."""
    return word.strip().casefold() in _KNOWN_WORDS


def find_inside(folder: Path, wanted: Iterable[str], what: str, depth: int = 2) -> Path:
    """Return the folder that holds one of the `wanted` files or folders: this one, or one at most `depth` below.

    Raises
    ------
    ManifestError
        there is no such folder, or two at the same depth
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


def count_images(folder: Path) -> int:
    """Return how many images lie directly in a folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.lower().endswith(IMAGE_ENDINGS) for entry in entries)


def similar_files(folder: Path, missing: pd.Series) -> list[str]:
    """Return up to three folders with files named like missing ones, but for `_aligned` and the ending."""
    wanted = {_core(path.rpartition("/")[2]) for path in missing}
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for here, _, names in os.walk(folder):
        for name in sorted(names):
            if name.lower().endswith(IMAGE_ENDINGS) and _core(name) in wanted:
                counts[here] += 1
                example.setdefault(here, name)
    return [f"{here} ({count:,}, such as {example[here]})" for here, count in counts.most_common(_SHOWN)]


def _core(name: str) -> str:
    return name.rpartition(".")[0].casefold().removesuffix("_aligned")
