"""The files of a bundle, read check by check: `SoftLabels.open` stops at the first that fails, `verify` shows all."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import selection_digest
from fer_mlflow.errors import BundleError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.scoring.fusion import DTYPES
from fer_mlflow.scoring.sanity import Check

FORMAT = "fer-softlabels/2"
ARRAYS, INDEX, CLASSES = "softlabels.npz", "softlabels_index.jsonl", "classorder.json"
REPORT, METRICS, HASHES = "alignmentreport.json", "ensemble_metrics.json", "hash_manifest.json"
ENVIRONMENT = "environment.json"  # device, batch size and versions: in no digest, and not needed
HASHED = (ARRAYS, INDEX, CLASSES, REPORT, METRICS)  # METRICS only where rows have labels
FILES = (*HASHED, ENVIRONMENT, HASHES)
OPTIONAL = (METRICS, ENVIRONMENT)
INDEX_FIELDS = ("row", "path", "label", "split", "source", "image_sha256")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class BrokenFileError(BundleError):
    """What is wrong with one file of a bundle, or with what would be in it; `found` is that without the folder."""

    def __init__(self, folder: Path | None, name: str, found: str):
        remedy = "; export or fetch the bundle again" if folder else ""
        super().__init__(f"{f'bundle {folder}' if folder else 'soft labels'}: {name}: {found}{remedy}")
        self.found = f"{name}: {found}"


@dataclass
class Reading:
    """What could be read of a bundle, and every check that was made of it.

    Attributes
    ----------
    checks : in the order in which they were made; their verdicts are `pass` and `fail`
    error : of the first one that failed, None where all is well
    hashes, classes, logits, index, report, metrics : the parts, each None where it cannot be read; for what they
        hold see `SoftLabels`
    """

    folder: Path
    checks: list[Check] = field(default_factory=list)
    error: BundleError | None = None
    hashes: Any = None
    classes: Any = None
    logits: Any = None
    index: Any = None
    report: Any = None
    metrics: Any = None
    environment: Any = None

    def attempt(self, name: str, read: Callable[[], _T], describe: Callable[[_T], str]) -> _T | None:
        """Return what `read` gives, and note whether it did; a file that is broken gives None."""
        try:
            value = read()
        except BrokenFileError as error:
            self.error = self.error or error
            self.checks.append(Check(name, "fail", error.found))
            return None
        self.checks.append(Check(name, "pass", describe(value)))
        return value


def read_parts(folder: Path) -> Reading:
    """Read a bundle as far as that is possible, and make every check that needs nothing but its files.

    Raises
    ------
    BundleError
        there is no such folder
    """
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: no such folder; give the folder that holds {HASHES}")
    reading = Reading(folder)
    hashes = reading.hashes = reading.attempt("descriptor", lambda: _read_hashes(folder), _describe_hashes)
    for name, expected in (hashes["files"] if hashes else {}).items():
        reading.attempt(f"hash {name}", lambda n=name, e=expected: _check_hash(folder, n, e), lambda e: f"{e[:12]}…")  # type: ignore[misc]
    classes = reading.classes = reading.attempt("class order", lambda: _read_classes(folder), ", ".join)
    logits = reading.attempt("logits", lambda: _read_arrays(folder, classes), lambda z: f"{z.dtype} {z.shape}")
    index = reading.index = reading.attempt("index", lambda: _read_index(folder), lambda frame: f"{len(frame):,} rows")
    for name, check in _array_checks(folder, classes, logits, index):
        passed = reading.attempt(name, check, str) is not None
        if name == "finite" and passed:
            reading.logits = logits
    if index is not None and hashes is not None:
        expected = hashes["selection_sha256"]
        reading.attempt("selection", lambda: _check_selection(folder, index, expected), lambda e: f"{e[:12]}…")
    if METRICS in hashes["files"] if hashes else (folder / METRICS).exists():
        metrics = reading.attempt("metrics file", lambda: _read_object(folder, METRICS), lambda m: f"{len(m)} numbers")
        reading.metrics = metrics
    else:
        reading.metrics = {}
    reading.report = reading.attempt(
        "report file", lambda: _read_object(folder, REPORT), lambda r: f"{len(r)} sections"
    )
    try:
        reading.environment = _read_object(folder, ENVIRONMENT)
    except BrokenFileError:
        reading.environment = {}
    return reading


def check_parts(
    logits: np.ndarray,
    index: pd.DataFrame,
    classes: tuple[str, ...],
    digests: Iterable[object],
    checkpoints: Mapping[str, object],
) -> None:
    """Make every check of a bundle's arrays and digests of what is in memory.

    Raises
    ------
    BundleError
        the first that fails
    """
    _check_classes(None, list(classes))
    _check_shape(None, logits, classes)
    try:
        typed_index(index[[*INDEX_FIELDS, *index.columns.difference(INDEX_FIELDS)]])
    except (KeyError, TypeError) as error:
        raise BrokenFileError(None, INDEX, str(error)) from error
    for _, check in _array_checks(None, classes, logits, index):
        check()
    _check_hashes(None, checkpoints, digests)


def _read_bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BrokenFileError(folder, name, error.strerror or str(error)) from error


def _read_json(folder: Path, name: str) -> Any:
    try:
        return json.loads(_read_bytes(folder, name))
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(folder, name, f"not JSON ({error})") from error


def _read_object(folder: Path, name: str) -> dict:
    """Return a JSON object of a bundle's file."""
    value = _read_json(folder, name)
    if not isinstance(value, dict):
        raise BrokenFileError(folder, name, f"holds a {type(value).__name__} where an object belongs")
    return value


