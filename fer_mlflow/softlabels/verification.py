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
from fer_mlflow.scoring import fusion, metrics
from fer_mlflow.scoring.sanity import Check, check_statistics
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.files import HASHES, METRICS, Reading, label_columns
from fer_mlflow.softlabels.rows import Alignment, name_rows
from fer_mlflow.teachers.shards import compute_logits
from fer_mlflow.teachers.spec import TOLERANCE, TeacherSpec, hash_checkpoints

_METRIC_TOLERANCE = 1e-6  # another NumPy sums in another order
_FROM_NUMBERS = ("agreement", "blocks", "assignment", "support")  # what a bundle's own logits and labels decide


def _check(name: str, problem: str, found: str, verdict: str = "fail") -> Check:
    """Return a check that has a problem, or that passes with what it found."""
    return Check(name, verdict, problem) if problem else Check(name, "pass", found)


def check_digest(found: str | None, expected: str | None, run: str) -> Check:
    """Check that a bundle is the one that a run is tagged with; without a run there is nothing to check."""
    if not run:
        return Check("run's tag", "skip", "a folder: no run says which bundle it should be")
    problem = ""
    if expected is None:
        problem = f"run {run} has no tag fer.bundle_sha256: its export did not end well"
    elif found is None:
        problem = f"{HASHES} is not there to be compared with {expected[:12]}…"
    elif found != expected:
        problem = f"the bundle is {found[:12]}…, the run is tagged with {expected[:12]}…"
    return _check("run's tag", problem, f"the run is tagged with this bundle, {(found or '')[:12]}…")


def check_contents(reading: Reading, logged: Mapping[str, float] | None = None) -> list[Check]:
    """Compute again what a bundle's report and metrics say, as far as its parts could be read.

    `logged` are the metrics of the bundle's run, None where there is none. Each check of the alignment report is
    computed again from the logits where they suffice, else quoted.
    """
    fits = reading.logits is not None and reading.index is not None and len(reading.logits) == len(reading.index)
    if not fits or reading.classes is None or reading.logits.shape[1] != len(reading.classes):
        why = "logits, index and class order are not all there"
        return [Check(name, "skip", why) for name in ("metrics again", "report", "statistics")]
    labels = label_columns(reading.index["label"], reading.classes)
    if reading.metrics is None:
        checks = [Check("metrics again", "skip", f"{METRICS} cannot be read")]
    else:
        known = labels >= 0
        again = metrics.score(reading.logits[known], labels[known], reading.classes) if known.any() else {}
        source = f"{known.sum():,} labelled rows"
        checks = [_compare_metrics("metrics again", METRICS, reading.metrics, source, again)]
        if logged is not None:
            checks.append(_compare_metrics("run's metrics", "the run", logged, METRICS, reading.metrics))
    if not isinstance(reading.report, Mapping):
        return [*checks, Check("report", "skip", "it cannot be read")]
    return [*checks, _check_report(reading, labels), *_check_statistics(reading, labels)]


def _compare_metrics(
    name: str, holder: str, values: Mapping[str, Any], source: str, expected: Mapping[str, Any]
) -> Check:
    """Compare the metrics that both have, since another version stores others; one at least has to be there."""
    common = sorted(values.keys() & expected.keys())
    differ = [
        f"{each} is {values[each]}, {source} gives {expected[each]}"
        for each in common
        if not all(isinstance(number, int | float) for number in (values[each], expected[each]))
        or not abs(values[each] - expected[each]) <= _METRIC_TOLERANCE
    ]
    if expected and not common:
        differ = [f"{holder} has none of {', '.join(sorted(expected))}"]
    lacking = sorted(expected.keys() - values.keys())
    without = f", without {', '.join(lacking)}" if lacking else ""
    return _check(name, "; ".join(differ), f"{holder} has the same {len(common)} as {source}{without}")


def _check_report(reading: Reading, labels: np.ndarray) -> Check:
    """Check that the report is of these rows, these teachers and this dtype."""
    report = reading.report
    try:
        benchmark, ensemble = report["benchmark"], report["ensemble"]
        rows = sorted([*reading.index["row"].tolist(), *(bad["row"] for bad in report["unreadable"])])
        teachers = sorted((reading.hashes or {}).get("checkpoints", report["teachers"]))
        pairs = {
            "rows": (benchmark["rows"], len(labels)),
            "labelled rows": (benchmark["labelled_rows"], int((labels >= 0).sum())),
            "dtype": (ensemble["dtype"], reading.logits.dtype.name),
            "teachers": (sorted(report["teachers"]), teachers),
            "weights of": (sorted(ensemble["weights"]), teachers),
            "selected rows": (benchmark["selected_rows"], len(rows)),
        }
        Configuration.of(report)
    except (KeyError, TypeError, AttributeError) as error:
        return Check("report", "fail", f"it lacks what every report has ({type(error).__name__}: {error})")
    except ContractError as error:
        return Check("report", "fail", str(error))
    differ = [f"{name}: reported {each}, found {found}" for name, (each, found) in pairs.items() if each != found]
    if rows != list(range(len(rows))):
        differ.append("rows with logits and rows left out do not make up the benchmark")
    return _check("report", "; ".join(differ), "rows, labels, dtype and teachers are as reported")


