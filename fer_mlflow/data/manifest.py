"""A manifest: a CSV of labelled image paths, and the benchmark that a split of it makes."""

import csv
import hashlib
import json
import os
import posixpath
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.roots import absolute, is_url, list_urls, open_store, parse_root
from fer_mlflow.errors import ManifestError, listed
from fer_mlflow.files import is_under, sha256_of_file, written_file

# The header names that are understood for each column; where several are there, the first one counts.
HEADERS = {
    "path": ("path", "image", "image_path", "filepath", "file"),
    "label": ("label", "class", "emotion", "expression"),
    "split": ("split", "subset", "usage"),
    "source": ("source", "dataset", "domain"),
}
_ODD_PATH = r"(?:^|/)\.{0,2}(?:/|$)"  # absolute, or with an empty, `.` or `..` part: needs normalising
UNLABELLED = -1
_UNKNOWN = -2


@dataclass(frozen=True)
class Benchmark:
    """The selected rows of a manifest, in its order: what teachers predict and ensembles are scored on.

    Paths in the frame are normalised with `/`, labels are class names or empty.
    """

    name: str  # `<stem>[:split][:firstN]`, for people
    root: Path | str  # the folder that every path is relative to and stays under: a path, or a str with a URL
    frame: pd.DataFrame  # N rows of str columns path, label, split, source, then the manifest's other columns
    labels: np.ndarray  # (N,) int64 column of the label in `classes`, -1 where a row has none
    classes: ClassOrder
    manifest_path: Path
    manifest_sha256: str  # of the file's bytes

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def paths(self) -> pd.Series:
        """The (N,) paths under `root`."""
        return self.frame["path"]

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column; ManifestError where there is no such column."""
        _check_column(name, self.frame, self.manifest_path)
        return self.frame[name].to_numpy(object)

    @cached_property
    def selection_sha256(self) -> str:
        """The identity of the benchmark: see `selection_digest`."""
        return selection_digest(self.frame)


def selection_digest(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a frame's rows in order, as 64 hex digits.

    What is hashed is the JSON array of all rows `["path","label","split","source"]`, in UTF-8 and without blanks; a
    missing value is an empty string. JSON's quoting keeps two different selections from giving one text. Other columns
    do not matter.

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
    """Read the first `limit` rows of a manifest that a split selects, and refuse what cannot be trusted.

    Relative paths start from `root`, a folder or its URL; None means the manifest's own. Where paths are verified, each
    folder is listed once, and every path must be a file there that stays under the root. `on_refused` is called with
    what would be raised because of rows, and how many; those rows are left out then.

    Raises ManifestError: the file cannot be read as a CSV with a path column; nothing is selected; or rows have unknown
    labels, paths that leave the root, duplicate paths or no file: the first ten such rows and their count.
    """
    manifest = Path(manifest)
    raw, columns = _read_csv(manifest)
    root = parse_root(root or manifest.parent)
    if isinstance(root, str):
        open_store(root)  # requests nothing yet, but its package must be here
    elif not root.is_dir():
        raise ManifestError(f"{root} is not a folder; give the folder that the manifest's paths start from with --root")

    frame = raw.drop(columns=[*columns.values(), *HEADERS], errors="ignore")
    for at, name in enumerate(HEADERS):
        frame.insert(at, name, raw[columns[name]] if name in columns else pd.Series("", raw.index, dtype=str))
    frame = _select(frame, manifest, split, limit)

    def drop(frame: pd.DataFrame, column: str, wrong: np.ndarray, problem: str, remedy: str) -> pd.DataFrame:
        """Refuse the rows marked in `wrong`, or leave them out."""
        if not wrong.any():
            return frame
        texts = [f'row {row + 1} "{value}"' for row, value in frame[column][wrong].items()]
        error = ManifestError(f"manifest {manifest}: {len(texts):,} x {problem}: {listed(texts)}; {remedy}")
        if on_refused is None:
            raise error
        on_refused(error, len(texts))
        return frame[~wrong].copy()

    paths, is_outside = _normalise(frame["path"], root)
    problem = f"path that is empty or leaves the root {root}"
    frame = drop(frame, "path", is_outside, problem, "correct the paths or give another --root")
    frame["path"] = paths[~is_outside]
    is_unknown = _label_columns(frame["label"], classes) == _UNKNOWN
    problem = f"label that is not one of {', '.join(classes.names)}"
    frame = drop(frame, "label", is_unknown, problem, "map it with --classes (a YAML file, name: [other words])")
    is_duplicate = frame["path"].duplicated().to_numpy()
    frame = drop(frame, "path", is_duplicate, "duplicate path", "keep one row for each image")
    if verify_paths:
        is_missing, leads_out = find_unusable(frame["path"], root)
        problem = f"link that leads out of the root {root}"
        frame = drop(frame, "path", leads_out, problem, "copy the files or give another --root")
        problem = f"file that is not under {root}"
        frame = drop(frame, "path", is_missing[~leads_out], problem, "give the folder of the paths with --root")
    labels = _label_columns(frame["label"], classes)
    names = np.array([*classes.names, ""], dtype=object)
    frame["label"] = pd.Series(names[labels], frame.index, dtype=frame["path"].dtype)
    frame = frame.reset_index(drop=True)
    name = ":".join(filter(None, (manifest.stem, split, f"first{limit}" if limit is not None else None)))
    return Benchmark(name, root, frame, labels, classes, manifest.absolute(), sha256_of_file(manifest))


def read_column(manifest: str | Path, name: str, root: Path | str, paths: pd.Series) -> np.ndarray:
    """Return a column's text for (N,) paths that a `Benchmark` of this manifest and root has, (N,) str objects."""
    manifest = Path(manifest)
    raw, columns = _read_csv(manifest)
    _check_column(name, raw, manifest)
    own, _ = _normalise(raw[columns["path"]], root)
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
        there = [f"{name or '(empty)'} ({count})" for name, count in counts.items()]
        raise ManifestError(f'manifest {manifest}: no row has split "{split}"; its splits are {listed(there)}')
    return (selected if limit is None else selected.head(limit)).copy()


