"""Downloads of bundles: the files by name, no more bytes than a bundle can have, verified."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run

from fer_mlflow.errors import BundleError, JobError, RunError
from fer_mlflow.files import cache_folder, written_folder
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.files import ARRAYS, FILES, INDEX, BrokenFileError
from fer_mlflow.tracking.store import tracking_errors

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MIB = 1 << 20
# What the largest file may be: ten million rows of an index, and beside arrays and index no file of a bundle is large.
_MOST_BYTES = dict.fromkeys(FILES, 64 * _MIB) | {ARRAYS: 4096 * _MIB, INDEX: 4096 * _MIB}


def bundle_digest(run: Run) -> str:
    """Return the digest of the bundle that a run is tagged with.

    Raises
    ------
    RunError
        the run has no bundle (the message says where its numbers are from)
    """
    tags = run.data.tags
    if "fer.bundle_sha256" not in tags:
        kind = tags.get("fer.kind", "foreign")
        what = f"run {run.info.run_id} ({kind}, {run.info.status}) has no soft labels"
        source = f"; they are in run {tags['fer.source_run']}" if "fer.source_run" in tags else ""
        raise RunError(f"{what}{source or '; name an export or a teacher run'}")
    if not _SHA256.fullmatch(tags["fer.bundle_sha256"]):  # it becomes the name of a folder
        raise RunError(f"run {run.info.run_id}: its tag fer.bundle_sha256 is not 64 hex digits; export it again")
    return tags["fer.bundle_sha256"]


def download_files(client: MlflowClient, run: Run, into: Path) -> list[str]:
    """Download the files of a run's bundle that are there into a folder, and return their names.

    What a server lists is not trusted: only a bundle's own names are requested, and a file that is larger than any
    bundle's, or than what is free on the disk, is not. Files are copied even from a local store, where MLflow would
    hand out the originals. Nothing is verified.

    Raises
    ------
    BundleError
        a file is too large
    JobError
        the disk has no room
    TrackingError
        the server cannot be reached, or a download broke off
    """
    run_id = run.info.run_id
    with tracking_errors(f"listing {FOLDER}/ of run {run_id}"):
        listed = {each.path: each.file_size or 0 for each in client.list_artifacts(run_id, FOLDER) if not each.is_dir}
    sizes = {name: listed[f"{FOLDER}/{name}"] for name in FILES if f"{FOLDER}/{name}" in listed}
    for name, size in sizes.items():
        _check_size(run_id, name, size)
    free = shutil.disk_usage(into).free
    if sum(sizes.values()) > free:
        raise JobError(
            f"{into.parent}: {sum(sizes.values()) / _MIB:,.0f} MiB are to be downloaded, {free / _MIB:,.0f} are free; "
            "make room"
        )
    for name in sizes:
        with tracking_errors(f"downloading {FOLDER}/{name} of run {run_id}"):
            path = Path(client.download_artifacts(run_id, f"{FOLDER}/{name}", dst_path=str(into)))
        _check_size(run_id, name, path.stat().st_size)
        os.replace(path, into / name)
    shutil.rmtree(into / FOLDER, ignore_errors=True)
    return list(sizes)


def _check_size(run_id: str, name: str, size: int) -> None:
    if size > _MOST_BYTES[name]:
        raise BundleError(
            f"run {run_id}: {FOLDER}/{name} has {size:,} bytes, more than any bundle's; it is not downloaded"
        )


@contextmanager
def downloaded_bundle(client: MlflowClient, run: Run, folder: Path) -> Iterator[SoftLabels]:
    """Download a run's bundle for a block; when the block has accepted it, it is put in the place of `folder`.

    Until then it is in a temporary folder beside, so that what is under the final name is whole and verified, after a
    kill too. An exception of the block removes it.

    Raises
    ------
    RunError
        the run has no bundle
    BundleError
        files are missing, do not verify, or are not the ones that the run is tagged with
    TrackingError, JobError
        see `download_files`
    """
    expected = bundle_digest(run)
    with written_folder(folder) as temporary:
        download_files(client, run, temporary)
        try:
            bundle = SoftLabels.open(temporary)
        except BrokenFileError as error:
            raise BundleError(f"run {run.info.run_id}: its bundle is broken: {error.found}; export it again") from error
        if bundle.sha256 != expected:
            raise BundleError(
                f"run {run.info.run_id}: its bundle {bundle.sha256[:12]}… is not the one that it is tagged with, "
                f"{expected[:12]}…; export it again"
            )
        yield bundle


def open_if_sound(folder: Path, digest: str) -> SoftLabels | None:
    """Return the bundle in a folder where it verifies and has this digest, else None."""
    try:
        bundle = SoftLabels.open(folder)
    except BundleError:
        return None
    return bundle if bundle.sha256 == digest else None


def cached_bundle(client: MlflowClient, run: Run) -> SoftLabels:
    """Return a run's bundle from the cache folder, after a download where it is not there or is damaged.

    Bundles are kept by their digest, so a run that was exported anew is downloaded anew, and two runs with the same
    bundle share it. Each is verified every time.

    Raises
    ------
    RunError, BundleError, TrackingError, JobError
        see `downloaded_bundle`
    """
    digest = bundle_digest(run)
    folder = cache_folder() / "downloads" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two processes that want one bundle download it once
        bundle = open_if_sound(folder, digest)
        if bundle is None:
            with downloaded_bundle(client, run, folder):
                pass
            bundle = SoftLabels.open(folder)
    return bundle
