"""From teachers' logits to the soft labels of an ensemble; one teacher alone is an ensemble of one."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy

import fer_mlflow
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import BundleError
from fer_mlflow.scoring import fusion, sanity
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import FUSION, Configuration
from fer_mlflow.softlabels.files import INDEX_FIELDS
from fer_mlflow.teachers.spec import UNKNOWN, PredictedLogits


class _Teacher(NamedTuple):
    """What an ensemble takes of one teacher; `description` is its entry in the report."""

    logits: np.ndarray
    description: Mapping[str, Any]
    checkpoint_sha256: str
    sessions: list

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.parse(self.description["preprocessing"])


def soft_labels_of_teacher(
    benchmark: Benchmark,
    name: str,
    predicted: PredictedLogits,
    checkpoint_sha256: str,
    precision: str,
    *,
    images_verified: bool,
) -> SoftLabels:
    """Return the soft labels of one teacher, in float32.

    `images_verified` is whether logits that were kept from before were held against the images as they are now.
    """
    index = benchmark.frame.iloc[predicted.rows][list(INDEX_FIELDS[1:5])].reset_index(drop=True)
    index.insert(0, "row", predicted.rows)
    index["image_sha256"] = [digest.tobytes().hex() for digest in predicted.image_sha256]
    rows = predicted.in_sample_rows
    in_sample = UNKNOWN if rows is None else "true" if rows else "false"
    described = {**predicted.teacher, "in_sample": in_sample, "in_sample_rows": rows}
    teacher = _Teacher(predicted.logits, described, checkpoint_sha256, list(predicted.environments))
    configuration = Configuration({name: 1.0}, precision=precision, preprocessing={name: teacher.preprocessing})
    unreadable = [vars(bad) for bad in predicted.unreadable]
    return _assemble(benchmark, configuration, {name: teacher}, index, unreadable, images_verified)


def fuse_ensemble(
    benchmark: Benchmark,
    teachers: Mapping[str, SoftLabels],
    configuration: Configuration,
    *,
    images_verified: bool,
) -> SoftLabels:
    """Return the soft labels of an ensemble on a benchmark, with alignment report and metrics, in memory.

    `teachers` has the own soft labels of each teacher of the configuration, in which its name may be another. Raises a
    BundleError where they disagree on rows or on the images that they decoded.
    """
    chosen = {name: teachers[name] for name in configuration.teachers}
    check_same_rows(chosen)
    parts = {}
    for name, each in chosen.items():
        (description,), (checkpoint,) = each.report["teachers"].values(), each.checkpoints.values()
        (sessions,) = (each.environment.get("teachers") or {name: []}).values()
        parts[name] = _Teacher(each.logits, description, checkpoint, sessions)
    first = chosen[configuration.teachers[0]]
    index, unreadable = first.index[list(INDEX_FIELDS)], first.report["unreadable"]
    return _assemble(benchmark, configuration, parts, index, unreadable, images_verified)


def check_same_rows(soft_labels: Mapping[str, SoftLabels]) -> None:
    """Refuse soft labels, by their names, that have not all the same rows, labels, classes and images.

    The BundleError names the two that differ, and the first such row.
    """
    (first_name, first), *others = soft_labels.items()
    for name, each in others:
        rows, own = first.index["row"].to_numpy(), each.index["row"].to_numpy()
        if not np.array_equal(rows, own):
            which = f"row {np.setxor1d(rows, own)[0] + 1} first"
            raise BundleError(f"{first_name} and {name} have different rows, {which}; export again")
        if (each.selection_sha256, each.classes) != (first.selection_sha256, first.classes):
            raise BundleError(f"{first_name} and {name} have different rows, labels or classes; export again")
        differ = np.flatnonzero((each.image_sha256 != first.image_sha256).any(axis=1))
        if len(differ):
            raise BundleError(
                f"{first_name} and {name} decoded different bytes for {len(differ)} images, row {rows[differ[0]] + 1} "
                f'"{first.index["path"].iloc[differ[0]]}" first; export again with --verify-paths true'
            )


def _assemble(
    benchmark: Benchmark,
    configuration: Configuration,
    teachers: Mapping[str, _Teacher],
    index: pd.DataFrame,
    unreadable: list[dict],
    images_verified: bool,
) -> SoftLabels:
    """Fuse, and return soft labels with their report: what shaped the numbers, and every check."""
    rows = index["row"].to_numpy()
    if sorted([*rows.tolist(), *(bad["row"] for bad in unreadable)]) != list(range(len(benchmark))):
        found = len(rows) + len(unreadable)
        raise BundleError(f"logits of {found:,} rows, the benchmark has {len(benchmark):,}; export again")
    teacher_logits = {name: each.logits for name, each in teachers.items()}
    logits = fusion.stored(fusion.fuse(teacher_logits, configuration.weights, configuration.space), configuration.dtype)
    labels, classes = benchmark.labels[rows], benchmark.classes.names
    kinds = {
        "hard": _hard_checks(len(rows), len(unreadable), len(teachers), images_verified),
        "statistical": sanity.check_statistics(logits, labels, teacher_logits, classes),
        "protocol": _protocol_checks(teachers),
    }
    report = {
        "benchmark": {
            "name": benchmark.name,
            "selected_rows": len(benchmark),
            "selected_sha256": benchmark.selection_sha256,
            "rows": len(logits),
            "labelled_rows": int((labels >= 0).sum()),
        },
        "ensemble": {name: getattr(configuration, name) for name in FUSION},
        "teachers": {name: each.description for name, each in teachers.items()},
        "unreadable": unreadable,
        "checks": [{**asdict(check), "kind": kind} for kind, checks in kinds.items() for check in checks],
    }
    if "group" in benchmark.frame:  # kept beside the columns that every index has
        index = index.assign(group=benchmark.frame["group"].to_numpy(object)[rows])
    versions = {"python": platform.python_version(), "fer-mlflow": fer_mlflow.__version__}
    versions |= {package.__name__: package.__version__ for package in (np, scipy, pd)}
    return SoftLabels.of(
        logits=logits,
        index=index,
        classes=classes,
        report=report,
        manifest_sha256=benchmark.manifest_sha256,
        checkpoints={name: each.checkpoint_sha256 for name, each in teachers.items()},
        environment={"fused_with": versions, "teachers": {name: each.sessions for name, each in teachers.items()}},
    )


def _hard_checks(rows: int, unreadable: int, teachers: int, images_verified: bool) -> list[sanity.Check]:
    """Return the checks that passed, or nothing would have been fused."""
    left_out = f", {unreadable} left out as unreadable" if unreadable else ""
    on_disk = "pass", "the images are the ones that the teachers decoded"
    if not images_verified:
        on_disk = "skip", "not compared (--verify-paths false)"
    return [
        sanity.Check("rows", "pass", f"one row of logits for each of {rows:,} rows, in the manifest's order{left_out}"),
        sanity.Check("images", "pass", f"{teachers} teacher(s) decoded the same bytes for every row"),
        sanity.Check("recheck", "pass", "rows of every shard, predicted again alone, got the same logits"),
        sanity.Check("images_on_disk", *on_disk),
    ]


def _protocol_checks(teachers: Mapping[str, _Teacher]) -> list[sanity.Check]:
    """Check that teachers predict images that they were not trained on, with the CLAHE that they were trained with."""
    described = {name: each.description for name, each in teachers.items()}
    seen = [f"{name} {each['in_sample_rows']:,}" for name, each in described.items() if each["in_sample"] == "true"]
    unknown = [name for name, each in described.items() if each["in_sample"] == UNKNOWN]
    in_sample = "pass", "no teacher was trained on these images"
    if seen:
        in_sample = "warn", f"rows that were trained on: {', '.join(seen)}; their scores are too good"
    elif unknown:
        in_sample = "skip", f"the checkpoints of {', '.join(unknown)} do not record which images they were trained on"
    other = []
    for name, each in teachers.items():
        here = each.preprocessing.clahe
        if each.description["trained_with_clahe"] not in (UNKNOWN, here and vars(here)):
            other.append(f"{name} (here {f'clip {here.clip:g}, {here.tile} tiles' if here else 'none'})")
    clahe = "pass", "no checkpoint records another CLAHE"
    if other:
        clahe = "warn", f"predicted with another CLAHE than in training: {', '.join(other)}"
    return [sanity.Check("in_sample", *in_sample), sanity.Check("clahe", *clahe)]


def check_reusable(teacher: SoftLabels, benchmark: Benchmark, where: str) -> None:
    """Check that a stored teacher's soft labels are of exactly this selection and class order, and can be fused.

    Raises a BundleError, whose message begins with `where`.
    """
    if len(teacher.checkpoints) != 1 or teacher.logits.dtype != np.float32 or teacher.configuration.calibration:
        raise BundleError(f"{where}: its soft labels are not of one teacher in float32")
    is_whole = len(teacher) == len(benchmark)
    if (
        teacher.classes != benchmark.classes.names
        or teacher.report["benchmark"]["selected_sha256"] != benchmark.selection_sha256
        or (is_whole and teacher.selection_sha256 != benchmark.selection_sha256)
    ):
        raise BundleError(f"{where}: its soft labels are of other rows or classes")


def changed_rows(teacher: SoftLabels, current_sha256: np.ndarray) -> list[int]:
    """Return the rows whose image is not the one that was decoded then.

    `current_sha256` is (rows of the benchmark, 32) uint8, zeros for a file that cannot be read.
    """
    rows = teacher.index["row"].to_numpy()
    changed = rows[(teacher.image_sha256 != current_sha256[rows]).any(axis=1)]
    unreadable = teacher.report["unreadable"]
    also = [bad["row"] for bad in unreadable if bad["image_sha256"] != current_sha256[bad["row"]].tobytes().hex()]
    return sorted([*changed.tolist(), *also])


def rows_of_fit(bundle: SoftLabels) -> dict[str, Any]:
    """Return what a calibration records of the rows that it was fitted on: `fitted_on`."""
    labels = bundle.labels[bundle.labelled]
    return {
        "name": bundle.benchmark,
        "selection_sha256": bundle.selection_sha256,
        "rows": len(labels),
        "classes": len(np.unique(labels)),
    }


def calibrated(bundle: SoftLabels, logits: np.ndarray, calibration: Mapping[str, Any]) -> SoftLabels:
    """Return a bundle's (N, C) calibrated logits as soft labels of the same rows, with what was done in their report.

    `calibration` is JSON-able: at least `method` and `fitted_on`, and `temperature` where there is one. Raises a
    ContractError where logits do not fit into the bundle's dtype.
    """
    return SoftLabels.of(
        logits=fusion.stored(logits, bundle.configuration.dtype),
        index=bundle.index,
        classes=bundle.classes,
        report={**bundle.report, "calibration": {**calibration, "source_bundle_sha256": bundle.sha256}},
        manifest_sha256=bundle.manifest_sha256,
        checkpoints=bundle.checkpoints,
        environment=bundle.environment,
    )
