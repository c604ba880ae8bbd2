"""What workflows start from: stored soft labels or an ensemble, and, for a search, teachers' logits on benchmarks."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from fer_mlflow.data.manifest import read_column
from fer_mlflow.data.merge_split import parse_input
from fer_mlflow.data.roots import is_url, parse_root
from fer_mlflow.errors import BundleError, ContractError, FerError, RunError
from fer_mlflow.files import cache_folder, sha256_of_file
from fer_mlflow.progress import Progress
from fer_mlflow.search.teacher_logits import TeacherLogits
from fer_mlflow.settings import groups, search, split_names
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import Configuration, split_first
from fer_mlflow.softlabels.ensemble import check_same_rows
from fer_mlflow.teachers.spec import read_teacher_names
from fer_mlflow.tracking import bundles, models, records, store
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.workflows import warn
from fer_mlflow.workflows.export import Ensemble, Gathered, fuse_and_track, read_ensemble

FILES = ("manifest", "root", "split", "teachers")


@dataclass(frozen=True)
class Source:
    """A bundle, and what is known around it.

    `run_id` is the run that has it, empty for a folder and for an ensemble that was fused for this command; `params`
    are that run's. `teacher_logits` gives teacher name -> (N, C) logits of its rows, as far as they can be had. `links`
    are the runs that it is from, by name.
    """

    bundle: SoftLabels
    run_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    teacher_logits: Callable[[], dict[str, np.ndarray]] = dict
    links: Mapping[str, str] = field(default_factory=dict)

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
        """The params that name the files which the soft labels were made from."""
        return {name: self.params[name] for name in FILES if self.params.get(name)}

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
        manifest, root = path_of(self.params, "manifest"), self.root()
        if manifest is None or root is None:
            what = "the bundle has split, source and label, and its manifest is not here; name it by --manifest"
            raise ContractError(f"column {name}: {what}")
        if sha256_of_file(manifest) != self.bundle.manifest_sha256:
            raise ContractError(f"column {name}: {manifest} has changed since the soft labels were exported")
        return read_column(manifest, name, root, self.bundle.index["path"])

    def root(self) -> Path | str | None:
        """Return the folder that the rows' paths start from, if it is on this machine, or its URL."""
        text, manifest = self.params.get("root", ""), path_of(self.params, "manifest")
        if is_url(url := text.strip("'")):
            return parse_root(url)
        return path_of({"root": text.removeprefix("file://")}, "root") or (manifest.parent if manifest else None)


def path_of(params: Mapping[str, str], name: str) -> Path | None:
    """Return the path that a param names, which `mlflow run` may have logged with a shell's quotes."""
    candidates = [text := params.get(name, "")]
    with suppress(ValueError):
        candidates += shlex.split(text)[:1]
    return next((Path(each) for each in candidates if each and Path(each).exists()), None)


def read_source(settings: groups.SourceSettings) -> Source | Ensemble:
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
    client, folder = store.connect(), cache_folder()
    run = bundles.read_run(client, run_id)
    bundle = bundles.fetch_bundle(run, folder)

    @cache
    def teacher_logits() -> dict[str, np.ndarray]:
        if len(bundle.checkpoints) == 1 and "calibration" not in bundle.report:
            return {next(iter(bundle.checkpoints)): bundle.logits}
        found = {}
        for tag in sorted(tag for tag in run.data.tags if tag.startswith(store.TEACHER_RUN)):
            teacher_run, name = run.data.tags[tag], tag.removeprefix(store.TEACHER_RUN)
            try:
                teacher = bundles.fetch_bundle(bundles.read_run(client, teacher_run), folder)
                if (teacher.selection_sha256, teacher.classes) != (bundle.selection_sha256, bundle.classes):
                    raise BundleError(f"run {teacher_run} has other rows or classes")
                found[name] = teacher.logits
            except FerError as error:
                warn(f"teacher {name} is left out: {error}")
        return found

    return Source(bundle, run.info.run_id, run.data.params, teacher_logits, {"source": run.info.run_id})


def read_run_or_folder(name: str) -> Source:
    """Return the bundle of a run, or of a folder where the name is a folder's."""
    return Source(SoftLabels.open(name)) if Path(name).is_dir() else read_run_source(name)


def same_configuration(client, best: Source, fits: Callable[[Mapping[str, str]], bool]) -> Iterator[Source]:
    """Yield stored soft labels of one configuration on other rows, verified: exports first, then the newest.

    `fits` tells by a run's tags whether its rows may be the wanted ones.
    """
    weights = best.params.get("ensemble", "")
    for run in records.search_soft_labels(client, f"params.ensemble = '{weights}'"):
        if fits(run.data.tags) and not records.is_bad(run):
            other = read_run_source(run.info.run_id)
            # The dtype does not matter.
            mine, theirs = (replace(each.bundle.configuration, dtype="float32") for each in (best, other))
            if best.bundle.checkpoints == other.bundle.checkpoints and mine == theirs:
                yield other


