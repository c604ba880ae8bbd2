"""`evaluate`, `inspect` and `compare`: how good and how peaked soft labels are, and whether two of them differ."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.errors import ContractError, FerError, ImageError
from fer_mlflow.figures import scores as figures
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring import evaluation as scoring, significance
from fer_mlflow.scoring.metrics import DEFAULT, row_losses, score
from fer_mlflow.settings.scoring import CompareSettings, EvaluateSettings, InspectSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import SharedRows, find_shared_rows
from fer_mlflow.tracking import bundles, models
from fer_mlflow.tracking.records import SIGNIFICANT
from fer_mlflow.tracking.runs import TrackedRun, metric_key, metric_keys, open_run
from fer_mlflow.workflows import RunResult, SoftLabelsResult, may_log_images, warn, workflow
from fer_mlflow.workflows.export import Ensemble
from fer_mlflow.workflows.sources import Source, read_run_or_folder, read_source, source_run

MOST_SLICES = 50
MOST_MISTAKES = 30
_KEPT = 150  # characters of a value that surely fit into a metric's name
SEED = bundles.SEED
_LOGGED = ("benchmark", "weights", "space", "dtype", "calibration", "clahe")  # of each protocol, as params of `compare`
STATISTICS = ("mean", "median", "p90", "p99", "entropy", "nearly_sure")  # of the top probability


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluateResult(SoftLabelsResult):
    """Scores of soft labels.

    Attributes
    ----------
    temperature : what the logits were divided by
    evaluation : scores of the labelled rows, with intervals
    slices : column -> value -> metrics and the number of rows
    metrics : name -> number, as they are logged
    figures : names of the artifacts that show them
    predictions_location : where the table of every row's prediction is
    """

    temperature: float
    evaluation: scoring.Evaluation
    slices: dict[str, dict[str, dict[str, float]]]
    metrics: dict[str, float]
    figures: tuple[str, ...]
    predictions_location: str


@workflow(EvaluateSettings)
def evaluate(settings: EvaluateSettings, progress: Progress = no_progress) -> EvaluateResult:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows.

    Raises FerError: the soft labels cannot be had, no row has a label, or a column cannot be sliced by.
    """
    log_images = may_log_images(settings)
    found = read_source(settings)
    known = check_labelled(found)
    parts = {column: read_slices(found, column, known) for column in settings.by}
    temperature = settings.temperature
    at = [f"T {temperature:g}"] if temperature != 1 else []
    with source_run("evaluate", settings, found, progress, *at) as (run, source):
        bundle = source.bundle
        logits = bundle.logits.astype(np.float64) / temperature
        evaluation = scoring.evaluate(logits[known], bundle.labels[known], bundle.classes, np.random.default_rng(SEED))

        def scored(rows: np.ndarray) -> dict[str, float]:
            return {"rows": float(rows.sum()), **score(logits[rows], bundle.labels[rows], bundle.classes)}

        sliced = {name: {value: scored(rows) for value, rows in values.items()} for name, values in parts.items()}
        metrics = evaluation.named() | metric_keys(sliced, "slices")
        run.log(metrics=metrics)
        verdict = " · ".join([bundles.describe_scores(evaluation.metrics, evaluation.intervals[DEFAULT]), *at])
        run.describe(verdict, bundles.describe_rows(bundle), source.links)
        pngs = _draw_figures(bundle, evaluation, known)
        predictions = _predictions_table(source, logits)
        run.log_table("predictions", predictions)
        mistakes = _draw_most_confident_mistakes(source, predictions) if log_images else None
        pngs |= {} if mistakes is None else {"mistakes.png": mistakes}
        for file, png in pngs.items():
            run.log_figure(file, png)
    if unlabelled := len(bundle) - len(evaluation.predictions):
        warn(f"{unlabelled:,} rows have no label and are left out")
    return EvaluateResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=bundle,
        temperature=temperature,
        evaluation=evaluation,
        slices=sliced,
        metrics=metrics,
        figures=tuple(pngs),
        predictions_location=run.artifact_location("tables/predictions.parquet"),
    )