def _read_hashes(folder: Path) -> dict:
    """Return the descriptor after checking its form; file names that are not a bundle's are never followed."""
    hashes = _read_object(folder, HASHES)
    if hashes.get("format") != FORMAT:
        raise BrokenFileError(folder, HASHES, f"format is {hashes.get('format')!r}, this version reads {FORMAT}")
    files, checkpoints = hashes.get("files"), hashes.get("checkpoints")
    if not isinstance(files, dict) or not set(HASHED) - {METRICS} <= set(files) <= set(HASHED):
        raise BrokenFileError(folder, HASHES, f"must name the files {', '.join(HASHED)}")
    digests = [*files.values(), hashes.get("manifest_sha256"), hashes.get("selection_sha256")]
    _check_hashes(folder, checkpoints, digests)
    return hashes


def _check_hashes(folder: Path | None, checkpoints: Any, digests: Iterable[object]) -> None:
    """Check that teachers are named, and that every digest is one."""
    if not isinstance(checkpoints, dict) or not checkpoints:
        raise BrokenFileError(folder, HASHES, "names no checkpoints")
    if not all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in (*digests, *checkpoints.values())):
        raise BrokenFileError(folder, HASHES, "a value is not a SHA-256 of 64 hex digits")


def _describe_hashes(hashes: dict) -> str:
    return f"{FORMAT}, {len(hashes['files'])} files, checkpoints of {', '.join(sorted(hashes['checkpoints']))}"


def _check_hash(folder: Path, name: str, expected: str) -> str:
    """Return a file's hash, which is the one in the descriptor."""
    try:
        found = sha256_of_file(folder / name)
    except OSError as error:
        raise BrokenFileError(folder, name, error.strerror or str(error)) from error
    if found != expected:
        raise BrokenFileError(folder, name, f"SHA-256 is {found[:12]}…, {HASHES} says {expected[:12]}…")
    return found


def _read_classes(folder: Path) -> tuple[str, ...]:
    return _check_classes(folder, _read_json(folder, CLASSES))


def _check_classes(folder: Path | None, names: Any) -> tuple[str, ...]:
    """Return the class names, two or more different texts."""
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        raise BrokenFileError(folder, CLASSES, "must be a list of two or more names")
    if len(set(names)) != len(names):
        raise BrokenFileError(folder, CLASSES, "names a class twice")
    return tuple(names)


