"""What `verify` checks beyond `open`: that numbers, report and run tell of the same thing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.sanity import Check, check_statistics
from fer_mlflow.settings.weights import check_weights
from fer_mlflow.softlabels.reading import HASHES, METRICS, Reading, label_columns

_TOLERANCE = 1e-6  # of a metric: another NumPy sums in another order
_FROM_NUMBERS = ("agreement", "blocks", "support")  # statistics that a bundle's own logits and labels decide


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
    """Compute again what a bundle says of itself, as far as its parts could be read.

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
        or not abs(values[each] - expected[each]) <= _TOLERANCE
    ]
    if expected and not common:
        differ = [f"{holder} has none of {', '.join(sorted(expected))}"]
    if differ:
        return Check(name, "fail", "; ".join(differ))
    lacking = sorted(expected.keys() - values.keys())
    without = f", without {', '.join(lacking)}" if lacking else ""
    return Check(name, "pass", f"{holder} has the same {len(common)} as {source}{without}")


def _check_report(reading: Reading, labels: np.ndarray) -> Check:
    """Check that the report tells of these rows, these teachers and this dtype."""
    report, hashes = reading.report, reading.hashes or {}
    try:
        benchmark, ensemble = report["benchmark"], report["ensemble"]
        said = {
            "rows": benchmark["rows"],
            "labelled rows": benchmark["labelled_rows"],
            "dtype": ensemble["dtype"],
            "teachers": sorted(report["teachers"]),
            "weights of": sorted(ensemble["weights"]),
            "selected rows": benchmark["selected_rows"],
        }
        left_out = [bad["row"] for bad in report["unreadable"]]
        check_weights(ensemble["weights"])
        all_rows = sorted([*reading.index["row"].tolist(), *left_out])
    except (KeyError, TypeError, AttributeError) as error:
        return Check("report", "fail", f"it lacks what every report has ({type(error).__name__}: {error})")
    except ContractError as error:
        return Check("report", "fail", str(error))
    found = {
        "rows": len(labels),
        "labelled rows": int((labels >= 0).sum()),
        "dtype": reading.logits.dtype.name,
        "teachers": sorted(hashes.get("checkpoints", said["teachers"])),
        "weights of": sorted(hashes.get("checkpoints", said["teachers"])),
        "selected rows": len(all_rows),
    }
    differ = [f"{key}: it says {said[key]}, found {found[key]}" for key in said if said[key] != found[key]]
    if all_rows != list(range(len(all_rows))):
        differ.append("rows with logits and rows left out do not make up the benchmark")
    if differ:
        return Check("report", "fail", "; ".join(differ))
    return Check("report", "pass", "rows, labels, dtype and teachers are the ones it tells of")


def _check_statistics(reading: Reading, labels: np.ndarray) -> list[Check]:
    """Make each check of the report again where logits and labels suffice, and quote the others."""
    listed = reading.report.get("checks")
    quoted = [check for check in listed if isinstance(check, Mapping)] if isinstance(listed, list) else []
    said = {check.get("name"): check for check in quoted}
    again = {check.name: check for check in check_statistics(reading.logits, labels, {}, reading.classes)}
    derived = next((word for word in ("calibration", "reordered") if word in reading.report), None)
    if derived is None:
        checks = [_compare(again[name], said.get(name)) for name in _FROM_NUMBERS]
        checks.insert(2, _compare_assignment(again["assignment"], said.get("assignment")))
    else:  # what the report says is of the bundle that this one was made from
        checks = [again[name] for name in (*_FROM_NUMBERS, "assignment")]
    done = {check.name for check in checks}
    return checks + [_quote(check) for check in quoted if check.get("name") not in done]


def _compare(again: Check, said: Mapping | None) -> Check:
    """Return a check that was made again; `fail` where the report has another verdict."""
    if said is None:
        return Check(again.name, "fail", f"the report lacks it; the logits give {again.verdict}: {again.detail}")
    if said.get("verdict") != again.verdict:
        return Check(
            again.name,
            "fail",
            f"the report says {said.get('verdict')}, the logits give {again.verdict}: {again.detail}",
        )
    return again


def _compare_assignment(again: Check, said: Mapping | None) -> Check:
    """As `_compare`; a warning that the report has of one teacher cannot be made again from the ensemble alone."""
    values = said.get("values") if said is not None else None
    if said is not None and isinstance(values, Mapping) and "teacher" in values:
        return _quote(said)
    return _compare(again, said)


def _quote(check: Mapping) -> Check:
    """Return a check as the report has it, since the bundle alone does not hold what it was made of."""
    verdict = check.get("verdict") if check.get("verdict") in ("pass", "warn", "skip") else "fail"
    return Check(str(check.get("name")), str(verdict), f"as exported: {check.get('detail')}")
