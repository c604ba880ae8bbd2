"""Run records: what triage and leaderboards need of the runs in a tracking store, and the tags that triage writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException

from fer_mlflow.tracking.store import BUNDLED_KINDS, TAG_LENGTH, search_runs, tracking_errors

STATUS, REASONS, BENCHMARK, RANK = "triage.status", "triage.reasons", "triage.benchmark", "triage.rank"
WRITTEN, OVERRULED = "triage.written", "triage.overruled"  # the status that the rules wrote; that a person had written
TAGS = (STATUS, REASONS, BENCHMARK, RANK, WRITTEN, OVERRULED)
GOOD, WARN, BAD, SUPERSEDED = "good", "warn", "bad", "superseded"
STATUSES = (GOOD, WARN, BAD, SUPERSEDED)
BETWEEN = "; "  # two reasons
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


@dataclass(frozen=True)
class Judgement:
    """A run's status and its reasons; rules do not change it where a person set it."""

    status: str
    reasons: tuple[str, ...] = ()
    by_person: bool = False


def is_by_person(tags: Mapping[str, str]) -> bool:
    """Return whether a person set a run's status: through `--bad` or `--keep`, or by hand.

    >>> is_by_person({"triage.status": "bad"}), is_by_person({"triage.status": "bad", "triage.written": "bad"})
    (True, False)
    """
    return STATUS in tags and (OVERRULED in tags or tags.get(WRITTEN) != tags[STATUS])


def parse_reasons(text: str) -> dict[str, str]:
    """Return rule -> reason of a tag's text."""
    parts = (part.partition(": ") for part in text.split(BETWEEN) if part)
    return {name: reason for name, _, reason in parts}


def wanted_tags(run: RunRecord, judgement: Judgement, benchmark: str, rank: int | None) -> dict[str, str | None]:
    """Return triage's tags of a run as they should be; None for one that should not be there."""
    ranked = str(rank) if rank is not None else None
    if judgement.by_person:
        return {RANK: ranked}
    return {
        STATUS: judgement.status,
        REASONS: BETWEEN.join(judgement.reasons)[:TAG_LENGTH] or None,
        BENCHMARK: benchmark or None,
        RANK: ranked,
        WRITTEN: judgement.status,
    }


def changes(run: RunRecord, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return those of the wanted tags that differ from the run's."""
    return {name: text for name, text in wanted.items() if run.tags.get(name) != text}


def write_tags(
    client: MlflowClient,
    changes: Mapping[str, Mapping[str, str | None]],
    on_written: Callable[[int], object] = lambda count: None,
) -> None:
    """Set and delete tags, run by run; `on_written` is called with 1 after each run.

    Parameters
    ----------
    changes : run id -> tag -> text, or None to delete it

    Raises
    ------
    TrackingError
        the store refused; the runs that were counted keep their new tags
    """
    with tracking_errors("setting tags"):
        for run_id, tags in changes.items():
            if texts := [RunTag(name, text) for name, text in tags.items() if text is not None]:
                client.log_batch(run_id, tags=texts)
            for name in (name for name, text in tags.items() if text is None):
                try:
                    client.delete_tag(run_id, name)
                except MlflowException as error:  # it was not there, or another triage has just deleted it
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            on_written(1)
