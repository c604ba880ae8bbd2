"""What commands on ensembles share: their input, checked, and every teacher's outputs, reused or computed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np

from fer_mlflow.commands.progress import Progress
from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.images import Clahe, describe_preprocessing, hash_images
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import BundleError, ImageError
from fer_mlflow.files import sha256_of_json
from fer_mlflow.settings.weights import format_weights, parse_weights
from fer_mlflow.softlabels.ensemble import matches, outputs_of_teacher
from fer_mlflow.softlabels.protocol import describe_settings
from fer_mlflow.teachers.outputs import TeacherOutputs, stale_rows, unreadable_message
from fer_mlflow.teachers.spec import TeacherSpec, content_key, hash_checkpoints, read_teachers


@dataclass(frozen=True)
class Ensemble:
    """The input of a command, read and checked: a benchmark, teachers with weights, and how to ask them.

    Attributes
    ----------
    checkpoints, keys : teacher name -> SHA-256 of its checkpoint, content key of its logits
    preprocessing : the protocol that the logits depend on
    options : the command's options, parsed
    """

    benchmark: Benchmark
    weights: dict[str, float]
    specs: dict[str, TeacherSpec]
    checkpoints: dict[str, str]
    keys: dict[str, str]
    preprocessing: dict[str, Any]
    clahe: Clahe | None
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The configuration in a few words, for people."""
        shares = [f"{name} {share:g}" for name, share in self.weights.items()]
        dtype = [] if self.options["dtype"] == "float32" else [self.options["dtype"]]
        return " · ".join([*shares, self.options["space"], *self.protocol_marks, *dtype])

    @property
    def protocol_marks(self) -> list[str]:
        """What is not as usual in how the teachers are asked."""
        marks = []
        if self.clahe is not None:
            marks.append("clahe" if self.clahe == Clahe() else f"clahe {self.clahe.clip:g}/{self.clahe.tile}")
        if self.options["precision"] != "fp32":
            marks.append(self.options["precision"])
        return marks

    @property
    def fusion(self) -> dict[str, Any]:
        """How the teachers' logits become the ensemble's, as the alignment report has it."""
        weights = {name: self.weights[name] for name in sorted(self.weights)}
        return {"weights": weights, "space": self.options["space"], "dtype": self.options["dtype"]}

    @property
    def described(self) -> dict[str, str]:
        """What `softlabels.protocol.describe_ensemble` will say of its bundle."""
        options = self.options
        return describe_settings(
            format_weights(self.weights), options["space"], options["dtype"], options["precision"], self.clahe
        )

    @property
    def config_key(self) -> str:
        """The key of the ensemble's bundle: benchmark, teachers' logits, weights, space, dtype."""
        shares = sorted((self.keys[name], share) for name, share in self.weights.items())
        settings = {**self.fusion, "weights": shares}
        return f"{self.benchmark.selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"

    @cached_property
    def image_sha256(self):
        """The (rows, 32) uint8 hashes of the images as they are now; None where paths are not to be verified."""
        if not self.options["verify_paths"]:
            return None
        return hash_images(self.benchmark.root, self.benchmark.paths.tolist())

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column, as `Benchmark.column` does."""
        return self.benchmark.column(name)


def read_ensemble(options: Mapping[str, Any]) -> Ensemble:
    """Read and check everything that can be checked before a run is opened.

    Raises
    ------
    FerError
        whatever is wrong with weights, classes, manifest or teachers
    """
    weights = parse_weights(options["weights"])
    clahe = Clahe(options["clahe_clip"], options["clahe_tile"]) if options["clahe"] else None
    specs = read_teachers(options["teachers"], list(weights))
    classes = ClassOrder.read(options["classes"]) if options["classes"] else FER7
    benchmark = read_benchmark(
        options["manifest"],
        classes,
        root=options["root"],
        split=options["split"],
        limit=options["limit"],
        verify_paths=options["verify_paths"],
    )
    checkpoints = hash_checkpoints(specs)
    preprocessing = describe_preprocessing(clahe)
    keys = {
        name: content_key(
            spec, checkpoints[name], benchmark.selection_sha256, classes.names, preprocessing, options["precision"]
        )
        for name, spec in specs.items()
    }
    return Ensemble(benchmark, weights, specs, checkpoints, keys, preprocessing, clahe, options)


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
def gathered_outputs(ensemble: Ensemble, client, cache: Path) -> Iterator[Gathered]:
    """Give every teacher's outputs for a block: from finished runs, from kept shards, and computed.

    Teachers that no run has stay locked for the block, so that it can publish them; another process that wants
    them waits, and then finds their runs.

    Raises
    ------
    FerError
        a checkpoint or an image cannot be used, or the forward pass failed
    """
    from fer_mlflow.teachers.shards import held_keys

    gathered = Gathered()
    _reuse(ensemble, gathered, list(ensemble.specs), client, cache)
    missing = _missing(ensemble, gathered)
    with held_keys(cache, [ensemble.keys[name] for name in missing], on_wait=_say_waiting) as waited:
        if waited:
            _reuse(ensemble, gathered, missing, client, cache)
            missing = _missing(ensemble, gathered)
        if missing:
            gathered.outputs |= _compute(ensemble, missing, cache)
            gathered.computed = missing
        if ensemble.options["on_bad_image"] == "fail":
            for outputs in gathered.outputs.values():
                if outputs.unreadable:
                    raise ImageError(unreadable_message(outputs.unreadable))
        yield gathered


def _missing(ensemble: Ensemble, gathered: Gathered) -> list[str]:
    return [name for name in ensemble.specs if name not in gathered.outputs]


def warn(message: str) -> None:
    """Say something that a user should read, on stderr."""
    click.echo(f"warning: {message}", err=True)


def _say_waiting() -> None:
    click.echo("another process is asking the same teachers; waiting for it", err=True)


def _reuse(ensemble: Ensemble, gathered: Gathered, names: list[str], client, cache: Path) -> None:
    """Take the outputs of finished teacher runs that verify and fit; say why one is not taken."""
    from fer_mlflow.tracking.bundles import fetch_bundle, find_runs

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


def _compute(ensemble: Ensemble, names: list[str], cache: Path) -> dict[str, TeacherOutputs]:
    """Run the forward pass for the named teachers, where kept shards do not spare it."""
    from fer_mlflow.teachers.asking import Settings
    from fer_mlflow.teachers.computation import compute_outputs

    options = ensemble.options
    current: Callable | None = (lambda: ensemble.image_sha256) if options["verify_paths"] else None
    return compute_outputs(
        ensemble.benchmark,
        {name: ensemble.specs[name] for name in names},
        ensemble.keys,
        ensemble.checkpoints,
        Settings(
            clahe=ensemble.clahe,
            precision=options["precision"],
            compile=options["compile"],
            device=options["device"],
            batch_size=options["batch_size"],
            workers=options["workers"],
        ),
        cache,
        image_sha256=current,
        skip_unreadable=options["on_bad_image"] == "skip",
        progress=Progress(),
        warn=warn,
    )
