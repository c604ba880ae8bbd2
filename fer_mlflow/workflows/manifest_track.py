"""`manifest track`: build or merge a manifest, logged as a run that later runs link to by their benchmark."""

from dataclasses import dataclass

from fer_mlflow.data.classes import read_classes
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.manifests import BuildManifestSettings, MergeManifestsSettings, TrackManifestSettings
from fer_mlflow.tables import report_markdown
from fer_mlflow.tracking.runs import TrackedRun, metric_key, open_run
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.manifest import ManifestResult, build_manifest, merge_manifests


@dataclass(frozen=True, kw_only=True, repr=False)
class TrackManifestResult(RunResult):
    """A manifest that was written and logged, and the benchmark of all its rows."""

    manifest: ManifestResult
    benchmark: Benchmark


@workflow(TrackManifestSettings)
def track_manifest(settings: TrackManifestSettings, progress: Progress = no_progress) -> TrackManifestResult:
    """Build or merge a manifest, and log it, its report and its benchmarks as an MLflow run.

    Raises
    ------
    FerError
        see `build_manifest` and `merge_manifests`
    TrackingError
        the server cannot be reached
    """
    with open_run("manifest", settings.name or f"{settings.action} {settings.path.stem}", settings.experiment) as run:
        run.log_params(params_of(settings))
        if settings.action == "build":
            result = build_manifest.of(settings.of(BuildManifestSettings), progress=progress)
        else:
            result = merge_manifests.of(settings.of(MergeManifestsSettings), progress=progress)
        whole = _log_benchmarks(run, settings)
        run.log_file(settings.path)
        run.log_text("report.md", report_markdown(result.report))
        run.set_tags({"fer.benchmark": whole.name, "fer.selection_sha256": whole.selection_sha256})
    return TrackManifestResult(run_id=run.run_id, ui=run.ui, manifest=result, benchmark=whole)


def _log_benchmarks(run: TrackedRun, settings: TrackManifestSettings) -> Benchmark:
    """Log the manifest and each of its splits as datasets, with the names and digests that later runs have for them."""
    whole = _log_benchmark(run, settings, None)
    splits = [split for split in whole.frame["split"].unique() if split]
    for split in splits:
        _log_benchmark(run, settings, split)
    metrics = {"rows": len(whole)}
    metrics |= {metric_key("rows", split): int((whole.frame["split"] == split).sum()) for split in splits}
    for (split, label), count in whole.frame.groupby(["split", "label"]).size().items():
        metrics[metric_key("rows", split or "all", label or "unlabelled")] = int(count)
    run.log_metrics(metrics)
    run.log_params({"benchmark": whole.name, "rows": len(whole)})
    return whole


def _log_benchmark(run: TrackedRun, settings: TrackManifestSettings, split: str | None) -> Benchmark:
    classes = read_classes(settings.classes)
    rows = read_benchmark(settings.out, classes, root=settings.root, split=split, verify_paths=False)
    run.log_benchmark(rows.name, rows, "manifest")
    return rows
