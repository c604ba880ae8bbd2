"""The files of a bundle, read check by check: `SoftLabels.open` stops at the first that fails, `verify` shows all."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import selection_digest
from fer_mlflow.errors import BundleError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.scoring import fusion, sanity

FORMAT = "fer-softlabels/2"
ARRAYS, INDEX, CLASSES = "softlabels.npz", "softlabels_index.jsonl", "classorder.json"
REPORT, METRICS, HASHES = "alignmentreport.json", "ensemble_metrics.json", "hash_manifest.json"
ENVIRONMENT = "environment.json"  # device, batch size and versions: in no digest, and not needed
HASHED = (ARRAYS, INDEX, CLASSES, REPORT, METRICS)  # METRICS only where rows have labels
FILES = (*HASHED, ENVIRONMENT, HASHES)
OPTIONAL = (METRICS, ENVIRONMENT)
INDEX_FIELDS = ("row", "path", "label", "split", "source", "image_sha256")
INDEX_BLOCK = 4096  # rows of the index that are in memory as JSON at a time
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BrokenFileError(BundleError):
    """What is wrong with one file of a bundle, or with what would be in it; `found` is that without the folder."""

    def __init__(self, found: str, folder: Path | None = None):
        where, remedy = (f"bundle {folder}", "; export or fetch the bundle again") if folder else ("soft labels", "")
        super().__init__(f"{where}: {found}{remedy}")
        self.found = found


@dataclass
class Reading:
    """What could be read of a bundle: its parts, as `SoftLabels` has them, each None where it cannot be read."""

    checks: list[sanity.Check] = field(default_factory=list)  # all that were made; their verdicts are `pass` and `fail`
    error: str | None = None  # of the first one that failed
    hashes: Any = None
    classes: Any = None
    logits: Any = None
    index: Any = None
    report: Any = None
    metrics: Any = None
    environment: Any = None

    def note(self, name: str, found: str, error: str | None = None) -> None:
        """Add a check that passed, with what it found, or that failed with an error."""
        self.error = self.error or error
        self.checks.append(sanity.Check(name, "fail" if error else "pass", error or found))

    def attempt(self, name: str, describe: Callable[[Any], str], read: Callable, *arguments: Any) -> Any:
        """Return what `read` gives, and note whether it did; a file that is broken gives None."""
        try:
            value = read(*arguments)
        except BrokenFileError as error:
            self.note(name, "", error.found)
            return None
        self.note(name, describe(value))
        return value


def read_parts(folder: Path) -> Reading:
    """Read a bundle as far as that is possible, and make every check that needs nothing but its files.

    Raises a BundleError where there is no such folder.
    """
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: no such folder; give the folder that holds {HASHES}")
    reading = Reading()
    attempt = reading.attempt
    hashes = reading.hashes = attempt("descriptor", _describe_hashes, _read_hashes, folder)
    for name, digest in (hashes["files"] if hashes else {}).items():
        attempt(f"hash {name}", lambda found: f"{found[:12]}…", _check_hash, folder, name, digest)
    reading.classes = attempt("class order", ", ".join, lambda: _check_classes(_read_json(folder, CLASSES)))
    logits = attempt("logits", lambda z: f"{z.dtype} {z.shape}", _read_arrays, folder, reading.classes)
    reading.index = attempt("index", lambda frame: f"{len(frame):,} rows", _read_index, folder)
    selection = hashes and hashes["selection_sha256"]
    for name, file, found, problem in _array_checks(reading.classes, logits, reading.index, selection):
        reading.note(name, found, f"{file}: {problem}" if problem else None)
        if name == "finite" and not problem:
            reading.logits = logits
    reading.metrics = {}
    if METRICS in hashes["files"] if hashes else (folder / METRICS).exists():
        reading.metrics = attempt("metrics file", lambda found: f"{len(found)} numbers", _read_object, folder, METRICS)
    reading.report = attempt("report file", lambda found: f"{len(found)} sections", _read_object, folder, REPORT)
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
) -> pd.DataFrame:
    """Make every check of a bundle's arrays and digests of what is in memory, and return the index as a bundle has it.

    Raises the BundleError of the first that fails.
    """
    _check_classes(list(classes))
    _check_shape(logits, classes)
    try:
        index = _typed(index[[*INDEX_FIELDS, *(name for name in index.columns if name not in INDEX_FIELDS)]])
    except (KeyError, TypeError) as error:
        raise BrokenFileError(f"{INDEX}: {error}") from error
    for _, file, _, problem in _array_checks(classes, logits, index):
        if problem:
            raise BrokenFileError(f"{file}: {problem}")
    _check_hashes(checkpoints, digests)
    return index


@contextmanager
def _file(folder: Path, name: str, malformed: str = "") -> Iterator[Path]:
    """Give the path of a bundle's file for a block; the error of what cannot be read or parsed there names the file."""
    try:
        yield folder / name
    except OSError as error:
        raise BrokenFileError(f"{name}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError, EOFError, zipfile.BadZipFile) as error:
        raise BrokenFileError(f"{name}: {malformed} ({error})") from error


def _read_json(folder: Path, name: str) -> Any:
    with _file(folder, name, "not JSON") as path:
        return json.loads(path.read_bytes())


def _read_object(folder: Path, name: str) -> dict:
    value = _read_json(folder, name)
    if not isinstance(value, dict):
        raise BrokenFileError(f"{name}: holds a {type(value).__name__} where an object belongs")
    return value


def _read_hashes(folder: Path) -> dict:
    """Return the descriptor after checking its form; file names that are not a bundle's are never followed."""
    hashes = _read_object(folder, HASHES)
    if hashes.get("format") != FORMAT:
        raise BrokenFileError(f"{HASHES}: format is {hashes.get('format')!r}, this version reads {FORMAT}")
    files = hashes.get("files")
    if not isinstance(files, dict) or not set(HASHED) - {METRICS} <= set(files) <= set(HASHED):
        raise BrokenFileError(f"{HASHES}: must name the files {', '.join(HASHED)}")
    digests = [*files.values(), hashes.get("manifest_sha256"), hashes.get("selection_sha256")]
    _check_hashes(hashes.get("checkpoints"), digests)
    return hashes


def _check_hashes(checkpoints: Any, digests: Iterable[object]) -> None:
    """Check that teachers are named, and that every digest is one."""
    if not isinstance(checkpoints, dict) or not checkpoints:
        raise BrokenFileError(f"{HASHES}: names no checkpoints")
    if not all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in (*digests, *checkpoints.values())):
        raise BrokenFileError(f"{HASHES}: a value is not a SHA-256 of 64 hex digits")