@contextmanager
def source_run(
    kind: str, settings: groups.SourceSettings, found: Source | Ensemble, progress: Progress, *marks: str
) -> Iterator[tuple[TrackedRun, Source]]:
    """Open the run of a workflow on soft labels for a block, with their params, tags and benchmark.

    `marks` are settings that the run's name has to tell. An ensemble's soft labels are fused from teacher runs, which
    are made where they lack.
    """
    params, named = settings.params, found.bundle if isinstance(found, Source) else found
    with open_run(kind, settings.name or f"{kind} · {named.run_name(*marks)}", settings.experiment) as run:
        if isinstance(found, Source):
            source = found
        else:
            bundle, gathered = fuse_and_track(found, run, params, progress)
            logits = {name: each.logits for name, each in gathered.teachers.items()}
            files = {name: text for name in ("manifest", "root", "split") if (text := getattr(found.settings, name))}
            source = Source(bundle, "", files, lambda: logits, gathered.run_ids)
        bundle = source.bundle
        shared = bundles.derived_params(bundle, given={**source.inputs, **params})
        run.log(shared, tags=source.tags(), of_ensemble=True)
        run.log_benchmark(bundle.benchmark, bundle, models=models.inputs_of(run, bundle))
        if source.run_id:
            run.show_below(source.run_id)
        yield run, source


