"""Ensembles: their input, read and checked; their teachers' logits, reused or computed; their soft labels."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import BundleError, ImageError
from fer_mlflow.files import cache_folder, written_folder
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.groups import BenchmarkSettings, FusionSettings
from fer_mlflow.settings.scoring import ManifestRowsSettings
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.ensemble import changed_rows, check_reusable, fuse_ensemble, soft_labels_of_teacher
from fer_mlflow.teachers.shards import ShardStore, Unreadable, held_keys, unreadable_message
from fer_mlflow.teachers.spec import ForwardSettings, TeacherSpec, content_key, hash_checkpoints, read_teachers
from fer_mlflow.tracking.bundles import fetch_bundle, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ensemble:
    """The input of a workflow, read and checked: a benchmark, and teachers with weights.

    Attributes
    ----------
    checkpoints, keys : teacher name -> SHA-256 of its checkpoint, content key of its logits
    settings : what the input was read from
    """

    benchmark: Benchmark
    configuration: Configuration
    specs: dict[str, TeacherSpec]
    checkpoints: dict[str, str]
    keys: dict[str, str]
    settings: FusionSettings

    @classmethod
    def of(cls, benchmark: Benchmark, specs: dict[str, TeacherSpec], settings: FusionSettings) -> "Ensemble":
        """Return the ensemble of described teachers; their checkpoints are hashed."""
        checkpoints, names = hash_checkpoints(specs), benchmark.classes.names
        selection, precision = benchmark.selection_sha256, settings.precision
        return cls(
            benchmark,
            Configuration(
                settings.weights,
                settings.space,
                settings.dtype,
                precision,
                {name: spec.preprocessing for name, spec in specs.items()},
            ),
            specs,
            checkpoints,
            {name: content_key(spec, checkpoints[name], selection, names, precision) for name, spec in specs.items()},
            settings,
        )

    @property
    def name(self) -> str:
        """The configuration and the benchmark, for people."""
        return f"{self.configuration.name}  on  {self.benchmark.name}"

    @property
    def key(self) -> str:
        """The key of the ensemble's soft labels."""
        return self.configuration.key(self.benchmark.selection_sha256, self.keys)

    @cached_property
    def image_sha256(self):
        """The (rows, 32) uint8 hashes of the images as they are now; None where paths are not to be verified."""
        if not self.settings.verify_paths:
            return None
        return hash_images(self.benchmark.root, self.benchmark.paths.tolist())

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column, as `Benchmark.column` does."""
        return self.benchmark.column(name)


def read_ensemble(settings: FusionSettings) -> Ensemble:
    """Read and check everything that can be checked before a run is opened.

    Raises
    ------
    FerError
        whatever is wrong with weights, classes, manifest or teachers
    """
    specs = read_teachers(settings.teachers, sorted(settings.weights), Clahe.of(settings))
    return Ensemble.of(read_rows(settings), specs, settings)


def read_rows(settings: BenchmarkSettings | ManifestRowsSettings, classes: tuple[str, ...] = FER7.names) -> Benchmark:
    """Read the rows that settings select, with labels of `classes` where the settings name no file of them.

    Raises
    ------
    ManifestError
        the manifest or the classes file cannot be used
    """
    return read_benchmark(
        settings.manifest or "",
        ClassOrder.read(settings.classes) if settings.classes else ClassOrder.of(classes),
        root=settings.root,
        split=settings.split,
        limit=settings.limit,
        verify_paths=settings.verify_paths,
    )


@dataclass
class Gathered:
    """Every teacher's own soft labels, and where they are from.

    Attributes
    ----------
    teachers : teacher name -> its soft labels, in float32
    run_ids : teacher name -> the run that has them
    computed : names of the teachers that no run had before
    """

    teachers: dict[str, SoftLabels] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)


@contextmanager
def gathered_teachers(ensemble: Ensemble, client, cache: Path, progress: Progress = no_progress) -> Iterator[Gathered]:
    """Give every teacher's soft labels for a block: from finished runs, from kept shards, and computed.

    Teachers that no run has stay locked for the block, so that it can publish them; another process that wants
    them waits, and then finds their runs.

    Raises
    ------
    FerError
        a checkpoint or an image cannot be used, or the forward pass failed
    """
    gathered = Gathered()
    _reuse(ensemble, gathered, list(ensemble.specs), client, cache)
    missing = _missing(ensemble, gathered)
    with held_keys(cache, [ensemble.keys[name] for name in missing], on_wait=_say_waiting) as waited:
        if waited:
            _reuse(ensemble, gathered, missing, client, cache)
            missing = _missing(ensemble, gathered)
        if missing:
            gathered.teachers |= _compute(ensemble, missing, cache, progress)
            gathered.computed = missing
        if ensemble.settings.on_bad_image == "fail":
            for teacher in gathered.teachers.values():
                if unreadable := teacher.report["unreadable"]:
                    raise ImageError(unreadable_message([Unreadable(**bad) for bad in unreadable]))
        yield gathered


def _missing(ensemble: Ensemble, gathered: Gathered) -> list[str]:
    return [name for name in ensemble.specs if name not in gathered.teachers]


def warn(message: str) -> None:
    """Log something that a user should read."""
    logger.warning("%s", message)


def _say_waiting() -> None:
    logger.info("another process computes logits of the same teachers; waiting for it")


def _reuse(ensemble: Ensemble, gathered: Gathered, names: list[str], client, cache: Path) -> None:
    """Take the soft labels of finished teacher runs that verify and fit; warn where one does not."""
    runs = find_runs(client, "teacher", [ensemble.keys[name] for name in names])
    for name in names:
        for run in runs[ensemble.keys[name]]:
            try:
                teacher = fetch_bundle(client, run, cache)
                check_reusable(teacher, ensemble.benchmark, f"run {run.info.run_id}")
            except BundleError as error:
                warn(f"teacher {name} is not reused: {error}")
                continue
            changed = [] if ensemble.image_sha256 is None else changed_rows(teacher, ensemble.image_sha256)
            if changed:
                path = ensemble.benchmark.paths.iloc[changed[0]]
                warn(
                    f"teacher {name} predicts again: {len(changed)} images changed since run {run.info.run_id}, "
                    f'row {changed[0] + 1} "{path}" first'
                )
                continue
            gathered.teachers[name] = teacher
            gathered.run_ids[name] = run.info.run_id
            break


def _compute(ensemble: Ensemble, names: list[str], cache: Path, progress: Progress) -> dict[str, SoftLabels]:
    """Run the forward pass for the named teachers, where kept shards do not spare it."""
    from fer_mlflow.teachers.computation import compute_logits

    how = ensemble.settings
    current: Callable | None = (lambda: ensemble.image_sha256) if how.verify_paths else None
    predicted = compute_logits(
        ensemble.benchmark,
        {name: ensemble.specs[name] for name in names},
        ensemble.keys,
        ForwardSettings(how.precision, how.compile, how.device, how.batch_size, how.workers),
        cache,
        image_sha256=current,
        skip_unreadable=how.on_bad_image == "skip",
        progress=progress,
        warn=warn,
    )
    verified, checkpoints = how.verify_paths, ensemble.checkpoints
    return {
        name: soft_labels_of_teacher(
            ensemble.benchmark, name, each, checkpoints[name], how.precision, images_verified=verified
        )
        for name, each in predicted.items()
    }


def fused(ensemble: Ensemble, gathered: Gathered) -> SoftLabels:
    """Return the ensemble's soft labels, in memory."""
    return fuse_ensemble(
        ensemble.benchmark,
        gathered.teachers,
        ensemble.configuration,
        images_verified=ensemble.settings.verify_paths,
    )


