"""`export`: from a manifest and teachers to soft labels; teachers' logits are reused from runs, or computed."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fer_mlflow.data.classes import FER7, read_classes
from fer_mlflow.data.images import Unreadable, unreadable_message
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import BundleError, ContractError, ImageError, TrackingError
from fer_mlflow.files import cache_folder, written_folder
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import DEFAULT
from fer_mlflow.settings import groups, scoring
from fer_mlflow.softlabels import ensemble as fusion, rows
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.teachers import shards, spec
from fer_mlflow.tracking import bundles, runs, store
from fer_mlflow.workflows import SoftLabelsResult, logger, warn, workflow

_WAITING = "another process logs the same teachers; waiting for it"


@dataclass(frozen=True)
class Ensemble:
    """The input of a workflow, read and checked: a benchmark, and teachers with weights."""

    benchmark: Benchmark
    configuration: Configuration
    specs: dict[str, spec.TeacherSpec]
    checkpoints: dict[str, str]  # teacher name -> SHA-256 of its checkpoint
    keys: dict[str, str]  # teacher name -> content key of its logits
    settings: groups.FusionSettings  # what the input was read from

    @property
    def name(self) -> str:
        """The configuration and the benchmark, for people."""
        return f"{self.configuration.name}  on  {self.benchmark.name}"

    def run_name(self, *marks: str) -> str:
        """Return the name of a run on it, as `Configuration.run_name` does."""
        return self.configuration.run_name(self.benchmark.name, *marks)

    @property
    def key(self) -> str:
        """The key of the ensemble's soft labels."""
        return self.configuration.key(self.benchmark.selection_sha256, self.keys)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int, class columns, -1 for rows without a label."""
        return self.benchmark.labels

    @cached_property
    def image_sha256(self):
        """The (rows, 32) uint8 hashes of the images as they are now; None where paths are not to be verified."""
        if not self.settings.verify_paths:
            return None
        return hash_images(self.benchmark.root, self.benchmark.paths.tolist())

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column, as `Benchmark.column` does."""
        return self.benchmark.column(name)


def read_ensemble(settings: groups.FusionSettings) -> Ensemble:
    """Read and check everything that can be checked before a run is opened; checkpoints are hashed."""
    specs = spec.read_teachers(settings.teachers, sorted(settings.weights), Clahe.of(settings))
    benchmark, checkpoints = read_rows(settings), spec.hash_checkpoints(specs)
    how = {name: each.preprocessing for name, each in specs.items()}
    configuration = Configuration(settings.weights, settings.space, settings.dtype, settings.precision, how)
    shared = benchmark.selection_sha256, benchmark.classes.names, settings.precision
    keys = {name: spec.content_key(each, checkpoints[name], *shared) for name, each in specs.items()}
    return Ensemble(benchmark, configuration, specs, checkpoints, keys, settings)


def read_rows(
    settings: groups.BenchmarkSettings | scoring.ManifestRowsSettings, classes: tuple[str, ...] = FER7.names
) -> Benchmark:
    """Read the rows that settings select, with labels of `classes` where the settings name no file of them."""
    return read_benchmark(
        settings.manifest or "",
        read_classes(settings.classes, classes),
        root=settings.root,
        split=settings.split,
        limit=settings.limit,
        verify_paths=settings.verify_paths,
    )


