"""What `sweep` and `reproduce` search in: teachers' logits on one or more benchmarks, asked in one or more ways."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fer_mlflow.commands.options import fusion_settings, split_names
from fer_mlflow.data.merge import parse_input
from fer_mlflow.errors import BundleError, ContractError, RunError
from fer_mlflow.files import cache_folder
from fer_mlflow.search.teacher_logits import TeacherLogits
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.teachers.spec import read_teacher_names
from fer_mlflow.tracking.bundles import fetch_bundle
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.tracking.selection import describe_selections, is_bad, newest_of_each, runs_on
from fer_mlflow.tracking.store import connect
from fer_mlflow.workflows.ensemble import (
    Ensemble,
    Gathered,
    forget,
    fused,
    gathered_teachers,
    publish_teachers,
    read_ensemble,
    warn,
)

# Options that say which images are asked, and how; stored runs have said so already.
_OF_MANIFESTS = ("manifest", "teachers", "root", "split", "limit", "classes", "precision")


@dataclass(frozen=True)
class TeacherSet:
    """Every teacher's logits on one benchmark, asked in one way.

    Attributes
    ----------
    bundle : soft labels of these rows, whatever their weights: index, labels, classes, digests are the teachers' too
    logits : teacher name -> (N, C) float32, sorted by name
    run_ids : teacher name -> the run that has them
    ensemble, gathered : what was asked, where soft labels can be exported
    """

    bundle: SoftLabels
    logits: dict[str, np.ndarray]
    run_ids: dict[str, str]
    ensemble: Ensemble | None = None
    gathered: Gathered = field(default_factory=Gathered)

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
        own = self.bundle.configuration
        preprocessing = next(iter(own.preprocessing.values()))
        return Configuration(
            dict.fromkeys(self.names, 1 / len(self.names)),
            precision=own.precision,
            preprocessing=dict.fromkeys(self.names, preprocessing),
        )

    @property
    def asked(self) -> str:
        """Non-default preprocessing or precision: `clahe`, `clahe 3/4`, `bf16`; empty for the defaults."""
        return self.bundle.configuration.mark

    @property
    def known(self) -> np.ndarray:
        """(N,) bool, the rows with a label."""
        return self.bundle.labels >= 0

    def pool(self, groups: np.ndarray | None = None) -> TeacherLogits:
        """Return the logits of the labelled rows, ready to be fused; `groups` are of these rows."""
        known = self.known
        return TeacherLogits([each[known] for each in self.logits.values()], self.bundle.labels[known], groups)


Found = list[Ensemble] | list[TeacherSet]


def names_of(found: Found) -> tuple[str, ...]:
    """Return the teachers' names, sorted."""
    first = found[0]
    return first.names if isinstance(first, TeacherSet) else tuple(sorted(first.specs))


def classes_of(found: Found) -> tuple[str, ...]:
    """Return the class names."""
    first = found[0]
    return first.bundle.classes if isinstance(first, TeacherSet) else first.benchmark.classes.names


def count_ways(found: Found) -> int:
    """Return in how many ways teachers were asked, or will be."""
    return len({each.asked if isinstance(each, TeacherSet) else each.settings.clahe for each in found})


def read_teacher_sets(options: Mapping[str, Any], typed: Mapping[str, str]) -> Found:
    """Return what the options name, checked: stored runs' logits, or the ensembles that are to be asked.

    Raises
    ------
    FerError
        nothing is named or too much; or what is named cannot be used, or does not go together
    """
    if options["benchmark"]:
        if idle := [f"--{name}" for name in _OF_MANIFESTS if typed.get(name)]:
            raise ContractError(f"{', '.join(idle)}: --benchmark takes runs that are there; leave this out")
        return _checked(_stored(options))
    if missing := [f"--{name}" for name in ("manifest", "teachers") if not options[name]]:
        raise ContractError(
            f"{' and '.join(missing)} missing: name the rows by --manifest CSV and the teachers by --teachers YAML, or "
            "take stored runs by --benchmark NAME"
        )
    names = split_names(options["members"]) or read_teacher_names(options["teachers"])
    weights = ",".join(f"{name}={1 / len(names)!r}" for name in names)
    ensembles = []
    for manifest, split in _benchmarks(options):
        for clahe in {"false": (False,), "true": (True,), "both": (False, True)}[options["clahe"]]:
            own = {"manifest": manifest, "split": split, "clahe": clahe, "weights": weights}
            ensembles.append(read_ensemble(fusion_settings({**options, **own, "space": "logit", "dtype": "float32"})))
            check_labelled_rows(ensembles[-1].benchmark.name, ensembles[-1].benchmark.labels)
    return ensembles


def gather_teacher_sets(found: Found, run: TrackedRun, typed: Mapping[str, str]) -> list[TeacherSet]:
    """Return the logits of what was found: from teacher runs, which are made where they lack."""
    cache, sets = cache_folder(), []
    for each in found:
        if isinstance(each, TeacherSet):
            sets.append(each)
            continue
        started_s = time.time()
        own = {"manifest": each.settings.manifest, "split": each.settings.split or ""}
        own["clahe"] = str(each.settings.clahe).lower()
        with gathered_teachers(each, run.client, cache) as gathered:
            publish_teachers(each, gathered, cache, run, {**typed, **own}, started_s)
            bundle = fused(each, gathered)
            forget(each, gathered, cache)
        logits = {name: gathered.teachers[name].logits for name in sorted(gathered.teachers)}
        sets.append(TeacherSet(bundle, logits, dict(gathered.run_ids), each, gathered))
    return _checked(sets)


