"""What `evaluate` does, apart from its options, so that `--help` imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

import click
import numpy as np
import pandas as pd

from fer_mlflow.commands.mistakes import draw_most_confident_mistakes
from fer_mlflow.commands.options import source_settings, split_names
from fer_mlflow.errors import ContractError
from fer_mlflow.figures import draw_class_scores, draw_confusion, draw_reliability
from fer_mlflow.scoring.evaluation import Evaluation, slices
from fer_mlflow.scoring.evaluation import evaluate as evaluate_logits
from fer_mlflow.scoring.metrics import confusion_matrix, precision_and_recall, row_losses, score
from fer_mlflow.tracking.runs import TrackedRun, metric_key, open_run
from fer_mlflow.tracking.store import describe_way_to_ui
from fer_mlflow.workflows.ensemble import Ensemble, warn
from fer_mlflow.workflows.sources import Source, opened_source, read_source, source_name

MOST_SLICES = 50
_KEPT = 150  # characters of a value that surely fit into a metric's name
SEED = 0  # of the resampling: the same bundle gives the same intervals
_SHOWN = ("accuracy", "macro_f1", "nll", "ece")


def evaluate(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    found = read_source(source_settings(options, typed))
    known = check_labelled(found)
    parts = {column: read_slices(found, column, known) for column in split_names(options["by"])}
    temperature = options["temperature"]
    name = options["name"] or f"evaluate · {source_name(found)}" + (f" · T {temperature:g}" if temperature != 1 else "")
    with open_run("evaluate", name, options["experiment"] or "") as run, opened_source(found, run, typed) as source:
        bundle = source.bundle
        run.log_params(source.params_with(typed))
        benchmark = bundle.report["benchmark"]["name"]
        run.log_benchmark(benchmark, bundle.selection_sha256, bundle.manifest_sha256, len(bundle))
        logits = bundle.logits.astype(np.float64) / temperature
        result = evaluate_logits(logits[known], bundle.labels[known], np.random.default_rng(SEED))
        sliced = _score_slices(logits, bundle.labels, bundle.classes, parts)
        run.log_metrics(result.named(bundle.classes) | _named_slices(sliced))
        _log_figures(run, bundle, result, known)
        predictions = predictions_table(source, logits)
        run.log_table("predictions", predictions)
        mistakes = draw_most_confident_mistakes(source, predictions)
        if mistakes is not None:
            run.log_figure("mistakes.png", mistakes)
        run.set_tags(source.tags())
    _print_result(source, result, sliced, temperature, run, mistakes is not None)


def check_labelled(found: Source | Ensemble) -> np.ndarray:
    """Return the (N,) bool mask of rows with a label, at least one.

    Raises
    ------
    ContractError
        no row has a label
    """
    known = (found.bundle if isinstance(found, Source) else found.benchmark).labels >= 0
    if not known.any():
        raise ContractError(
            f"{source_name(found)}: no row has a label, so there is nothing to score; `inspect` needs none"
        )
    return known


def read_slices(found: Source | Ensemble, column: str, known: np.ndarray) -> dict[str, np.ndarray]:
    """Return value -> (N,) bool mask of the labelled rows that have it in a column; nothing where all have the same.

    Raises
    ------
    ContractError
        the column is not to be had, or has too many values
    """
    parts = dict(slices(found.column(column), known))
    if len(parts) > MOST_SLICES:
        raise ContractError(f"--by {column}: {len(parts):,} different values; name a column of at most {MOST_SLICES}")
    keys: dict[str, str] = {}
    for value in parts:
        other = keys.setdefault(metric_key(value or "none")[:_KEPT], value)
        if other != value:
            raise ContractError(f"--by {column}: metrics of {other!r} and {value!r} would have one name; rename one")
    return parts if len(parts) > 1 else {}


def _score_slices(logits, labels, classes, parts) -> dict[str, dict[str, dict[str, float]]]:
    """Return column -> value -> metrics, with the number of rows."""
    return {
        column: {
            value: {"rows": float(rows.sum()), **score(logits[rows], labels[rows]).named(classes)}
            for value, rows in values.items()
        }
        for column, values in parts.items()
    }


def _named_slices(sliced) -> dict[str, float]:
    """Return the metrics of slices under `<column>/<value>/<metric>`."""
    named: dict[str, float] = {}
    for column, values in sliced.items():
        for value, metrics in values.items():
            for name, number in metrics.items():
                named[metric_key(column, value or "none", *name.split("/"))] = number
    return named


def _log_figures(run: TrackedRun, bundle, result: Evaluation, known: np.ndarray) -> None:
    """Log the figures under the names that every run has, so that the UI lays them side by side."""
    confusion = confusion_matrix(bundle.labels[known], result.predictions, len(bundle.classes))
    precision, recall = precision_and_recall(confusion)
    f1 = result.intervals.f1
    title = bundle.report["benchmark"]["name"]
    null = {title: result.ece_null_p95}
    run.log_figure("reliability.png", draw_reliability({title: (result.confidence, result.correct)}, null=null))
    run.log_figure("confusion_matrix.png", draw_confusion(confusion, bundle.classes))
    run.log_figure(
        "class_scores.png",
        draw_class_scores(
            precision,
            recall,
            result.metrics.f1,
            np.array([each.low for each in f1]),
            np.array([each.high for each in f1]),
            result.metrics.support,
            bundle.classes,
        ),
    )


def predictions_table(source: Source, logits: np.ndarray) -> pd.DataFrame:
    """Return one row for each of the bundle's: what was predicted, how confidently, and what each teacher said.

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