def _read_arrays(folder: Path, classes: tuple[str, ...] | None) -> np.ndarray:
    """Return the (N, C) logits."""
    try:
        with np.load(io.BytesIO(_read_bytes(folder, ARRAYS)), allow_pickle=False) as arrays:
            logits = arrays["logits"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BrokenFileError(folder, ARRAYS, f"no array of logits ({error})") from error
    return _check_shape(folder, logits, classes)


def _check_shape(folder: Path | None, logits: np.ndarray, classes: tuple[str, ...] | None) -> np.ndarray:
    """Return logits that are floats of a type that bundles have; C is taken as it is where classes are unknown."""
    wanted = logits.shape[-1:] if classes is None else (len(classes),)
    if logits.ndim != 2 or logits.shape[1:] != wanted or logits.dtype.name not in DTYPES:
        columns = ", ".join(map(str, wanted))
        raise BrokenFileError(
            folder, ARRAYS, f"logits are {logits.dtype} {logits.shape}, {CLASSES} calls for (rows, {columns}) floats"
        )
    return logits


def _read_index(folder: Path) -> pd.DataFrame:
    """Return the index as a frame with the fields and types of the format, and its further columns as text."""
    blocks: list[pd.DataFrame] = []
    names: tuple[str, ...] = INDEX_FIELDS
    try:
        with (folder / INDEX).open("rb") as file:
            while lines := list(islice(file, 4096)):
                try:
                    records = json.loads(b"[" + b",".join(lines) + b"]")  # one call: four times as fast as by line
                    names = names if blocks else (*INDEX_FIELDS, *(k for k in records[0] if k not in INDEX_FIELDS))
                    blocks.append(_parse_records(records, len(lines), names))
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    first = sum(len(block) for block in blocks) + 1
                    raise BrokenFileError(
                        folder, INDEX, f"within {len(lines)} lines from line {first}: {error}"
                    ) from error
    except OSError as error:
        raise BrokenFileError(folder, INDEX, error.strerror or str(error)) from error
    return pd.concat(blocks, ignore_index=True) if blocks else typed_index(pd.DataFrame(columns=list(INDEX_FIELDS)))


def _parse_records(records: list[dict], lines: int, names: tuple[str, ...]) -> pd.DataFrame:
    """Return JSON objects as a frame, a label of null as an empty one; what is no such object raises."""
    if len(records) != lines or any(len(record) != len(names) for record in records):
        raise ValueError("a line is not one JSON object with the same fields as the first")
    block = pd.DataFrame({name: [record[name] for record in records] for name in names}, dtype=object)
    block["label"] = block["label"].fillna("")
    return typed_index(block)


def typed_index(index: pd.DataFrame) -> pd.DataFrame:
    """Return an index with row as int64 and every other column as str; another kind of value raises a TypeError."""
    for name in index.columns if len(index) else ():
        wanted = "integer" if name == "row" else "string"
        if (found := pd.api.types.infer_dtype(index[name], skipna=False)) != wanted:
            raise TypeError(f"{name} is {found}, not {wanted}")
    return index.astype({name: "int64" if name == "row" else "str" for name in index.columns})


def _array_checks(
    folder: Path | None, classes: tuple[str, ...] | None, logits: Any, index: Any
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the name and the check of what arrays hold, as far as they are there; a check returns what it found."""

    def refuse(name: str, found: str):
        raise BrokenFileError(folder, name, found)

    def finite() -> str:
        is_finite = np.isfinite(logits).all(axis=1)
        if not is_finite.all():
            refuse(ARRAYS, f"{(~is_finite).sum():,} rows are not finite, row {int(np.argmin(is_finite))} first")
        return "every logit"

    def row_order() -> str:
        rows = index["row"].to_numpy()
        if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
            refuse(INDEX, "rows are not in ascending order")
        return "rows ascend"

    def labels() -> str:
        if unknown := set(index["label"].unique()) - {*(classes or ()), ""}:
            refuse(INDEX, f"label {sorted(unknown)[0]!r} is not in {CLASSES}")
        return f"{(index['label'] != '').sum():,} rows have one"

    def image_hashes() -> str:
        if not index["image_sha256"].str.fullmatch(_SHA256.pattern).all():
            refuse(INDEX, "an image_sha256 is not 64 hex digits")
        return "one SHA-256 for each row"

    def row_count() -> str:
        if len(index) != len(logits):
            refuse(INDEX, f"{len(index):,} rows, {ARRAYS} has {len(logits):,}")
        return f"{len(index):,} rows of logits"

    if logits is not None:
        yield "finite", finite
    if index is not None:
        yield "row order", row_order
        if classes is not None:
            yield "labels", labels
        yield "image hashes", image_hashes
        if logits is not None:
            yield "row count", row_count


def _check_selection(folder: Path, index: pd.DataFrame, expected: str) -> str:
    found = selection_digest(index)
    if found != expected:
        raise BrokenFileError(
            folder, INDEX, f"its rows have the digest {found[:12]}…, {HASHES} names another selection"
        )
    return found


def label_columns(labels: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Return (N,) int64 positions of class names, -1 for empty ones."""
    return pd.Index(classes).get_indexer(labels).astype(np.int64)
