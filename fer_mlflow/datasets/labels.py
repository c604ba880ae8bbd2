"""Label files, line by line, with errors that name the line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from fer_mlflow.datasets.codes import LabelCodes
from fer_mlflow.errors import ManifestError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of the lines that are not blank.

    Raises
    ------
    ManifestError
        the file cannot be read, is not text, or holds nothing
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: byte {error.start} is not UTF-8; is it a label file?") from error
    found = False
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found = True
            yield number, line.strip()
    if not found:
        raise ManifestError(f"{path}: no label in it; is the file complete?")


def parse_code(text: str, codes: LabelCodes, path: Path, line: int | None = None) -> int:
    """Return the label code that a text is; an integer may be written as a float.

    Raises
    ------
    ManifestError
        it is no integer, or none of the data set's codes
    """
    where = f"{path} line {line}" if line is not None else f"{path}"
    try:
        number = float(text)
        code = int(number)
        if code != number:
            raise ValueError
    except (ValueError, OverflowError):
        code = codes.first - 1
    if not codes.first <= code <= codes.last:
        raise ManifestError(
            f'{where}: label "{text}" is not a code from {codes.first} to {codes.last} ({", ".join(codes.names)})'
        )
    return code


def read_table(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """Return some columns of a CSV as text, header names matched without case and surrounding blanks.

    Raises
    ------
    ManifestError
        the file cannot be read as a CSV, or lacks a column
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
        table = pd.read_csv(path, usecols=own, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # pandas' own errors and those of decoding are ValueErrors
        raise ManifestError(f"{path}: not a CSV with a header line ({' '.join(str(error).split())})") from error
    table = table[own]
    table.columns = list(wanted)
    if table.empty:
        raise ManifestError(f"{path}: no row below the header; is the file complete?")
    return table
