"""The tracking store: opened safely, searched page by page, shown in MLflow's UI; its errors as one line."""

import gc
import getpass
import json
import logging
import os
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakKeyDictionary

from filelock import FileLock
from mlflow import MlflowClient, MlflowException, get_tracking_uri
from mlflow.entities import Experiment, Run, RunTag, ViewType

from fer_mlflow.errors import TrackingError
from fer_mlflow.scoring.metrics import DEFAULT, is_lower_better, metric_names
from fer_mlflow.softlabels.configuration import split_first

logger = logging.getLogger(__name__)

TEACHING_KINDS = ("export", "teacher")  # kinds of runs whose soft labels a student may learn from
BUNDLED_KINDS = (*TEACHING_KINDS, "student")  # kinds that have a bundle, and stand in leaderboards
TEACHER_RUN = "fer.teacher_run/"  # begins the tags that name the runs of an ensemble's teachers
STATUS, REASONS, BENCHMARK, RANK = "triage.status", "triage.reasons", "triage.benchmark", "triage.rank"
WRITTEN, OVERRULED = "triage.written", "triage.overruled"  # the status that the rules wrote; that a person had written
TRIAGE_TAGS = (STATUS, REASONS, BENCHMARK, RANK, WRITTEN, OVERRULED)
GOOD, WARN, BAD, SUPERSEDED = "good", "warn", "bad", "superseded"
STATUSES = (GOOD, WARN, BAD, SUPERSEDED)
TAG_LENGTH = 5000  # MLflow's limit
# What MLflow's UI shows of an experiment: its kind, its note, and saved views: of which runs on a benchmark each is.
VIEWS = {
    "leaderboard": "tags.`fer.bundle_sha256` LIKE '%'",
    "teachers": "tags.`fer.kind` = 'teacher'",
    "students": "tags.`fer.kind` = 'student'",
    "bad runs": f"tags.`{STATUS}` = '{BAD}'",
}
_KIND, _MACHINE_LEARNING = "mlflow.experimentKind", "custom_model_development"
NOTE, _PRIMARY = "mlflow.note.content", "mlflow.experiment.primaryMetric.name"
_MARK = "<!-- written by fer-mlflow triage -->"
SHOWN_METRICS = (DEFAULT, *sorted(set(metric_names(having=lambda row: "leaderboard" in row.shown)) - {DEFAULT}))
VIEW_COLUMNS = (
    *(f"params.`{name}`" for name in ("space", "clahe", "calibration", "ensemble")),
    *(f"metrics.`{name}`" for name in SHOWN_METRICS),
    *(f"tags.`{name}`" for name in ("fer.kind", STATUS, RANK, REASONS)),
)
_PAGE = 1000
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SQLITE = "sqlite:///"
_LOCKS = {"postgresql": "SELECT pg_advisory_xact_lock(6710642)"}  # the bytes of "fer"


def redact(text: str) -> str:
    """Return text with the user and password of every URI in it replaced.

    >>> redact("cannot reach https://ann:secret@host:5000/api")
    'cannot reach https://***@host:5000/api'
    """
    return _USERINFO.sub("***@", text)


def person_of(tags: Mapping[str, str]) -> str:
    """Return who set a run's status, through `--bad` or `--keep` or by hand; empty where rules did.

    >>> tags = {"triage.status": "bad", "triage.written": "bad"}
    >>> person_of(tags), person_of(tags | {"triage.overruled": "bad by ann at 2026-11-24T10:00Z"})
    ('', 'by ann')
    """
    is_written = STATUS in tags and tags.get(WRITTEN) == tags[STATUS]
    if STATUS not in tags or (is_written and OVERRULED not in tags):
        return ""
    named = tags.get(OVERRULED, "").rpartition(" at ")[0].partition(" ")[2]
    return (named if is_written else "") or "by hand"