@dataclass
class Gathered:
    """Every teacher's own soft labels, and where they are from."""

    ensemble: Ensemble
    cache: Path = field(default_factory=cache_folder)  # for work in progress
    started_s: float = field(default_factory=time.time)  # when their logits were first looked for
    teachers: dict[str, SoftLabels] = field(default_factory=dict)  # by name, in float32
    run_ids: dict[str, str] = field(default_factory=dict)  # teacher name -> the run that has its soft labels
    computed: list[str] = field(default_factory=list)  # names of the teachers that no run had before

    @property
    def missing(self) -> list[str]:
        """Names of the teachers whose soft labels are not there yet."""
        return [name for name in self.ensemble.specs if name not in self.teachers]

    def reuse(self, client) -> None:
        """Take the missing soft labels from finished teacher runs that verify and fit; warn where one does not."""
        ensemble, missing = self.ensemble, self.missing
        if not missing:
            return
        found = bundles.find_runs(client, "teacher", [ensemble.keys[name] for name in missing])
        for name, run in ((each, run) for each in missing for run in found[ensemble.keys[each]]):
            if name in self.teachers:
                continue
            try:
                teacher = bundles.fetch_bundle(run, self.cache)
                fusion.check_reusable(teacher, ensemble.benchmark, f"run {run.info.run_id}")
            except BundleError as error:
                warn(f"teacher {name} is not reused: {error}")
                continue
            changed = [] if ensemble.image_sha256 is None else fusion.changed_rows(teacher, ensemble.image_sha256)
            if changed:
                first = rows.name_rows(changed[:1], ensemble.benchmark.paths)
                what = f"{len(changed)} images changed since run {run.info.run_id}, {first} first"
                warn(f"teacher {name} predicts again: {what}")
                continue
            self.teachers[name], self.run_ids[name] = teacher, run.info.run_id

    def compute(self, progress: Progress) -> None:
        """Run the forward pass for the missing teachers, where neither kept shards nor other processes spare it."""
        ensemble, how = self.ensemble, self.ensemble.settings
        benchmark = ensemble.benchmark
        predicted = shards.compute_logits(
            benchmark,
            {name: ensemble.specs[name] for name in self.missing},
            ensemble.keys,
            how,
            self.cache,
            image_sha256=lambda: ensemble.image_sha256,
            progress=progress,
            warn=warn,
        )
        for name, each in predicted.items():
            self.computed.append(name)
            checkpoint, verified = ensemble.checkpoints[name], how.verify_paths
            self.teachers[name] = fusion.soft_labels_of_teacher(
                benchmark, name, each, checkpoint, how.precision, images_verified=verified
            )

    def reuse_published(self, client) -> None:
        """Take the run of another process for each teacher that it has published, and whose shards it then removed."""
        own, keys = self.teachers, self.ensemble.keys
        published = [name for name in self.computed if not shards.ShardStore(self.cache, keys[name]).folder.exists()]
        self.teachers = {name: each for name, each in own.items() if name not in published}
        self.reuse(client)
        self.computed = [name for name in self.computed if name not in published or name in self.missing]
        self.teachers |= {name: own[name] for name in self.missing}

    def fused(self, configuration: Configuration | None = None) -> SoftLabels:
        """Return the soft labels of the ensemble, or of another configuration of its teachers, in memory."""
        ensemble = self.ensemble
        verified, configuration = ensemble.settings.verify_paths, configuration or ensemble.configuration
        return fusion.fuse_ensemble(ensemble.benchmark, self.teachers, configuration, images_verified=verified)

    def keep(self, soft_labels: SoftLabels, key: str) -> SoftLabels:
        """Write the soft labels of a key to where they are until the tracking store has them."""
        return soft_labels.write(self.cache / "bundles" / key / FOLDER)

    def publish(self, run: runs.TrackedRun, params: Mapping[str, str]) -> None:
        """Log every teacher that was computed as a run of its own, for every later ensemble to reuse."""
        for name in self.computed:
            key, teacher = self.ensemble.keys[name], self.teachers[name]
            bundle = self.keep(teacher, key)
            with run.sibling(teacher.run_name(), self.started_s) as teacher_run:
                teacher_run.log(teacher.configuration.params(params))
                bundles.publish_bundle(teacher_run, bundle, key, {"fer.kind": "teacher"})
            self.run_ids[name] = teacher_run.run_id

    def forget(self) -> None:
        """Remove from the cache what the tracking store now has."""
        for key in [self.ensemble.key, *(self.ensemble.keys[name] for name in self.computed)]:
            shards.ShardStore(self.cache, key).clear()
            shutil.rmtree(self.cache / "bundles" / key, ignore_errors=True)


@contextmanager
def gathered_teachers(ensemble: Ensemble, client, progress: Progress = no_progress) -> Iterator[Gathered]:
    """Give every teacher's soft labels for a block: from finished runs, from kept shards, and computed.

    Processes that want the same teachers share the forward pass. The first of them holds the lock of a teacher for
    the block, so that it can publish it; the others wait, and then find its run.
    """
    gathered = Gathered(ensemble)
    gathered.reuse(client)
    while gathered.missing:
        gathered.compute(progress)
        gathered.reuse(client)  # what another process has published meanwhile
    keys = [ensemble.keys[name] for name in gathered.computed]
    with shards.held_keys(gathered.cache, keys, on_wait=lambda: logger.info(_WAITING)):
        gathered.reuse_published(client)
        if ensemble.settings.on_bad_image == "fail":
            for teacher in gathered.teachers.values():
                if unreadable := teacher.report["unreadable"]:
                    raise ImageError(unreadable_message([Unreadable(**bad) for bad in unreadable]))
        yield gathered