def check_labelled_rows(benchmark: str, labels: np.ndarray) -> None:
    """Check that some row has a label.

    Raises
    ------
    ContractError
        none has
    """
    if not (labels >= 0).any():
        raise ContractError(f"{benchmark}: no row has a label, so there is nothing to score")


def benchmarks_of(sets: Sequence[TeacherSet]) -> dict[str, dict[str, TeacherSet]]:
    """Return benchmark -> how it was asked -> teachers' logits, in the order in which they were named."""
    found: dict[str, dict[str, TeacherSet]] = {}
    for each in sets:
        found.setdefault(each.benchmark, {})[each.asked] = each
    return found


def _benchmarks(options: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield manifest and split of each benchmark: `A.csv:val,B.csv`, where --split is for those without one."""
    splits: list[str | None] = [*split_names(options["split"])] or [None]
    manifests = [options["manifest"]]
    if not Path(options["manifest"]).exists():
        manifests = split_names(options["manifest"])
    for text in manifests:
        named = parse_input(text)
        for split in [named.split] if named.split else splits:
            yield str(named.path), split


def _stored(options: Mapping[str, Any]) -> list[TeacherSet]:
    """Return the logits that the tracking server has on the named benchmarks, by how the teachers were asked."""
    client, cache, wanted = connect(), cache_folder(), split_names(options["members"])
    sets: list[TeacherSet] = []
    for name in split_names(options["benchmark"]):
        runs = [run for run in runs_on(client, name) if run.data.tags["fer.kind"] == "teacher" and not is_bad(run)]
        if not runs:
            raise RunError(f"benchmark {name}: no teacher's run on it that is not bad; name --manifest and --teachers")
        if len({run.data.tags["fer.selection_sha256"] for run in runs}) > 1:
            raise RunError(
                f"benchmark {name} means different rows: {describe_selections(runs)}; name one by its digest"
            )
        found: dict[str, TeacherSet] = {}
        there: set[str] = set()
        for run in newest_of_each(runs):
            bundle = fetch_bundle(client, run, cache)
            (teacher,) = bundle.checkpoints
            there.add(teacher)
            own = TeacherSet(bundle, {teacher: bundle.logits}, {teacher: run.info.run_id})
            if (wanted and teacher not in wanted) or not _is_asked(own, options["clahe"]):
                continue
            first = found.setdefault(own.asked, own)
            if first is not own and teacher in first.logits:
                warn(f"teacher {teacher} has several runs on {name}; the newest is taken, {first.run_ids[teacher][:8]}")
            elif first is not own:
                _check_same_rows(first, own)
                first.logits[teacher], first.run_ids[teacher] = bundle.logits, run.info.run_id
        if unknown := [teacher for teacher in wanted if teacher not in there]:
            raise ContractError(
                f"--members: no teacher {', '.join(unknown)} on {name}; there are {', '.join(sorted(there))}"
            )
        if not found:
            raise RunError(
                f"benchmark {name}: its teachers ({', '.join(sorted(there))}) were asked "
                f"{'without' if options['clahe'] == 'true' else 'with'} CLAHE only; see --clahe"
            )
        for each in found.values():
            check_labelled_rows(each.benchmark, each.bundle.labels)
            ordered = {teacher: each.logits[teacher] for teacher in sorted(each.logits)}
            sets.append(TeacherSet(each.bundle, ordered, each.run_ids))
    return sets


def _is_asked(found: TeacherSet, clahe: str) -> bool:
    has = any(each.clahe for each in found.bundle.configuration.preprocessing.values())
    return clahe == "both" or has == (clahe == "true")


def _check_same_rows(a: TeacherSet, b: TeacherSet) -> None:
    """Check that two bundles are of the same rows, classes and images."""
    same = (a.bundle.selection_sha256, a.bundle.classes) == (b.bundle.selection_sha256, b.bundle.classes)
    if not same or not a.bundle.index["image_sha256"].equals(b.bundle.index["image_sha256"]):
        raise BundleError(
            f"{a.benchmark}: {', '.join(a.names)} and {', '.join(b.names)} have different rows, classes or images; "
            "export them again on the same manifest"
        )


def _checked(sets: list[TeacherSet]) -> list[TeacherSet]:
    """Return sets after checking that they go together: the same teachers and classes, the same rows of a benchmark."""
    first = sets[0]
    for each in sets[1:]:
        if each.names != first.names:
            raise ContractError(
                "teachers on different benchmarks: "
                + "; ".join(f"{s.benchmark}{f' · {s.asked}' if s.asked else ''} has {', '.join(s.names)}" for s in sets)
                + "; ask the missing ones, or name by --members those that are everywhere"
            )
        if each.bundle.classes != first.bundle.classes:
            raise ContractError(
                f"{each.benchmark} has the classes {', '.join(each.bundle.classes)}, and {first.benchmark} has "
                f"{', '.join(first.bundle.classes)}"
            )
    for ways in benchmarks_of(sets).values():
        own, *others = ways.values()
        for other in others:
            _check_same_rows(own, other)
    return sets
