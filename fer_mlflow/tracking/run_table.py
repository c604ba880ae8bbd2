"""Every run of ours in the tracking store, read once and then only what changed.

MLflow hands out whole runs or nothing, about 1.5 ms each, so finished runs are kept in a local file. A refresh asks for
runs that ended since, that are running, that were never judged, whose status a person changed, and that were deleted;
where another triage wrote tags meanwhile (it leaves a mark on the experiments), also for all that are not called good
or have a rank. Whatever else may have happened to a run leaves what is read here as it was. The file is only a cache:
without it everything is read again.
"""

import hashlib
import json
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from fer_mlflow.files import written_file
from fer_mlflow.tracking.searching import all_experiments, collector_paused, search_runs
from fer_mlflow.tracking.store import redact, sqlite_path, tracking_errors
from fer_mlflow.tracking.triage_tags import is_by_person

_FORMAT = 2
_SLACK_MS = 60_000  # clocks of machines that end runs differ by less
_PARAMS = ("ensemble", "space", "clahe", "dtype", "precision", "benchmark", "rows", "calibration", "temperature")
_OURS = "tags.`fer.kind` LIKE '%'"
_MAY_HAVE_CHANGED = (
    "attributes.status = 'RUNNING'",
    "attributes.status = 'SCHEDULED'",
    "tags.`triage.status` IS NULL AND tags.`fer.kind` != 'triage'",
    "tags.`triage.written` IS NULL AND tags.`triage.status` LIKE '%'",
    "tags.`triage.overruled` LIKE '%'",
    *(
        f"tags.`triage.written` = '{s}' AND tags.`triage.status` != '{s}'"
        for s in ("good", "warn", "bad", "superseded")
    ),
)
_ANOTHER_TRIAGE = ("tags.`triage.status` != 'good'", "tags.`triage.rank` LIKE '%'")
GENERATION = "fer.triage_generation"
_SINGLY = 200  # runs that are read one by one; beyond, everything is read again


@dataclass(frozen=True)
class RunRecord:
    """What triage and leaderboards need of a run: `fer.` and `triage.` tags, all metrics, the ensemble's params."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_ms: int
    end_ms: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def kind(self) -> str:
        """The tag `fer.kind`."""
        return self.tags.get("fer.kind", "")

    @property
    def selection(self) -> str:
        """The benchmark's selection digest, empty where the run has none."""
        return self.tags.get("fer.selection_sha256", "")

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.tags.get("fer.benchmark", "")

    def of_ensemble(self, name: str) -> str:
        """Return a setting of the bundle, such as `space`."""
        return self.params.get(f"ensemble/{name}", self.params.get(name, ""))


def record_of(run: Run) -> RunRecord:
    """Return what is kept of a run."""
    data, info = run.data, run.info
    kept = {key: text for key, text in data.params.items() if key in _PARAMS or key.startswith(("ensemble/", "w/"))}
    return RunRecord(
        info.run_id,
        info.experiment_id,
        data.tags.get("mlflow.runName", info.run_id),
        info.status,
        info.start_time or 0,
        info.end_time or 0,
        kept,
        dict(data.metrics),
        {key: text for key, text in data.tags.items() if key.startswith(("fer.", "triage."))},
    )


