"""Runs: opened once per command, ended with the right status whatever happens, logged in few calls."""

import json
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, Run, RunTag

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import Interrupted, TrackingError
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import OPTIONS
from fer_mlflow.tables import escape_markdown
from fer_mlflow.tracking import is_joined, owns_process, source_commit, store

logger = logging.getLogger(__name__)

HEARTBEAT_S = 60
_KEY_LENGTH = 250
_NOT_IN_KEYS = re.compile(r"[^\w. :-]")
PARENT = "mlflow.parentRunId"
COMMIT = "mlflow.source.git.commit"
_INHERITED_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", COMMIT)


def metric_key(*parts: str) -> str:
    """Return a metric's key: `_` for what MLflow does not take, the longest part cut if need be.

    A key has one `/` at most, after its first part: MLflow's UI makes a section of charts of what is before the last.

    >>> metric_key("slices", "source", "web/é!", "accuracy")
    'slices/source web_é_ accuracy'
    """
    clean = [_NOT_IN_KEYS.sub("_", part).strip(" .") or "_" for part in parts]
    while (over := len("/".join(clean)) - _KEY_LENGTH) > 0:
        longest = max(range(len(clean)), key=lambda at: len(clean[at]))
        clean[longest] = clean[longest][: max(1, len(clean[longest]) - over)]
    section, *others = clean
    return "/".join([section, " ".join(others)] if others else [section])


