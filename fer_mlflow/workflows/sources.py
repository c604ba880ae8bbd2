"""Sources of soft labels: a run, a folder, or an ensemble whose soft labels are fused when they are needed."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fer_mlflow.data.manifest import read_column
from fer_mlflow.errors import BundleError, ContractError, FerError
from fer_mlflow.files import cache_folder, sha256_of_file
from fer_mlflow.progress import Progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.groups import SourceSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.tracking.bundles import derived_params, fetch_bundle, read_run
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.store import TEACHER_RUN, connect
from fer_mlflow.workflows.ensemble import Ensemble, fuse_and_track, read_ensemble, warn

_FILES = ("manifest", "root", "split", "teachers")


@dataclass(frozen=True)
class Source:
    """A bundle, and what is known around it.

    `run_id` is the run that has it, empty for a folder and for an ensemble that was fused for this command; `params`
    are that run's. `teacher_logits` gives teacher name -> (N, C) logits of its rows, as far as they can be had.
    """

    bundle: SoftLabels
    run_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    teacher_logits: Callable[[], dict[str, np.ndarray]] = dict

    @property
    def name(self) -> str:
        """The configuration and the benchmark, for people."""
        return self.bundle.name

    @property
    def labels(self) -> np.ndarray:
        """(N,) int, class columns, -1 for rows without a label."""
        return self.bundle.labels

    @property
    def inputs(self) -> dict[str, str]:
        """The params that say what the soft labels were made from, and how."""
        files = {name: self.params[name] for name in _FILES if self.params.get(name)}
        return files | self.bundle.configuration.options

    def tags(self) -> dict[str, str]:
        """Return the tags by which a run is found beside the others on its benchmark."""
        return {
            "fer.benchmark": self.bundle.benchmark,
            "fer.selection_sha256": self.bundle.selection_sha256,
            "fer.source_bundle_sha256": self.bundle.sha256,
        } | ({"fer.source_run": self.run_id} if self.run_id else {})

    def column(self, name: str) -> np.ndarray:
        """Return the (N,) text of a column: of the bundle's index, else of the manifest that it was made from."""
        if name in self.bundle.index and name not in ("row", "path", "image_sha256"):
            return self.bundle.index[name].to_numpy(object)
        manifest, root = self._path_of("manifest"), self.root()
        if manifest is None or root is None:
            what = "the bundle has split, source and label, and its manifest is not here; name it by --manifest"
            raise ContractError(f"column {name}: {what}")
        if sha256_of_file(manifest) != self.bundle.manifest_sha256:
            raise ContractError(f"column {name}: {manifest} has changed since the soft labels were exported")
        return read_column(manifest, name, root, self.bundle.index["path"])

    def root(self) -> Path | None:
        """Return the folder that the rows' paths start from, if it is on this machine."""
        manifest = self._path_of("manifest")
        return self._path_of("root") or (manifest.parent if manifest else None)

    def _path_of(self, param: str) -> Path | None:
        """Return the path that a param names, which `mlflow run` may have logged with a shell's quotes."""
        text = self.params.get(param, "")
        candidates = [text]
        with suppress(ValueError):
            candidates += shlex.split(text)[:1]
        return next((Path(each) for each in candidates if each and Path(each).exists()), None)


def read_source(settings: SourceSettings) -> Source | Ensemble:
    """Return what the settings name, verified: soft labels that are stored, or an ensemble that is to be fused.

    Beside stored soft labels `manifest` and `root` say where the files that they were made from are now.
    """
    if (fusion := settings.fusion()) is not None:
        return read_ensemble(fusion)
    source = read_run_source(settings.run) if settings.run else Source(SoftLabels.open(settings.bundle or ""))
    moved = {name: text for name in ("manifest", "root") if (text := getattr(settings, name))}
    return replace(source, params={**source.params, **moved})


def read_run_source(run_id: str) -> Source:
    """Return a run's bundle, downloaded and verified."""
    client, cache = connect(), cache_folder()
    run = read_run(client, run_id)
    bundle = fetch_bundle(client, run, cache)

    def teacher_logits() -> dict[str, np.ndarray]:
        if len(bundle.checkpoints) == 1 and "calibration" not in bundle.report:
            return {next(iter(bundle.checkpoints)): bundle.logits}
        found = {}
        for tag in sorted(tag for tag in run.data.tags if tag.startswith(TEACHER_RUN)):
            teacher_run, name = run.data.tags[tag], tag.removeprefix(TEACHER_RUN)
            try:
                teacher = fetch_bundle(client, read_run(client, teacher_run), cache)
                if (teacher.selection_sha256, teacher.classes) != (bundle.selection_sha256, bundle.classes):
                    raise BundleError(f"run {teacher_run} has other rows or classes")
                found[name] = teacher.logits
            except FerError as error:
                warn(f"teacher {name} is left out: {error}")
        return found

    return Source(bundle, run.info.run_id, run.data.params, teacher_logits)


def read_run_or_folder(name: str) -> Source:
    """Return the bundle of a run, or of a folder where the name is a folder's."""
    return Source(SoftLabels.open(name)) if Path(name).is_dir() else read_run_source(name)


@contextmanager
def source_run(
    kind: str, settings: SourceSettings, found: Source | Ensemble, progress: Progress, suffix: str = ""
) -> Iterator[tuple[TrackedRun, Source]]:
    """Open the run of a workflow on soft labels for a block, with their params, tags and benchmark.

    An ensemble's soft labels are fused from teacher runs, which are made where they lack.
    """
    params = params_of(settings)
    with open_run(kind, settings.name or f"{kind} · {found.name}{suffix}", settings.experiment) as run:
        if isinstance(found, Source):
            source = found
        else:
            bundle, gathered = fuse_and_track(found, run, params, progress)
            logits = {name: each.logits for name, each in gathered.teachers.items()}
            files = {name: text for name in ("manifest", "root", "split") if (text := getattr(found.settings, name))}
            source = Source(bundle, "", files, lambda: logits)
        bundle = source.bundle
        run.log_params({**source.inputs, **derived_params(bundle), **params})
        run.log_benchmark(bundle.benchmark, bundle)
        run.set_tags(source.tags())
        yield run, source
