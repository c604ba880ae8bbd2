"""Bundles in the tracking store: published with everything a reader compares, trusted only when verified."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from fer_mlflow.errors import RunError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.files import HASHES
from fer_mlflow.tracking.downloads import downloaded_bundle
from fer_mlflow.tracking.runs import PARENT, TrackedRun
from fer_mlflow.tracking.searching import search_runs
from fer_mlflow.tracking.store import redact, tracking_errors
from fer_mlflow.tracking.triage.tags import BAD, STATUS, is_by_person

_RUN_ID = re.compile(r"[0-9a-f]{4,32}")


def publish_bundle(run: TrackedRun, bundle: SoftLabels, config_key: str, tags: Mapping[str, str]) -> None:
    """Log a bundle to a run: dataset, metrics, files, and last the tags by which it is found and trusted."""
    run.log_params({**derived_params(bundle)})
    run.log_benchmark(bundle.benchmark, bundle)
    if bundle.metrics:
        run.log_metrics(bundle.metrics)
    assert bundle.folder is not None  # a run gets what is on disk
    run.log_folder(bundle.folder, FOLDER, last=HASHES)
    found = [check for check in bundle.report["checks"] if check["verdict"] == "warn" and check["kind"] != "protocol"]
    warned = [check["name"] for check in found]
    prefix = "fer.teacher_run/"
    teacher_runs = {name.removeprefix(prefix): text for name, text in tags.items() if name.startswith(prefix)}
    run.set_tags(
        {
            "mlflow.note.content": describe_run(bundle, teacher_runs, run.experiment_id),
            **tags,
            "fer.benchmark": bundle.benchmark,
            "fer.selection_sha256": bundle.selection_sha256,
            "fer.alignment": f"warn: {', '.join(warned)}" if warned else "pass",
            "fer.in_sample": bundle.in_sample,
            "fer.config_key": config_key,
            "fer.bundle_sha256": bundle.sha256,
        }
    )


def describe_run(bundle: SoftLabels, teacher_runs: dict[str, str], experiment_id: str) -> str:
    """Return a run's description in Markdown: its benchmark and settings, its metrics, and its teachers' runs."""
    protocol = bundle.protocol
    settings = "\n".join(f"| {name} | {text.replace('|', ' ')} |" for name, text in protocol.items())
    metrics = "\n".join(f"| {name.replace('|', ' ')} | {value:.4f} |" for name, value in bundle.metrics.items())
    parts = [f"**{protocol['benchmark']}**, {protocol['rows']} rows", f"| setting | |\n| --- | --- |\n{settings}"]
    parts += [f"| metric | |\n| --- | ---: |\n{metrics}"] if metrics else []
    links = (f"[{name}](#/experiments/{experiment_id}/runs/{run_id})" for name, run_id in sorted(teacher_runs.items()))
    parts += ["Teachers: " + ", ".join(links)] if teacher_runs else []
    return "\n\n".join(parts)


def derived_params(bundle: SoftLabels, configuration: Configuration | None = None) -> dict[str, object]:
    """Return the params that follow from a bundle: the canonical ensemble, a number for each weight, the benchmark.

    They are the same for every kind of run, whatever its options, so that the UI compares them. `configuration` is what
    would be fused of a bundle's teachers, where that is not its own.
    """
    configuration = configuration or bundle.configuration
    options = configuration.options
    return {
        "ensemble": options.pop("weights"),
        "configuration": configuration.canonical,
        **{f"ensemble/{name}": text for name, text in options.items()},
        **{f"w/{name}": share for name, share in configuration.weights.items()},
        "benchmark": bundle.benchmark,
        "rows": len(bundle),
        "calibration": str(configuration.calibration or "none"),
    }


def find_runs(client: MlflowClient, kind: str, config_keys: Iterable[str]) -> dict[str, list[Run]]:
    """Return config key -> finished runs of a kind that have it, newest first, with one query for all keys.

    The keys share the benchmark's digest as their first part, which the query is for. Runs that a person
    called bad are left out. What a rule calls bad is not: a teacher no better than chance has sound logits all the
    same, and a bundle is verified before it is used.
    """
    keys = list(config_keys)
    found: dict[str, list[Run]] = {key: [] for key in keys}
    (prefix,) = {key.partition(".")[0] for key in keys}
    condition = (
        f"tags.`fer.kind` = '{kind}' AND tags.`fer.config_key` LIKE '{prefix}.%' AND attributes.status = 'FINISHED'"
    )
    for run in search_runs(client, condition):
        tags = run.data.tags
        called_bad = tags.get(STATUS) == BAD and is_by_person(tags)
        if tags["fer.config_key"] in found and not called_bad:
            found[tags["fer.config_key"]].append(run)
    return found


def find_results(client: MlflowClient, kind: str, params: Mapping[str, str]) -> list[Run]:
    """Return the finished runs of a kind that have these params, newest first."""
    conditions = [f"tags.`fer.kind` = '{kind}'", "attributes.status = 'FINISHED'"]
    conditions += [f"params.`{name}` = '{text}'" for name, text in params.items()]
    return search_runs(client, " AND ".join(conditions))


def read_run(client: MlflowClient, run_id: str) -> Run:
    """Return the run that has this id, or the only one whose id begins so.

    Raises
    ------
    RunError
        there is none, there are several, or it was deleted
    TrackingError
        the server cannot be reached
    """
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(
            f"run {run_id!r}: a run id is 4 to 32 digits of 0-9a-f; copy it from a command's output or the UI"
        )
    found = search_runs(client, f"attributes.run_id LIKE '{run_id}%'", view=ViewType.ALL)
    if not found:
        raise RunError(
            f"run {run_id}: {redact(mlflow.get_tracking_uri())} has no such run; look at MLFLOW_TRACKING_URI"
        )
    if len(found) > 1:
        others = ", ".join(run.info.run_id for run in found[:10])
        raise RunError(f"run {run_id}: several runs begin so ({others}); give more digits")
    if found[0].info.lifecycle_stage == "deleted":
        raise RunError(
            f"run {found[0].info.run_id} was deleted; bring it back with `mlflow runs restore`, or name another"
        )
    return found[0]


def fetch_bundle(client: MlflowClient, run: Run, cache: Path) -> SoftLabels:
    """Download a run's bundle, verify it, and return it; nothing of it stays on disk.

    It is copied even from a local store, where MLflow would hand out the original.

    Raises
    ------
    RunError
        the run has no bundle (the message says where its numbers are from)
    BundleError
        files are missing, do not verify, or are not the ones the run was tagged with
    TrackingError
        the server cannot be reached
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fetched.", dir=cache) as temporary,
        downloaded_bundle(client, run, Path(temporary) / FOLDER) as bundle,
    ):
        return bundle


def fetch_checkpoint(client: MlflowClient, run_id: str, folder: Path, artifact: str) -> Path:
    """Download the checkpoint of a training run into a folder, and return it once it is the one that is tagged.

    Raises
    ------
    RunError
        it is not
    TrackingError
        the server cannot be reached, or does not have it
    """
    with tracking_errors(f"downloading {artifact} of run {run_id}"):
        expected = client.get_run(run_id).data.tags.get("fer.checkpoint_sha256")
        path = Path(client.download_artifacts(run_id, artifact, dst_path=str(folder)))
    if sha256_of_file(path) != expected:
        raise RunError(f"run {run_id}: its checkpoint is not the one it is tagged with; train it again")
    return path


def adopt_run(parent: TrackedRun, run: Run) -> None:
    """Show a finished run below this one, unless it is below another that finished too, or was opened for itself."""
    before = run.data.tags.get(PARENT)
    with tracking_errors("looking for a run's parent"):
        if before and parent.client.get_run(before).info.status != "FINISHED":
            parent.client.set_tag(run.info.run_id, PARENT, parent.run_id)
