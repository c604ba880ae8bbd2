"""Builders of manifests from published data sets: what they are given and give, their tools, and the build itself.

A builder is a module with `list_rows`. What its label files name is compared with the images that exist.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import find_unusable, rebase_paths
from fer_mlflow.data.published import LabelCodes
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress, no_progress

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MOST_MISSING = 0.01  # share of the expected images that may be missing without the user's consent
_DEPTH = 2  # levels of folders below the one that is given in which a data set is looked for
_BLOCK = 256
_SHOWN = 3
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """What a builder is given."""

    folder: Path  # where the data set lies
    classes: ClassOrder  # of the manifest, for what else than `build` needs them
    images: Path  # folder for images that must be written first (pixels of a CSV, crops)
    min_agreement: float  # least share of the votes for the label, where there are votes
    progress: Progress


@dataclass(frozen=True)
class Listing:
    """The rows that a data set's label files name, in their order; a label is the data set's own word.

    Where images are made of others, `searched` and `tried` are the folder of those, and the column of paths in it:
    whether those files are there decides about a row. `write` is given the rows that were found, with their index in
    `rows`, writes their images, and returns index -> reason of those that it could not write.
    """

    rows: pd.DataFrame  # str columns path, label (None for no expression), split, then extra ones
    folder: Path  # what `path` is relative to
    searched: Path | None = None
    tried: str = "path"
    skipped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows that were left out on purpose
    unlisted: int = 0  # images that no label file names
    write: Callable[[pd.DataFrame], Mapping[int, str]] | None = None


@dataclass(frozen=True)
class Built:
    """Rows that can be written as a manifest, and what became of the others."""

    frame: pd.DataFrame  # str columns path (from the root), label, split, source, then extra ones
    folder: Path  # where the images lie
    counts: pd.DataFrame  # index split, label; int columns expected, found, missing
    missing: tuple[str, ...]  # the first paths that do not exist
    similar: tuple[str, ...]  # folders of files with such names
    skipped: Mapping[str, int]  # reason -> rows that were left out on purpose
    unlisted: int  # images that no label file names


def build(
    dataset: str,
    folder: str | Path,
    classes: ClassOrder,
    images: str | Path,
    *,
    root: str | Path | None = None,
    source: str | None = None,
    min_agreement: float = 0.0,
    allow_missing: bool = False,
    progress: Progress = no_progress,
) -> Built:
    """Return the rows of a data set as it lies on disk, and write its images where it has none.

    `folder`, `classes`, `images` and `min_agreement` are those of a `Request`. Paths start from `root`; None means the
    folder of the images. `source` is the text of that column; None means the data set's name (for `folder`, the
    folder's). Missing images that are allowed are left out however many they are; else more than 1 % are refused.
    """
    request = Request(Path(folder), classes, Path(images), min_agreement, progress)
    listing: Listing = import_module(f"fer_mlflow.datasets.{dataset}").list_rows(request)
    rows, unselected = _select(listing.rows, classes)
    skipped = Counter(listing.skipped) + unselected
    if min_agreement and "agreement" not in rows:
        raise ContractError(f"{dataset} has no votes; --min-agreement is for ferplus")
    if rows.empty:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        raise ManifestError(f"{folder}: no row is left" + (f" ({reasons})" if reasons else ""))
    root = root or listing.folder
    paths = rebase_paths(root, listing.folder, rows["path"])  # refused before an image is written
    is_missing, missing, similar = _find_missing(listing, rows, request.folder, allow_missing)
    frame = rows[~is_missing]
    if listing.write is not None:
        unwritten = listing.write(frame)
        frame, skipped = frame.drop(index=list(unwritten)), skipped + Counter(unwritten.values())
    counts = {
        name: each.groupby(["split", "label"], sort=False).size()
        for name, each in (("expected", rows), ("found", frame), ("missing", rows[is_missing]))
    }
    frame = frame.assign(path=paths[frame.index]).reset_index(drop=True)
    frame.insert(3, "source", source or (Path(folder).absolute().name if dataset == "folder" else dataset))
    table = pd.DataFrame(counts).fillna(0).astype(int).sort_index()
    return Built(frame, listing.folder, table, missing, similar, skipped, listing.unlisted)


def _select(rows: pd.DataFrame, classes: ClassOrder) -> tuple[pd.DataFrame, Counter[str]]:
    """Return the rows whose word is a class, labelled with its name, and how many others there are of which word.

    A word that means no class of the order (contempt among seven) leaves its row out.
    """
    words = rows["label"]
    positions = {word: classes.index_of(word) for word in words.dropna().unique()}
    labels = words.map({word: classes.names[position] for word, position in positions.items() if position is not None})
    is_class = labels.notna()
    unselected = Counter[str](
        "of no expression" if pd.isna(word) else f"of class {word}, which is not among the classes"
        for word in words[~is_class]
    )
    return rows[is_class].assign(label=labels[is_class]), unselected


def _find_missing(
    listing: Listing, rows: pd.DataFrame, folder: Path, allow_missing: bool
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return which rows have no image, (N,) bool, the first of them, and folders of files with such names."""
    if listing.write is not None and listing.searched is None:  # all images are made from a file
        return np.zeros(len(rows), bool), (), ()
    searched, tried = listing.searched or listing.folder, rows[listing.tried]
    is_missing = find_unusable(tried, searched)[0]
    missing = tuple(str(searched / path) for path in tried[is_missing].drop_duplicates().head(_SHOWN))
    if is_missing.mean() <= MOST_MISSING:
        return is_missing, missing, ()
    similar = tuple(_similar_files(folder, tried[is_missing]))
    if not allow_missing:
        where = f"similar files lie in {'; '.join(similar)}" if similar else "no similar file lies there"
        raise ManifestError(
            f"{folder}: {is_missing.sum():,} of {len(tried):,} images are missing, first tried {', '.join(missing)}; "
            f"{where}; complete the data set, or leave them out with --allow-missing true"
        )
    if is_missing.all():
        raise ManifestError(f"{folder}: none of its {len(tried):,} images is there, first tried {missing[0]}")
    return is_missing, missing, similar


