"""From teachers' logits to the soft labels of an ensemble; one teacher alone is an ensemble of one."""

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy

import fer_mlflow
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import BundleError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.sanity import Check, check_statistics
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.files import INDEX_FIELDS
from fer_mlflow.softlabels.rows import check_same_rows
from fer_mlflow.teachers.shards import PredictedLogits
from fer_mlflow.teachers.spec import UNKNOWN

KEPT_COLUMNS = ("group",)  # of a manifest, beside those that every index has


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

    Parameters
    ----------
    images_verified : whether logits that were kept from before were held against the images as they are now

    Raises
    ------
    BundleError
        rows are missing
    """
    index = benchmark.frame.iloc[predicted.rows][list(INDEX_FIELDS[1:5])].reset_index(drop=True)
    index.insert(0, "row", predicted.rows)
    index["image_sha256"] = [digest.tobytes().hex() for digest in predicted.image_sha256]
    rows = predicted.in_sample_rows
    in_sample = UNKNOWN if rows is None else "true" if rows else "false"
    described = {**predicted.teacher, "in_sample": in_sample, "in_sample_rows": rows}
    return _assemble(
        benchmark,
        predicted.logits,
        index,
        {name: predicted.logits},
        Configuration({name: 1.0}, precision=precision, preprocessing={name: _preprocessing(described)}),
        teachers={name: described},
        unreadable=[vars(bad) for bad in predicted.unreadable],
        checkpoints={name: checkpoint_sha256},
        sessions={name: list(predicted.environments)},
        images_verified=images_verified,
    )


def fuse_ensemble(
    benchmark: Benchmark,
    teachers: Mapping[str, SoftLabels],
    configuration: Configuration,
    *,
    images_verified: bool,
) -> SoftLabels:
    """Return the soft labels of an ensemble on a benchmark, with alignment report and metrics, in memory.

    Parameters
    ----------
    teachers : teacher name -> its own soft labels, which may be under another name; all of the configuration's
    images_verified : as for `soft_labels_of_teacher`

    Raises
    ------
    BundleError
        teachers disagree on rows or on the images that they decoded
    ContractError
        space or dtype are wrong
    """
    chosen = {name: teachers[name] for name in configuration.teachers}
    check_same_rows(chosen)
    first = chosen[configuration.teachers[0]]
    logits = {name: each.logits for name, each in chosen.items()}
    return _assemble(
        benchmark,
        stored(fuse(logits, configuration.weights, configuration.space), configuration.dtype),
        first.index[list(INDEX_FIELDS)],
        logits,
        configuration,
        teachers={name: _only(each.report["teachers"]) for name, each in chosen.items()},
        unreadable=first.report["unreadable"],
        checkpoints={name: _only(each.checkpoints) for name, each in chosen.items()},
        sessions={name: _only(each.environment.get("teachers") or {name: []}) for name, each in chosen.items()},
        images_verified=images_verified,
    )


def _only(values: Mapping[str, Any]) -> Any:
    """Return the value of a mapping that has one."""
    (value,) = values.values()
    return value


def _assemble(
    benchmark: Benchmark,
    logits: np.ndarray,
    index: pd.DataFrame,
    teacher_logits: Mapping[str, np.ndarray],
    configuration: Configuration,
    *,
    teachers: Mapping[str, Mapping[str, Any]],
    unreadable: list[dict],
    checkpoints: Mapping[str, str],
    sessions: Mapping[str, list],
    images_verified: bool,
) -> SoftLabels:
    """Return soft labels with their report: what shaped the numbers, and every check."""
    rows = index["row"].to_numpy()
    if sorted([*rows.tolist(), *(bad["row"] for bad in unreadable)]) != list(range(len(benchmark))):
        found = len(rows) + len(unreadable)
        raise BundleError(f"logits of {found:,} rows, the benchmark has {len(benchmark):,}; export again")
    labels = benchmark.labels[rows]
    further = {name: benchmark.frame[name].to_numpy(object)[rows] for name in KEPT_COLUMNS if name in benchmark.frame}
    kinds = {
        "hard": _hard_checks(len(rows), len(unreadable), len(teachers), images_verified),
        "statistical": check_statistics(logits, labels, teacher_logits, benchmark.classes.names),
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
        "ensemble": {
            "weights": dict(configuration.weights),
            "space": configuration.space,
            "dtype": configuration.dtype,
            "precision": configuration.precision,
        },
        "teachers": dict(teachers),
        "unreadable": unreadable,
        "checks": [
            *({**check.as_json(), "kind": kind} for kind, checks in kinds.items() for check in checks),
        ],
    }
    versions = {"python": platform.python_version(), "fer-mlflow": fer_mlflow.__version__}
    versions |= {package.__name__: package.__version__ for package in (np, scipy, pd)}
    return SoftLabels.of(
        logits=logits,
        index=index.assign(**further),
        classes=benchmark.classes.names,
        report=report,
        manifest_sha256=benchmark.manifest_sha256,
        checkpoints=checkpoints,
        environment={"fused_with": versions, "teachers": dict(sessions)},
    )


def _hard_checks(rows: int, unreadable: int, teachers: int, images_verified: bool) -> list[Check]:
    """Return the checks that passed, or nothing would have been fused."""
    left_out = f", {unreadable} left out as unreadable" if unreadable else ""
    on_disk = Check("images_on_disk", "skip", "not compared (--verify-paths false)")
    if images_verified:
        on_disk = Check("images_on_disk", "pass", "the images are the ones that the teachers decoded")
    return [
        Check("rows", "pass", f"one row of logits for each of {rows:,} rows, in the manifest's order{left_out}"),
        Check("images", "pass", f"{teachers} teacher(s) decoded the same bytes for every row"),
        Check("recheck", "pass", "rows of every shard, predicted again alone, got the same logits"),
        on_disk,
    ]


def _protocol_checks(teachers: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    """Check that teachers predict images that they were not trained on, with the CLAHE that they were trained with."""
    seen = [f"{name} {each['in_sample_rows']:,}" for name, each in teachers.items() if each["in_sample"] == "true"]
    unknown = [name for name, each in teachers.items() if each["in_sample"] == UNKNOWN]
    in_sample = "pass", "no teacher was trained on these images"
    if seen:
        in_sample = "warn", f"rows that were trained on: {', '.join(seen)}; their scores are too good"
    elif unknown:
        in_sample = "skip", f"the checkpoints of {', '.join(unknown)} do not record which images they were trained on"
    other = []
    for name, each in teachers.items():
        clahe = _preprocessing(each).clahe
        if each["trained_with_clahe"] not in (UNKNOWN, clahe and vars(clahe)):
            other.append(f"{name} (here {f'clip {clahe.clip:g}, {clahe.tile} tiles' if clahe else 'none'})")
    clahe_check = Check("clahe", "pass", "no checkpoint records another CLAHE")
    if other:
        clahe_check = Check("clahe", "warn", f"predicted with another CLAHE than in training: {', '.join(other)}")
    return [Check("in_sample", *in_sample), clahe_check]


def _preprocessing(teacher: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing.parse(teacher["preprocessing"])


def check_reusable(teacher: SoftLabels, benchmark: Benchmark, where: str) -> None:
    """Check that a stored teacher's soft labels are of exactly this selection and class order, and can be fused.

    `where` begins the message.

    Raises
    ------
    BundleError
        they are not
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
    """Return a bundle's calibrated logits as soft labels of the same rows, with what was done in their report.

    Parameters
    ----------
    logits : (N, C) float64, calibrated
    calibration : JSON-able; at least `method` and `fitted_on`, and `temperature` where there is one

    Raises
    ------
    BundleError, ContractError
        logits are not of these rows, or do not fit into the bundle's dtype
    """
    return SoftLabels.of(
        logits=stored(logits, bundle.configuration.dtype),
        index=bundle.index,
        classes=bundle.classes,
        report={**bundle.report, "calibration": {**calibration, "source_bundle_sha256": bundle.sha256}},
        manifest_sha256=bundle.manifest_sha256,
        checkpoints=bundle.checkpoints,
        environment=bundle.environment,
    )
