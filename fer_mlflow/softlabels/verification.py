"""What `verify` checks beyond `open`: numbers, report and run against each other, and logits against the teachers."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_mlflow.data.images import describe_preprocessing
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.sanity import Check, check_statistics
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.reading import HASHES, METRICS, Reading, label_columns
from fer_mlflow.softlabels.rows import Alignment, name_rows
from fer_mlflow.teachers.spec import TeacherSpec, hash_checkpoints

_METRIC_TOLERANCE = 1e-6  # another NumPy sums in another order
_FROM_NUMBERS = ("agreement", "blocks", "support")  # statistics that a bundle's own logits and labels decide
# How far a stored logit may be from one that is computed again, on another machine too. fp32: absolute, in nats.
# Lower precisions round relative to size, so there it is a share of 1 + the row's largest logit.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}


def check_digest(found: str | None, expected: str | None, run: str) -> Check:
    """Check that a bundle is the one that a run is tagged with; without a run there is nothing to check."""
    if not run:
        return Check("run's tag", "skip", "a folder: no run says which bundle it should be")
    if expected is None:
        return Check("run's tag", "fail", f"run {run} has no tag fer.bundle_sha256: its export did not end well")
    if found is None:
        return Check("run's tag", "fail", f"{HASHES} is not there to be compared with {expected[:12]}…")
    if found != expected:
        return Check("run's tag", "fail", f"the bundle is {found[:12]}…, the run is tagged with {expected[:12]}…")
    return Check("run's tag", "pass", f"the run is tagged with this bundle, {found[:12]}…")


def check_contents(reading: Reading, logged: Mapping[str, float] | None = None) -> list[Check]:
    """Compute again what a bundle's report and metrics say, as far as its parts could be read.

    Parameters
    ----------
    logged : the metrics of the bundle's run, None where there is none

    Returns
    -------
    the checks `metrics again`, `run's metrics`, `report`, then each check of the alignment report: computed again from
    the logits where they suffice, else quoted
    """
    fits = reading.logits is not None and reading.index is not None and len(reading.logits) == len(reading.index)
    if not fits or reading.classes is None or reading.logits.shape[1] != len(reading.classes):
        why = "logits, index and class order are not all there"
        return [Check(name, "skip", why) for name in ("metrics again", "report", "statistics")]
    labels = label_columns(reading.index["label"], reading.classes)
    checks = [_check_metrics(reading, labels)]
    if logged is not None and reading.metrics is not None:
        checks.append(_compare_metrics("run's metrics", "the run", logged, METRICS, reading.metrics))
    if not isinstance(reading.report, Mapping):
        return [*checks, Check("report", "skip", "it cannot be read")]
    return [*checks, _check_report(reading, labels), *_check_statistics(reading, labels)]


def _check_metrics(reading: Reading, labels: np.ndarray) -> Check:
    """Score the stored logits again."""
    known = labels >= 0
    try:
        again = score(reading.logits[known], labels[known], reading.classes) if known.any() else {}
    except ContractError as error:
        return Check("metrics again", "fail", f"the logits cannot be scored: {error}")
    if reading.metrics is None:
        return Check("metrics again", "skip", f"{METRICS} cannot be read")
    return _compare_metrics("metrics again", METRICS, reading.metrics, f"{known.sum():,} labelled rows", again)


def _compare_metrics(
    name: str, holder: str, values: Mapping[str, Any], source: str, expected: Mapping[str, Any]
) -> Check:
    """Return a check that a holder's metrics are the expected ones.

    Only metrics that both have are compared, since another version stores others; one at least has to be there.
    """
    common = sorted(values.keys() & expected.keys())
    differ = [
        f"{each} is {values[each]}, {source} gives {expected[each]}"
        for each in common
        if not isinstance(values[each], int | float)
        or not isinstance(expected[each], int | float)
        or not abs(values[each] - expected[each]) <= _METRIC_TOLERANCE
    ]
    if expected and not common:
        differ = [f"{holder} has none of {', '.join(sorted(expected))}"]
    if differ:
        return Check(name, "fail", "; ".join(differ))
    lacking = sorted(expected.keys() - values.keys())
    without = f", without {', '.join(lacking)}" if lacking else ""
    return Check(name, "pass", f"{holder} has the same {len(common)} as {source}{without}")


def _check_report(reading: Reading, labels: np.ndarray) -> Check:
    """Check that the report is of these rows, these teachers and this dtype."""
    report, hashes = reading.report, reading.hashes or {}
    try:
        benchmark, ensemble = report["benchmark"], report["ensemble"]
        reported = {
            "rows": benchmark["rows"],
            "labelled rows": benchmark["labelled_rows"],
            "dtype": ensemble["dtype"],
            "teachers": sorted(report["teachers"]),
            "weights of": sorted(ensemble["weights"]),
            "selected rows": benchmark["selected_rows"],
        }
        left_out = [bad["row"] for bad in report["unreadable"]]
        Configuration.of(report)
        all_rows = sorted([*reading.index["row"].tolist(), *left_out])
    except (KeyError, TypeError, AttributeError) as error:
        return Check("report", "fail", f"it lacks what every report has ({type(error).__name__}: {error})")
    except ContractError as error:
        return Check("report", "fail", str(error))
    found = {
        "rows": len(labels),
        "labelled rows": int((labels >= 0).sum()),
        "dtype": reading.logits.dtype.name,
        "teachers": sorted(hashes.get("checkpoints", reported["teachers"])),
        "weights of": sorted(hashes.get("checkpoints", reported["teachers"])),
        "selected rows": len(all_rows),
    }
    differ = [f"{k}: reported {each}, found {found[k]}" for k, each in reported.items() if each != found[k]]
    if all_rows != list(range(len(all_rows))):
        differ.append("rows with logits and rows left out do not make up the benchmark")
    if differ:
        return Check("report", "fail", "; ".join(differ))
    return Check("report", "pass", "rows, labels, dtype and teachers are as reported")


def _check_statistics(reading: Reading, labels: np.ndarray) -> list[Check]:
    """Make each check of the report again where logits and labels suffice, and quote the others."""
    listed = reading.report.get("checks")
    quoted = [check for check in listed if isinstance(check, Mapping)] if isinstance(listed, list) else []
    reported = {check.get("name"): check for check in quoted}
    again = {check.name: check for check in check_statistics(reading.logits, labels, {}, reading.classes)}
    derived = next((word for word in ("calibration", "reordered") if word in reading.report), None)
    if derived is None:
        checks = [_compare(again[name], reported.get(name)) for name in _FROM_NUMBERS]
        checks.insert(2, _compare_assignment(again["assignment"], reported.get("assignment")))
    else:  # the report's checks are of the bundle that this one was made from
        checks = [again[name] for name in (*_FROM_NUMBERS, "assignment")]
    done = {check.name for check in checks}
    return checks + [_quote(check) for check in quoted if check.get("name") not in done]


def _compare(again: Check, reported: Mapping | None) -> Check:
    """Return a check that was made again; `fail` where the report has another verdict."""
    if reported is None:
        return Check(again.name, "fail", f"the report lacks it; the logits give {again.verdict}: {again.detail}")
    if reported.get("verdict") != again.verdict:
        return Check(
            again.name,
            "fail",
            f"the report says {reported.get('verdict')}, the logits give {again.verdict}: {again.detail}",
        )
    return again


def _compare_assignment(again: Check, reported: Mapping | None) -> Check:
    """As `_compare`; a warning that the report has of one teacher cannot be made again from the ensemble alone."""
    values = reported.get("values") if reported is not None else None
    if reported is not None and isinstance(values, Mapping) and "teacher" in values:
        return _quote(reported)
    return _compare(again, reported)


def _quote(check: Mapping) -> Check:
    """Return a check as the report has it, since the bundle alone does not hold what it was made of."""
    verdict = check.get("verdict") if check.get("verdict") in ("pass", "warn", "skip") else "fail"
    return Check(str(check.get("name")), str(verdict), f"as exported: {check.get('detail')}")


def recompute(
    alignment: Alignment,
    specs: Mapping[str, TeacherSpec],
    *,
    rows: int,
    seed: int,
    device: str,
) -> list[Check]:
    """Predict random rows again with the bundle's teachers, with the preprocessing of its report, and compare.

    Parameters
    ----------
    alignment : of a bundle with a manifest that has its rows and images
    specs : of every teacher of the bundle
    rows : how many to predict; all where there are fewer

    Returns
    -------
    the checks `checkpoint <name>`, `preprocessing`, `drawn images`, `teachers` and `logits again`; a check that is
    made pointless by one before it is `skip`

    Raises
    ------
    FerError
        a teacher cannot be loaded, or the device is not there
    """
    bundle, aligned = alignment.soft_labels, alignment.rows
    checks = _check_checkpoints(bundle, specs)
    checks.append(_check_preprocessing(bundle))
    count = min(rows, len(aligned))
    drawn = aligned[np.sort(np.random.default_rng(seed).choice(len(aligned), count, replace=False))]
    other = alignment.other_images(drawn)
    if other:
        named = name_rows(list(other), alignment.benchmark.paths, list(other.values()))
        what = f"{len(other):,} of {count:,} are not the ones that the teachers decoded: {named}"
        checks.append(Check("drawn images", "fail", what))
    else:
        what = f"the {count:,} drawn are the ones that the teachers decoded"
        checks.append(Check("drawn images", "pass", what))
    same = drawn[~np.isin(drawn, list(other))]
    if any(check.verdict == "fail" for check in checks[: len(specs)]):
        return [*checks, Check("logits again", "skip", "other checkpoints give other logits")]
    if not len(same):
        return [*checks, Check("logits again", "skip", "none of the drawn rows has its image")]
    calibration = bundle.report.get("calibration") or {}
    temperature = 1.0
    if calibration:
        if calibration.get("method") != "temperature":
            how = f"calibrated ({calibration.get('method')}): verify the soft labels that it was fitted on"
            return [*checks, Check("logits again", "skip", how)]
        temperature = float(calibration["temperature"])
    return [*checks, *_predict_again(alignment, same, specs, temperature, device)]


def _check_checkpoints(bundle: SoftLabels, specs: Mapping[str, TeacherSpec]) -> list[Check]:
    found = hash_checkpoints(specs)
    return [
        Check(f"checkpoint {name}", "pass", f"{digest[:12]}…")
        if found[name] == digest
        else Check(f"checkpoint {name}", "fail", f"{specs[name].checkpoint} is {found[name][:12]}…, not {digest[:12]}…")
        for name, digest in sorted(bundle.checkpoints.items())
    ]


def _check_preprocessing(bundle: SoftLabels) -> Check:
    """Check that images are prepared here as they were there; the CLAHE pattern shows another OpenCV."""
    differ = []
    for name, preprocessing in bundle.configuration.preprocessing.items():
        there, here = bundle.report["teachers"][name]["preprocessing"], describe_preprocessing(preprocessing)
        differ += [f"{name}'s {key}" for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if differ:
        return Check("preprocessing", "warn", f"{', '.join(differ)} is done otherwise on this machine")
    has_clahe = any(each.clahe for each in bundle.configuration.preprocessing.values())
    return Check("preprocessing", "pass", "as in the report" + (", CLAHE's fixed pattern too" if has_clahe else ""))


def _predict_again(alignment: Alignment, rows: np.ndarray, specs, temperature, device) -> list[Check]:
    """Run the forward pass on rows of the manifest, fuse, and compare with what is stored."""
    from fer_mlflow.teachers.computation import compute_logits
    from fer_mlflow.teachers.predictor import ForwardSettings

    bundle, benchmark = alignment.soft_labels, alignment.benchmark
    configuration, reported = bundle.configuration, bundle.report["teachers"]
    frame = benchmark.frame.iloc[rows].reset_index(drop=True)
    subset = replace(benchmark, frame=frame, labels=benchmark.labels[rows])
    if subset.classes.names != bundle.classes:  # the columns of teachers' logits follow the benchmark's classes
        subset = replace(subset, classes=type(subset.classes).of(bundle.classes))
    declared = {
        name: replace(spec, preprocessing=_as_reported(spec.preprocessing, configuration.preprocessing[name]))
        for name, spec in specs.items()
    }
    precision = configuration.precision
    with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as scratch:  # no kept shard is read
        predicted = compute_logits(
            subset,
            declared,
            {name: name for name in specs},
            ForwardSettings(precision=precision, compile="false", device=device, workers=0),
            Path(scratch),
        )
    differ = [
        f"{name}: {key} is {each.teacher[key]}, was {reported[name].get(key)}"
        for name, each in predicted.items()
        for key in ("arch", "classes")
        if each.teacher[key] != reported[name].get(key)
    ]
    for name, each in predicted.items():
        here, there = Preprocessing.parse(each.teacher["preprocessing"]), configuration.preprocessing[name]
        differ += [
            f"{name}: {key} is {getattr(here, key)}, was {getattr(there, key)}"
            for key in ("img_size", "mean", "std")
            if getattr(here, key) != getattr(there, key)
        ]
    detail = "; ".join(differ) or "architecture, size, mean, std and classes as in the report"
    logits = {name: each.logits for name, each in predicted.items()}
    fused = fuse(logits, configuration.weights, configuration.space) / temperature
    return [
        Check("teachers", "fail" if differ else "pass", detail),
        compare_logits(bundle, alignment.positions[rows], stored(fused, configuration.dtype), precision, temperature),
    ]


def _as_reported(declared: Preprocessing, reported: Preprocessing) -> Preprocessing:
    """Return the preprocessing of a report, with the size, mean and std that `teachers.yaml` declares."""
    return replace(reported, img_size=declared.img_size, mean=declared.mean, std=declared.std)


def compare_logits(
    bundle: SoftLabels, drawn: np.ndarray, again: np.ndarray, precision: str, temperature: float = 1.0
) -> Check:
    """Check that stored logits are those computed again, within the tolerance of the precision they were computed in.

    Logits that were stored as float16 may differ by their rounding on top, calibrated ones by 1/T of the tolerance.

    Parameters
    ----------
    drawn : (n,) positions in the bundle
    again : (n, C) logits of these rows, stored as the bundle's
    """
    kept = bundle.logits[drawn].astype(np.float64)
    difference = np.abs(kept - again)
    size = np.abs(kept).max(axis=1, keepdims=True)
    relative = np.ones_like(size) if precision == "fp32" else 1 + size
    allowed = np.broadcast_to(TOLERANCE[precision] * relative * max(1.0, 1 / temperature), difference.shape)
    if bundle.logits.dtype == np.float16:  # the row's maximum, which was subtracted, may be off as well
        allowed = 2 * allowed + np.spacing(np.abs(bundle.logits[drawn]).astype(np.float16)).astype(np.float64)
    most, limit = difference.max(), allowed.flat[int(difference.argmax())]
    how = f"largest difference {most:.2g}, allowed {limit:.2g} ({precision})"
    over = (difference > allowed).any(axis=1)
    if over.any():
        worst = np.flatnonzero(over)[np.argsort(-difference[over].max(axis=1))]
        paths = bundle.index.set_index("row")["path"]
        rows, by = bundle.index["row"].to_numpy()[drawn[worst]], [f"{difference[i].max():.3g}" for i in worst]
        named = name_rows(rows, paths, by)
        return Check("logits again", "fail", f"{over.sum():,} of {len(drawn):,} rows differ: {named}; {how}")
    return Check("logits again", "pass", f"{len(drawn):,} rows predicted again; {how}")