def _similar_files(folder: Path, missing: pd.Series) -> list[str]:
    """Return up to three folders with files named like missing ones, but for `_aligned` and the ending."""

    def core(name: str) -> str:
        return name.rpartition(".")[0].casefold().removesuffix("_aligned")

    wanted = {core(path.rpartition("/")[2]) for path in missing}
    found = {
        here: [name for name in sorted(names) if name.lower().endswith(IMAGE_ENDINGS) and core(name) in wanted]
        for here, _, names in os.walk(folder)
    }
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:_SHOWN]
    return [f"{here} ({len(names):,}, such as {names[0]})" for here, names in most if names]


def find_inside(folder: Path, wanted: Sequence[str], what: str) -> Path:
    """Return the folder that holds one of the `wanted` files or folders: this one, or one below."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that {what} lies in")
    level = [folder]
    for _ in range(_DEPTH + 1):
        holding = [each for each in level if any((each / name).exists() for name in wanted)]
        if len(holding) > 1:
            raise ManifestError(
                f"{folder} holds {what} more than once: {holding[0]} and {holding[1]}; give one of them"
            )
        if holding:
            return holding[0]
        level = [below for each in level for below in folders_in(each)]
    there = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing"
    raise ManifestError(
        f"{folder} is not {what}: looked for {' or '.join(wanted)} there and in the folders below, found {there}; "
        "give the folder that it was unpacked into"
    )


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def nested(folder: Path, name: str) -> list[Path]:
    """Return `folder/name`, `folder/name/name`, … as far as they are there: unpacking often doubles a folder."""
    candidates = (folder / "/".join([name] * depth) for depth in (1, 2, 3))
    return [each for each in candidates if each.is_dir()]


def fullest(candidates: Iterable[tuple[Path, pd.Series]]) -> tuple[Path, pd.Series]:
    """Return the candidate (folder, paths in it) with the most files; of equal ones, the first."""
    return max(candidates, key=lambda candidate: int((~find_unusable(candidate[1], candidate[0])[0]).sum()))


def image_names(folder: Path) -> list[str]:
    """Return the names of the images directly in a folder; none where it is not there."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file and line for messages, text) of the lines that are not blank; ManifestError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: byte {error.start} is not UTF-8; is it a label file?") from error
    if not any(map(str.strip, lines)):
        raise ManifestError(f"{path}: no label in it; is the file complete?")
    yield from ((f"{path} line {number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def parse_codes(texts: pd.Series, codes: LabelCodes, path: Path) -> list[str | None]:
    """Return the class that each code of a table's column means; an error names the first line with a wrong one."""
    numbers, distinct = pd.factorize(texts)
    first = np.unique(numbers, return_index=True)[1]
    words = [codes.parse(text, f"{path} line {row + 2}") for text, row in zip(distinct, first, strict=True)]
    return [words[number] for number in numbers]


def read_table(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """Return some columns of a CSV as text, header names matched without case and surrounding blanks."""
    try:
        header = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns
        there = {str(name).strip().casefold(): name for name in header}
        if lacking := [name for name in wanted if name.casefold() not in there]:
            raise ManifestError(
                f"{path}: no column {', '.join(lacking)}; found {', '.join(map(str, header))}. Is its header complete?"
            )
        own = [there[name.casefold()] for name in wanted]
        table = pd.read_csv(path, usecols=own, dtype=str, keep_default_na=False, encoding="utf-8-sig")[own]
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # pandas' own errors and those of decoding are ValueErrors
        raise ManifestError(f"{path}: not a CSV with a header line ({' '.join(str(error).split())})") from error
    if table.empty:
        raise ManifestError(f"{path}: no row below the header; is the file complete?")
    return table.set_axis(list(wanted), axis=1)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image as PNG, whole or not at all; a file that holds it already stays as it is.

    Files are not flushed one by one, which would take longer than all else: `on_all_cores` does it for all.
    """
    data = cv2.imencode(".png", image)[1].tobytes()
    if not path.exists() or path.read_bytes() != data:
        with written_file(path, flush=False) as file:
            file.write(data)


def on_all_cores(
    write: Callable[[Item], Result], items: Iterable[Item], description: str, total: int, progress: Progress
) -> list[Result]:
    """Return the result of each item in order, once all that was written is on disk; a few hundred are in hand."""
    items = iter(items)
    results: list[Result] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, progress(description, total) as count:
        while block := list(islice(items, _BLOCK)):
            results += pool.map(write, block)
            count(len(block))
    if hasattr(os, "sync"):
        os.sync()  # so that a manifest never outlives its images
    return results