def metric_keys(values: Mapping[str, Any], *path: str) -> dict[str, float]:
    """Return the numbers of nested mappings under their keys, without those that are NaN; an empty name is `none`.

    >>> metric_keys({"source": {"web/é!": {"f1/Sad": 0.5}, "": {"f1/Sad": float("nan"), "rows": 3}}}, "slices")
    {'slices/source web_é_ f1 Sad': 0.5, 'slices/source none rows': 3}
    """
    keys: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            keys |= metric_keys(value, *path, name or "none")
        elif not pd.isna(value):
            keys[metric_key(*path, *name.split("/"))] = value
    return keys


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run that is being written."""

    client: mlflow.MlflowClient
    run_id: str
    experiment_id: str
    artifact_uri: str = ""
    params: dict[str, str] = field(default_factory=dict)  # that it has
    maker: str = ""  # the run whose command made this one

    @classmethod
    def of(cls, client: mlflow.MlflowClient, run: Run, maker: str = "") -> "TrackedRun":
        """Return a run that MLflow has opened."""
        info = run.info
        return cls(client, info.run_id, info.experiment_id, info.artifact_uri, dict(run.data.params), maker)

    def log(
        self,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        of_ensemble: bool = False,
        **of_metrics: Any,
    ) -> None:
        """Log params that the run does not have yet, numbers, and tags, in one call.

        A param that `mlflow run` has logged would drop the whole batch; where params are `of_ensemble`, a setting that
        the run has with another text is logged as `ensemble/<name>`. No number may be NaN (MLflow's pages break on it).
        Names of classes may hold anything. Credentials of URIs in tags are left out. `of_metrics` are further fields of
        MLflow's `Metric`: `step`, or the model and the dataset that the numbers are of.
        """
        given = {key: str(value) for key, value in (params or {}).items()}
        differ = [key for key in OPTIONS if key in given and self.params.get(key, given[key]) != given[key]]
        given |= {f"ensemble/{key}": given[key] for key in differ if of_ensemble}
        new = {key: text for key, text in given.items() if key not in self.params}
        now, of_metrics = int(time.time() * 1000), {"step": 0, **of_metrics}
        numbers = [Metric(metric_key(*key.split("/")), v, now, **of_metrics) for key, v in (metrics or {}).items()]
        texts = [RunTag(key, store.redact(str(value))[: store.TAG_LENGTH]) for key, value in (tags or {}).items()]
        with store.tracking_errors("logging params, metrics or tags"):
            self.client.log_batch(self.run_id, numbers, [Param(*each) for each in new.items()], texts)
        self.params.update(new)

    def show_below(self, run_id: str) -> None:
        """Show this run below the one that it is about, if that is of its experiment and it is below none yet."""
        with store.tracking_errors("looking for a run's parent"):
            has_parent = PARENT in self.client.get_run(self.run_id).data.tags
            if not has_parent and self.client.get_run(run_id).info.experiment_id == self.experiment_id:
                self.client.set_tag(self.run_id, PARENT, run_id)

    def describe(self, verdict: str, about: str, links: Mapping[str, str], **tags: str) -> None:
        """Set the run's description, and tags in the same call."""
        self.log(tags={store.NOTE: self.description(verdict, about, links), **tags})

    def description(self, verdict: str, about: str, links: Mapping[str, str]) -> str:
        """Return verdict (`**` is bold), what it is about, and links, name -> run id or nothing, as Markdown.

        They are lines of one paragraph: MLflow's UI hides what is below 100 pixels.
        """
        page, named = f"#/experiments/{self.experiment_id}/runs", {**links, "made by": self.maker}
        linked = [f"[{escape_markdown(name)}]({page}/{run_id})" for name, run_id in named.items() if run_id]
        texts = [escape_markdown(verdict).replace(r"\*\*", "**"), escape_markdown(about), " · ".join(linked)]
        return "  \n".join(filter(None, texts))

    @property
    def ui(self) -> str:
        """How to see the run: an address, or the command that starts MLflow's UI on the store."""
        return store.describe_way_to_ui(self.experiment_id, self.run_id)

    def log_benchmark(
        self, name: str, rows: Benchmark | SoftLabels, context: str = "benchmark", models: Iterable[str] = ()
    ) -> None:
        """Log the benchmark as the run's dataset input, so that the UI filters by it, with the models it reads.

        MLflow's own digest reads the first 10,000 rows; this is the selection digest, cut to the digits MLflow keeps.
        """
        source = json.dumps({"manifest_sha256": rows.manifest_sha256, "selection_sha256": rows.selection_sha256})
        profile = json.dumps({"rows": len(rows)})
        dataset = Dataset(name[:500], rows.selection_sha256[:32], "manifest", source, profile=profile)
        entity = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self.log_inputs(models, [entity])

    def log_inputs(self, models: Iterable[str], datasets: Iterable[DatasetInput] = ()) -> None:
        """Log what the run reads: models by their ids, and datasets."""
        read = [LoggedModelInput(each) for each in dict.fromkeys(models)]
        with store.tracking_errors("logging inputs"):
            self.client.log_inputs(self.run_id, list(datasets), read)

    def log_folder(self, folder: Path, artifact_path: str, last: str) -> None:
        """Upload a folder's files, `last` after all others: once it is there, so is everything it names."""
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != last)
        with store.tracking_errors(f"uploading {artifact_path}/"):
            for path in [*files, folder / last]:
                self.client.log_artifact(self.run_id, str(path), artifact_path)

    def log_figure(self, name: str, png: bytes) -> None:
        """Upload an image to the root of the artifacts: the UI lays only those side by side."""
        self._log_new(name, lambda path: path.write_bytes(png))

    def log_table(self, name: str, frame: pd.DataFrame, csv: bool = False) -> None:
        """Upload a table as `tables/<name>.parquet`, and as CSV where people read it, too."""
        self._log_new(f"{name}.parquet", lambda path: frame.to_parquet(path, index=False), "tables")
        if csv:
            self._log_new(f"{name}.csv", lambda path: frame.to_csv(path, index=False), "tables")

    def log_text(self, name: str, text: str) -> None:
        """Upload a text file to the root of the artifacts."""
        self._log_new(name, lambda path: path.write_text(text, encoding="utf-8"))

    def _log_new(self, name: str, write: Callable[[Path], object], artifact_path: str | None = None) -> None:
        with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as folder:
            write(path := Path(folder) / name)
            self.log_file(path, artifact_path)

    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Upload one file."""
        with store.tracking_errors(f"uploading {path.name}"):
            self.client.log_artifact(self.run_id, str(path), artifact_path)

    def artifact_location(self, artifact_path: str) -> str:
        """Return where an artifact is: a folder where the store is on this machine, else its runs:/ address."""
        path = Path(self.artifact_uri.removeprefix("file://"))
        return str(path / artifact_path) if path.is_dir() else f"runs:/{self.run_id}/{artifact_path}"

    @contextmanager
    def sibling(
        self, name: str, started_s: float | None = None, *, nested: bool = False, experiment_id: str | None = None
    ) -> Iterator["TrackedRun"]:
        """Open another run for a block; where it is `nested`, below this one, and with a heartbeat.

        It starts now, or where its work began before: at `started_s`.
        """
        with store.tracking_errors("opening a run"):
            tags = self.client.get_run(self.run_id).data.tags
            inherited = {key: tags[key] for key in _INHERITED_TAGS if key in tags}
            inherited |= {PARENT: self.run_id, **_sign_of_life()} if nested else {}
            start = None if started_s is None else int(started_s * 1000)
            run = self.client.create_run(experiment_id or self.experiment_id, start, inherited, name)
        other = TrackedRun.of(self.client, run, self.run_id)
        with _ended(other, lambda status: self.client.set_terminated(other.run_id, status), heartbeat=nested):
            yield other


@contextmanager
def _ended(run: TrackedRun, end: Callable[[str], object], heartbeat: bool = True) -> Iterator[None]:
    """End a run with the status that a block earned; an exception leaves its message in the tag `fer.error`."""
    try:
        with _heartbeat(run) if heartbeat else nullcontext():
            yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to report
            run.log(tags={"fer.error": str(error) or type(error).__name__})
        with suppress(Exception):
            end("KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED")
        raise
    with store.tracking_errors("ending the run"):
        end("FINISHED")


@contextmanager
def open_run(kind: str, name: str, experiment: str | None = None) -> Iterator[TrackedRun]:
    """Open a run for a block, and end it FINISHED, FAILED or KILLED; meanwhile `fer.heartbeat` says what process lives.

    On the command line the run is the one that `mlflow run` opened, if it did, and SIGINT, SIGTERM and SIGHUP leave
    the block as `Interrupted`. Called from Python it is a new run: below the caller's active run, else below the run
    of an enclosing `mlflow run`, else on its own; the process's experiment and signal handlers are left alone.

    An experiment is made when it is missing; None leaves MLflow's own choice.
    """
    client = store.connect()
    if experiment and is_joined():
        logger.warning("--experiment has no effect: `mlflow run` has opened the run; use its --experiment-name")
        experiment = None
    chosen = _experiment_id(client, experiment) if experiment else None
    if (outer := _outer_run(client)) is not None:
        # Within `demo`, which is our own command line, runs stand beside each other.
        with outer.sibling(name, nested=not owns_process(), experiment_id=chosen) as run:
            run.log(tags={"fer.kind": kind})
            yield run
        return
    with _signals_raise():
        commit = source_commit()  # MLflow searches beside the command
        tags = {"fer.kind": kind, "mlflow.runName": name, **_sign_of_life()}
        tags |= {COMMIT: commit} if commit and owns_process() else {}
        with store.tracking_errors("opening a run"):
            active = mlflow.start_run(run_name=None if is_joined() else name, experiment_id=chosen, tags=tags)
        run = TrackedRun.of(client, active)
        with _ended(run, mlflow.end_run):
            if commit and COMMIT not in active.data.tags:
                run.log(tags={COMMIT: commit})
            yield run


def _experiment_id(client: mlflow.MlflowClient, name: str) -> str:
    """Return the id of the experiment that has a name, which is made when it is missing."""
    with store.tracking_errors(f"opening the experiment {name}"):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                store.EXPERIMENTS.pop(client, None)
                return client.create_experiment(name)
            except mlflow.MlflowException:  # another process made it meanwhile
                if (experiment := client.get_experiment_by_name(name)) is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            how = f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            raise TrackingError(f"experiment {name} was deleted; restore it with {how}, or name another")
        return experiment.experiment_id


def _outer_run(client: mlflow.MlflowClient) -> TrackedRun | None:
    """Return the run that a new one belongs to: the active one, or one that `mlflow run` opened for a caller."""
    if (active := mlflow.active_run()) is not None:
        return TrackedRun.of(client, active)
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id or owns_process():
        return None
    with store.tracking_errors("reading the enclosing run"):
        return TrackedRun.of(client, client.get_run(run_id))


@contextmanager
def joined_run(kind: str, name: str, params: Mapping[str, str]) -> Iterator[TrackedRun | None]:
    """Join the run that `mlflow run` opened, and log params; give None elsewhere, for a command that needs no run.

    On the command line signals leave the block as `Interrupted` either way, so that it can remove what is unfinished.
    """
    if is_joined():
        with open_run(kind, name) as run:
            run.log(params)
            yield run
    else:
        with _signals_raise():
            yield None


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP raise Interrupted in a block of our command line; a second one stops it."""
    if not owns_process() or threading.current_thread() is not threading.main_thread():
        yield  # a caller's process keeps its handlers, and only the main thread may have some
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def stop(signum, _frame):
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        interruption = Interrupted(signum, signal.Signals(signum).name)
        if not store.HELD.depth:
            raise interruption
        store.HELD.pending = interruption

    # A signal that the caller has switched off (nohup) stays so.
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _sign_of_life() -> dict[str, str]:
    """Return the tag that says which process writes a run, and that it lives now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"fer.heartbeat": json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "at": now})}


@contextmanager
def _heartbeat(run: TrackedRun) -> Iterator[None]:
    """Renew the tag, every minute, that says that the process is alive, so that triage can tell a dead run."""
    done = threading.Event()

    def beat():
        while not done.wait(HEARTBEAT_S):
            with suppress(Exception):  # a server that is away for a while is no reason to stop
                run.log(tags=_sign_of_life())

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
