"""Asking the teachers again about some of a bundle's rows: are the stored logits still what they say?"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_mlflow.data.images import Clahe, describe_preprocessing
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.sanity import Check
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import describe_rows, find_other_images
from fer_mlflow.teachers.spec import TeacherSpec, hash_checkpoints

# How far a stored logit may be from one that is computed again, on another machine too. fp32: absolute, in nats.
# Lower precisions round relative to size, so there it is a share of 1 + the row's largest logit.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}
_DESCRIBED = ("arch", "img_size", "mean", "std", "classes")  # of a teacher, what shapes its logits beside its weights


def recompute(
    bundle: SoftLabels,
    benchmark: Benchmark,
    positions: np.ndarray,
    specs: Mapping[str, TeacherSpec],
    *,
    rows: int,
    seed: int,
    device: str,
) -> list[Check]:
    """Ask the bundle's teachers again about random rows, in the way that its report describes, and compare.

    Parameters
    ----------
    benchmark, positions : a manifest with the bundle's rows, and the (N,) row there of each of them
    specs : of every teacher of the bundle
    rows : how many to ask about; all where there are fewer

    Returns
    -------
    the checks `checkpoint <name>`, `preprocessing`, `drawn images`, `teachers` and `logits again`; a check that is
    made pointless by one before it is `skip`

    Raises
    ------
    FerError
        a teacher cannot be loaded or asked, or the device is not there
    """
    checks = _check_checkpoints(bundle, specs)
    settings = bundle.report["preprocessing"]["clahe"]
    clahe = Clahe(settings["clip"], settings["tile"]) if settings else None
    checks.append(_check_preprocessing(bundle, clahe))
    drawn = np.sort(np.random.default_rng(seed).choice(len(bundle), min(rows, len(bundle)), replace=False))
    other = find_other_images(bundle, benchmark.root, drawn.tolist())
    checks.append(_check_images(bundle, drawn, other))
    same = np.array([row for row in drawn if row not in other], np.int64)
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
    return [*checks, *_ask_again(bundle, benchmark, positions, same, specs, clahe, temperature, device)]


def _check_checkpoints(bundle: SoftLabels, specs: Mapping[str, TeacherSpec]) -> list[Check]:
    found = hash_checkpoints(specs)
    return [
        Check(f"checkpoint {name}", "pass", f"{digest[:12]}…")
        if found[name] == digest
        else Check(f"checkpoint {name}", "fail", f"{specs[name].checkpoint} is {found[name][:12]}…, not {digest[:12]}…")
        for name, digest in sorted(bundle.checkpoints.items())
    ]


def _check_preprocessing(bundle: SoftLabels, clahe: Clahe | None) -> Check:
    """Check that images are prepared here as they were there; the CLAHE pattern tells of another OpenCV."""
    said, here = bundle.report["preprocessing"], describe_preprocessing(clahe)
    differ = [key for key in sorted({*said, *here}) if said.get(key) != here.get(key)]
    if differ:
        return Check("preprocessing", "warn", f"{', '.join(differ)} are done otherwise on this machine")
    return Check("preprocessing", "pass", "as in the report" + (", CLAHE's fixed pattern too" if clahe else ""))


def _check_images(bundle: SoftLabels, drawn: np.ndarray, other: dict[int, str]) -> Check:
    if other:
        said = f"{len(other):,} of {len(drawn):,} are not the ones that teachers saw: {describe_rows(bundle, other)}"
        return Check("drawn images", "fail", said)
    return Check("drawn images", "pass", f"the {len(drawn):,} drawn are the ones that teachers saw")


def _ask_again(bundle, benchmark: Benchmark, positions, drawn, specs, clahe, temperature, device) -> list[Check]:
    """Run the forward pass on the drawn rows, fuse, and compare with what is stored."""
    from fer_mlflow.teachers.asking import Settings
    from fer_mlflow.teachers.computation import compute_outputs

    frame = benchmark.frame.iloc[positions[drawn]].reset_index(drop=True)
    asked = replace(benchmark, frame=frame, labels=benchmark.labels[positions[drawn]])
    if asked.classes.names != bundle.classes:  # the columns of what teachers answer follow the benchmark's classes
        asked = replace(asked, classes=type(asked.classes).of(bundle.classes))
    told = bundle.report["teachers"]
    precisions = {name: told[name]["computed_with"][0]["precision"] for name in specs}
    logits, differ = {}, []
    with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as scratch:  # no kept shard is taken for an answer
        for precision in sorted(set(precisions.values())):
            part = {name: spec for name, spec in specs.items() if precisions[name] == precision}
            outputs = compute_outputs(
                asked,
                part,
                {name: f"{name}.{precision}" for name in part},
                dict(bundle.checkpoints),
                Settings(clahe=clahe, precision=precision, compile="false", device=device, workers=0),
                Path(scratch),
            )
            for name, each in outputs.items():
                logits[name] = each.logits
                differ += [
                    f"{name}: {key} is {each.description[key]}, was {told[name].get(key)}"
                    for key in _DESCRIBED
                    if each.description[key] != told[name].get(key)
                ]
    said = "; ".join(differ) or "architecture, size, mean, std and classes as in the report"
    ensemble = bundle.report["ensemble"]
    fused = fuse(logits, ensemble["weights"], ensemble["space"]) / temperature
    return [
        Check("teachers", "fail" if differ else "pass", said),
        compare_logits(bundle, drawn, stored(fused, ensemble["dtype"]), set(precisions.values()), temperature),
    ]


def compare_logits(
    bundle: SoftLabels, drawn: np.ndarray, again: np.ndarray, precisions: set[str], temperature: float = 1.0
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
    scale = max(1.0, 1 / temperature)
    allowed = np.max([TOLERANCE[each] * (1 if each == "fp32" else 1 + size) * scale for each in precisions], axis=0)
    allowed = np.broadcast_to(allowed, difference.shape)
    if bundle.logits.dtype == np.float16:  # the row's maximum, which was subtracted, may be off as well
        allowed = 2 * allowed + np.spacing(np.abs(bundle.logits[drawn]).astype(np.float16)).astype(np.float64)
    most, limit = difference.max(), allowed.flat[int(difference.argmax())]
    how = f"largest difference {most:.2g}, allowed {limit:.2g} ({', '.join(sorted(precisions))})"
    over = (difference > allowed).any(axis=1)
    if over.any():
        worst = np.flatnonzero(over)[np.argsort(-difference[over].max(axis=1))]
        named = describe_rows(bundle, {int(drawn[i]): f"{difference[i].max():.3g}" for i in worst})
        return Check("logits again", "fail", f"{over.sum():,} of {len(drawn):,} rows differ: {named}; {how}")
    return Check("logits again", "pass", f"{len(drawn):,} rows asked again; {how}")
