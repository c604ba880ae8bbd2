"""Run records: what triage and leaderboards need of the runs in a tracking store."""

import sys
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from fer_mlflow.tracking.searching import search_runs

ENTRY = "mlflow.project.entryPoint"
_SOURCE = "mlflow.source.name"
_PARAMS = ("ensemble", "space", "clahe", "dtype", "precision", "benchmark", "rows", "calibration", "temperature")


@dataclass(frozen=True)
class RunRecord:
    """One run: its `fer.` and `triage.` tags, entry point and metrics, and the params that describe its soft labels.

    Attributes
    ----------
    start_ms, end_ms : milliseconds since 1970; `end_ms` is 0 while the run has not ended
    """

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
        info.end_time or 0,
        {key: text for key, text in data.params.items() if key in _PARAMS or key.startswith(("ensemble/", "w/"))},
        dict(data.metrics),
        {key: text for key, text in data.tags.items() if key.startswith(("fer.", "triage.", ENTRY))},
    )


def read_records(client: MlflowClient) -> list[RunRecord]:
    """Return the records of all active runs of this package, oldest first.

    Runs without a kind that `mlflow run` left RUNNING are among them, where their source is that of other runs of this
    package, or the folder that the package lies in: another project's run is none of ours.

    Raises
    ------
    TrackingError
        the store cannot be read
    """
    runs = search_runs(client, "tags.`fer.kind` LIKE '%'")
    sources = {run.data.tags[_SOURCE] for run in runs if ENTRY in run.data.tags and _SOURCE in run.data.tags}
    folder = str(Path(__file__).parents[3])
    sources |= {folder, f"file://{folder}"}
    opened = search_runs(client, f"attributes.status = 'RUNNING' AND tags.`{ENTRY}` LIKE '%'")
    runs += [run for run in opened if "fer.kind" not in run.data.tags and run.data.tags.get(_SOURCE) in sources]
    return sorted(map(record_of, runs), key=lambda record: (record.start_ms, record.run_id))


def infinite_metrics(record: RunRecord) -> list[str]:
    """Return the names of metrics that are NaN or infinite; MLflow stores the largest number for infinity."""
    return sorted(name for name, value in record.metrics.items() if not abs(value) < sys.float_info.max)
