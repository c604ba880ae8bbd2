"""From teachers' outputs to the bundle of an ensemble; one teacher alone is an ensemble of one."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

import fer_mlflow
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.sanity import Check, check_statistics
from fer_mlflow.settings.weights import format_weights
from fer_mlflow.softlabels.bundle import INDEX_FIELDS, SoftLabels
from fer_mlflow.teachers.outputs import TeacherOutputs, Unreadable
from fer_mlflow.teachers.provenance import UNKNOWN


def write_ensemble(
    folder: str | Path,
    benchmark: Benchmark,
    outputs: Mapping[str, TeacherOutputs],
    weights: Mapping[str, float],
    *,
    space: str,
    dtype: str,
    preprocessing: Mapping[str, Any],
    images_verified: bool,
) -> SoftLabels:
    """Fuse teachers' outputs on a benchmark and write the bundle with its alignment report and metrics.

    Parameters
    ----------
    outputs : teacher name -> its outputs; every name in `weights` is there
    images_verified : whether outputs that were kept from before were held against the images as they are now

    Raises
    ------
    BundleError
        a hard check failed: teachers disagree on rows or on the images that they saw
    ContractError
        weights, space or dtype are wrong
    """
    names = sorted(weights)
    chosen = {name: outputs[name] for name in names}
    hard = _hard_checks(benchmark, chosen, images_verified)
    first = chosen[names[0]]
    logits = stored(fuse({name: each.logits for name, each in chosen.items()}, weights, space), dtype)
    labels = benchmark.labels[first.rows]
    labelled = labels >= 0
    metrics = score(logits[labelled], labels[labelled], benchmark.classes.names) if labelled.any() else {}
    statistical = check_statistics(
        logits, labels, {name: each.logits for name, each in chosen.items()}, benchmark.classes.names
    )
    report = {
        "benchmark": {
            "name": benchmark.name,
            "selected_rows": len(benchmark),
            "selected_sha256": benchmark.selection_sha256,
            "rows": len(logits),
            "labelled_rows": int(labelled.sum()),
        },
        "ensemble": {"weights": {name: weights[name] for name in names}, "space": space, "dtype": dtype},
        "name": format_weights(weights),
        "preprocessing": dict(preprocessing),
        "teachers": {name: each.description for name, each in chosen.items()},
        "fused_with": {
            "python": platform.python_version(),
            "fer-mlflow": fer_mlflow.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pandas": pd.__version__,
        },
        "unreadable": [vars(bad) for bad in first.unreadable],
        "in_sample": {name: each.description["in_sample"] for name, each in chosen.items()},
        "checks": [*hard, *(check.as_json() for check in statistical), *_protocol_checks(chosen, preprocessing)],
    }
    return SoftLabels.write(
        folder,
        logits=logits,
        index=_index(benchmark, first),
        classes=benchmark.classes.names,
        report=report,
        metrics=metrics,
        manifest_sha256=benchmark.manifest_sha256,
        checkpoints={name: each.checkpoint_sha256 for name, each in chosen.items()},
    )


def _index(benchmark: Benchmark, outputs: TeacherOutputs) -> pd.DataFrame:
    """Return the bundle's index of the rows that have logits."""
    index = benchmark.frame.iloc[outputs.rows][list(INDEX_FIELDS[1:5])].reset_index(drop=True)
    index.insert(0, "row", outputs.rows)
    hexadecimal = outputs.image_sha256.tobytes().hex()
    index["image_sha256"] = [hexadecimal[at : at + 64] for at in range(0, len(hexadecimal), 64)]
    return index


