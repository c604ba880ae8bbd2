"""A manifest: a CSV of labelled image paths, and the benchmark that a split of it makes."""

import hashlib
import json
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.columns import HEADERS, find_columns, read_csv
from fer_mlflow.data.paths import find_unusable
from fer_mlflow.errors import ManifestError
from fer_mlflow.files import sha256_of_file

SHOWN = 10  # offending rows named in a message
_ODD_PATH = r"(?:^|/)\.{0,2}(?:/|$)"  # absolute, or with an empty, `.` or `..` part: needs normalising
UNLABELLED = -1
_UNKNOWN = -2


@dataclass(frozen=True)
class Benchmark:
    """The selected rows of a manifest, in its order: what teachers predict and ensembles are scored on.

    Attributes
    ----------
    name : `<stem>[:split][:firstN]`, for people
    root : the folder that every path is relative to and stays under
    frame : N rows of str columns path, label, split, source, then the manifest's other columns;
        paths are normalised with `/`, labels are class names or empty
    labels : (N,) int64 column of the label in `classes`, -1 where a row has none
    manifest_sha256 : of the file's bytes
    """

    name: str
    root: Path
    frame: pd.DataFrame
    labels: np.ndarray
    classes: ClassOrder
    manifest_path: Path
    manifest_sha256: str

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def paths(self) -> pd.Series:
        """The (N,) paths under `root`."""
        return self.frame["path"]

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column.

        Raises ManifestError: there is no such column.
        """
        _check_column(name, self.frame, self.manifest_path)
        return self.frame[name].to_numpy(object)

    @cached_property
    def selection_sha256(self) -> str:
        """The identity of the benchmark: see `selection_digest`."""
        return selection_digest(self.frame)


def selection_digest(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a frame's rows in order, as 64 hex digits.

    What is hashed is the JSON array of all rows `["path","label","split","source"]`, in UTF-8 and without blanks; a
    missing value is an empty string. JSON's quoting keeps two different selections from giving one text.

    Parameters
    ----------
    frame : N rows with the str columns path, label, split, source; others do not matter

    Examples
    --------
    >>> selection_digest(pd.DataFrame({"path": ["a.jpg"], "label": "Happy", "split": "test", "source": "web"}))[:12]
    'd2fe910d21e7'
    """
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    digest = hashlib.sha256(b"[")
    for start in range(0, len(frame), 4096):  # in blocks: row by row takes four times as long, all at once the memory
        block = frame.iloc[start : start + 4096]
        rows = list(zip(*(block[column].tolist() for column in HEADERS), strict=True))
        digest.update(("," * (start > 0) + encode(rows)[1:-1]).encode())
    digest.update(b"]")
    return digest.hexdigest()


def read_benchmark(
    manifest: str | Path,
    classes: ClassOrder,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    verify_paths: bool = True,
    on_refused: Callable[[ManifestError, int], object] | None = None,
) -> Benchmark:
    """Read the rows of a manifest that a split selects, and refuse what cannot be trusted.

    Parameters
    ----------
    root : folder of relative paths; None means the manifest's own
    split : keep the rows whose split is this text; None keeps all
    limit : keep the first so many of those; None keeps all
    verify_paths : list each folder once and check that every path is a file there that stays under `root`
    on_refused : called with what would be raised because of rows, and how many; those rows are left out then

    Raises
    ------
    ManifestError
        the file cannot be read as a CSV with a path column; nothing is selected; or rows have unknown labels,
        paths that leave the root, duplicate paths or no file: the first ten such rows and their count
    """
    manifest = Path(manifest)
    raw = read_csv(manifest)
    columns = find_columns(raw, manifest)
    root = Path(root) if root else manifest.parent
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder; give the folder that the manifest's paths start from with --root")

    frame = pd.DataFrame(
        {name: raw[columns[name]] if name in columns else pd.Series("", raw.index, dtype=str) for name in HEADERS}
    )
    for name in raw.columns:
        if name not in columns.values() and name not in frame:
            frame[name] = raw[name]
    frame = _select(frame, manifest, split, limit)

    def drop(frame: pd.DataFrame, column: str, wrong: np.ndarray, problem: str, remedy: str) -> pd.DataFrame:
        """Refuse the rows marked in `wrong`, or leave them out."""
        if not wrong.any():
            return frame
        error = _refusal(frame[column][wrong], manifest, problem, remedy)
        if on_refused is None:
            raise error
        on_refused(error, int(np.count_nonzero(wrong)))
        return frame[~wrong].copy()

    paths, is_outside = _normalise(frame["path"], root)
    problem = f"path that is empty or leaves the root {root}"
    frame = drop(frame, "path", is_outside, problem, "correct the paths or give another --root")
    frame["path"] = paths[~is_outside]
    is_unknown = _label_columns(frame["label"], classes) == _UNKNOWN
    remedy = "map it with --classes (a YAML file, name: [other words])"
    frame = drop(frame, "label", is_unknown, f"label that is not one of {', '.join(classes.names)}", remedy)
    names = np.array([*classes.names, ""], dtype=object)
    frame["label"] = pd.Series(names[_label_columns(frame["label"], classes)], frame.index, dtype=frame["path"].dtype)
    is_duplicate = frame["path"].duplicated().to_numpy()
    frame = drop(frame, "path", is_duplicate, "duplicate path", "keep one row for each image")
    if verify_paths:
        is_missing, leads_out = find_unusable(frame["path"], root)
        remedy = "copy the files or give another --root"
        frame = drop(frame, "path", leads_out, f"link that leads out of the root {root}", remedy)
        remedy = "give the folder of the paths with --root"
        frame = drop(frame, "path", is_missing[~leads_out], f"file that is not under {root}", remedy)
    name = ":".join(filter(None, (manifest.stem, split, f"first{limit}" if limit is not None else None)))
    return Benchmark(
        name,
        root,
        frame.reset_index(drop=True),
        _label_columns(frame["label"], classes),
        classes,
        manifest.absolute(),
        sha256_of_file(manifest),
    )


