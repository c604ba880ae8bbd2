"""FER2013: a CSV of pixels, whose images are written out as PNG files; or class-named folders."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.files import on_all_cores, parse_codes, read_table, write_png
from fer_mlflow.datasets.folder import list_classes
from fer_mlflow.datasets.listing import Listing, Request, find_inside, select_labels
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import Progress

TABLES = ("fer2013.csv", "icml_face_data.csv")
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48
_BLOCK = 1000  # rows whose pixels are in memory at a time


def list_rows(request: Request) -> Listing:
    """List the rows of `fer2013.csv` or `icml_face_data.csv`, or the images of `train/` and `test/`.

    Raises ManifestError: neither layout is there, a code or a usage is unknown, or (when images are written) pixels are
    not 48 × 48.
    """
    folder = find_inside(request.folder, [*TABLES, "train"], "FER2013")
    table = find_table(folder)
    if table is None:
        return list_classes(folder, request.classes)
    usages = read_usages(table)
    words = parse_codes(read_table(table, ["emotion"])["emotion"], CODES["fer2013"], table)
    dropped: Counter[str] = Counter()
    numbers = np.arange(len(usages))
    rows = pd.DataFrame(
        {
            "path": [f"{USAGES[usage]}/fer{number:07d}.png" for number, usage in zip(numbers, usages, strict=True)],
            "label": select_labels(words, request.classes, dropped),
            "split": [USAGES[usage] for usage in usages],
        }
    )
    kept = rows["label"].notna()
    rows = rows[kept].reset_index(drop=True)

    def write(found: pd.DataFrame) -> tuple[pd.DataFrame, Counter]:
        names = dict(zip(numbers[kept].tolist(), found["path"], strict=True))
        write_pixels(table, len(usages), names, request.images, request.progress)
        return found, Counter()

    return Listing(rows, request.images, skipped=dropped, write=write)


def find_table(folder: Path) -> Path | None:
    """Return the CSV of pixels in a folder."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def read_usages(table: Path) -> list[str]:
    """Return the usage of each row: Training, PublicTest or PrivateTest."""
    usages = read_table(table, ["Usage"])["Usage"].str.strip()
    unknown = ~usages.isin(list(USAGES)).to_numpy(bool)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ManifestError(
            f'{table} line {row + 2}: Usage "{usages.iloc[row]}" is not one of {", ".join(USAGES)}. '
            "Is the file complete?"
        )
    return usages.tolist()


def write_pixels(table: Path, total: int, names: dict[int, str], folder: Path, progress: Progress) -> None:
    """Write the images of some rows of a CSV of pixels as PNG files.

    Parameters
    ----------
    total : rows of the CSV
    names : row from 0 -> path of its file under `folder`

    Raises
    ------
    ManifestError
        a row's pixels are not 48 × 48 values from 0 to 255
    """

    def write(row: tuple[int, str]) -> None:
        number, text = row
        if number in names:
            write_png(folder / names[number], _parse_pixels(text, table, number))

    on_all_cores(write, _pixel_rows(table), f"writing images of {table.name}", total, progress)


def _pixel_rows(table: Path) -> Iterator[tuple[int, str]]:
    """Yield (row from 0, text of its pixels), with a thousand rows in memory."""
    blocks = pd.read_csv(
        table,
        usecols=lambda name: str(name).strip().casefold() == "pixels",
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        chunksize=_BLOCK,
    )
    with blocks:
        for block in blocks:
            if block.shape[1] != 1:
                raise ManifestError(f"{table}: no column pixels; is it fer2013.csv?")
            yield from zip(block.index, block.iloc[:, 0], strict=True)


def _parse_pixels(text: str, table: Path, row: int) -> np.ndarray:
    """Return (48, 48) uint8 grey values."""
    wanted = SIDE * SIDE
    if strange := text.encode().translate(None, b"0123456789 "):
        found = strange[:20].decode(errors="replace")
        raise ManifestError(f'{table} line {row + 2}: "{found}" in its pixels is no number from 0 to 255')
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    if len(values) != wanted or values.max() > 255:
        raise ManifestError(
            f"{table} line {row + 2}: found {len(values):,} pixel values up to {values.max(initial=0)}; an image has "
            f"{SIDE} x {SIDE} = {wanted:,} from 0 to 255. Is the file complete?"
        )
    return values.astype(np.uint8).reshape(SIDE, SIDE)
