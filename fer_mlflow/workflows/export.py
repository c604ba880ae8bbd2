"""`export`: from a manifest and teachers to a tracked, verified soft-label bundle."""

from dataclasses import dataclass, replace
from pathlib import Path

from fer_mlflow.errors import BundleError, ContractError, TrackingError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.scoring import ExportSettings
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.tracking.bundles import publish_bundle
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.tracking.store import TEACHER_RUN
from fer_mlflow.workflows import SoftLabelsResult, workflow
from fer_mlflow.workflows.ensemble import Ensemble, copy_bundle, gathered_teachers, read_ensemble, warn


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportResult(SoftLabelsResult):
    """Soft labels that were exported.

    Attributes
    ----------
    metrics : name -> number; empty where no row has a label
    teacher_runs : teacher name -> the run that has its logits
    computed : names of the teachers whose logits were computed, not reused
    location : where the bundle's artifact is
    out : the folder that has a copy
    """

    metrics: dict[str, float]
    teacher_runs: dict[str, str]
    computed: tuple[str, ...]
    location: str
    out: Path | None


@workflow(ExportSettings)
def export(settings: ExportSettings, progress: Progress = no_progress) -> ExportResult:
    """Compute the teachers' logits on a benchmark, fuse them, and log the soft labels as an MLflow run.

    Logits that a teacher's run holds already are reused. Everything is computed and on disk before the first file is
    uploaded, so that a server that goes away costs nothing but the upload.

    Raises FerError: the input cannot be used; nearly all of it is found before the first forward pass. Raises
    TrackingError: the server cannot be reached; the message says where the finished bundle is kept.
    """
    ensemble = read_ensemble(settings)
    out = _check_out(settings.out, ensemble)
    params = params_of(settings)
    with open_run("export", settings.name or ensemble.configuration.name, settings.experiment) as run:
        run.log_params(params)
        with gathered_teachers(ensemble, run.client, progress) as gathered:
            bundle = gathered.keep(gathered.fused(), ensemble.key)
            if out is not None:
                copy_bundle(bundle, out)
            try:
                gathered.publish(run, params)
                teacher_runs = {f"{TEACHER_RUN}{name}": run_id for name, run_id in gathered.run_ids.items()}
                publish_bundle(run, bundle, ensemble.key, teacher_runs)
            except TrackingError as error:
                raise TrackingError(
                    f"{error}; the finished bundle is kept in {bundle.folder}: "
                    "run the same command again to upload it, nothing is computed twice"
                ) from error
            gathered.forget()
    _warn(bundle)
    return ExportResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=replace(bundle, folder=out),
        metrics=dict(bundle.metrics),
        teacher_runs={name: gathered.run_ids[name] for name in ensemble.configuration.teachers},
        computed=tuple(gathered.computed),
        location=run.artifact_location(FOLDER),
        out=out,
    )


def _check_out(folder: str | None, ensemble: Ensemble) -> Path | None:
    """Return the folder for a copy; refuse one that holds anything but this very bundle from an earlier run."""
    if folder is None:
        return None
    out = Path(folder).absolute()
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    try:
        there = SoftLabels.open(out)
    except BundleError as error:
        raise ContractError(f"--out {out} holds other things; name a new folder") from error
    same = (
        not ensemble.configuration.differences(there.configuration)
        and there.report["benchmark"]["selected_sha256"] == ensemble.benchmark.selection_sha256
        and there.checkpoints == ensemble.checkpoints
    )
    if not same:
        raise ContractError(f"--out {out} holds the bundle of another configuration; name a new folder")
    return out


def _warn(bundle: SoftLabels) -> None:
    """Log what a user should know of a bundle: checks that warn, rows that were left out, rows without a label."""
    for check in bundle.report["checks"]:
        if check["verdict"] == "warn":
            warn(f"{check['name']}: {check['detail']}")
    if unreadable := len(bundle.report["unreadable"]):
        warn(f"{unreadable:,} images could not be decoded and are left out; the alignment report names them")
    benchmark = bundle.report["benchmark"]
    if bundle.metrics and (unlabelled := benchmark["rows"] - benchmark["labelled_rows"]):
        warn(f"{unlabelled:,} rows have no label; the metrics are of the other {benchmark['labelled_rows']:,}")