def read_column(manifest: str | Path, name: str, root: Path, paths: pd.Series) -> np.ndarray:
    """Return a column's text for some of a manifest's paths, (N,) str objects in the order of `paths`.

    Parameters
    ----------
    paths : (N,) paths as a `Benchmark` of this manifest and root has them

    Raises
    ------
    ManifestError
        the manifest cannot be read, has no such column or path, or several values for one
    """
    manifest = Path(manifest)
    raw = read_csv(manifest)
    _check_column(name, raw, manifest)
    own, _ = _normalise(raw[find_columns(raw, manifest)["path"]], root)
    there = pd.DataFrame({"path": own, "value": raw[name]})[own.isin(paths)].drop_duplicates()
    if (again := there["path"].duplicated()).any():
        path = there["path"][again].iloc[0]
        raise ManifestError(f'manifest {manifest}: rows of the path "{path}" have different values of {name}')
    where = pd.Index(there["path"]).get_indexer(paths)
    if (where < 0).any():
        raise ManifestError(f'manifest {manifest}: no row has the path "{paths.iloc[int(np.argmin(where))]}"')
    return there["value"].to_numpy(object)[where]


def _check_column(name: str, frame: pd.DataFrame, manifest: Path) -> None:
    if name not in frame:
        raise ManifestError(f"manifest {manifest}: no column {name}; there are {', '.join(map(str, frame.columns))}")


def _select(frame: pd.DataFrame, manifest: Path, split: str | None, limit: int | None) -> pd.DataFrame:
    """Return the rows of a split, the first `limit` of them; their index is still the manifest's."""
    for name in ("label", "split", "source"):
        frame[name] = frame[name].str.strip()
    selected = frame if split is None else frame[frame["split"] == split]
    if selected.empty:
        if frame.empty:
            raise ManifestError(f"manifest {manifest}: no rows below the header")
        counts = frame["split"].value_counts()
        there = ", ".join(f"{name or '(empty)'} ({count})" for name, count in counts.head(SHOWN).items())
        raise ManifestError(f'manifest {manifest}: no row has split "{split}"; its splits are {there}')
    return (selected if limit is None else selected.head(limit)).copy()


def _refusal(values: pd.Series, manifest: Path, problem: str, remedy: str) -> ManifestError:
    """Return an error with the first ten of the rows that are wrong, their values and the count of all."""
    shown = ", ".join(f'row {row + 1} "{value}"' for row, value in values.head(SHOWN).items())
    more = f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else ""
    return ManifestError(f"manifest {manifest}: {len(values):,} x {problem}: {shown}{more}; {remedy}")


def _normalise(paths: pd.Series, root: Path) -> tuple[pd.Series, np.ndarray]:
    """Return (N,) paths without `.`, `..` and doubled slashes, and which of them lead out of the root, (N,) bool."""
    odd = paths.str.contains(_ODD_PATH, regex=True).to_numpy(bool)
    wrong = odd.copy()
    if not odd.any():
        return paths, wrong
    paths = paths.copy()
    top = os.path.abspath(root).replace(os.sep, "/").rstrip("/") + "/"
    fixed, outside = [], []
    for path in paths[odd]:
        path = posixpath.normpath(path) if path else "."
        if path.startswith("/"):
            path = path.removeprefix(top) if path.startswith(top) else path
        fixed.append(path)
        outside.append(path.startswith(("/", "../")) or path in (".", ".."))
    wrong[odd] = outside
    paths[odd] = fixed
    return paths, wrong


def _label_columns(labels: pd.Series, classes: ClassOrder) -> np.ndarray:
    """Return the (N,) int64 class columns of label texts, -1 for empty ones, -2 for unknown ones."""
    codes, texts = pd.factorize(labels)
    found = [UNLABELLED if text == "" else classes.index_of(text) for text in texts]
    return np.array([_UNKNOWN if position is None else position for position in found], dtype=np.int64)[codes]


def read_labels(manifest: str | Path, split: str | None = None) -> list[str]:
    """Return the different label texts of a manifest's rows, or of those of one split, as they are written.

    Raises ManifestError: the file cannot be read as a CSV with a path column.
    """
    manifest = Path(manifest)
    raw = read_csv(manifest)
    columns = find_columns(raw, manifest)
    if "label" not in columns:
        return []
    labels = raw[columns["label"]].str.strip()
    if split is not None and "split" in columns:
        labels = labels[raw[columns["split"]].str.strip() == split]
    return labels.unique().tolist()