def fuse_and_track(
    ensemble: Ensemble, run: runs.TrackedRun, params: Mapping[str, str], progress: Progress
) -> tuple[SoftLabels, Gathered]:
    """Return an ensemble's soft labels, in memory, and its teachers'; those that no run has are logged beside `run`."""
    with gathered_teachers(ensemble, run.client, progress) as gathered:
        gathered.publish(run, params)
        bundle = gathered.fused()
        gathered.forget()
    return bundle, gathered


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


@workflow(scoring.ExportSettings)
def export(settings: scoring.ExportSettings, progress: Progress = no_progress) -> ExportResult:
    """Compute the teachers' logits on a benchmark, fuse them, and log the soft labels as an MLflow run.

    Logits that a teacher's run holds already are reused. Everything is computed and on disk before the first file is
    uploaded, so that a server that goes away costs nothing but the upload.

    Raises FerError: the input cannot be used; nearly all of it is found before the first forward pass. Raises
    TrackingError: the server cannot be reached; the message says where the finished bundle is kept.
    """
    ensemble = read_ensemble(settings)
    out = _check_out(settings.out, ensemble)
    with runs.open_run("export", settings.name or ensemble.run_name(), settings.experiment) as run:
        run.log(ensemble.configuration.params(settings.params))
        with gathered_teachers(ensemble, run.client, progress) as gathered:
            bundle = gathered.keep(gathered.fused(), ensemble.key)
            if out is not None:
                copy_bundle(bundle, out)
            try:
                gathered.publish(run, settings.params)
                teacher_runs = {f"{store.TEACHER_RUN}{name}": run_id for name, run_id in gathered.run_ids.items()}
                bundles.publish_bundle(run, bundle, ensemble.key, teacher_runs)
            except TrackingError as error:
                raise TrackingError(
                    f"{error}; the finished bundle is kept in {bundle.folder}: "
                    "run the same command again to upload it, nothing is computed twice"
                ) from error
            gathered.forget()
        benchmarks = {bundle.selection_sha256: bundle.benchmark}
        store.furnish_experiment(run.client, run.experiment_id, benchmarks, DEFAULT)
    _warn_of(bundle)
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


def _warn_of(bundle: SoftLabels) -> None:
    """Log what a user should know of a bundle: checks that warn, rows that were left out, rows without a label."""
    for check in bundle.report["checks"]:
        if check["verdict"] == "warn":
            warn(f"{check['name']}: {check['detail']}")
    if unreadable := len(bundle.report["unreadable"]):
        warn(f"{unreadable:,} images could not be decoded and are left out; the alignment report names them")
    benchmark = bundle.report["benchmark"]
    if bundle.metrics and (unlabelled := benchmark["rows"] - benchmark["labelled_rows"]):
        warn(f"{unlabelled:,} rows have no label; the metrics are of the other {benchmark['labelled_rows']:,}")


def log_export(
    run: runs.TrackedRun,
    soft_labels: SoftLabels,
    key: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    *,
    nested: bool = False,
) -> str:
    """Log soft labels as an export run beside a run, or below it, and return its id."""
    with (
        run.sibling(soft_labels.run_name(), nested=nested) as exported,
        tempfile.TemporaryDirectory(prefix="fer-mlflow.") as folder,
    ):
        exported.log(params)
        bundles.publish_bundle(exported, soft_labels.write(Path(folder) / FOLDER), key, {"fer.kind": "export", **tags})
    return exported.run_id


def copy_bundle(bundle: SoftLabels, out: Path) -> SoftLabels:
    """Copy a verified bundle, whole or not at all, and return it as the one in `out`."""
    assert bundle.folder is not None  # one in memory is written
    with written_folder(out) as temporary:
        for path in bundle.folder.iterdir():
            shutil.copyfile(path, temporary / path.name)
    return replace(bundle, folder=out)
