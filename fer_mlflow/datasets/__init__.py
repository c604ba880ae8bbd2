"""The build of a manifest's rows from a data set: what its label files name, compared with the images that exist."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import find_unusable, rebase_paths
from fer_mlflow.datasets.listing import IMAGE_ENDINGS, Listing, Request
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.manifests import DATASETS

MOST_MISSING = 0.01  # share of the expected images that may be missing without the user's consent
_SHOWN = 3


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

    Parameters
    ----------
    dataset : one of `DATASETS`
    folder : where it lies; folders that unpacking added are gone through
    images : folder for images that must be written first (pixels of a CSV, crops)
    root : folder that paths start from; None means that of the images
    source : text of the column `source`; None means the data set's name (for `folder`, the folder's)
    min_agreement : least share of the votes for the label, in [0, 1]
    allow_missing : leave out missing images however many they are

    Raises ContractError: there is no such data set, or it has no votes. ManifestError: the folder is not that data set,
    a label file is cut short or has a code out of range, no row is left, images are not under the root, or more than 1
    % of the images are missing and that is not allowed.
    """
    if dataset not in DATASETS:
        raise ContractError(f"data set {dataset} is not one of {', '.join(DATASETS)}")
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
