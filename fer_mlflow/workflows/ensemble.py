"""Ensembles: their input, read and checked; their teachers' logits, reused or computed; their bundles."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.images import Clahe, describe_preprocessing, hash_images
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import BundleError, ImageError
from fer_mlflow.files import sha256_of_json, written_folder
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.groups import BenchmarkSettings, FusionSettings
from fer_mlflow.settings.weights import format_weights
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.ensemble import matches, outputs_of_teacher, write_ensemble
from fer_mlflow.softlabels.protocol import describe_settings
from fer_mlflow.teachers.outputs import TeacherOutputs, stale_rows, unreadable_message
from fer_mlflow.teachers.shards import ShardStore, held_keys
from fer_mlflow.teachers.spec import TeacherSpec, content_key, hash_checkpoints, read_teachers
from fer_mlflow.tracking.bundles import fetch_bundle, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ensemble:
    """The input of a workflow, read and checked: a benchmark, and teachers with weights.

    Attributes
    ----------
    checkpoints, keys : teacher name -> SHA-256 of its checkpoint, content key of its logits
    preprocessing : the protocol that the logits depend on
    settings : what the input was read from
    """

    benchmark: Benchmark
    weights: dict[str, float]
    specs: dict[str, TeacherSpec]
    checkpoints: dict[str, str]
    keys: dict[str, str]
    preprocessing: dict[str, Any]
    clahe: Clahe | None
    settings: FusionSettings

    @property
    def name(self) -> str:
        """The configuration in a few words, for people."""
        shares = [f"{name} {share:g}" for name, share in self.weights.items()]
        dtype = [] if self.settings.dtype == "float32" else [self.settings.dtype]
        return " · ".join([*shares, self.settings.space, *self.protocol_marks, *dtype])

    @property
    def protocol_marks(self) -> list[str]:
        """What is not as usual in how the teachers are asked."""
        marks = []
        if self.clahe is not None:
            marks.append("clahe" if self.clahe == Clahe() else f"clahe {self.clahe.clip:g}/{self.clahe.tile}")
        if self.settings.precision != "fp32":
            marks.append(self.settings.precision)
        return marks

    @property
    def fusion(self) -> dict[str, Any]:
        """How the teachers' logits become the ensemble's, as the alignment report has it."""
        weights = {name: self.weights[name] for name in sorted(self.weights)}
        return {"weights": weights, "space": self.settings.space, "dtype": self.settings.dtype}

    @property
    def described(self) -> dict[str, str]:
        """What `softlabels.protocol.describe_ensemble` will say of its bundle."""
        how = self.settings
        return describe_settings(format_weights(self.weights), how.space, how.dtype, how.precision, self.clahe)

    @property
    def config_key(self) -> str:
        """The key of the ensemble's bundle: benchmark, teachers' logits, weights, space, dtype."""
        shares = sorted((self.keys[name], share) for name, share in self.weights.items())
        settings = {**self.fusion, "weights": shares}
        return f"{self.benchmark.selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"

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
    clahe = Clahe(settings.clahe_clip, settings.clahe_tile) if settings.clahe else None
    specs = read_teachers(settings.teachers, list(settings.weights))
    benchmark = read_rows(settings)
    checkpoints = hash_checkpoints(specs)
    preprocessing = describe_preprocessing(clahe)
    names, precision = benchmark.classes.names, settings.precision
    keys = {
        name: content_key(spec, checkpoints[name], benchmark.selection_sha256, names, preprocessing, precision)
        for name, spec in specs.items()
    }
    return Ensemble(benchmark, settings.weights, specs, checkpoints, keys, preprocessing, clahe, settings)


def read_rows(settings: BenchmarkSettings) -> Benchmark:
    """Read the rows that settings select.

    Raises
    ------
    ManifestError
        the manifest or the classes file cannot be used
    """
    return read_benchmark(
        settings.manifest,
        ClassOrder.read(settings.classes) if settings.classes else FER7,
        root=settings.root,
        split=settings.split,
        limit=settings.limit,
        verify_paths=settings.verify_paths,
    )


@dataclass
class Gathered:
    """Every teacher's outputs, and where they are from.

    Attributes
    ----------
    outputs : teacher name -> outputs
    run_ids : teacher name -> the run that has them
    computed : names of the teachers that no run had before
    """

    outputs: dict[str, TeacherOutputs] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)


@contextmanager
def gathered_outputs(ensemble: Ensemble, client, cache: Path, progress: Progress = no_progress) -> Iterator[Gathered]:
    """Give every teacher's outputs for a block: from finished runs, from kept shards, and computed.

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
            gathered.outputs |= _compute(ensemble, missing, cache, progress)
            gathered.computed = missing
        if ensemble.settings.on_bad_image == "fail":
            for outputs in gathered.outputs.values():
                if outputs.unreadable:
                    raise ImageError(unreadable_message(outputs.unreadable))
        yield gathered


