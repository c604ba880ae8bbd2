"""What `calibrate` does, apart from its options, so that `--help` imports nothing heavy."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from fer_mlflow.calibration.folds import crossfit, stratified_folds
from fer_mlflow.calibration.temperature import OK, TemperatureFit, fit_temperature
from fer_mlflow.commands.calibration_report import calibration_metrics, describe_fit, print_result
from fer_mlflow.commands.evaluating import SEED, check_labelled, read_slices
from fer_mlflow.commands.options import source_settings, split_names
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.figures import draw_reliability
from fer_mlflow.files import sha256_of_json
from fer_mlflow.scoring.evaluation import Evaluation
from fer_mlflow.scoring.evaluation import evaluate as evaluate_logits
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.calibration import fit_of, write_calibrated
from fer_mlflow.softlabels.protocol import describe_ensemble, describe_protocol
from fer_mlflow.tracking.bundles import publish_bundle
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.workflows.ensemble import Ensemble, warn
from fer_mlflow.workflows.sources import (
    Source,
    opened_source,
    read_run_or_folder,
    read_source,
    source_name,
)

# What two bundles of one ensemble share, whatever their rows.
_SAME_ENSEMBLE = ("weights", "space", "dtype", "calibration", "clahe", "decoding", "image size", "precision")


@dataclass(frozen=True)
class Calibration:
    """What was fitted, on which rows, and what it does to others.

    Attributes
    ----------
    fit : of all rows that may be fitted on; it has `status`, `explanation` and `apply`
    protocol : how fitting and measuring were kept apart, in words
    is_in_sample : whether `after` is measured on the rows that were fitted on
    fitted_on : name, digest and number of the rows of `fit`, and how many classes they have
    before, after : scores of the labelled rows; no `after` where there was nothing to fit
    by_slice : column -> value -> (rows, fit of these rows alone), for columns with several values
    """

    fit: Any
    protocol: str
    is_in_sample: bool
    fitted_on: dict[str, Any]
    before: Evaluation
    after: Evaluation | None
    by_slice: dict[str, dict[str, tuple[np.ndarray, TemperatureFit]]]


def calibrate(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    found = read_source(source_settings(options, typed))
    other = read_run_or_folder(options["fit_run"]) if options["fit_run"] else None
    known = _check_options(options, found, other)
    parts = {column: read_slices(found, column, known) for column in split_names(options["by"])}
    name = options["name"] or f"calibrate · {source_name(found)}"
    with open_run("calibrate", name, options["experiment"] or "") as run, opened_source(found, run, typed) as source:
        bundle = source.bundle
        run.log_params(source.params_with(typed))
        benchmark = bundle.report["benchmark"]["name"]
        run.log_benchmark(benchmark, bundle.selection_sha256, bundle.manifest_sha256, len(bundle))
        inputs = _inputs(source, options["per_teacher"])
        result = _calibrate(source, inputs, known, parts, other, options)
        run.log_metrics(calibration_metrics(result, bundle))
        if result.after is not None:
            panels = {when: getattr(result, when) for when in ("before", "after")}
            figure = draw_reliability(
                {when: (each.confidence, each.correct) for when, each in panels.items()},
                null={when: each.ece_null_p95 for when, each in panels.items()},
            )
            run.log_figure("reliability.png", figure)
        run.set_tags(
            {
                **source.tags(),
                "fer.temperature_status": result.fit.status,
                "fer.temperature_explanation": result.fit.explanation,
                "fer.calibration_protocol": result.protocol,
                "fer.calibration_in_sample": str(result.is_in_sample).lower(),
            }
        )
        exported = _export(source, inputs, result, options, run, typed) if options["export"] else None
    print_result(source, result, options, run, exported)


def _check_options(options: Mapping[str, Any], found: Source | Ensemble, other: Source | None) -> np.ndarray:
    """Refuse options that contradict each other; return the (N,) bool mask of the labelled rows."""
    if options["per_teacher"] and options["method"] != "temperature":
        raise ContractError(f"--per-teacher true fits temperatures; it does not go with --method {options['method']}")
    if options["in_sample"] and other is not None:
        raise ContractError("--fit-run fits on other rows and --in-sample true on the same: leave one out")
    if not (options["in_sample"] or other or options["crossfit"]):
        raise ContractError("nothing says on which rows to fit: give --crossfit K, --fit-run RUN or --in-sample true")
    if other is not None:
        check_fit_source(found, other)
    return check_labelled(found)


def check_fit_source(found: Source | Ensemble, other: Source) -> None:
    """Check that what is fitted on one bundle makes sense on another: the same ensemble on other rows.

    Of an ensemble that is yet to be asked, this is what can be told before.

    Raises
    ------
    ContractError
        they are different ensembles, or have other classes or checkpoints, or the same rows
    """
    check_labelled(other)
    b = other.bundle
    if isinstance(found, Source):
        a = found.bundle
        classes, checkpoints, selection = a.classes, a.checkpoints, a.selection_sha256
        mine, others = ({key: of[key] for key in _SAME_ENSEMBLE} for of in (describe_protocol(a), describe_protocol(b)))
    else:
        classes, checkpoints = found.benchmark.classes.names, found.checkpoints
        selection = found.benchmark.selection_sha256
        mine, others = found.described, describe_ensemble(b)
    if classes != b.classes:
        raise ContractError(f"--fit-run: its classes are {', '.join(b.classes)}, not {', '.join(classes)}")
    differ = [f"{key} {others.get(key, 'none')} for {text}" for key, text in mine.items() if others.get(key) != text]
    differ += ["other checkpoints"] if checkpoints != b.checkpoints else []
    if differ:
        raise ContractError(f"--fit-run: it is another ensemble ({', '.join(differ)}); fit on a run of the same one")
    if selection == b.selection_sha256:
        raise ContractError("--fit-run: it has the same rows; name a run on another split, or use --crossfit 5")


def _inputs(source: Source, per_teacher: bool) -> np.ndarray:
    """Return what is fitted on: the bundle's (N, C) logits, or its teachers' (K, N, C), in order of their names."""
    if not per_teacher:
        return source.bundle.logits.astype(np.float64)
    names = sorted(source.bundle.report["ensemble"]["weights"])
    logits = source.teacher_logits()
    if missing := [name for name in names if name not in logits]:
        raise ContractError(
            f"--per-teacher true needs each teacher's logits, and those of {', '.join(missing)} cannot be had from "
            "this source; name an export run whose teacher runs are there, or the ensemble by --manifest, --teachers, "
            "--weights"
        )
    return np.stack([logits[name].astype(np.float64) for name in names])


def _calibrate(
    source: Source, inputs: np.ndarray, known: np.ndarray, parts: Mapping, other: Source | None, options
) -> Calibration:
    """Fit, and measure on rows that were not fitted on unless that was asked for."""
    bundle = source.bundle
    ensemble, labels = bundle.report["ensemble"], bundle.labels[known]
    fit_rows = fit_of(options["method"], options["per_teacher"], ensemble["weights"], ensemble["space"])
    mine = inputs[..., known, :]
    fitted_bundle = bundle
    if other is not None:
        check_fit_source(source, other)
        fitted_bundle = other.bundle
        _warn_of_overlap(source, other)
        theirs = other.bundle.labels >= 0
        fit = fit_rows(_inputs(other, options["per_teacher"])[..., theirs, :], other.bundle.labels[theirs])
        calibrated = fit.apply(mine) if fit.status == OK else None
        protocol = f"fitted on {other.bundle.report['benchmark']['name']}, measured here"
    else:
        fit = fit_rows(mine, labels)
        if options["in_sample"]:
            calibrated = fit.apply(mine) if fit.status == OK else None
            protocol = "fitted and measured on the same rows"
        else:
            k = options["crossfit"]
            folds = stratified_folds(labels, k, np.random.default_rng(options["seed"]))
            calibrated, fits = crossfit(fit_rows, mine, labels, folds)
            protocol = f"cross-fitted: fitted on {k - 1} parts of {k}, measured on the other"
            if fit.status == OK and calibrated is None:
                fit = next(each for each in fits if each.status != OK)
    logits = bundle.logits[known].astype(np.float64)
    before = evaluate_logits(logits, labels, np.random.default_rng(SEED))
    after = None if calibrated is None else evaluate_logits(calibrated, labels, np.random.default_rng(SEED))
    if after is not None and options["method"] == "temperature" and not options["per_teacher"]:
        _check_unchanged(before, after)
    return Calibration(
        fit=fit,
        protocol=protocol,
        is_in_sample=options["in_sample"],
        fitted_on={
            "name": fitted_bundle.report["benchmark"]["name"],
            "selection_sha256": fitted_bundle.selection_sha256,
            "rows": int((fitted_bundle.labels >= 0).sum()),
            "classes": len(np.unique(fitted_bundle.labels[fitted_bundle.labels >= 0])),
        },
        before=before,
        after=after,
        by_slice=_fit_slices(bundle, known, parts),
    )


def _check_unchanged(before: Evaluation, after: Evaluation) -> None:
    """Check that one temperature moved no prediction: it cannot, so if it did something is wrong with the numbers."""
    moved = int((before.predictions != after.predictions).sum())
    if moved:
        raise JobError(
            f"{moved:,} predictions changed under a temperature: logits differ by less than float64 can tell"
        )


def _warn_of_overlap(source: Source, other: Source) -> None:
    """Say how many images were both fitted and measured on."""
    fitted = other.bundle.index["image_sha256"][other.bundle.labels >= 0]
    shared = int(source.bundle.index["image_sha256"].isin(fitted).sum())
    if shared:
        warn(f"--fit-run: {shared:,} images are in both benchmarks, so what is measured is partly in-sample")


def _fit_slices(bundle: SoftLabels, known: np.ndarray, parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    """Return the temperature of each value of each column, on its own rows."""
    return {
        column: {
            value: (rows[known], fit_temperature(bundle.logits[rows], bundle.labels[rows]))
            for value, rows in values.items()
        }
        for column, values in parts.items()
        if values
    }


def _export(source: Source, inputs, result: Calibration, options, run: TrackedRun, typed) -> str:
    """Log the calibrated soft labels as an export run of their own, and return its id."""
    if result.fit.status != OK:
        raise JobError(f"--export: there is nothing to export, {result.fit.explanation} ({result.fit.status})")
    bundle = source.bundle
    calibration = {
        "method": options["method"] + (" per teacher" if options["per_teacher"] else ""),
        **describe_fit(result.fit, bundle),
        "fitted_on": result.fitted_on,
        "in_sample": options["fit_run"] is None,
    }
    key = sha256_of_json({"source": bundle.sha256, "calibration": calibration})[:32]
    config_key = f"{bundle.selection_sha256[:32]}.{key}"
    tags = {"fer.kind": "export", "fer.calibration_in_sample": str(calibration["in_sample"]).lower()}
    tags |= {"fer.source_run": source.run_id} if source.run_id else {}
    with run.sibling(f"{source.name.partition('  on  ')[0]} · calibrated", time.time()) as exported:
        exported.log_params({key: value for key, value in source.params_with({}).items()})
        with tempfile.TemporaryDirectory(prefix="calibrated.") as folder:
            calibrated = write_calibrated(Path(folder) / FOLDER, bundle, result.fit.apply(inputs), calibration)
            publish_bundle(exported, calibrated, config_key, tags)
    click.echo(f"exported run {exported.run_id}", err=True)
    return exported.run_id
