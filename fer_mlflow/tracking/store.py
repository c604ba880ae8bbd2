"""The way to MLflow's tracking store: opened once, safely; its errors as one line, its secrets left out."""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fer_mlflow.errors import Interrupted, TrackingError

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SQLITE = "sqlite:///"


def redact(text: str) -> str:
    """Return text with the user and password of every URI in it replaced.

    >>> redact("cannot reach https://ann:secret@host:5000/api")
    'cannot reach https://***@host:5000/api'
    """
    return _USERINFO.sub("***@", text)


class HeldSignal:
    """How many tracking calls the main thread is in, and the interruption that waits for their end."""

    depth = 0
    pending: Interrupted | None = None


HELD = HeldSignal()


@contextmanager
def tracking_errors(doing: str) -> Iterator[None]:
    """Turn what MLflow raises in a block into a TrackingError that names the server.

    A signal that comes meanwhile waits for the block's end: an exception in the middle of a database transaction
    would leave the store locked against the very calls that end the run.
    """
    is_main = threading.current_thread() is threading.main_thread()
    HELD.depth += is_main
    began = time.monotonic()
    try:
        yield
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        reason = " ".join(str(error).split())[:500]
        uri = mlflow.get_tracking_uri()
        # How long MLflow tries is up to MLFLOW_HTTP_REQUEST_MAX_RETRIES and _TIMEOUT: minutes, by default.
        tried = f"; tried for {time.monotonic() - began:.0f} s" if uri.startswith(("http://", "https://")) else ""
        raise TrackingError(redact(f"tracking server {uri}: {doing} failed ({reason}{tried})")) from error
    finally:
        HELD.depth -= is_main
        if is_main and not HELD.depth and HELD.pending is not None:
            pending, HELD.pending = HELD.pending, None
            raise pending


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLFLOW_TRACKING_URI names (else MLflow's default).

    A new SQLite store is made under a file lock beside it: several processes that make one at the same time
    break it for good (mlflow#19943).

    Raises
    ------
    TrackingError
        the store cannot be opened
    """
    # Links, bars and migrations that MLflow reports are not part of a command's output.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with tracking_errors("opening the store"), _first_touch():
        client = MlflowClient()  # makes and migrates a SQLite store
        client.search_experiments(max_results=1)
    return client


def experiment_id_of(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment that has a name, which is made when it is missing.

    Raises
    ------
    TrackingError
        the server cannot be reached, or the experiment was deleted
    """
    with tracking_errors(f"opening the experiment {name}"):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client.create_experiment(name)
            except MlflowException:  # another process made it meanwhile
                if (experiment := client.get_experiment_by_name(name)) is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name} was deleted; restore it with `mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}`, or name another"
            )
        return experiment.experiment_id


def _first_touch():
    """Return a lock for a SQLite store's file, or nothing for a server, which makes its own store."""
    path = sqlite_path(mlflow.get_tracking_uri())
    if path is None:
        return nullcontext()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI, None for another.

    >>> sqlite_path("sqlite:////data/mlflow.db").as_posix(), sqlite_path("http://host:5000")
    ('/data/mlflow.db', None)
    """
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute() if uri.startswith(_SQLITE) else None


def run_address(experiment_id: str, run_id: str) -> str | None:
    """Return the address of a run's page where the tracking URI is a server, else None."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{redact(uri.rstrip('/'))}/#/experiments/{experiment_id}/runs/{run_id}"


def ui_address(experiment_id: str, view: str) -> str:
    """Return how to see an experiment's saved view: its address, and for a local store the command before it."""
    uri = mlflow.get_tracking_uri()
    is_server = uri.startswith(("http://", "https://"))
    base = redact(uri.rstrip("/")) if is_server else "http://127.0.0.1:5000"
    address = f"{base}/#/experiments/{experiment_id}/runs?viewStateShareKey={view}"
    return address if is_server else f"{describe_way_to_ui(experiment_id, '')}, then {address}"


def describe_way_to_ui(experiment_id: str, run_id: str) -> str:
    """Return the command, or for a server the address, that shows a run in MLflow's UI."""
    if address := run_address(experiment_id, run_id):
        return address
    uri = mlflow.get_tracking_uri()
    path = sqlite_path(uri)
    return f"mlflow ui --backend-store-uri {_SQLITE}{path}" if path else f"mlflow ui --backend-store-uri {redact(uri)}"
