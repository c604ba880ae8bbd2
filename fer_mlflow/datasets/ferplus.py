"""FER+: ten votes for each image of FER2013, of which the majority is the label."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.published import CODES
from fer_mlflow.datasets import listing
from fer_mlflow.datasets.fer2013 import USAGES, find_table, read_usages, write_pixels
from fer_mlflow.datasets.listing import Listing, Request
from fer_mlflow.errors import ManifestError

_VOTES = "fer2013new.csv"
_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def list_rows(request: Request) -> Listing:
    """List the rows of `fer2013new.csv` with the class that most votes are for, and its share as `agreement`.

    Rows that FER+ removed (no image name), with a tie, with less than the least agreement, and with a majority for
    "unknown" or "NF" (no face) are left out. Pixels are those of the same row of `fer2013.csv`; without that file,
    the images that FER+'s own tool writes (`FER2013Train/fer0000000.png`) are looked for.

    Raises ManifestError: a file is not there or cut short, or the two files are not of the same rows.
    """
    folder = listing.find_inside(request.folder, [_VOTES], "FER+")
    path = folder / _VOTES
    table = listing.read_table(path, ["Usage", "Image name", *CODES["ferplus"].names, *CODES["ferplus"].not_faces])
    usages = table["Usage"].str.strip()
    words, agreement, skipped = _majorities(table, path, request.min_agreement)
    names = usages.map(_FOLDERS).fillna("?") + "/" + table["Image name"].str.strip()
    rows = pd.DataFrame({"path": names, "label": words, "split": usages.map(USAGES)})
    rows = rows.assign(agreement=np.char.mod("%.2g", agreement))[rows["label"].notna()]
    pixels = find_table(folder) or find_table(folder.parent)
    if pixels is None:
        folders = (folder, folder / "images", folder / "Images", folder / "data")
        images, _ = listing.fullest((each, rows["path"]) for each in folders)
        return Listing(rows, images, skipped=skipped)
    _check_same_rows(usages.tolist(), path, pixels)
    write = partial(write_pixels, pixels, len(table), request)
    return Listing(rows, request.images, skipped=skipped, write=write)


def _majorities(table: pd.DataFrame, path: Path, least: float) -> tuple[list[str | None], np.ndarray, Counter]:
    """Return each row's word (None where it has none), the share of votes for it, and how many were left out why."""
    columns = [*CODES["ferplus"].names, *CODES["ferplus"].not_faces]
    votes = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = ~(np.isfinite(votes) & (votes >= 0)).all(axis=1) | (votes.sum(axis=1) == 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        found = ",".join(table[columns].iloc[row])
        raise ManifestError(f'{path} line {row + 2}: votes "{found}" are not counts with a sum above 0')
    top = votes.argmax(axis=1)
    most = votes.max(axis=1)
    agreement = most / votes.sum(axis=1)
    reasons = [
        ("removed by FER+ (no image name)", (table["Image name"].str.strip() == "").to_numpy(bool)),
        ("with as many votes for another class", (votes == most[:, None]).sum(axis=1) > 1),
        *((f"voted {name}", top == columns.index(name)) for name in CODES["ferplus"].not_faces),
        (f"with agreement below {least:g}", agreement < least - 1e-9),
    ]
    left = np.ones(len(table), bool)
    skipped: Counter[str] = Counter()
    for reason, rows in reasons:
        if count := int((rows & left).sum()):
            skipped[reason] = count
        left &= ~rows
    return [columns[code] if keep else None for code, keep in zip(top, left, strict=True)], agreement, skipped


def _check_same_rows(usages: list[str], path: Path, pixels: Path) -> None:
    """Refuse two files that are not of the same rows in the same order, as far as their usages tell."""
    others = read_usages(pixels)
    if len(usages) != len(others):
        raise ManifestError(
            f"{path} has {len(usages):,} rows and {pixels} {len(others):,}: votes are matched with pixels by "
            "their order; give the complete files"
        )
    for row, (usage, other) in enumerate(zip(usages, others, strict=True)):
        if usage != other:
            where = f'{path} line {row + 2}: Usage "{usage}", but "{other}" in {pixels}'
            raise ManifestError(f"{where}: the files are not in the same order")