def _normalise(paths: pd.Series, root: Path | str) -> tuple[pd.Series, np.ndarray]:
    """Return (N,) paths without `.`, `..` and doubled slashes, and which of them lead out of the root, (N,) bool."""
    odd = paths.str.contains(_ODD_PATH, regex=True).to_numpy(bool)
    is_outside = odd.copy()
    if odd.any():
        top = _as_path(absolute(root)).replace(os.sep, "/").rstrip("/") + "/"
        fixed = [posixpath.normpath(_as_path(path)).removeprefix(top) for path in paths[odd]]
        is_outside[odd] = [path.startswith(("/", "../")) or path in (".", "..") for path in fixed]
        paths = paths.copy()
        paths[odd] = fixed
    return paths, is_outside


def _as_path(text: str) -> str:
    """Return a URL as an absolute path that no other has, and a path as it is."""
    return posixpath.normpath(f"/{text}") if is_url(text) else text


def _label_columns(labels: pd.Series, classes: ClassOrder) -> np.ndarray:
    """Return the (N,) int64 class columns of label texts, -1 for empty ones, -2 for unknown ones."""
    codes, texts = pd.factorize(labels)
    found = [UNLABELLED if text == "" else classes.index_of(text) for text in texts]
    return np.array([_UNKNOWN if position is None else position for position in found], dtype=np.int64)[codes]


def read_labels(manifest: str | Path, split: str | None = None) -> list[str]:
    """Return the different label texts of a manifest's rows, or of those of one split, as they are written."""
    raw, columns = _read_csv(Path(manifest))
    if "label" not in columns:
        return []
    labels = raw[columns["label"]].str.strip()
    if split is not None and "split" in columns:
        labels = labels[raw[columns["split"]].str.strip() == split]
    return labels.unique().tolist()