def _describe_hashes(hashes: dict) -> str:
    return f"{FORMAT}, {len(hashes['files'])} files, checkpoints of {', '.join(sorted(hashes['checkpoints']))}"


def _check_hash(folder: Path, name: str, expected: str) -> str:
    """Return a file's hash, which is the one in the descriptor."""
    with _file(folder, name) as path:
        found = sha256_of_file(path)
    if found != expected:
        raise BrokenFileError(f"{name}: SHA-256 is {found[:12]}…, {HASHES} says {expected[:12]}…")
    return found


def _check_classes(names: Any) -> tuple[str, ...]:
    """Return the class names, two or more different texts."""
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        raise BrokenFileError(f"{CLASSES}: must be a list of two or more names")
    if len(set(names)) != len(names):
        raise BrokenFileError(f"{CLASSES}: names a class twice")
    return tuple(names)


def _read_arrays(folder: Path, classes: tuple[str, ...] | None) -> np.ndarray:
    """Return the (N, C) logits."""
    with _file(folder, ARRAYS, "no array of logits") as path:
        data = io.BytesIO(path.read_bytes())
        with np.load(data, allow_pickle=False) as arrays:
            return _check_shape(arrays["logits"], classes)


def _check_shape(logits: np.ndarray, classes: tuple[str, ...] | None) -> np.ndarray:
    """Return logits that are floats of a type that bundles have; C is taken as it is where classes are unknown."""
    wanted = logits.shape[-1:] if classes is None else (len(classes),)
    if logits.ndim != 2 or logits.shape[1:] != wanted or logits.dtype.name not in fusion.DTYPES:
        columns = ", ".join(map(str, wanted))
        found = f"logits are {logits.dtype} {logits.shape}"
        raise BrokenFileError(f"{ARRAYS}: {found}, {CLASSES} calls for (rows, {columns}) floats")
    return logits


