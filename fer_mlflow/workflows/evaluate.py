"""`evaluate` and `inspect`: how good soft labels are and how sure that is, and how peaked they are."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.errors import ContractError, ImageError
from fer_mlflow.figures.scores import draw_class_scores, draw_confusion, draw_mistakes, draw_reliability, draw_sharpness
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring import evaluation as scoring
from fer_mlflow.scoring.evaluation import Evaluation, Sharpness
from fer_mlflow.scoring.metrics import row_losses, score
from fer_mlflow.scoring.significance import Interval
from fer_mlflow.settings.scoring import EvaluateSettings, InspectSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.tracking.runs import metric_key, metric_keys
from fer_mlflow.workflows import SoftLabelsResult, workflow
from fer_mlflow.workflows.ensemble import Ensemble, warn
from fer_mlflow.workflows.sources import Source, read_source, source_run

MOST_SLICES = 50
MOST_MISTAKES = 30
_KEPT = 150  # characters of a value that surely fit into a metric's name
SEED = 0  # of the resampling: the same bundle gives the same intervals
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
    evaluation: Evaluation
    slices: dict[str, dict[str, dict[str, float]]]
    metrics: dict[str, float]
    figures: tuple[str, ...]
    predictions_location: str


@workflow(EvaluateSettings)
def evaluate(settings: EvaluateSettings, progress: Progress = no_progress) -> EvaluateResult:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows.

    Raises
    ------
    FerError
        the soft labels cannot be had, no row has a label, or a column cannot be sliced by
    """
    found = read_source(settings)
    known = check_labelled(found)
    parts = {column: read_slices(found, column, known) for column in settings.by}
    temperature = settings.temperature
    at = f" · T {temperature:g}" if temperature != 1 else ""
    with source_run("evaluate", settings, found, progress, at) as (run, source):
        bundle = source.bundle
        logits = bundle.logits.astype(np.float64) / temperature
        evaluation = scoring.evaluate(logits[known], bundle.labels[known], bundle.classes, np.random.default_rng(SEED))
        sliced = {
            column: {
                value: {"rows": float(rows.sum()), **score(logits[rows], bundle.labels[rows], bundle.classes)}
                for value, rows in values.items()
            }
            for column, values in parts.items()
        }
        metrics = evaluation.named() | metric_keys(sliced)
        run.log_metrics(metrics)
        figures = _draw_figures(bundle, evaluation, known)
        predictions = _predictions_table(source, logits)
        run.log_table("predictions", predictions)
        mistakes = _draw_most_confident_mistakes(source, predictions)
        figures |= {} if mistakes is None else {"mistakes.png": mistakes}
        for file, png in figures.items():
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
        figures=tuple(figures),
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


def _draw_figures(bundle: SoftLabels, result: Evaluation, known: np.ndarray) -> dict[str, bytes]:
    """Return the figures under the names that every run has, so that the UI lays them side by side."""
    confusion, precision, recall = scoring.class_scores(bundle.labels[known], result.predictions, len(bundle.classes))
    of_class, none = [f"f1/{name}" for name in bundle.classes], Interval(np.nan, np.nan)
    scores = {
        "precision": precision,
        "recall": recall,
        "f1": [result.metrics.get(name, np.nan) for name in of_class],
        "f1_low": [result.intervals.get(name, none).low for name in of_class],
        "f1_high": [result.intervals.get(name, none).high for name in of_class],
        "support": confusion.sum(axis=1),
    }
    title = bundle.benchmark
    reliability = {title: (result.confidence, result.correct)}
    return {
        "reliability.png": draw_reliability(reliability, null={title: result.ece_null_p95}),
        "confusion_matrix.png": draw_confusion(confusion, bundle.classes),
        "class_scores.png": draw_class_scores(pd.DataFrame(scores, index=bundle.classes)),
    }


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
            captions.append(f"{row['label']}, not {row['prediction']} {row['confidence']:.2f}")
        except ImageError:
            missing += 1
    if missing:
        warn(f"{missing} of the {len(wrong)} most confident mistakes are not under {root} any more, or changed")
    return draw_mistakes(images, captions) if images else None


@dataclass(frozen=True, kw_only=True, repr=False)
class InspectResult(SoftLabelsResult):
    """How peaked soft labels are.

    Attributes
    ----------
    sharpness : statistics of the top probability at each temperature
    band : the mean top probabilities that suit distillation, lowest and highest
    recommended : temperatures whose mean top probability lies in the band; None where there are none
    """

    sharpness: Sharpness
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
        metrics = metric_keys({f"T {row.pop('temperature'):g}": row for row in table.to_dict("records")})
        if recommended is not None:
            metrics["recommended_temperature_low"], metrics["recommended_temperature_high"] = recommended
        run.log_metrics(metrics)
        run.log_table("sharpness", table)
        figure = draw_sharpness(sharpness, bundle.classes, band=band, recommended=recommended)
        run.log_figure("sharpness.png", figure)
    return InspectResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=bundle,
        sharpness=sharpness,
        band=settings.band,
        recommended=recommended,
    )