def user_name() -> str:
    """Return the name by which the server knows this person, else the system's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        return "unknown"


# How many tracking calls the main thread is in, and the `Interrupted` that waits for their end.
HELD = SimpleNamespace(depth=0, pending=None)
# The active experiments that a client found when it connected, which spares every further search a call.
EXPERIMENTS: WeakKeyDictionary[MlflowClient, list[Experiment]] = WeakKeyDictionary()


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
        # How long MLflow tries is up to MLFLOW_HTTP_REQUEST_MAX_RETRIES and _TIMEOUT: minutes, by default.
        tried = f"; tried for {time.monotonic() - began:.0f} s" if _server() else ""
        uri = get_tracking_uri()
        raise TrackingError(redact(f"tracking server {uri}: {doing} failed ({reason}{tried})")) from error
    finally:
        HELD.depth -= is_main
        if is_main and not HELD.depth and HELD.pending is not None:
            pending, HELD.pending = HELD.pending, None
            raise pending


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLFLOW_TRACKING_URI names (else MLflow's default).

    The first client of an empty database makes its tables, and the others wait: several at the same time fail, and
    break a SQLite store for good (mlflow#19943).
    """
    # Links, bars and migrations that MLflow reports are not part of a command's output.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with tracking_errors("opening the store"), _one_at_a_time():
        client = MlflowClient()  # makes and migrates a database
        EXPERIMENTS[client] = list(_pages(client.search_experiments))
    return client


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock for a block: beside a SQLite store's file, else in a database that has locks of that kind."""
    path, uri = _sqlite_path(), get_tracking_uri()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            yield
    elif lock := _LOCKS.get(uri.partition(":")[0].partition("+")[0]):
        import sqlalchemy as sql  # a tracking server's clients do without it

        try:
            with sql.create_engine(uri, poolclass=sql.NullPool).begin() as connection:
                connection.execute(sql.text(lock))  # until the transaction's end
                yield
        except (ImportError, sql.exc.SQLAlchemyError) as error:  # no driver, no server, no rights
            raise ConnectionError(str(error)) from error
    else:
        yield


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while a short block makes many objects, which halves the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def active_experiments(client: MlflowClient) -> list[Experiment]:
    """Return the active experiments, for a client of `connect` those that it found then."""
    return EXPERIMENTS.get(client) or list(_pages(client.search_experiments))


def search_runs(client: MlflowClient, condition: str = "", *, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return the runs of all active experiments that fulfil a condition in MLflow's filter language, newest first."""
    with tracking_errors("searching runs"):
        experiments = [each.experiment_id for each in active_experiments(client)]
        if not experiments:
            return []
        order = ["attributes.start_time DESC"]
        return list(_pages(client.search_runs, experiments, condition, view, _PAGE, order_by=order))


def search_finished(client: MlflowClient, kind: str, *conditions: str) -> list[Run]:
    """Return the finished runs of a kind that fulfil all conditions, newest first."""
    own = f"tags.`fer.kind` = '{kind}'", "attributes.status = 'FINISHED'"
    return search_runs(client, " AND ".join([*own, *conditions]))


def search_trained(client: MlflowClient, checkpoint_sha256: str) -> list[Run]:
    """Return the runs that trained a checkpoint, newest first."""
    found = search_runs(client, f"tags.`fer.checkpoint_sha256` = '{checkpoint_sha256}'")
    return [run for run in found if run.data.tags.get("fer.kind") in ("train", "distill")]


def write_tags(
    client: MlflowClient,
    changes: Mapping[str, Mapping[str, str | None]],
    on_written: Callable[[int], object] = lambda count: None,
) -> None:
    """Set and delete (None) tags of runs, by run id and name; `on_written` is called with 1 after each run."""
    with tracking_errors("setting tags"):
        for run_id, tags in changes.items():
            if texts := [RunTag(name, text) for name, text in tags.items() if text is not None]:
                client.log_batch(run_id, tags=texts)
            for name in [name for name, text in tags.items() if text is None]:
                try:
                    client.delete_tag(run_id, name)
                except MlflowException as error:  # it was not there, or another triage has just deleted it
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            on_written(1)


def _pages(search, *arguments, **more) -> Iterator:
    """Yield everything that one of MLflow's searches returns, a page at a time."""
    token = None
    while True:
        with collector_paused():
            page = search(*arguments, **more, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def record_failure(
    run_id: str, command: str, reason: str, status: str = "FAILED", client: MlflowClient | None = None
) -> None:
    """End a run with the reason in the tag `fer.error`; a run whose reason is known is left as it is.

    A run without `fer.kind` was never taken over by its command, whose name may be empty: it gets the command as its
    kind, and a name that says what went wrong in place of MLflow's random one. Without a client, in a process that is
    about to end, a server that is away costs 5 s.
    """
    if client is None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        client = MlflowClient()
    known = client.get_run(run_id).data.tags
    if "fer.error" in known:
        return
    reason = redact(reason)
    tags = {"fer.error": reason[:TAG_LENGTH]}
    if "fer.kind" not in known:
        name = textwrap.shorten(f"{command}: {reason}" if command else reason, 100, placeholder=" …")
        tags |= {"fer.kind": command or "unknown", "mlflow.runName": name}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run_id, status)


def _server() -> str | None:
    """Return the address of the tracking server without credentials, None where the store is none."""
    uri = get_tracking_uri()
    return redact(uri.rstrip("/")) if uri.startswith(("http://", "https://")) else None


def _sqlite_path() -> Path | None:
    """Return the file of a SQLite store, None for another store."""
    uri = get_tracking_uri()
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute() if uri.startswith(_SQLITE) else None


def run_address(experiment_id: str, run_id: str) -> str | None:
    """Return the address of a run's page where the tracking URI is a server, else None."""
    server = _server()
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}" if server else None