def check_labelled(found: Source | Ensemble) -> np.ndarray:
    """Return the (N,) bool mask of rows with a label; there has to be one."""
    known = found.labels >= 0
    if not known.any():
        raise ContractError(f"{found.name}: no row has a label, so there is nothing to score; `inspect` needs none")
    return known


def read_slices(found: Source | Ensemble, column: str, known: np.ndarray) -> dict[str, np.ndarray]:
    """Return value -> (N,) bool mask of the labelled rows that have it in a column; nothing where all have the same."""
    values = found.column(column)
    parts = {value: known & (values == value) for value in sorted(set(values[known]))}
    if len(parts) > MOST_SLICES:
        raise ContractError(f"--by {column}: {len(parts):,} different values; name a column of at most {MOST_SLICES}")
    keys: dict[str, str] = {}
    for value in parts:
        other = keys.setdefault(metric_key(value or "none")[:_KEPT], value)
        if other != value:
            raise ContractError(f"--by {column}: metrics of {other!r} and {value!r} would have one name; rename one")
    return parts if len(parts) > 1 else {}


def _draw_figures(bundle: SoftLabels, result: scoring.Evaluation, known: np.ndarray) -> dict[str, bytes]:
    """Return the figures under the names that every run has, so that the UI lays them side by side."""
    confusion, precision, recall = scoring.class_scores(bundle.labels[known], result.predictions, len(bundle.classes))
    of_class, none = [f"f1/{name}" for name in bundle.classes], significance.Interval(np.nan, np.nan)
    scores = {
        "precision": precision,
        "recall": recall,
        "f1": [result.metrics.get(name, np.nan) for name in of_class],
        "f1_low": [result.intervals.get(name, none).low for name in of_class],
        "f1_high": [result.intervals.get(name, none).high for name in of_class],
        "support": confusion.sum(axis=1),
    }
    rows, title = (bundle.labels[known], result.predictions, result.confidence), bundle.benchmark
    common = figures.draw_predictions(rows, bundle.classes, title, {title: result.ece_null_p95})
    return common | {"class_scores.png": figures.draw_class_scores(pd.DataFrame(scores, index=bundle.classes))}


def _predictions_table(source: Source, logits: np.ndarray) -> pd.DataFrame:
    """Return one row for each of the bundle's: the prediction, its confidence, and each teacher's prediction.

    `loss` is -log p of the label in nats, and `correct` whether it is the prediction; both are empty without a label.
    """
    bundle = source.bundle
    names = np.array(bundle.classes, dtype=object)
    predictions = logits.argmax(axis=1)
    known = bundle.labels >= 0
    loss = row_losses(logits, np.where(known, bundle.labels, 0))
    table = bundle.index[["row", "path", "label", "split", "source"]].assign(
        prediction=names[predictions],
        confidence=np.exp(-row_losses(logits, predictions)),
        correct=pd.array(np.where(known, bundle.labels == predictions, None), dtype="boolean"),
        loss=np.where(known, loss, np.nan),
    )
    for name, teacher in sorted(source.teacher_logits().items()):
        table[f"teacher/{name}"] = names[teacher.argmax(axis=1)]
    return table


def _draw_most_confident_mistakes(source: Source, predictions: pd.DataFrame) -> bytes | None:
    """Return a PNG of the wrong rows with the greatest confidence; None where there are none or no images.

    Images that changed since the logits were computed are left out.
    """
    wrong = predictions[predictions["correct"].eq(False).fillna(False).astype(bool)]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable").head(MOST_MISTAKES)
    root = source.root()
    if wrong.empty or root is None:
        return None
    images, captions, missing = [], [], 0
    for at, row in wrong.iterrows():
        try:
            data = read_image_bytes(root, row["path"])
            if hashlib.sha256(data).hexdigest() != source.bundle.index["image_sha256"].iloc[at]:
                raise ImageError("another image")
            images.append(decode_image(data)[:, :, ::-1])
            captions.append(f"label {row['label']}\npredicted {row['prediction']} {row['confidence']:.2f}")
        except ImageError:
            missing += 1
        except FerError as error:
            warn(f"mistakes.png is left out: {error}")
            return None
    if missing:
        warn(f"{missing} of the {len(wrong)} most confident mistakes are not under {root} any more, or changed")
    return figures.draw_mistakes(images, captions) if images else None