def _hard_checks(benchmark: Benchmark, outputs: Mapping[str, TeacherOutputs], verified: bool) -> list[dict]:
    """Check that every teacher answered for the same rows and the same images, and say so for the report."""
    (first_name, first), *others = outputs.items()
    for name, each in others:
        if not np.array_equal(each.rows, first.rows):
            differ = np.setxor1d(each.rows, first.rows)
            which = f"row {differ[0] + 1} first" if len(differ) else "the same ones in another order"
            raise BundleError(f"teachers {first_name} and {name} have different rows, {which}; export again")
        differ = np.flatnonzero((each.image_sha256 != first.image_sha256).any(axis=1))
        if len(differ):
            row = int(first.rows[differ[0]])
            raise BundleError(
                f"teachers {first_name} and {name} saw different bytes for {len(differ)} images, row {row + 1} "
                f'"{benchmark.paths.iloc[row]}" first; export again with --verify-paths true'
            )
    rows = sorted([*first.rows.tolist(), *(bad.row for bad in first.unreadable)])
    if rows != list(range(len(benchmark))):
        raise BundleError(f"{len(rows):,} rows were answered, the benchmark has {len(benchmark):,}; export again")
    left_out = f", {len(first.unreadable)} left out as unreadable" if first.unreadable else ""
    found = [
        ("rows", f"one row of logits for each of {len(first.rows):,} rows, in the manifest's order{left_out}"),
        ("images", f"{len(outputs)} teacher(s) saw the same bytes for every row"),
        ("recheck", "rows of every shard, asked again alone, got the same logits"),
    ]
    checks = [_hard(name, "pass", detail) for name, detail in found]
    if verified:
        checks.append(_hard("images_on_disk", "pass", "the images are the ones that the teachers saw"))
    else:
        checks.append(_hard("images_on_disk", "skip", "not looked at (--verify-paths false)"))
    return checks


def _hard(name: str, verdict: str, detail: str) -> dict:
    """Return a hard check as the report holds it."""
    return {**Check(name, verdict, detail).as_json(), "kind": "hard"}


def _protocol_checks(outputs: Mapping[str, TeacherOutputs], preprocessing: Mapping[str, Any]) -> list[dict]:
    """Check that teachers are asked about what they did not train on, in the way that they were trained."""
    told = {name: each.description for name, each in outputs.items()}
    seen = [f"{name} {each['in_sample_rows']:,}" for name, each in told.items() if each["in_sample"] == "true"]
    silent = [name for name, each in told.items() if each["in_sample"] == UNKNOWN]
    if seen:
        rows = Check("in_sample", "warn", f"rows that were trained on: {', '.join(seen)}; their scores are too good")
    elif silent:
        rows = Check(
            "in_sample", "skip", f"the checkpoints of {', '.join(silent)} do not say what they were trained on"
        )
    else:
        rows = Check("in_sample", "pass", "no teacher was trained on these images")
    clahe = preprocessing["clahe"] and {key: preprocessing["clahe"][key] for key in ("clip", "tile")}
    other = [name for name, each in told.items() if each["trained_with_clahe"] not in (UNKNOWN, clahe)]
    if other:
        asked = f"clip {clahe['clip']:g}, {clahe['tile']} tiles" if clahe else "none"
        how = Check("clahe", "warn", f"{', '.join(other)}: trained with another CLAHE than is used here ({asked})")
    else:
        how = Check("clahe", "pass", "no teacher says that it was trained with another CLAHE")
    return [{**check.as_json(), "kind": "protocol"} for check in (rows, how)]


def outputs_of_teacher(bundle: SoftLabels) -> TeacherOutputs:
    """Return what a teacher's own bundle holds as the outputs that it was written from.

    Raises
    ------
    BundleError
        the bundle is not of one teacher in float32
    """
    if len(bundle.checkpoints) != 1 or bundle.logits.dtype != np.float32:
        raise BundleError(f"bundle {bundle.folder}: not of one teacher in float32; compute the teacher again")
    ((name, checkpoint),) = bundle.checkpoints.items()
    hexadecimal = "".join(bundle.index["image_sha256"])
    return TeacherOutputs(
        rows=bundle.index["row"].to_numpy(np.int64),
        logits=bundle.logits,
        image_sha256=np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32),
        unreadable=tuple(Unreadable(**bad) for bad in bundle.report["unreadable"]),
        description=bundle.report["teachers"][name],
        checkpoint_sha256=checkpoint,
    )


def matches(bundle: SoftLabels, benchmark: Benchmark) -> bool:
    """Return whether a bundle was made for exactly this selection and class order."""
    return (
        bundle.classes == benchmark.classes.names
        and bundle.report["benchmark"]["selected_sha256"] == benchmark.selection_sha256
        and (len(bundle) < len(benchmark) or bundle.selection_sha256 == benchmark.selection_sha256)
    )
