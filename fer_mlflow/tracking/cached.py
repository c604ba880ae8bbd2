"""A run's soft labels for a training loop: chosen, downloaded once, verified every time."""

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run

from fer_mlflow.files import cache_folder
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.tracking.downloads import bundle_digest, downloaded_bundle, open_if_sound
from fer_mlflow.tracking.selection import choose_run
from fer_mlflow.tracking.store import connect


def open_bundle(source: str, *, where: str = "", even_bad: bool = False) -> SoftLabels:
    """Return the soft labels that a text means; see `SoftLabels.from_run`."""
    client = connect()
    return cached_bundle(client, choose_run(client, source, where=where, even_bad=even_bad).run)


def cached_bundle(client: MlflowClient, run: Run) -> SoftLabels:
    """Return a run's bundle from the folder of downloads, after a download where it is not there or is damaged.

    Bundles lie there by their digest, so a run that was exported anew is downloaded anew, and two runs with the same
    bundle share it. Each is verified whenever it is asked for.

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