class RunTable:
    """The runs of a tracking store, and the file that remembers them between calls."""

    def __init__(self, client: MlflowClient, cache: Path):
        uri = mlflow.get_tracking_uri()
        store = hashlib.sha256(str(sqlite_path(uri) or redact(uri)).encode()).hexdigest()[:16]
        self.client, self.path = client, cache / "runs" / f"{store}.json"
        self.experiments: dict[str, int] = {}  # id -> when it was made, which tells a store that was made anew
        self.generation = ""
        self.is_saved = False  # whether the file says what is here
        self.active: dict[str, RunRecord] = {}
        self.deleted: dict[str, RunRecord] = {}

    def read(self, *, afresh: bool = False) -> list[RunRecord]:
        """Return all active runs of ours, oldest first.

        Raises
        ------
        TrackingError
            the store cannot be read
        """
        with tracking_errors("reading runs"):
            there = list(all_experiments(self.client))
            experiments = {each.experiment_id: each.creation_time or 0 for each in there}
            generation = _generation(there)
            if afresh or not self._load() or not self._refresh(experiments, generation):
                self.active = {each.run_id: each for each in self._search(experiments, _OURS)}
                self.deleted = {each.run_id: each for each in self._search(experiments, _OURS, ViewType.DELETED_ONLY)}
            self.is_saved = self.is_saved and (self.experiments, self.generation) == (experiments, generation)
            self.experiments, self.generation = experiments, generation
        return sorted(self.active.values(), key=lambda each: (each.start_ms, each.run_id))

    def put(self, record: RunRecord) -> None:
        """Remember a run as it is after it was written to."""
        self.active[record.run_id] = record
        self.is_saved = False

    def mark_changed(self) -> None:
        """Tell the tables of others, by a tag of the experiments, that triage changes tags of runs.

        Where another triage left its mark since this table was read, the next `read` looks at what that one wrote.
        """
        mark, own = uuid.uuid4().hex, {each.experiment_id for each in self.active.values()}
        with tracking_errors("marking the experiments"):
            there = list(all_experiments(self.client))
            is_alone = _generation(there) == self.generation
            for each in there:
                if each.experiment_id in own or GENERATION in each.tags:
                    self.client.set_experiment_tag(each.experiment_id, GENERATION, mark)
        self.generation = mark if is_alone else ""
        self.is_saved = False

    def save(self) -> None:
        """Write the file where it does not say what is here; without it the next `read` takes longer."""
        if self.is_saved:
            return
        content = {
            "format": _FORMAT,
            "experiments": self.experiments,
            "generation": self.generation,
            "active": [vars(each) for each in self.active.values()],
            "deleted": [vars(each) for each in self.deleted.values()],
        }
        with written_file(self.path) as file:
            file.write(json.dumps(content).encode())
        self.is_saved = True

    def forget(self) -> None:
        """Remove the file, so that the next `read` asks for everything."""
        self.path.unlink(missing_ok=True)
        self.is_saved = False

    def _load(self) -> bool:
        """Take what the file has; False where it is of no use."""
        try:
            with collector_paused():
                content = json.loads(self.path.read_bytes())
                if content["format"] != _FORMAT:
                    return False
                self.experiments, self.generation = dict(content["experiments"]), str(content["generation"])
                for name in ("active", "deleted"):
                    setattr(self, name, {each["run_id"]: RunRecord(**each) for each in content[name]})
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _refresh(self, experiments: dict[str, int], generation: str) -> bool:
        """Bring the table up to date; False where too much has changed to do it bit by bit."""
        if any(experiments.get(each, made) != made for each, made in self.experiments.items()):
            return False  # another store under the same address
        before = dict(self.active), dict(self.deleted)
        for name in ("active", "deleted"):  # an experiment that was deleted takes its runs with it
            there = {run_id: each for run_id, each in getattr(self, name).items() if each.experiment_id in experiments}
            setattr(self, name, there)
        since = max((each.end_ms for each in self.active.values()), default=0) - _SLACK_MS
        conditions = [f"attributes.end_time > {since}", *_MAY_HAVE_CHANGED]
        doubtful = {run_id for run_id, each in self.active.items() if _may_have_changed(each)}
        if self.generation != generation:
            conditions += _ANOTHER_TRIAGE
            doubtful |= {run_id for run_id, each in self.active.items() if _is_marked(each)}
        found: dict[str, RunRecord] = {}
        for condition in conditions:
            found |= {each.run_id: each for each in self._search(experiments, f"{_OURS} AND {condition}")}
        new = [each for each in experiments if each not in self.experiments]
        found |= {each.run_id: each for each in (self._search(new, _OURS) if new else ())}
        gone = {each.run_id: each for each in self._search(experiments, _OURS, ViewType.DELETED_ONLY)}
        unsure = (doubtful - found.keys() - gone.keys()) | (self.deleted.keys() - gone.keys() - found.keys())
        if len(unsure) > _SINGLY:
            return False
        for run_id in gone.keys() | unsure:
            self.active.pop(run_id, None)
        self.active |= found
        self.deleted = gone
        for run_id in sorted(unsure):
            self.active |= {each.run_id: each for each in self._search(experiments, f"attributes.run_id = '{run_id}'")}
        self.is_saved = before == (self.active, self.deleted)
        return True

    def _search(self, experiments: Iterable[str], condition: str, view: int = ViewType.ACTIVE_ONLY):
        return map(record_of, search_runs(self.client, condition, experiments=list(experiments), view=view))


def _generation(experiments: Iterable[Experiment]) -> str:
    """Return the marks that triages left on experiments."""
    return " ".join(sorted({each.tags[GENERATION] for each in experiments if GENERATION in each.tags}))


def _may_have_changed(run: RunRecord) -> bool:
    """Return whether one of `_MAY_HAVE_CHANGED` would find the run as it was: where none does, it has changed."""
    is_judged = "triage.status" in run.tags or run.kind == "triage"
    return run.end_ms == 0 or not is_judged or is_by_person(run.tags)


def _is_marked(run: RunRecord) -> bool:
    """Return whether one of `_ANOTHER_TRIAGE` would find the run as it was."""
    return run.tags.get("triage.status", "") != "good" or "triage.rank" in run.tags


def infinite_metrics(record: RunRecord) -> list[str]:
    """Return the names of metrics that are NaN or infinite; MLflow's tables keep the largest number for infinity."""
    return sorted(name for name, value in record.metrics.items() if not abs(value) < sys.float_info.max)