def _check_statistics(reading: Reading, labels: np.ndarray) -> list[Check]:
    """Make each check of the report again where logits and labels suffice, and quote the others."""
    listed = reading.report.get("checks")
    reported = [check for check in listed if isinstance(check, Mapping)] if isinstance(listed, list) else []
    by_name = {check.get("name"): check for check in reported}
    again = {check.name: check for check in check_statistics(reading.logits, labels, {}, reading.classes)}
    checks = [again[name] for name in _FROM_NUMBERS]
    if not {"calibration", "reordered"} & reading.report.keys():  # else the report's are of the bundle it was made from
        checks = [_compare(each, by_name.get(each.name)) for each in checks]
    return checks + [_quote(check) for check in reported if check.get("name") not in _FROM_NUMBERS]


def _compare(again: Check, reported: Mapping | None) -> Check:
    """Return a check that was made again; `fail` where the report has another verdict."""
    if reported is None:
        return Check(again.name, "fail", f"the report lacks it; the logits give {again.verdict}: {again.detail}")
    values, verdict = reported.get("values"), reported.get("verdict")
    if again.name == "assignment" and isinstance(values, Mapping) and "teacher" in values:
        return _quote(reported)  # a warning of one teacher cannot be made again from the ensemble alone
    problem = f"the report says {verdict}, the logits give {again.verdict}: {again.detail}"
    return again if verdict == again.verdict else Check(again.name, "fail", problem)


def _quote(check: Mapping) -> Check:
    """Return a check as the report has it, since the bundle alone does not hold what it was made of."""
    verdict = check.get("verdict") if check.get("verdict") in ("pass", "warn", "skip") else "fail"
    return Check(str(check.get("name")), str(verdict), f"as exported: {check.get('detail')}")


def recompute(
    alignment: Alignment, specs: Mapping[str, TeacherSpec], *, rows: int, seed: int, device: str
) -> list[Check]:
    """Predict random rows again with the bundle's teachers, with the preprocessing of its report, and compare.

    `specs` are of every teacher of the bundle; all rows are predicted where it has fewer. A check that is made
    pointless by one before it is `skip`. Raises a FerError where a teacher cannot be loaded, or the device is not
    there.
    """
    bundle, aligned = alignment.soft_labels, alignment.rows
    checks = []
    for name, digest in hash_checkpoints(specs).items():
        expected = bundle.checkpoints[name]
        problem = f"{specs[name].checkpoint} is {digest[:12]}…, not {expected[:12]}…" if digest != expected else ""
        checks.append(_check(f"checkpoint {name}", problem, f"{digest[:12]}…"))
    same_teachers = all(check.verdict == "pass" for check in checks)
    count = min(rows, len(aligned))
    drawn = aligned[np.sort(np.random.default_rng(seed).choice(len(aligned), count, replace=False))]
    other = alignment.other_images(drawn)
    named = name_rows(other, alignment.benchmark.paths, other.values())
    problem = f"{len(other):,} of {count:,} are not the ones that the teachers decoded: {named}" if other else ""
    found = f"the {count:,} drawn are the ones that the teachers decoded"
    checks += [_check_preprocessing(alignment), _check("drawn images", problem, found)]
    same = drawn[~np.isin(drawn, list(other))]
    calibration = bundle.report.get("calibration") or {"method": "temperature", "temperature": 1.0}
    method = calibration.get("method")
    if not same_teachers:
        pointless = "other checkpoints give other logits"
    elif not len(same):
        pointless = "none of the drawn rows has its image"
    elif method != "temperature":
        pointless = f"calibrated ({method}): verify the soft labels that it was fitted on"
    else:
        return [*checks, *_predict_again(alignment, same, specs, float(calibration["temperature"]), device)]
    return [*checks, Check("logits again", "skip", pointless)]


