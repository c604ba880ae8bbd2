"""Roots: the folder on this machine, or in an object store, that a manifest's paths start from.

A root of this machine is a `Path`. Another is the URL of a folder, a str, which fsspec reads; its file systems are not
kept here, since each process, also a forked one, needs its own: fsspec keeps one a process.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fer_mlflow.errors import ContractError, ImageError, JobError

# Schemes of URLs -> settings of their file systems. By default s3fs requests the size of each file first.
_STORES: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "gs": {}, "az": {}, "memory": {}}
_WAITS_S = (0.5, 2)  # before the second and the third try
AT_ONCE = 16  # requests of a process


def is_url(root: str | Path) -> bool:
    """Return whether a root lies in an object store: a `file://` does not."""
    scheme, separator, _ = str(root).partition("://")
    return bool(separator) and scheme in _STORES


def parse_root(root: str | Path) -> Path | str:
    """Return a URL without needless slashes, or the path of a folder here; ContractError for other URLs."""
    scheme, separator, rest = str(root).partition("://")
    if is_url(root):
        return f"{scheme}://{rest.strip('/')}"
    if separator and scheme.isalnum() and scheme != "file":
        known = ", ".join(f"{each}://" for each in ("file", *_STORES))
        raise ContractError(f"root {root}: images are read from a folder or from {known}")
    return Path(rest if separator and scheme == "file" else root)


def absolute(root: str | Path) -> str:
    """Return a root that does not depend on the current folder."""
    root = parse_root(root)
    return root if isinstance(root, str) else os.path.abspath(root)


def read_url(root: str, path: str) -> bytes:
    """Return the bytes of a file under a URL; ImageError where there is none, JobError where the store fails."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ImageError(f"leads out of {root}")
    store, top = open_store(root)
    return _patiently(f"{root}/{path}", lambda: store.cat_file(f"{top}/{path}"))


def read_urls(root: str, paths: Sequence[str]) -> list[Callable[[], bytes]]:
    """Read files under a URL at the same time; return for each a function that does what `read_url` does."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [pool.submit(read_url, root, path).result for path in paths]


def list_urls(root: str, folders: Sequence[str]) -> list[dict[str, bool]]:
    """Return for each folder under a URL the names of its files -> False: a store has no links that lead out."""

    def list_one(folder: str) -> dict[str, bool]:
        store, top = open_store(root)
        try:
            entries = _patiently(f"{root}/{folder}", lambda: store.ls(f"{top}/{folder}".rstrip("/"), detail=True))
        except ImageError:
            return {}
        return {each["name"].rpartition("/")[2]: False for each in entries if each["type"] == "file"}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(list_one, folders))


def open_store(root: str) -> tuple[Any, str]:
    """Return the process's file system of a URL, and the folder in it; ContractError where its package is missing."""
    scheme = root.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(root, use_listings_cache=False, **_STORES[scheme])
    except ImportError as error:
        raise ContractError(f"root {root}: {error}: pip install 'fer-mlflow[{scheme}]'") from error


def _patiently(where: str, request: Callable[[], Any]) -> Any:
    """Return what a request does, tried three times; what the store does not have, or refuses, is not tried again."""
    waits_s = iter(_WAITS_S)
    while True:
        try:
            return request()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ImageError("No such file or directory") from error
        except Exception as error:  # each store has its own
            wait_s = next(waits_s, None)
            if wait_s is None or isinstance(error, PermissionError):
                reason = " ".join(str(error).split()) or type(error).__name__
                raise JobError(f"{where}: the store did not give it ({reason}); run the same command again") from error
            time.sleep(wait_s)
