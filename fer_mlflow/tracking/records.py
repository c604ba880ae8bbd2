"""Run records and the evidence on them: what triage and leaderboards need of runs, and of the rows of their bundles."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from fer_mlflow.errors import BundleError, RunError
from fer_mlflow.files import written_file
from fer_mlflow.scoring.metrics import metric_of, row_losses, score
from fer_mlflow.scoring.significance import paired_differences, paired_mean_difference
from fer_mlflow.softlabels.bundle import FOLDER
from fer_mlflow.softlabels.files import FILES, OPTIONAL, REPORT
from fer_mlflow.tracking.bundles import fetch_bundle
from fer_mlflow.tracking.store import BUNDLED_KINDS, search_runs, tracking_errors

ENTRY = "mlflow.project.entryPoint"
_SOURCE = "mlflow.source.name"
_PARAMS = ("ensemble", "space", "clahe", "dtype", "precision", "benchmark", "rows", "calibration", "temperature")
SIGNIFICANT = 0.05
SEED = 0  # of bootstrap and randomisation, so that triage gives the same numbers every time
_NO_ROWS = np.empty(0, np.int16)
_ARRAYS = ("labels", "predictions", "losses")


@dataclass(frozen=True)
class RunRecord:
    """One run: its `fer.` and `triage.` tags, entry point and metrics, and the params that describe its soft labels."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_ms: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def kind(self) -> str:
        """The tag `fer.kind`; empty where `mlflow run` opened the run and the command never took it over."""
        return self.tags.get("fer.kind", "")

    @property
    def selection(self) -> str:
        """The benchmark's selection digest, empty where the run has none."""
        return self.tags.get("fer.selection_sha256", "")

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.tags.get("fer.benchmark", "")

    @property
    def is_bundled(self) -> bool:
        """Whether the run must have a bundle: it is of such a kind, and has finished."""
        return self.kind in BUNDLED_KINDS and self.status == "FINISHED"

    def of_ensemble(self, name: str) -> str:
        """Return a setting of the bundle, such as `space`."""
        return self.params.get(f"ensemble/{name}", self.params.get(name, ""))


def record_of(run: Run) -> RunRecord:
    """Return the record of an MLflow run."""
    data, info = run.data, run.info
    return RunRecord(
        info.run_id,
        info.experiment_id,
        data.tags.get("mlflow.runName", info.run_id),
        info.status,
        info.start_time or 0,
        {key: text for key, text in data.params.items() if key in _PARAMS or key.startswith(("ensemble/", "w/"))},
        dict(data.metrics),
        {key: text for key, text in data.tags.items() if key.startswith(("fer.", "triage.", ENTRY))},
    )


def read_records(client: MlflowClient) -> list[RunRecord]:
    """Return the records of all active runs of this package, oldest first.

    Runs without a kind that `mlflow run` left RUNNING are among them, where their source is that of other runs of this
    package, or the folder that the package lies in: another project's run is none of ours.
    """
    runs = search_runs(client, "tags.`fer.kind` LIKE '%'")
    sources = {run.data.tags[_SOURCE] for run in runs if ENTRY in run.data.tags and _SOURCE in run.data.tags}
    folder = str(Path(__file__).parents[2])
    sources |= {folder, f"file://{folder}"}
    opened = search_runs(client, f"attributes.status = 'RUNNING' AND tags.`{ENTRY}` LIKE '%'")
    runs += [run for run in opened if "fer.kind" not in run.data.tags and run.data.tags.get(_SOURCE) in sources]
    return sorted(map(record_of, runs), key=lambda record: (record.start_ms, record.run_id))