def _read_csv(manifest: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read all columns as text; return them with the file's own name of each column of `HEADERS` that is there."""
    try:
        raw = pd.read_csv(manifest, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"manifest {manifest}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest {manifest}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"manifest {manifest}: not a CSV with a header line ({reason})") from error
    if not isinstance(raw.index, pd.RangeIndex):  # pandas takes surplus values for an index
        raise ManifestError(
            f"manifest {manifest}: rows have more values than the {raw.shape[1]} of the header; quote commas"
        )
    with manifest.open(encoding="utf-8-sig", newline="") as file:  # pandas fills short rows with empty values
        lengths = np.fromiter((len(row) for row in csv.reader(file) if row), np.int64)
    if (lengths < raw.shape[1]).any():
        first = int(np.argmax(lengths < raw.shape[1])) - 1
        raise ManifestError(
            f"manifest {manifest} row {first + 1}: fewer values than the header's {raw.shape[1]}; complete the row"
        )
    folded = {str(name).strip().casefold(): name for name in reversed(raw.columns)}
    found = {column: [folded[name] for name in known if name in folded] for column, known in HEADERS.items()}
    columns = {column: names[0] for column, names in found.items() if names}
    if "path" not in columns:
        raise ManifestError(
            f"manifest {manifest}: found columns {', '.join(map(str, raw.columns))}; "
            f"one of them must be named {' or '.join(HEADERS['path'])}"
        )
    return raw, columns


def write_manifest(frame: pd.DataFrame, out: str | Path) -> None:
    """Write rows as a manifest, whole or not at all: the four columns first, then the others as they come."""
    columns = [*HEADERS, *(name for name in frame.columns if name not in HEADERS)]
    with written_file(out) as file:
        file.write(frame[columns].to_csv(index=False, lineterminator="\n").encode())


def find_unusable(paths: pd.Series, root: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which of N paths have no file, and which are links that lead out of the root: two (N,) bool.

    Each folder is listed once: 200,000 rows are a few listings instead of 200,000 calls.
    """
    halves = paths.str.rpartition("/")
    codes, folders = pd.factorize(halves[0].to_numpy(object))
    text = str(root)
    listings = list_urls(text, folders) if is_url(text) else [_list_folder(text, folder) for folder in folders]
    files = [listings[code].get(name) for code, name in zip(codes, halves[2], strict=True)]
    return np.array([is_out is None for is_out in files], bool), np.array([is_out is True for is_out in files], bool)


def _list_folder(root: str, folder: str) -> dict[str, bool]:
    """Return the names of a folder's files -> whether they leave the root; a folder that is not there has none."""
    files: dict[str, bool] = {}
    if "\0" in folder:  # no system has such a name
        return files
    top, here = os.path.realpath(root), os.path.join(root, folder)
    real = os.path.realpath(here)
    is_folder_out = real != top and not is_under(real, top)
    with suppress(OSError), os.scandir(here) as entries:
        for entry in entries:
            with suppress(OSError):  # a link to itself is no file
                if entry.is_file():
                    is_link_out = entry.is_symlink() and not is_under(os.path.realpath(entry.path), top)
                    files[entry.name] = is_folder_out or is_link_out
    return files


def rebase_paths(root: str | Path, folder: str | Path, paths: pd.Series) -> pd.Series:
    """Return (N,) paths relative to `root` for paths relative to `folder`, with `/`.

    Links are not resolved: a link in the root that leads to the images stays in the paths.
    """
    root, folder = absolute(root), absolute(folder)
    between = os.path.relpath(_as_path(folder), _as_path(root)).replace(os.sep, "/")
    if between == ".." or between.startswith("../"):
        common = folder if is_url(folder) or is_url(root) else os.path.commonpath([folder, root])
        raise ManifestError(
            f"images lie in {folder}, outside of {root}, which the manifest's paths start from; write the manifest "
            f"into a folder above the images, or give --root {common} here and in every command that reads the manifest"
        )
    return paths if between == "." else between + "/" + paths
