"""The rows that a data set's label files name, and what builders need to find, read and write its files."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import find_unusable
from fer_mlflow.data.published import LabelCodes
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEPTH = 2  # levels of folders below the one that is given in which a data set is looked for
_BLOCK = 256
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
    """The rows that a data set's label files name.

    Attributes
    ----------
    rows : str columns path, label, split, then extra ones, in the order of the label files; `label` is the data set's
        own word, or None for no expression
    folder : what `path` is relative to
    searched, tried : the folder of the images that the rows are from, and the column of paths in it, where these are
        not the rows' own: whether those files are there decides about a row
    skipped : reason -> rows that were left out on purpose
    unlisted : images that no label file names
    write : given the rows that were found, with their index in `rows`, writes their images and returns index -> reason
        of those that it could not write
    """

    rows: pd.DataFrame
    folder: Path
    searched: Path | None = None
    tried: str = "path"
    skipped: Mapping[str, int] = field(default_factory=dict)
    unlisted: int = 0
    write: Callable[[pd.DataFrame], Mapping[int, str]] | None = None


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
    """Return some columns of a CSV as text, header names matched without case and surrounding blanks.

    Raises ManifestError: the file cannot be read as a CSV, or lacks a column.
    """
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
    encoded, buffer = cv2.imencode(".png", image)
    if not encoded:
        raise ContractError(f"an image of shape {image.shape} cannot be written as PNG")
    data = buffer.tobytes()
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