@dataclass(frozen=True)
class Judgement:
    """A run's status and its reasons; rules do not change it where a person set it."""

    status: str
    reasons: tuple[str, ...] = ()
    by_person: bool = False


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a run's bundle contains.

    Attributes
    ----------
    problem : why the bundle cannot be trusted; empty where it can
    is_missing : whether files are absent, rather than wrong
    labels, predictions : (N,) int16 class columns of the labelled rows
    losses : (N,) float32, -log p of the label in nats
    metrics : recomputed from the logits
    rows, selected_rows : rows of the bundle, and of the benchmark that it was made for
    selection : the bundle's own selection digest
    """

    problem: str = ""
    is_missing: bool = False
    classes: tuple[str, ...] = ()
    rows: int = 0
    selected_rows: int = 0
    selection: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: _NO_ROWS)
    predictions: np.ndarray = field(default_factory=lambda: _NO_ROWS)
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class EvidenceStore:
    """Reads the evidence on runs; that of sound bundles is kept in the cache folder, by run and bundle digest."""

    def __init__(self, client: MlflowClient, cache: Path):
        self.client, self.cache = client, cache

    def load(self, run: RunRecord) -> Evidence | None:
        """Return what the cache folder has on a run's bundle; None where it has nothing, or nothing whole."""
        try:
            with self._path(run).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["meta"]))
                meta["classes"] = tuple(meta["classes"])
                return Evidence(**meta, **{name: arrays[name] for name in _ARRAYS})
        except Exception:  # a cache that cannot be read is treated as absent
            return None

    def read(self, run: RunRecord) -> Evidence:
        """Return the evidence on a run, whose bundle is downloaded and verified."""
        evidence, path = self._download(run), self._path(run)
        if evidence.problem:
            path.unlink(missing_ok=True)
            return evidence
        meta = {name: value for name, value in vars(evidence).items() if name not in _ARRAYS}
        arrays = {name: getattr(evidence, name) for name in _ARRAYS}
        with written_file(path) as file:
            np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)
        return evidence

    def _path(self, run: RunRecord) -> Path:
        key = f"{run.run_id}.{run.tags.get('fer.bundle_sha256', 'none')}"
        return self.cache / "evidence" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def _download(self, run: RunRecord) -> Evidence:
        with tracking_errors(f"listing {FOLDER}/ of run {run.run_id}"):
            names = {Path(each.path).name for each in self.client.list_artifacts(run.run_id, FOLDER)}
            whole = self.client.get_run(run.run_id)
        required = set(FILES) - set(OPTIONAL)
        if missing := sorted(required - names):
            problem = "no file of it is there" if len(missing) == len(required) else f"without {', '.join(missing)}"
            return Evidence(problem=problem, is_missing=True)
        try:
            bundle = fetch_bundle(self.client, whole, self.cache)
        except (BundleError, RunError) as error:
            return Evidence(problem=str(error).partition(": ")[2] or str(error))
        try:
            selected_rows = int(bundle.report["benchmark"]["selected_rows"])
        except (KeyError, TypeError, ValueError):
            return Evidence(problem=f"{REPORT} does not give the number of rows of the benchmark")
        known = bundle.labels >= 0
        logits, labels = bundle.logits[known].astype(np.float64), bundle.labels[known]
        return Evidence(
            classes=bundle.classes,
            rows=len(bundle),
            selected_rows=selected_rows,
            selection=bundle.selection_sha256,
            metrics=score(logits, labels, bundle.classes) if len(labels) else {},
            labels=labels.astype(np.int16),
            predictions=logits.argmax(axis=1).astype(np.int16),
            losses=row_losses(logits, labels).astype(np.float32),
        )


def difference_p_value(a: Evidence, b: Evidence, metric: str) -> float | None:
    """Return the p-value of "A and B do not differ in a metric"; None where there is no test or no common rows."""
    if a.classes != b.classes or not np.array_equal(a.labels, b.labels) or not len(a.labels):
        return None
    row = metric_of(metric)
    if row is None or not row.test:
        return None
    if row.row_values == "loss":
        return paired_mean_difference(a.losses.astype(np.float64), b.losses.astype(np.float64)).p_value
    labels, ours, theirs = (each.astype(np.int64) for each in (a.labels, a.predictions, b.predictions))
    differences = paired_differences(labels, ours, theirs, a.classes, np.random.default_rng(SEED))
    return differences[metric].p_value if metric in differences else None
