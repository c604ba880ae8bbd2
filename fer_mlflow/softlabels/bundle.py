"""The soft-label bundle: one folder, one reader, one writer, one verifier. Format: docs/bundle-format.md."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import selection_digest
from fer_mlflow.files import sha256_of_file, written_folder
from fer_mlflow.softlabels.reading import (
    ARRAYS,
    CLASSES,
    FILES,
    FORMAT,
    HASHES,
    INDEX,
    INDEX_FIELDS,
    METRICS,
    REPORT,
    label_columns,
    read_parts,
)

FOLDER = "softlabels"  # the artifact folder of a run


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """A verified bundle: N rows of logits over C classes, and what they were computed from.

    Attributes
    ----------
    logits : (N, C) float32 or float16; softmax(logits / T) is the target at temperature T
    index : N rows of row (int64, position in the selected benchmark, ascending), path, label (empty where there
        is none), split, source, image_sha256 (64 hex digits)
    classes : the C class names in column order
    report : the alignment report
    metrics : name -> number, empty where no row has a label
    manifest_sha256, selection_sha256 : of the manifest file, and of the rows in `index`
    checkpoints : teacher name -> SHA-256 of its checkpoint file
    sha256 : the bundle's own digest, of its hash_manifest.json
    folder : where it was read from
    """

    logits: np.ndarray
    index: pd.DataFrame
    classes: tuple[str, ...]
    report: Mapping[str, Any]
    metrics: Mapping[str, float]
    manifest_sha256: str
    selection_sha256: str
    checkpoints: Mapping[str, str]
    sha256: str
    folder: Path

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def labels(self) -> np.ndarray:
        """The (N,) int64 class columns of the labels, -1 where a row has none."""
        return label_columns(self.index["label"], self.classes)

    @classmethod
    def open(cls, folder: str | Path) -> "SoftLabels":
        """Read a bundle and verify all of it.

        Checked are: every file's hash, the class order, type, shape and finiteness of the logits, the rows'
        count and order, their labels, and that they give the selection digest that the bundle is tagged with.

        Raises
        ------
        BundleError
            the first thing that does not hold: which file, what was found, what to do
        """
        return _open(Path(folder))

    @classmethod
    def write(
        cls,
        folder: str | Path,
        *,
        logits: np.ndarray,
        index: pd.DataFrame,
        classes: tuple[str, ...],
        report: Mapping[str, Any],
        metrics: Mapping[str, float],
        manifest_sha256: str,
        checkpoints: Mapping[str, str],
    ) -> "SoftLabels":
        """Write a bundle in the place of `folder`, whole or not at all, and return it as `open` would.

        The same content gives the same bytes. The files are read back and verified before the folder gets
        its name.

        Raises
        ------
        BundleError
            the parts do not make a bundle that verifies
        OSError
            the disk refused; `folder` is as it was
        """
        with written_folder(folder) as temporary:
            _write_files(temporary, logits, index, classes, report, metrics)
            hashes = {
                "format": FORMAT,
                "manifest_sha256": manifest_sha256,
                "selection_sha256": selection_digest(index),
                "checkpoints": dict(checkpoints),
                "files": {name: sha256_of_file(temporary / name) for name in FILES if (temporary / name).exists()},
            }
            _write_json(temporary / HASHES, hashes)
            written = _open(temporary)
        return replace(written, folder=Path(folder))


def _write_files(folder: Path, logits, index, classes, report, metrics) -> None:
    """Write everything but the descriptor."""
    with (folder / ARRAYS).open("wb") as file:
        np.savez(file, logits=logits)
    with (folder / INDEX).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_index_lines(index))
    _write_json(folder / CLASSES, list(classes))
    _write_json(folder / REPORT, report)
    if metrics:
        _write_json(folder / METRICS, metrics)


def _index_lines(index: pd.DataFrame) -> Iterator[str]:
    """Yield one JSON line a row, a few thousand rows in memory at a time."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for start in range(0, len(index), 4096):
        part = index.iloc[start : start + 4096]
        for values in zip(*(part[name].tolist() for name in INDEX_FIELDS), strict=True):
            record = dict(zip(INDEX_FIELDS, values, strict=True))
            record["label"] = record["label"] or None
            yield encode(record) + "\n"


def _write_json(path: Path, value: Any) -> None:
    """Write JSON that people can read; NaN is an error, since JSON has none."""
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8", newline="\n"
    )


def _open(folder: Path) -> SoftLabels:
    """Read and verify; see `SoftLabels.open`."""
    reading = read_parts(folder)
    if reading.error is not None:
        raise reading.error
    hashes = reading.hashes
    return SoftLabels(
        logits=reading.logits,
        index=reading.index,
        classes=reading.classes,
        report=reading.report,
        metrics=reading.metrics,
        manifest_sha256=hashes["manifest_sha256"],
        selection_sha256=hashes["selection_sha256"],
        checkpoints=hashes["checkpoints"],
        sha256=sha256_of_file(folder / HASHES),
        folder=folder,
    )