@dataclass(frozen=True)
class TeacherSet:
    """Every teacher's logits on one benchmark, under one preprocessing.

    `bundle` has soft labels of these rows, whatever their weights: index, labels, classes and digests are the
    teachers' too. `gathered` is what the logits were taken from, where soft labels can be exported.
    """

    bundle: SoftLabels
    logits: dict[str, np.ndarray]  # teacher name -> (N, C) float32, sorted by name
    run_ids: dict[str, str]  # teacher name -> the run that has them
    gathered: Gathered | None = None

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.bundle.benchmark

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names, sorted."""
        return tuple(self.logits)

    @property
    def configuration(self) -> Configuration:
        """Equal weights, with the precision and preprocessing of these logits."""
        own, K = self.bundle.configuration, len(self.logits)
        preprocessing = dict.fromkeys(self.names, next(iter(own.preprocessing.values())))
        weights = dict.fromkeys(self.names, 1 / K)
        return Configuration(weights, precision=own.precision, preprocessing=preprocessing)

    @property
    def variant(self) -> str:
        """Preprocessing or precision that is not the default: `clahe`, `clahe 3/4`, `bf16`; empty for the defaults."""
        return self.bundle.configuration.mark

    @property
    def labels(self) -> np.ndarray:
        """(n,) class numbers of the labelled rows."""
        return self.bundle.labels[self.bundle.labelled]

    def labelled_logits(self, groups: np.ndarray | None = None) -> TeacherLogits:
        """Return the logits of the labelled rows, ready to be fused; `groups` are of these rows."""
        return TeacherLogits([each[self.bundle.labelled] for each in self.logits.values()], self.labels, groups)


# Benchmark -> variant -> the teachers' logits.
Benchmarks = Mapping[str, Mapping[str, TeacherSet]]


@dataclass(frozen=True)
class SearchInput:
    """What the settings name, read and checked, before a run is opened."""

    found: Sequence[TeacherSet | Ensemble]  # stored runs' logits, or the ensembles whose logits are still to be had
    teachers: tuple[str, ...]  # names, sorted
    classes: tuple[str, ...]
    variants: int  # under how many preprocessings teachers predicted, or will

    @property
    def benchmarks(self) -> str:
        """The names of the benchmarks, split first."""
        names = (each.benchmark if isinstance(each, TeacherSet) else each.benchmark.name for each in self.found)
        return ", ".join(dict.fromkeys(map(split_first, names)))

    @classmethod
    def read(cls, settings: search.SearchSettings) -> "SearchInput":
        """Read what the settings name."""
        if settings.benchmark:
            sets = [each for name in settings.benchmark for each in _stored_sets(name, settings)]
            _check(sets)
            return cls(sets, sets[0].names, sets[0].bundle.classes, len({each.variant for each in sets}))
        names = sorted(settings.members or read_teacher_names(settings.teachers or ""))
        weights = dict.fromkeys(names, 1 / len(names))
        ensembles = [
            read_ensemble(fusion)
            for manifest, split in _manifests(settings)
            for fusion in settings.fusions(manifest, split, weights)
        ]
        for each in ensembles:
            _check_labels(each.benchmark.name, each.labels)
        variants = len({each.settings.clahe for each in ensembles})
        return cls(ensembles, tuple(names), ensembles[0].benchmark.classes.names, variants)

    def gather(self, run: TrackedRun, settings: search.SearchSettings, progress: Progress) -> Benchmarks:
        """Return the logits: from teacher runs, which are made where they lack."""
        sets = []
        for each in self.found:
            if isinstance(each, Ensemble):
                bundle, gathered = fuse_and_track(each, run, settings.params | each.settings.params, progress)
                logits = {name: gathered.teachers[name].logits for name in self.teachers}
                each = TeacherSet(bundle, logits, gathered.run_ids, gathered)
            sets.append(each)
        return _check(sets)


def _check_labels(benchmark: str, labels: np.ndarray) -> None:
    if not (labels >= 0).any():
        raise ContractError(f"{benchmark}: no row has a label, so there is nothing to score")


def _manifests(settings: search.SearchSettings) -> Iterator[tuple[str, str | None]]:
    """Yield manifest and split of each benchmark: `A.csv:val,B.csv`, where --split is for those without one."""
    manifest = settings.manifest or ""
    for text in [manifest] if Path(manifest).exists() else split_names(manifest):
        named = parse_input(text)
        for split in [named.split] if named.split else settings.splits or [None]:
            yield str(named.path), split


def _stored_sets(name: str, settings: search.SearchSettings) -> list[TeacherSet]:
    """Return the logits that the tracking server has on a benchmark, one set for each preprocessing."""
    client, folder = store.connect(), cache_folder()
    runs = [run for run in records.runs_on(client, name) if run.data.tags["fer.kind"] == "teacher"]
    runs = [run for run in runs if not records.is_bad(run)]
    if not runs:
        raise RunError(f"benchmark {name}: no teacher's run on it that is not bad; name --manifest and --teachers")
    if len({run.data.tags["fer.selection_sha256"] for run in runs}) > 1:
        rows = records.describe_selections(runs)
        raise RunError(f"benchmark {name} means different rows: {rows}; name one by its digest")
    found: dict[str, TeacherSet] = {}
    there: set[str] = set()
    for run in records.newest_of_each(runs):
        bundle = bundles.fetch_bundle(run, folder)
        (teacher,), (preprocessing,) = bundle.checkpoints, bundle.configuration.preprocessing.values()
        there.add(teacher)
        is_member = not settings.members or teacher in settings.members
        if not is_member or settings.clahe not in ("both", "true" if preprocessing.clahe else "false"):
            continue
        own = TeacherSet(bundle, {teacher: bundle.logits}, {teacher: run.info.run_id})
        first = found.setdefault(own.variant, own)
        if first is not own and teacher in first.logits:
            warn(f"teacher {teacher} has several runs on {name}; the newest is used, {first.run_ids[teacher][:8]}")
        elif first is not own:
            check_same_rows({", ".join(first.names): first.bundle, teacher: bundle})
            first.logits[teacher], first.run_ids[teacher] = bundle.logits, run.info.run_id
    if unknown := [teacher for teacher in settings.members if teacher not in there]:
        raise ContractError(
            f"--members: no teacher {', '.join(unknown)} on {name}; there are {', '.join(sorted(there))}"
        )
    if not found:
        how, names = "without" if settings.clahe == "true" else "with", ", ".join(sorted(there))
        raise RunError(f"benchmark {name}: the logits of its teachers ({names}) are {how} CLAHE only; see --clahe")
    for each in found.values():
        _check_labels(each.benchmark, each.bundle.labels)
    return [replace(each, logits=dict(sorted(each.logits.items()))) for each in found.values()]


def _check(sets: list[TeacherSet]) -> Benchmarks:
    """Return sets by benchmark once they go together: the same teachers and classes, the same rows of a benchmark."""
    first, *others = sets
    for each in others:
        if each.names != first.names:
            names = (" · ".join(filter(None, (s.benchmark, s.variant))) + f" has {', '.join(s.names)}" for s in sets)
            raise ContractError(
                f"teachers on different benchmarks: {'; '.join(names)}; export the missing ones, or name by --members "
                "those that are everywhere"
            )
        if each.bundle.classes != first.bundle.classes:
            raise ContractError(
                f"{each.benchmark} has the classes {', '.join(each.bundle.classes)}, and {first.benchmark} has "
                f"{', '.join(first.bundle.classes)}"
            )
    found: dict[str, dict[str, TeacherSet]] = {}
    for each in sets:
        found.setdefault(each.benchmark, {})[each.variant] = each
    for own, *variants in (list(of_benchmark.values()) for of_benchmark in found.values()):
        for other in variants:
            check_same_rows({f"{s.benchmark} · {s.variant}": s.bundle for s in (own, other)})
    return found
