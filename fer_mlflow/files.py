"""Files that are either whole or absent, their hashes, and the folder for unfinished work."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "FER_MLFLOW_CACHE"


def sha256_of_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no blanks, UTF-8).

    >>> sha256_of_json({"b": 1, "a": 2}) == sha256_of_json({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def written_file(path: str | os.PathLike, flush: bool = True) -> Iterator[Any]:
    """Open a temporary sibling for writing bytes; on success flush it to disk and rename it to `path`.

    A reader sees the old file or the whole new one, after a kill or a full disk too. On an exception the
    temporary file is removed and `path` is as it was. Without `flush`, the caller brings many files to disk at once.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes a file that nobody else can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if flush:
        _flush_folder(path.parent)


@contextmanager
def written_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary sibling folder to fill; on success flush it and put it in the place of `path`.

    An existing folder of that name is replaced: renamed away, then removed. On an exception the temporary
    folder is removed and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield temporary
        for name in sorted(temporary.rglob("*")):
            if name.is_file():
                with name.open("rb") as file:
                    os.fsync(file.fileno())
        _flush_folder(temporary)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes a folder that nobody else can read
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(path.parent)


def _put_in_place(folder: Path, path: Path) -> None:
    """Rename a folder to `path`; one that is there steps aside first, and comes back where that fails."""
    if not path.exists():
        os.replace(folder, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    try:
        os.replace(path, aside)
    except BaseException:
        aside.rmdir()
        raise
    try:
        os.replace(folder, path)
    except BaseException:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """Return the process's umask (there is no way to read it but to set it)."""
    value = os.umask(0)
    os.umask(value)
    return value


def _flush_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """Return the per-user folder for work in progress: $FER_MLFLOW_CACHE, else $XDG_CACHE_HOME/fer_mlflow."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fer_mlflow"


def is_under(path: str, top: str) -> bool:
    """Return whether a real path is inside a real folder.

    >>> is_under("/data/a.jpg", "/data"), is_under("/data2/a.jpg", "/data")
    (True, False)
    """
    return path.startswith(top if top.endswith(os.sep) else top + os.sep)
