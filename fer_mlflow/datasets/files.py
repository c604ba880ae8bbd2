"""Label files that builders read, with errors that name the line, and image files that they write."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd

from fer_mlflow.data.published import LabelCodes
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress

_BLOCK = 256
Item = TypeVar("Item")
Result = TypeVar("Result")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of the lines that are not blank.

    Raises ManifestError: the file cannot be read, is not text, or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: byte {error.start} is not UTF-8; is it a label file?") from error
    if not any(map(str.strip, lines)):
        raise ManifestError(f"{path}: no label in it; is the file complete?")
    yield from ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())


def parse_code(text: str, codes: LabelCodes, path: Path, line: int | None = None) -> str | None:
    """Return the class that a label code means, None for no expression; an integer may be written as a float.

    Raises ManifestError: it is no integer, or none of the data set's codes.
    """
    try:
        number = float(text)
        code = int(number) if number == int(number) else codes.first - 1
    except (ValueError, OverflowError):
        code = codes.first - 1
    if not codes.first <= code <= codes.last:
        where = f"{path} line {line}" if line is not None else f"{path}"
        raise ManifestError(
            f'{where}: label "{text}" is not a code from {codes.first} to {codes.last} ({", ".join(codes.names)})'
        )
    return codes.name_of(code)


def parse_codes(texts: pd.Series, codes: LabelCodes, path: Path) -> list[str | None]:
    """Return the class that each code of a table's column means; an error names the first line with a wrong one."""
    numbers, distinct = pd.factorize(texts)
    first = np.unique(numbers, return_index=True)[1]
    words = [parse_code(text, codes, path, row + 2) for text, row in zip(distinct, first, strict=True)]
    return [words[number] for number in numbers]


def read_table(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """Return some columns of a CSV as text, header names matched without case and surrounding blanks.

    Raises ManifestError: the file cannot be read as a CSV, or lacks a column.
    """
    try:
        header = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns
        there = {str(name).strip().casefold(): name for name in header}
        lacking = [name for name in wanted if name.casefold() not in there]
        if lacking:
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