def fuse_and_track(
    ensemble: Ensemble, run: TrackedRun, params: Mapping[str, str], progress: Progress
) -> tuple[SoftLabels, Gathered]:
    """Return an ensemble's soft labels, in memory, and its teachers'; those that no run has are logged beside `run`."""
    cache, started_s = cache_folder(), time.time()
    with gathered_teachers(ensemble, run.client, cache, progress) as gathered:
        publish_teachers(ensemble, gathered, cache, run, params, started_s)
        bundle = fused(ensemble, gathered)
        forget(ensemble, gathered, cache)
    return bundle, gathered


def bundle_folder(cache: Path, key: str) -> Path:
    """Return where the bundle of a key is until the tracking store has it."""
    return cache / "bundles" / key / FOLDER


def publish_teachers(
    ensemble: Ensemble, gathered: Gathered, cache: Path, run: TrackedRun, params: Mapping[str, str], started_s: float
) -> None:
    """Log every teacher that was computed as a run of its own, for every later ensemble to reuse.

    A teacher's own bundle always has float32 logits.
    """
    for name in gathered.computed:
        key, teacher = ensemble.keys[name], gathered.teachers[name]
        bundle = teacher.write(bundle_folder(cache, key))
        with run.sibling(teacher.configuration.name, started_s) as teacher_run:
            teacher_run.log_params({**params, **teacher.configuration.options})
            publish_bundle(teacher_run, bundle, key, {"fer.kind": "teacher"})
        gathered.run_ids[name] = teacher_run.run_id


def forget(ensemble: Ensemble, gathered: Gathered, cache: Path) -> None:
    """Remove from the cache what the tracking store now has."""
    for key in [ensemble.key, *(ensemble.keys[name] for name in gathered.computed)]:
        ShardStore(cache, key).clear()
        shutil.rmtree(cache / "bundles" / key, ignore_errors=True)


def copy_bundle(bundle: SoftLabels, out: Path) -> SoftLabels:
    """Copy a verified bundle, whole or not at all, and return it as the one in `out`."""
    assert bundle.folder is not None  # one in memory is written
    with written_folder(out) as temporary:
        for path in bundle.folder.iterdir():
            shutil.copyfile(path, temporary / path.name)
    return replace(bundle, folder=out)