def _check_preprocessing(alignment: Alignment) -> Check:
    """Check that images are prepared here as they were there; the CLAHE pattern shows another OpenCV."""
    differ, reported = [], alignment.soft_labels.report["teachers"]
    preprocessings = alignment.soft_labels.configuration.preprocessing
    for name, preprocessing in preprocessings.items():
        there, here = reported[name]["preprocessing"], describe_preprocessing(preprocessing)
        differ += [f"{name}'s {key}" for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    problem = f"{', '.join(differ)} is done otherwise on this machine" if differ else ""
    pattern = ", CLAHE's fixed pattern too" if any(each.clahe for each in preprocessings.values()) else ""
    return _check("preprocessing", problem, f"as in the report{pattern}", "warn")


def _predict_again(
    alignment: Alignment,
    rows: np.ndarray,
    specs: Mapping[str, TeacherSpec],
    temperature: float,
    device: str,
) -> list[Check]:
    """Run the forward pass on rows of the manifest, fuse, and compare with what is stored."""
    bundle, benchmark = alignment.soft_labels, alignment.benchmark
    configuration, reported = bundle.configuration, bundle.report["teachers"]
    frame = benchmark.frame.iloc[rows].reset_index(drop=True)
    classes = benchmark.classes  # whose order the columns of teachers' logits follow
    classes = classes if classes.names == bundle.classes else type(classes).of(bundle.classes)
    subset = replace(benchmark, frame=frame, labels=benchmark.labels[rows], classes=classes)
    declared = {}
    for name, spec in specs.items():  # as reported, but for what teachers.yaml declares
        own = {key: getattr(spec.preprocessing, key) for key in ("img_size", "mean", "std")}
        declared[name] = replace(spec, preprocessing=replace(configuration.preprocessing[name], **own))
    precision: Any = configuration.precision
    forward = ForwardSettings(precision=precision, compile="false", device=device, workers=0)
    with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as scratch:  # no kept shard is read
        predicted = compute_logits(subset, declared, {name: name for name in specs}, forward, Path(scratch))
    differ = []
    for name, each in predicted.items():
        here, there = Preprocessing.parse(each.teacher["preprocessing"]), configuration.preprocessing[name]
        pairs = {key: (each.teacher[key], reported[name].get(key)) for key in ("arch", "classes")}
        pairs |= {key: (getattr(here, key), getattr(there, key)) for key in ("img_size", "mean", "std")}
        differ += [f"{name}: {key} is {now}, was {then}" for key, (now, then) in pairs.items() if now != then]
    logits = {name: each.logits for name, each in predicted.items()}
    fused = fusion.fuse(logits, configuration.weights, configuration.space) / temperature
    again = fusion.stored(fused, configuration.dtype)
    return [
        _check("teachers", "; ".join(differ), "architecture, size, mean, std and classes as in the report"),
        _compare_logits(alignment, rows, again, temperature),
    ]


def _compare_logits(alignment: Alignment, rows: np.ndarray, again: np.ndarray, temperature: float) -> Check:
    """Check that stored logits of (n,) rows are the (n, C) ones computed again, within the tolerance of the precision.

    In fp32 it is absolute, in nats; lower precisions round relative to size, so there it is a share of 1 + the row's
    largest logit. Logits that were stored as float16 may differ by their rounding on top, calibrated ones by 1/T of it.
    """
    precision = alignment.soft_labels.configuration.precision
    own = alignment.soft_labels.logits[alignment.positions[rows]]
    kept = own.astype(np.float64)
    difference = np.abs(kept - again)
    size = np.abs(kept).max(axis=1, keepdims=True)
    relative = np.ones_like(size) if precision == "fp32" else 1 + size
    allowed = np.broadcast_to(TOLERANCE[precision] * relative * max(1.0, 1 / temperature), difference.shape)
    if own.dtype == np.float16:  # the row's maximum, which was subtracted, may be off as well
        allowed = 2 * allowed + np.spacing(np.abs(own)).astype(np.float64)
    most, limit = difference.max(), allowed.flat[int(difference.argmax())]
    how = f"largest difference {most:.2g}, allowed {limit:.2g} ({precision})"
    over = np.flatnonzero((difference > allowed).any(axis=1))
    worst = over[np.argsort(-difference[over].max(axis=1))]
    named = name_rows(rows[worst], alignment.benchmark.paths, [f"{difference[i].max():.3g}" for i in worst])
    problem = f"{len(over):,} of {len(rows):,} rows differ: {named}; {how}" if len(over) else ""
    return _check("logits again", problem, f"{len(rows):,} rows predicted again; {how}")
