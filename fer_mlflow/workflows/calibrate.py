"""`calibrate`: fit a temperature, or biases, and measure what it changes on rows that it was not fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_mlflow import calibration
from fer_mlflow.calibration import OK, TemperatureFit
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.figures.scores import draw_reliability
from fer_mlflow.files import sha256_of_json
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.evaluation import Evaluation, evaluate as evaluate_logits, expected_calibration_error
from fer_mlflow.settings.scoring import CalibrateSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.ensemble import calibrated, rows_of_fit
from fer_mlflow.tracking import bundles
from fer_mlflow.tracking.runs import TrackedRun, metric_keys
from fer_mlflow.workflows import SoftLabelsResult, warn, workflow
from fer_mlflow.workflows.evaluate import SEED, check_labelled, read_slices
from fer_mlflow.workflows.export import Ensemble, log_export
from fer_mlflow.workflows.sources import Source, read_run_or_folder, read_source, source_run


@dataclass(frozen=True)
class Calibration:
    """What was fitted, on which rows, and what it does to others.

    By column and value, `by_slice` has the temperature of these rows alone, and how many they are, with their nll and
    ece before and after the common calibration.
    """

    fit: Any  # of all rows that may be fitted on; it has `status`, `explanation` and `apply`
    fitted: dict[str, Any]  # the same as JSON-able values
    protocol: str  # how fitting and measuring were kept apart, in words
    is_in_sample: bool  # whether `after` is measured on the rows that were fitted on
    fitted_on: dict[str, Any]
    before: Evaluation
    after: Evaluation | None  # None where there was nothing to fit
    by_slice: dict[str, dict[str, tuple[TemperatureFit, dict[str, float]]]]


@dataclass(frozen=True, kw_only=True, repr=False)
class CalibrateResult(SoftLabelsResult):
    """A calibration of soft labels.

    Attributes
    ----------
    method : what was fitted
    calibration : the fit, and scores before and after
    metrics : name -> number, as they are logged
    exported_run : the run with the calibrated soft labels; empty where they were not exported
    """

    method: str
    calibration: Calibration
    metrics: dict[str, float]
    exported_run: str = ""


@workflow(CalibrateSettings)
def calibrate(settings: CalibrateSettings, progress: Progress = no_progress) -> CalibrateResult:
    """Fit a temperature by maximum likelihood, and measure what it changes on rows that it was not fitted on.

    Raises FerError: the soft labels cannot be had, no row has a label, or `fit_run` has another ensemble or the
    same rows. JobError: nothing could be fitted, and the calibrated soft labels were to be exported.
    """
    found = read_source(settings)
    other = read_run_or_folder(settings.fit_run) if settings.fit_run else None
    if other is not None:
        check_fit_source(found, other)
    known = check_labelled(found)
    parts = {column: read_slices(found, column, known) for column in settings.by}
    marks = ["per teacher"] * settings.per_teacher + ["in-sample"] * settings.in_sample
    marks += [f"fitted on {other.bundle.benchmark}"] if other else []
    with source_run("calibrate", settings, found, progress, settings.method, *marks) as (run, source):
        bundle = source.bundle
        inputs = _inputs(source, settings.per_teacher)
        result = _calibrate(source, inputs, known, parts, other, settings)
        metrics = _metrics(result)
        run.log(metrics=metrics)
        if result.after is not None:
            panels = {"before": result.before, "after": result.after}
            figure = draw_reliability(
                {when: (each.confidence, each.correct) for when, each in panels.items()},
                null={when: each.ece_null_p95 for when, each in panels.items()},
            )
            run.log_figure("reliability.png", figure)
        run.log(
            tags={
                "fer.temperature_status": result.fit.status,
                "fer.temperature_explanation": result.fit.explanation,
                "fer.calibration_protocol": result.protocol,
                "fer.calibration_in_sample": str(result.is_in_sample).lower(),
            }
        )
        exported = _export(source, inputs, result, settings, run) if settings.export else ""
        links = {**source.links, "fitted on": other.run_id if other else "", "exported": exported}
        run.describe(_describe(result, settings.method), f"{bundles.describe_rows(bundle)} · {result.protocol}", links)
    return CalibrateResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=bundle,
        method=settings.method,
        calibration=result,
        metrics=metrics,
        exported_run=exported,
    )


def check_fit_source(found: Source | Ensemble, other: Source) -> None:
    """Check that what is fitted on one bundle makes sense on another: the same ensemble on other rows.

    Of an ensemble whose logits are not computed yet, this checks what is known before.
    """
    check_labelled(other)
    own: SoftLabels | Ensemble = found.bundle if isinstance(found, Source) else found
    if isinstance(own, SoftLabels):
        classes, selection = own.classes, own.selection_sha256
    else:
        classes, selection = own.benchmark.classes.names, own.benchmark.selection_sha256
    fitted = other.bundle
    if classes != fitted.classes:
        raise ContractError(f"--fit-run: its classes are {', '.join(fitted.classes)}, not {', '.join(classes)}")
    differ = own.configuration.differences(fitted.configuration)
    differ += ["other checkpoints"] if own.checkpoints != fitted.checkpoints else []
    if differ:
        raise ContractError(f"--fit-run: it is another ensemble ({', '.join(differ)}); fit on a run of the same one")
    if selection == fitted.selection_sha256:
        raise ContractError("--fit-run: it has the same rows; name a run on another split, or use --crossfit 5")


def _inputs(source: Source, per_teacher: bool) -> np.ndarray:
    """Return what is fitted on: the bundle's (N, C) logits, or its teachers' (K, N, C), in order of their names."""
    if not per_teacher:
        return source.bundle.logits.astype(np.float64)
    names = source.bundle.configuration.teachers
    logits = source.teacher_logits()
    if missing := [name for name in names if name not in logits]:
        raise ContractError(
            f"--per-teacher true needs each teacher's logits, and those of {', '.join(missing)} cannot be had from "
            "this source; name an export run whose teacher runs are there, or the ensemble by --manifest, --teachers, "
            "--weights"
        )
    return np.stack([logits[name].astype(np.float64) for name in names])


def _calibrate(
    source: Source,
    inputs: np.ndarray,
    known: np.ndarray,
    parts: Mapping[str, Mapping[str, np.ndarray]],
    other: Source | None,
    settings: CalibrateSettings,
) -> Calibration:
    """Fit, and measure on rows that were not fitted on unless `in_sample` is set."""
    bundle, fitted = source.bundle, (source if other is None else other).bundle
    configuration, labels, mine = bundle.configuration, bundle.labels[known], inputs[..., known, :]
    fit_rows = calibration.fit_of(settings.method, settings.per_teacher, configuration.weights, configuration.space)
    if other is not None:
        check_fit_source(source, other)
        theirs = fitted.labelled
        if shared := int(bundle.index["image_sha256"].isin(fitted.index["image_sha256"][theirs]).sum()):
            warn(f"--fit-run: {shared:,} images are in both benchmarks, so what is measured is partly in-sample")
        fit = fit_rows(_inputs(other, settings.per_teacher)[..., theirs, :], fitted.labels[theirs])
        protocol = f"fitted on {fitted.benchmark}, measured here"
    else:
        fit, protocol = fit_rows(mine, labels), "fitted and measured on the same rows"
    if other is None and not settings.in_sample:
        k = settings.crossfit or 0
        protocol = f"cross-fitted: fitted on {k - 1} of {k} folds, measured on the other"
        folds = calibration.stratified_folds(labels, k, np.random.default_rng(settings.seed))
        scaled, fits = calibration.crossfit(fit_rows, mine, labels, folds)
        if fit.status == OK and scaled is None:
            fit = next(each for each in fits if each.status != OK)
    else:
        scaled = fit.apply(mine) if fit.status == OK else None

    def scored(logits: np.ndarray) -> Evaluation:
        return evaluate_logits(logits, labels, bundle.classes, np.random.default_rng(SEED))

    before, after = scored(bundle.logits[known].astype(np.float64)), None if scaled is None else scored(scaled)
    # One temperature cannot move a prediction, so if it did something is wrong with the numbers.
    moved = 0 if after is None else int((before.predictions != after.predictions).sum())
    if moved and settings.method == "temperature" and not settings.per_teacher:
        why = "logits differ by less than float64 can tell"
        raise JobError(f"{moved:,} predictions changed under a temperature: {why}")
    evaluations = {"before": before, "after": after}
    return Calibration(
        fit=fit,
        fitted=describe_fit(fit, bundle),
        protocol=protocol,
        is_in_sample=settings.in_sample,
        fitted_on=rows_of_fit(fitted),
        before=before,
        after=after,
        by_slice={
            column: {value: _calibrate_slice(bundle, known, rows, evaluations) for value, rows in values.items()}
            for column, values in parts.items()
            if values
        },
    )


def _calibrate_slice(
    bundle: SoftLabels, known: np.ndarray, rows: np.ndarray, evaluations: Mapping[str, Evaluation | None]
) -> tuple[TemperatureFit, dict[str, float]]:
    """Return the temperature of some rows on their own, and their scores in evaluations of all labelled rows."""
    own = rows[known]
    numbers = {"rows": float(own.sum())}
    for when, each in evaluations.items():
        if each is not None:
            numbers[f"{when}/nll"] = float(each.losses[own].mean())
            numbers[f"{when}/ece"] = expected_calibration_error(each.confidence[own], each.correct[own])
    return calibration.fit_temperature(bundle.logits[rows], bundle.labels[rows]), numbers


def _export(
    source: Source, inputs: np.ndarray, result: Calibration, settings: CalibrateSettings, run: TrackedRun
) -> str:
    """Log the calibrated soft labels as an export run of their own, and return its id."""
    if result.fit.status != OK:
        raise JobError(f"--export: there is nothing to export, {result.fit.explanation} ({result.fit.status})")
    bundle = source.bundle
    section = {
        "method": settings.method + (" per teacher" if settings.per_teacher else ""),
        **result.fitted,
        "fitted_on": result.fitted_on,
        "in_sample": not settings.fit_run,
    }
    own = sha256_of_json({"source": bundle.sha256, "calibration": section})[:32]
    key = f"{bundle.selection_sha256[:32]}.{own}"
    tags = {"fer.calibration_in_sample": str(section["in_sample"]).lower()}
    tags |= {"fer.source_run": source.run_id} if source.run_id else {}
    return log_export(run, calibrated(bundle, result.fit.apply(inputs), section), key, source.inputs, tags)


def describe_fit(fit: Any, bundle: SoftLabels) -> dict[str, Any]:
    """Return what was fitted as JSON-able values: temperatures, scales and biases, or coefficients."""
    if fit.status != OK:
        return {}
    teachers, classes = bundle.configuration.teachers, bundle.classes
    if isinstance(fit, TemperatureFit):
        return {"temperature": fit.temperature, "temperature_se": fit.standard_error}
    if isinstance(fit, calibration.AffineFit):
        one = {"temperature": float(1 / fit.scale[0])} if (fit.scale == fit.scale[0]).all() else {}
        scale = {} if one else {"scale": dict(zip(classes, fit.scale.tolist(), strict=True))}
        return {**one, **scale, "bias": dict(zip(classes, fit.bias.tolist(), strict=True))}
    if isinstance(fit, calibration.CoefficientsFit):
        shares = bundle.configuration.weights
        each = dict(zip(teachers, fit.coefficients.tolist(), strict=True))
        return {
            "temperature": float(1 / fit.coefficients.sum()),
            "coefficient": each,
            "teacher_temperature": {name: shares[name] / a for name, a in each.items() if a > 0},
        }
    temperatures = dict(zip(teachers, fit.temperatures.tolist(), strict=True))
    return {"temperature": fit.pool.temperature, "teacher_temperature": temperatures}


def _describe(result: Calibration, method: str) -> str:
    """Return what was fitted and what it changed; where nothing was, why."""
    if result.after is None:
        return f"{result.fit.status}: {result.fit.explanation}"
    error = f" ± {result.fitted['temperature_se']:.4f}" if "temperature_se" in result.fitted else ""
    fitted = [f"T **{result.fitted['temperature']:.4f}**{error}"] if "temperature" in result.fitted else []
    pairs = ((name, result.before.metrics[name], result.after.metrics[name]) for name in ("nll", "ece"))
    return " · ".join([method, *fitted, *(f"{name} {before:.4f} → **{after:.4f}**" for name, before, after in pairs)])


def _metrics(result: Calibration) -> dict[str, float]:
    """Return the run's metrics: what was fitted, `before/` and `after/` of every score, and slices."""
    metrics = {"rows": float(len(result.before.predictions))}
    for name, fitted in result.fitted.items():
        metrics |= metric_keys({name: fitted}, *["fit"] * isinstance(fitted, dict))
    for when, each in (("before", result.before), ("after", result.after)):
        named = {} if each is None else each.named()
        metrics |= metric_keys({name: value for name, value in named.items() if not name.startswith("ci95/")}, when)
    for column, values in result.by_slice.items():
        for value, (fit, numbers) in values.items():
            own = {"temperature": fit.temperature, "temperature_se": fit.standard_error}  # NaN where there is none
            metrics |= metric_keys(numbers | own, "slices", column, value or "none")
    return metrics
