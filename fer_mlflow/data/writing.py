"""Manifests on disk: columns path, label, split, source, then others; paths from the manifest's root."""

import os
from pathlib import Path

import pandas as pd

from fer_mlflow.data.columns import HEADERS
from fer_mlflow.errors import ManifestError
from fer_mlflow.files import written_file


def paths_from(root: str | Path, folder: str | Path, paths: pd.Series) -> pd.Series:
    """Return (N,) paths relative to `root` for paths relative to `folder`, with `/`.

    Links are not resolved: a link in the root that leads to the images stays in the paths.

    Raises
    ------
    ManifestError
        `folder` is not under `root`
    """
    between = os.path.relpath(os.path.abspath(folder), os.path.abspath(root)).replace(os.sep, "/")
    if between == ".." or between.startswith("../"):
        common = os.path.commonpath([os.path.abspath(folder), os.path.abspath(root)])
        raise ManifestError(
            f"images lie in {os.path.abspath(folder)}, outside of {os.path.abspath(root)}, which the manifest's paths "
            f"start from; write the manifest into a folder above the images, or give --root {common} here and in every "
            "command that reads the manifest"
        )
    return paths if between == "." else between + "/" + paths


def write_manifest(frame: pd.DataFrame, out: str | Path) -> Path:
    """Write rows as a manifest, whole or not at all: the four columns first, then the others as they come."""
    columns = [*HEADERS, *(name for name in frame.columns if name not in HEADERS)]
    text = frame[columns].to_csv(index=False, lineterminator="\n")
    out = Path(out)
    with written_file(out) as file:
        file.write(text.encode())
    return out