def _read_index(folder: Path) -> pd.DataFrame:
    """Return the index as a frame with the fields and types of the format, and its further columns as text."""
    blocks: list[pd.DataFrame] = []
    names: tuple[str, ...] = INDEX_FIELDS
    with _file(folder, INDEX) as path, path.open("rb") as file:
        while lines := list(islice(file, INDEX_BLOCK)):
            try:
                records = json.loads(b"[" + b",".join(lines) + b"]")  # one call: four times as fast as by line
                names = names if blocks else (*INDEX_FIELDS, *(k for k in records[0] if k not in INDEX_FIELDS))
                if len(records) != len(lines) or any(len(record) != len(names) for record in records):
                    raise ValueError("a line is not one JSON object with the same fields as the first")
                block = pd.DataFrame({name: [record[name] for record in records] for name in names}, dtype=object)
                blocks.append(_typed(block.assign(label=block["label"].fillna(""))))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                where = f"within {len(lines)} lines from line {INDEX_BLOCK * len(blocks) + 1}"
                raise BrokenFileError(f"{INDEX}: {where}: {error}") from error
    return pd.concat(blocks, ignore_index=True) if blocks else _typed(pd.DataFrame(columns=list(INDEX_FIELDS)))


def _typed(index: pd.DataFrame) -> pd.DataFrame:
    """Return an index with row as int64 and every other column as str; another kind of value raises a TypeError."""
    for name in index.columns if len(index) else ():
        wanted = "integer" if name == "row" else "string"
        if (found := pd.api.types.infer_dtype(index[name], skipna=False)) != wanted:
            raise TypeError(f"{name} is {found}, not {wanted}")
    return index.astype({name: "int64" if name == "row" else "str" for name in index.columns})


def _array_checks(
    classes: tuple[str, ...] | None, logits: Any, index: Any, selection: str | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """Yield each check of what arrays hold: its name, the file, what it found, and the problem if there is one."""
    if logits is not None:
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        problem = f"{len(bad):,} rows are not finite, row {bad[0]} first" if len(bad) else ""
        yield "finite", ARRAYS, "every logit", problem
    if index is None:
        return
    ascend = (np.diff(index["row"], prepend=-1) > 0).all()
    yield "row order", INDEX, "rows ascend", "" if ascend else "rows are not in ascending order"
    if classes is not None:
        unknown = sorted(set(index["label"].unique()) - {*classes, ""})
        problem = f"label {unknown[0]!r} is not in {CLASSES}" if unknown else ""
        yield "labels", INDEX, f"{(index['label'] != '').sum():,} rows have one", problem
    hashed = index["image_sha256"].str.fullmatch(_SHA256.pattern).all()
    problem = "" if hashed else "an image_sha256 is not 64 hex digits"
    yield "image hashes", INDEX, "one SHA-256 for each row", problem
    if logits is not None:
        n, N = len(index), len(logits)
        yield "row count", INDEX, f"{n:,} rows of logits", "" if n == N else f"{n:,} rows, {ARRAYS} has {N:,}"
    if selection is not None:
        digest = f"{(full := selection_digest(index))[:12]}…"
        problem = f"its rows have the digest {digest}, {HASHES} names another selection"
        yield "selection", INDEX, digest, "" if full == selection else problem


def label_columns(labels: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Return (N,) int64 positions of class names, -1 for empty ones."""
    return pd.Index(classes).get_indexer(labels).astype(np.int64)
