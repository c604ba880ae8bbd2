"""FER2013: a CSV of pixels, whose images are written out as PNG files; or class-named folders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.folder import list_classes
from fer_mlflow.errors import ManifestError

TABLES = ("fer2013.csv", "icml_face_data.csv")
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48
_BLOCK = 1000  # rows whose pixels are in memory at a time


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the rows of `fer2013.csv` or `icml_face_data.csv`, or the images of `train/` and `test/`."""
    folder = datasets.find_inside(request.folder, [*TABLES, "train"], "FER2013")
    table = find_table(folder)
    if table is None:
        return list_classes(folder, request.classes)
    splits = read_usages(table).map(USAGES)
    words = datasets.parse_codes(datasets.read_table(table, ["emotion"])["emotion"], CODES["fer2013"], table)
    paths = [f"{split}/fer{number:07d}.png" for number, split in enumerate(splits)]
    rows = pd.DataFrame({"path": paths, "label": words, "split": splits})
    return datasets.Listing(rows, request.images, write=partial(write_pixels, table, len(rows), request))


def find_table(folder: Path) -> Path | None:
    """Return the CSV of pixels in a folder."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def read_usages(table: Path) -> pd.Series:
    """Return the usage of each row: Training, PublicTest or PrivateTest."""
    usages = datasets.read_table(table, ["Usage"])["Usage"].str.strip()
    unknown = ~usages.isin(list(USAGES))
    if unknown.any():
        row = int(unknown.idxmax())
        raise ManifestError(
            f'{table} line {row + 2}: Usage "{usages[row]}" is not one of {", ".join(USAGES)}. Is the file complete?'
        )
    return usages


def write_pixels(table: Path, total: int, request: datasets.Request, found: pd.DataFrame) -> dict[int, str]:
    """Write the images of some of a CSV's `total` rows as PNG files; those found have their row, from 0, as index.

    No row is without an image. Raises ManifestError: a row's pixels are not 48 × 48 values from 0 to 255.
    """
    names = found["path"].to_dict()

    def write(row: tuple[int, str]) -> None:
        number, text = row
        if number in names:
            datasets.write_png(request.images / names[number], _parse_pixels(text, f"{table} line {number + 2}"))

    datasets.on_all_cores(write, _pixel_rows(table), f"writing images of {table.name}", total, request.progress)
    return {}


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


def _parse_pixels(text: str, where: str) -> np.ndarray:
    """Return (48, 48) uint8 grey values."""
    if strange := text.encode().translate(None, b"0123456789 "):
        found = strange[:20].decode(errors="replace")
        raise ManifestError(f'{where}: "{found}" in its pixels is no number from 0 to 255')
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    if len(values) != SIDE**2 or values.max() > 255:
        raise ManifestError(
            f"{where}: found {len(values):,} pixel values up to {values.max(initial=0)}; an image has "
            f"{SIDE} x {SIDE} = {SIDE**2:,} from 0 to 255. Is the file complete?"
        )
    return values.astype(np.uint8).reshape(SIDE, SIDE)
