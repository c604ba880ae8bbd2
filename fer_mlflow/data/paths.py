"""Image paths: files under a root, found by listing each folder once, and paths relative to another root."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.errors import ManifestError


def find_unusable(paths: pd.Series, root: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which of N paths have no file, and which are links that lead out of the root: two (N,) bool.

    Each folder is listed once: 200,000 rows are a few listings instead of 200,000 calls.
    """
    halves = paths.str.rpartition("/")
    codes, folders = pd.factorize(halves[0].to_numpy(object))
    listings = [_list_folder(str(root), folder) for folder in folders]
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


def is_under(path: str, top: str) -> bool:
    """Return whether a real path is inside a real folder.

    >>> is_under("/data/a.jpg", "/data"), is_under("/data2/a.jpg", "/data")
    (True, False)
    """
    return path.startswith(top if top.endswith(os.sep) else top + os.sep)


def rebase_paths(root: str | Path, folder: str | Path, paths: pd.Series) -> pd.Series:
    """Return (N,) paths relative to `root` for paths relative to `folder`, with `/`.

    Links are not resolved: a link in the root that leads to the images stays in the paths.

    Raises ManifestError: `folder` is not under `root`.
    """
    root, folder = os.path.abspath(root), os.path.abspath(folder)
    between = os.path.relpath(folder, root).replace(os.sep, "/")
    if between == ".." or between.startswith("../"):
        common = os.path.commonpath([folder, root])
        raise ManifestError(
            f"images lie in {folder}, outside of {root}, which the manifest's paths start from; write the manifest "
            f"into a folder above the images, or give --root {common} here and in every command that reads the manifest"
        )
    return paths if between == "." else between + "/" + paths
