"""The CSV file of a manifest: its columns, read as text and written."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.errors import ManifestError
from fer_mlflow.files import written_file

# The header names that are understood for each column; where several are there, the first one counts.
HEADERS = {
    "path": ("path", "image", "image_path", "filepath", "file"),
    "label": ("label", "class", "emotion", "expression"),
    "split": ("split", "subset", "usage"),
    "source": ("source", "dataset", "domain"),
}


def read_csv(manifest: Path) -> pd.DataFrame:
    """Read all columns as text.

    Raises ManifestError: the file cannot be read, is not UTF-8, or is not a CSV whose rows have as many values as its
    header.
    """
    try:
        raw = pd.read_csv(manifest, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"manifest {manifest}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest {manifest}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"manifest {manifest}: not a CSV with a header line ({reason})") from error
    if not isinstance(raw.index, pd.RangeIndex):  # pandas takes surplus values for an index
        raise ManifestError(
            f"manifest {manifest}: rows have more values than the {raw.shape[1]} of the header; quote commas"
        )
    with manifest.open(encoding="utf-8-sig", newline="") as file:  # pandas fills short rows with empty values
        lengths = np.fromiter((len(row) for row in csv.reader(file) if row), np.int64)
    if (lengths < raw.shape[1]).any():
        first = int(np.argmax(lengths < raw.shape[1])) - 1
        raise ManifestError(
            f"manifest {manifest} row {first + 1}: fewer values than the header's {raw.shape[1]}; complete the row"
        )
    return raw


def find_columns(raw: pd.DataFrame, manifest: Path) -> dict[str, str]:
    """Return the file's own name of each column of `HEADERS` that is there.

    Raises ManifestError: none of them is the path.
    """
    folded = {str(name).strip().casefold(): name for name in reversed(raw.columns)}
    columns = {}
    for column, known in HEADERS.items():
        if names := [folded[name] for name in known if name in folded]:
            columns[column] = names[0]
    if "path" not in columns:
        raise ManifestError(
            f"manifest {manifest}: found columns {', '.join(map(str, raw.columns))}; "
            f"one of them must be named {' or '.join(HEADERS['path'])}"
        )
    return columns


def write_manifest(frame: pd.DataFrame, out: str | Path) -> None:
    """Write rows as a manifest, whole or not at all: the four columns first, then the others as they come."""
    columns = [*HEADERS, *(name for name in frame.columns if name not in HEADERS)]
    with written_file(out) as file:
        file.write(frame[columns].to_csv(index=False, lineterminator="\n").encode())