def _print_result(source, result: Evaluation, sliced, temperature: float, run, has_mistakes: bool) -> None:
    """Print the numbers with their intervals, and where everything is."""
    bundle, intervals = source.bundle, result.intervals
    at = f", T = {temperature:g}" if temperature != 1 else ""
    click.echo(f"{source.name}, {len(result.predictions):,} labelled rows{at}\n")
    if unlabelled := len(bundle) - len(result.predictions):
        warn(f"{unlabelled:,} rows have no label and are left out")
    values = result.named(bundle.classes)
    with_interval = {"accuracy": intervals.accuracy, "macro_f1": intervals.macro_f1}
    with_interval |= {f"f1/{name}": each for name, each in zip(bundle.classes, intervals.f1, strict=True)}
    said = {"ece": f"a calibrated model stays below {result.ece_null_p95:.4f} in 95 of 100 benchmarks"}
    names = [name for name in values if not name.startswith(("ci95/", "ece_null"))]
    width = max(map(len, names))
    for name in sorted(names, key=lambda name: name.startswith("f1/")):
        interval = with_interval.get(name)
        note = f"[{interval.low:.4f}, {interval.high:.4f}]" if interval else said.get(name, "")
        click.echo(f"  {name:<{width}}  {values[name]:7.4f}  {note}".rstrip())
    absent = [name for name, rows in zip(bundle.classes, result.metrics.support, strict=True) if not rows]
    if absent:
        click.echo(f"  no labelled row of {', '.join(absent)}: not in macro_f1")
    for column, parts in sliced.items():
        if not parts:
            continue
        width = max(map(len, [column, *parts]))
        click.echo(f"\n  {column:<{width}}     rows" + "".join(f"  {name:>8}" for name in _SHOWN))
        for value, metrics in parts.items():
            numbers = "".join(f"  {metrics[name]:8.4f}" for name in _SHOWN)
            click.echo(f"  {value or '(empty)':<{width}}  {metrics['rows']:7,.0f}{numbers}")
    figures = "reliability.png, confusion_matrix.png, class_scores.png" + (", mistakes.png" if has_mistakes else "")
    click.echo(f"\n  run      {run.run_id}")
    click.echo(f"  figures  {figures}")
    click.echo(f"  rows     {run.artifact_location('tables/predictions.parquet')}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")