@dataclass(frozen=True, kw_only=True, repr=False)
class InspectResult(SoftLabelsResult):
    """How peaked soft labels are.

    Attributes
    ----------
    sharpness : statistics of the top probability at each temperature
    band : the mean top probabilities that suit distillation, lowest and highest
    recommended : temperatures whose mean top probability lies in the band; None where there are none
    """

    sharpness: scoring.Sharpness
    band: tuple[float, ...]
    recommended: tuple[float, float] | None


@workflow(InspectSettings)
def inspect(settings: InspectSettings, progress: Progress = no_progress) -> InspectResult:
    """Measure how peaked softmax(z / T) is over temperatures, and which of them suit distillation."""
    with source_run("inspect", settings, read_source(settings), progress) as (run, source):
        bundle, band = source.bundle, (settings.band[0], settings.band[1])
        recommended = scoring.recommended_temperatures(bundle.logits, band)
        sharpness = scoring.measure_sharpness(bundle.logits, np.array(settings.temperatures))
        overall = {name: getattr(sharpness, name) for name in STATISTICS}
        columns = zip(bundle.classes, sharpness.mean_by_class.T, strict=True)
        by_class = {f"mean/{name}": column for name, column in columns}
        table = pd.DataFrame({"temperature": sharpness.temperatures, **overall, **by_class})
        metrics = metric_keys({f"T {row.pop('temperature'):g}": row for row in table.to_dict("records")}, "sharpness")
        metrics["rows"], verdict = len(bundle), "no temperature suits distillation: the logits are constant or tied"
        if recommended is not None:
            metrics["recommended_temperature_low"], metrics["recommended_temperature_high"] = low, high = recommended
            verdict = (
                f"recommended T **{low:.2f} to {high:.2f}**, for a mean top probability of {band[1]:g} to {band[0]:g}"
            )
        run.log(metrics=metrics)
        run.describe(verdict, bundles.describe_rows(bundle), source.links)
        run.log_table("sharpness", table)
        figure = figures.draw_sharpness(sharpness, bundle.classes, band=band, recommended=recommended)
        run.log_figure("sharpness.png", figure)
    return InspectResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=bundle,
        sharpness=sharpness,
        band=settings.band,
        recommended=recommended,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareResult(RunResult):
    """Two sets of soft labels side by side.

    Attributes
    ----------
    a, b : what is compared
    protocols : how each was made, line by line
    verdict : whether they may be compared, and why
    comparison : differences on the shared rows; None where they may not be compared
    counts : shared labelled rows, those with another prediction, and those of them that one side alone has right
    table : each metric of A, of B, and their difference
    changed_rows_location : where the table of rows with another prediction is
    """

    a: Source
    b: Source
    protocols: tuple[dict[str, str], dict[str, str]]
    verdict: str
    comparison: significance.Comparison | None
    counts: dict[str, int]
    table: pd.DataFrame | None
    changed_rows_location: str


