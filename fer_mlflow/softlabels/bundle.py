"""The soft-label bundle: one folder, one reader, one writer, one verifier. Format: docs/bundle-format.md."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.files import sha256_of_file, written_folder
from fer_mlflow.data.manifest import selection_digest
from fer_mlflow.errors import BundleError
from fer_mlflow.softlabels.fusion import DTYPES

FORMAT = "fer-softlabels/1"
FOLDER = "softlabels"  # the artifact folder of a run
ARRAYS, INDEX, CLASSES = "softlabels.npz", "softlabels_index.jsonl", "classorder.json"
REPORT, METRICS, HASHES = "alignmentreport.json", "ensemble_metrics.json", "hash_manifest.json"
FILES = (ARRAYS, INDEX, CLASSES, REPORT, METRICS)  # METRICS only where rows have labels
INDEX_FIELDS = ("row", "path", "label", "split", "source", "image_sha256")
_INDEX_TYPES = {"row": "int64"} | dict.fromkeys(INDEX_FIELDS[1:], "str")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        return _label_columns(self.index["label"], self.classes)

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
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: no such folder; give the folder that holds {HASHES}")
    hashes = _read_hashes(folder)
    content = {}
    for name, expected in hashes["files"].items():
        try:
            found = sha256_of_file(folder / name)
        except OSError as error:
            raise _broken(folder, name, error.strerror or str(error)) from error
        if found != expected:
            raise _broken(folder, name, f"SHA-256 is {found[:12]}…, {HASHES} says {expected[:12]}…")
        if name != INDEX:  # the one file that is large: read line by line below
            content[name] = _read_bytes(folder, name)
    classes = _parse_classes(folder, content[CLASSES])
    logits = _parse_arrays(folder, content[ARRAYS], len(classes))
    index = _read_index(folder, classes)
    if len(index) != len(logits):
        raise _broken(folder, INDEX, f"{len(index):,} rows, {ARRAYS} has {len(logits):,}")
    selection = selection_digest(index)
    if selection != hashes["selection_sha256"]:
        raise _broken(folder, INDEX, f"its rows have the digest {selection[:12]}…, {HASHES} names another selection")
    metrics = _parse_json(folder, METRICS, content[METRICS]) if METRICS in content else {}
    return SoftLabels(
        logits=logits,
        index=index,
        classes=classes,
        report=_parse_json(folder, REPORT, content[REPORT]),
        metrics=metrics,
        manifest_sha256=hashes["manifest_sha256"],
        selection_sha256=selection,
        checkpoints=hashes["checkpoints"],
        sha256=sha256_of_file(folder / HASHES),
        folder=folder,
    )


def _broken(folder: Path, name: str, found: str) -> BundleError:
    """Return the error for a file of a bundle."""
    return BundleError(f"bundle {folder}: {name}: {found}; export or fetch the bundle again")


def _read_bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _broken(folder, name, error.strerror or str(error)) from error


def _parse_json(folder: Path, name: str, data: bytes) -> dict:
    """Return a JSON object of a bundle's file."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _broken(folder, name, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _broken(folder, name, f"holds a {type(value).__name__} where an object belongs")
    return value


def _read_hashes(folder: Path) -> dict:
    """Return the descriptor after checking its form; file names that are not a bundle's are never followed."""
    hashes = _parse_json(folder, HASHES, _read_bytes(folder, HASHES))
    if hashes.get("format") != FORMAT:
        raise _broken(folder, HASHES, f"format is {hashes.get('format')!r}, this version reads {FORMAT}")
    files, checkpoints = hashes.get("files"), hashes.get("checkpoints")
    if not isinstance(files, dict) or not set(FILES) - {METRICS} <= set(files) <= set(FILES):
        raise _broken(folder, HASHES, f"must name the files {', '.join(FILES)}")
    if not isinstance(checkpoints, dict) or not checkpoints:
        raise _broken(folder, HASHES, "names no checkpoints")
    digests = [*files.values(), *checkpoints.values(), hashes.get("manifest_sha256"), hashes.get("selection_sha256")]
    if not all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in digests):
        raise _broken(folder, HASHES, "a value is not a SHA-256 of 64 hex digits")
    return hashes


def _parse_classes(folder: Path, data: bytes) -> tuple[str, ...]:
    """Return the class names, two or more different texts."""
    try:
        names = json.loads(data)
    except ValueError as error:
        raise _broken(folder, CLASSES, f"not JSON ({error})") from error
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        raise _broken(folder, CLASSES, "must be a list of two or more names")
    if len(set(names)) != len(names):
        raise _broken(folder, CLASSES, "names a class twice")
    return tuple(names)


def _parse_arrays(folder: Path, data: bytes, n_classes: int) -> np.ndarray:
    """Return the (N, C) logits, finite floats of a type that bundles use."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            logits = arrays["logits"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(folder, ARRAYS, f"no array of logits ({error})") from error
    if logits.ndim != 2 or logits.shape[1] != n_classes or logits.dtype.name not in DTYPES:
        raise _broken(
            folder, ARRAYS, f"logits are {logits.dtype} {logits.shape}, {CLASSES} calls for (rows, {n_classes}) floats"
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise _broken(folder, ARRAYS, f"{(~finite).sum():,} rows are not finite, row {int(np.argmin(finite))} first")
    return logits


def _read_index(folder: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the index as a frame, after checking fields, ascending rows, labels and hashes."""
    parts: list[pd.DataFrame] = []
    with (folder / INDEX).open("rb") as file:
        while lines := list(islice(file, 4096)):
            try:
                parts.append(_parse_records(lines))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                first = sum(len(part) for part in parts) + 1
                raise _broken(folder, INDEX, f"within {len(lines)} lines from line {first}: {error}") from error
    empty = pd.DataFrame(columns=list(INDEX_FIELDS)).astype(_INDEX_TYPES)
    index = pd.concat(parts, ignore_index=True) if parts else empty
    rows = index["row"].to_numpy()
    if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
        raise _broken(folder, INDEX, "rows are not in ascending order")
    if unknown := set(index["label"].unique()) - {*classes, ""}:
        raise _broken(folder, INDEX, f"label {sorted(unknown)[0]!r} is not in {CLASSES}")
    if not index["image_sha256"].str.fullmatch(_SHA256.pattern).all():
        raise _broken(folder, INDEX, "an image_sha256 is not 64 hex digits")
    return index


def _parse_records(lines: list[bytes]) -> pd.DataFrame:
    """Return lines of JSON objects as a frame, a label of null as an empty one; what is no such line raises."""
    records = json.loads(b"[" + b",".join(lines) + b"]")  # one call: four times as fast as line by line
    if len(records) != len(lines):
        raise ValueError("a line is not one JSON object")
    part = pd.DataFrame({name: [record[name] for record in records] for name in INDEX_FIELDS}, dtype=object)
    part["label"] = part["label"].fillna("")
    for name, kind in _INDEX_TYPES.items():
        wanted = {"int64": "integer", "str": "string"}[kind]
        if (found := pd.api.types.infer_dtype(part[name], skipna=False)) != wanted:
            raise TypeError(f"{name} is {found}, not {wanted}")
    return part.astype(_INDEX_TYPES)


def _label_columns(labels: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Return (N,) int64 positions of class names, -1 for empty ones."""
    return pd.Index(classes).get_indexer(labels).astype(np.int64)
