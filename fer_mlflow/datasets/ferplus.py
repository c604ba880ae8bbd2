"""FER+: ten votes for each image of FER2013, of which the majority is the label."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.fer2013 import USAGES, find_table, read_usages, write_pixels
from fer_mlflow.errors import ManifestError

_TABLE = "fer2013new.csv"
_VOTES = [*CODES["ferplus"].names, *CODES["ferplus"].not_faces]  # the columns of votes
_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the rows of `fer2013new.csv` with the class that most votes are for, and its share as `agreement`.

    Rows that FER+ removed (no image name), with a tie, with less than the least agreement, and with a majority for
    "unknown" or "NF" (no face) are left out. Pixels are those of the same row of `fer2013.csv`; without that file,
    the images that FER+'s own tool writes (`FER2013Train/fer0000000.png`) are looked for.
    """
    folder = datasets.find_inside(request.folder, [_TABLE], "FER+")
    path = folder / _TABLE
    table = datasets.read_table(path, ["Usage", "Image name", *_VOTES])
    usages, images = table["Usage"].str.strip(), table["Image name"].str.strip()
    top, agreement, is_tie = _count_votes(table, path)
    reasons = {
        "removed by FER+ (no image name)": images == "",
        "with as many votes for another class": is_tie,
        **{f"voted {name}": top == name for name in CODES["ferplus"].not_faces},
        f"with agreement below {request.min_agreement:g}": agreement < request.min_agreement - 1e-9,
    }
    left, skipped = pd.Series(True, table.index), {}
    for reason, is_skipped in reasons.items():
        if count := int((is_skipped & left).sum()):
            skipped[reason] = count
        left &= ~is_skipped
    names = usages.map(_FOLDERS).fillna("?") + "/" + images
    rows = pd.DataFrame({"path": names, "label": top, "split": usages.map(USAGES)})
    rows = rows.assign(agreement=np.char.mod("%.2g", agreement.to_numpy()))[left]
    pixels = find_table(folder) or find_table(folder.parent)
    if pixels is None:
        folders = (folder, folder / "images", folder / "Images", folder / "data")
        return datasets.Listing(rows, datasets.fullest((each, rows["path"]) for each in folders)[0], skipped=skipped)
    _check_same_rows(usages, path, pixels)
    write = partial(write_pixels, pixels, len(table), request)
    return datasets.Listing(rows, request.images, skipped=skipped, write=write)


def _count_votes(table: pd.DataFrame, path: Path) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return of each row the column with the most votes, its share of them, and whether another has as many."""
    votes = table[_VOTES].apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = ~(np.isfinite(votes) & (votes >= 0)).all(axis=1) | (votes.sum(axis=1) == 0)
    if wrong.any():
        row = int(wrong.idxmax())
        found = ",".join(table[_VOTES].iloc[row])
        raise ManifestError(f'{path} line {row + 2}: votes "{found}" are not counts with a sum above 0')
    most = votes.max(axis=1)
    return votes.idxmax(axis=1), most / votes.sum(axis=1), votes.eq(most, axis=0).sum(axis=1) > 1


def _check_same_rows(usages: pd.Series, path: Path, pixels: Path) -> None:
    """Refuse two files that are not of the same rows in the same order, as far as their usages tell."""
    others = read_usages(pixels)
    if len(usages) != len(others):
        raise ManifestError(
            f"{path} has {len(usages):,} rows and {pixels} {len(others):,}: votes are matched with pixels by "
            "their order; give the complete files"
        )
    differs = usages != others
    if differs.any():
        row = int(differs.idxmax())
        where = f'{path} line {row + 2}: Usage "{usages[row]}", but "{others[row]}" in {pixels}'
        raise ManifestError(f"{where}: the files are not in the same order")