@workflow(CompareSettings)
def compare(settings: CompareSettings, progress: Progress = no_progress) -> CompareResult:
    """Set two runs' soft labels side by side: how they were made, then, where that allows it, their scores."""
    a, b = read_run_or_folder(settings.run_a), read_run_or_folder(settings.run_b)
    protocols = a.bundle.protocol, b.bundle.protocol
    shared = find_shared_rows(a.bundle, b.bundle)
    comparison = table = None
    named = a.bundle.configuration.name if a.bundle.benchmark == b.bundle.benchmark else a.bundle.run_name()
    name = settings.name or f"compare · {named}  with  {b.bundle.run_name()}"
    with open_run("compare", name, settings.experiment) as run:
        differ = [label for label in protocols[0] if protocols[0][label] != protocols[1][label]]
        sides = zip("ab", protocols, strict=True)
        run.log(settings.params | {f"{side}/{name}": own[name] for side, own in sides for name in _LOGGED})
        tags = {"fer.verdict": shared.verdict, "fer.protocol_differences": ", ".join(differ) or "none"}
        run.log_inputs([model for each in (a, b) for model in models.inputs_of(run, each.bundle)])
        verdict = shared.verdict
        if shared.is_comparable:
            comparison, table = _compare(run, a, b, shared)
            tags |= a.tags() if a.bundle.selection_sha256 == b.bundle.selection_sha256 else {}
            each = comparison.differences[DEFAULT]
            better = f"{'B' if each.value > 0 else 'A'} is better"
            verdict = better if each.p_value < SIGNIFICANT else "not significantly different"
            numbers = f"{bundles.describe_difference(each)}, {len(comparison.labels):,} shared rows"
            verdict = f"**{verdict}**: {DEFAULT} B − A {numbers}"
        tags |= {"fer.source_run_a": a.run_id or "folder", "fer.source_run_b": b.run_id or "folder"}
        run.describe(verdict, f"A: {a.name} · B: {b.name}", {"A": a.run_id, "B": b.run_id}, **tags)
    return CompareResult(
        run_id=run.run_id,
        ui=run.ui,
        a=a,
        b=b,
        protocols=protocols,
        verdict=shared.verdict,
        comparison=comparison,
        counts=comparison.counts if comparison is not None else {},
        table=table,
        changed_rows_location=run.artifact_location("tables/changed_rows.parquet"),
    )


def _compare(run: TrackedRun, a: Source, b: Source, shared: SharedRows) -> tuple[significance.Comparison, pd.DataFrame]:
    """Compare A and B on the shared rows, and log their metrics, the differences, and the rows that changed."""
    bundle, classes, labels = a.bundle, a.bundle.classes, a.bundle.labels[shared.rows_a]
    logits_a = bundle.logits[shared.rows_a].astype(np.float64)
    logits_b = b.bundle.logits[shared.rows_b].astype(np.float64)[:, shared.columns_b]
    comparison = significance.compare_logits(logits_a, logits_b, labels, classes, np.random.default_rng(SEED))
    scores_a, scores_b = (score(logits, labels, classes) for logits in (logits_a, logits_b))
    lines = [
        (name, scores_a[name], scores_b[name], each.value, each.interval.low, each.interval.high, each.p_value)
        for name, each in comparison.differences.items()
    ]
    table = pd.DataFrame(lines, columns=["metric", "a", "b", "difference", "low", "high", "p_value"])
    changed, names = comparison.changed, np.array(classes, dtype=object)
    rows = bundle.index.iloc[shared.rows_a[changed]][["row", "path", "label", "split", "source"]]
    predictions = {"prediction_a": comparison.predictions_a, "prediction_b": comparison.predictions_b}
    predictions = {name: names[each[changed]] for name, each in predictions.items()}
    run.log_benchmark(bundle.benchmark, bundle)
    metrics = {"rows": float(len(labels)), "changed_rows": float(changed.sum())}
    ends = {"": "difference", "/low": "low", "/high": "high", "/p": "p_value"}
    numbers = table.set_index("metric").to_dict()
    differences = {f"{name}{end}": numbers[column][name] for name in numbers["a"] for end, column in ends.items()}
    run.log(metrics=metrics | metric_keys({"a": numbers["a"], "b": numbers["b"], "difference": differences}))
    run.log_table("differences", table)
    run.log_table("changed_rows", rows.reset_index(drop=True).assign(**predictions))
    run.log_figure("differences.png", figures.draw_differences(table, runs=(a.name, b.name)))
    return comparison, table