def _missing(ensemble: Ensemble, gathered: Gathered) -> list[str]:
    return [name for name in ensemble.specs if name not in gathered.outputs]


def warn(message: str) -> None:
    """Log something that a user should read."""
    logger.warning("%s", message)


def _say_waiting() -> None:
    logger.info("another process computes logits of the same teachers; waiting for it")


def _reuse(ensemble: Ensemble, gathered: Gathered, names: list[str], client, cache: Path) -> None:
    """Take the outputs of finished teacher runs that verify and fit; say why one is not taken."""
    runs = find_runs(client, "teacher", [ensemble.keys[name] for name in names])
    for name in names:
        for run in runs[ensemble.keys[name]]:
            try:
                bundle = fetch_bundle(client, run, cache)
                if not matches(bundle, ensemble.benchmark):
                    raise BundleError(f"run {run.info.run_id}: its bundle is of other rows or classes")
                outputs = outputs_of_teacher(bundle)
            except BundleError as error:
                warn(f"teacher {name} is not reused: {error}")
                continue
            stale = [] if ensemble.image_sha256 is None else stale_rows(outputs, ensemble.image_sha256)
            if stale:
                path = ensemble.benchmark.paths.iloc[stale[0]]
                warn(
                    f"teacher {name} is asked again: {len(stale)} images changed since run {run.info.run_id}, "
                    f'row {stale[0] + 1} "{path}" first'
                )
                continue
            gathered.outputs[name] = outputs
            gathered.run_ids[name] = run.info.run_id
            break


def _compute(ensemble: Ensemble, names: list[str], cache: Path, progress: Progress) -> dict[str, TeacherOutputs]:
    """Run the forward pass for the named teachers, where kept shards do not spare it."""
    from fer_mlflow.teachers.asking import Settings
    from fer_mlflow.teachers.computation import compute_outputs

    how = ensemble.settings
    current: Callable | None = (lambda: ensemble.image_sha256) if how.verify_paths else None
    return compute_outputs(
        ensemble.benchmark,
        {name: ensemble.specs[name] for name in names},
        ensemble.keys,
        ensemble.checkpoints,
        Settings(
            clahe=ensemble.clahe,
            precision=how.precision,
            compile=how.compile,
            device=how.device,
            batch_size=how.batch_size,
            workers=how.workers,
        ),
        cache,
        image_sha256=current,
        skip_unreadable=how.on_bad_image == "skip",
        progress=progress,
        warn=warn,
    )


def write_bundle(ensemble: Ensemble, gathered: Gathered, cache: Path) -> SoftLabels:
    """Write the ensemble's bundle into the cache, as it was asked for."""
    return _write(ensemble, gathered, cache, ensemble.config_key, ensemble.weights, ensemble.fusion)


def publish_teachers(
    ensemble: Ensemble, gathered: Gathered, cache: Path, run: TrackedRun, params: Mapping[str, str], started_s: float
) -> None:
    """Log every teacher that was computed as a run of its own, for every later ensemble to reuse.

    A teacher's own bundle always has float32 logits.
    """
    for name in gathered.computed:
        key = ensemble.keys[name]
        bundle = _write(ensemble, gathered, cache, key, {name: 1.0}, {"space": "logit", "dtype": "float32"})
        with run.sibling(" · ".join([name, *ensemble.protocol_marks]), started_s) as teacher_run:
            teacher_run.log_params({**params, "weights": f"{name}=1", "space": "logit", "dtype": "float32"})
            publish_bundle(teacher_run, bundle, key, {"fer.kind": "teacher"})
        gathered.run_ids[name] = teacher_run.run_id


def _write(ensemble, gathered, cache: Path, key: str, weights: Mapping[str, float], fusion: Mapping) -> SoftLabels:
    return write_ensemble(
        cache / "bundles" / key / FOLDER,
        ensemble.benchmark,
        gathered.outputs,
        weights,
        space=fusion["space"],
        dtype=fusion["dtype"],
        preprocessing=ensemble.preprocessing,
        images_verified=ensemble.settings.verify_paths,
    )


def forget(ensemble: Ensemble, gathered: Gathered, cache: Path) -> None:
    """Remove from the cache what the tracking store now has."""
    for key in [ensemble.config_key, *(ensemble.keys[name] for name in gathered.computed)]:
        ShardStore(cache, key).clear()
        shutil.rmtree(cache / "bundles" / key, ignore_errors=True)


def copy_bundle(bundle: SoftLabels, out: Path) -> SoftLabels:
    """Copy a verified bundle, whole or not at all, and return it as the one in `out`."""
    with written_folder(out) as temporary:
        for path in bundle.folder.iterdir():
            shutil.copyfile(path, temporary / path.name)
    return replace(bundle, folder=out)