def ui_address(experiment_id: str, selection: str = "") -> str:
    """Return how to see an experiment's runs, or those of a benchmark's leaderboard, as a table.

    That is an address, and for a local store the command before it.
    """
    view = f"&viewStateShareKey={view_id('leaderboard', selection)}" if selection else ""
    page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning{view}"
    server = _server()
    return f"{server}{page}" if server else f"{describe_way_to_ui(experiment_id, '')}, then http://127.0.0.1:5000{page}"


def view_id(view: str, selection: str) -> str:
    """Return the id of a saved view of a benchmark.

    >>> view_id("bad runs", "0123456789abcdef")
    'bad-runs-0123456789ab'
    """
    return f"{view.replace(' ', '-')}-{selection[:12]}"


def describe_way_to_ui(experiment_id: str, run_id: str) -> str:
    """Return the command, or for a server the address, that shows a run in MLflow's UI."""
    path = _sqlite_path()
    store = f"{_SQLITE}{path}" if path else redact(get_tracking_uri())
    return run_address(experiment_id, run_id) or f"mlflow ui --backend-store-uri {store}"


def furnish_experiment(
    client: MlflowClient,
    experiment_id: str,
    benchmarks: Mapping[str, str],
    metric: str,
    *,
    is_judged: bool = False,
    note: str | None = None,
) -> None:
    """Give an experiment its kind, its primary metric, a note, and saved views of each benchmark.

    `benchmarks` are selection digest -> name. Where runs are judged, leaderboards show the good ones, and views that
    are there are brought up to date; else only what is missing is written. A note that a person wrote is left alone.
    The views' format is MLflow's own affair: a version that does not know it shows the plain list, and a store that
    refuses any of this costs a warning.
    """
    try:
        with tracking_errors("furnishing the experiment"):
            known = {} if is_judged else {each.experiment_id: each for each in EXPERIMENTS.get(client, ())}
            there = (known.get(experiment_id) or client.get_experiment(experiment_id)).tags
            wanted = {_KIND: there.get(_KIND, _MACHINE_LEARNING), _PRIMARY: metric}
            for selection, name in benchmarks.items():
                for view, condition in VIEWS.items():
                    only_good = f" AND tags.`{STATUS}` = '{GOOD}'" if is_judged and view == "leaderboard" else ""
                    tag = f"mlflow.sharedViewState.{view_id(view, selection)}"
                    runs = f"tags.`fer.selection_sha256` = '{selection}' AND {condition}{only_good}"
                    wanted[tag] = _view(f"{view} · {split_first(name)}", runs, metric, there.get(tag, ""))
            before = there.get(NOTE, "")
            if note is not None and (not before or before.startswith(_MARK) or before.endswith(_MARK)):
                wanted[NOTE] = _cut(note)
            for name, text in wanted.items():
                if there.get(name) != text and (is_judged or name not in there):
                    client.set_experiment_tag(experiment_id, name, text)
    except TrackingError as error:
        logger.warning("MLflow's UI is left as it is: %s", error)


def _cut(note: str) -> str:
    """Return a note with the mark that triage wrote it, cut after a line where it is longer than a tag can be."""
    end = f"\n\n{_MARK}"
    if len(note) + len(end) <= TAG_LENGTH:
        return note + end
    end = f"\n\n… the rest is in the triage run's `leaderboard.md`{end}"
    return note[: note.rfind("\n", 0, TAG_LENGTH - len(end))] + end


def _view(name: str, runs: str, metric: str, before: str) -> str:
    """Return a saved view as MLflow's menu of views takes it, the best runs first; `before` is the one there."""
    order = f"metrics.`{metric}`"
    state = json.dumps(
        {
            "searchFilter": runs,
            "orderByKey": order,
            "orderByAsc": is_lower_better(metric),
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "selectedColumns": list(dict.fromkeys([*VIEW_COLUMNS, order])),
        }
    )
    try:
        there = json.loads(before)
        if (there["state"], there["name"]) == (state, name):
            return before
        made = int(there["createdAt"])
    except (ValueError, KeyError, TypeError):
        made = 0
    now = int(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": made or now, "updatedAt": now, "state": state})
