"""`compare`: may two results be compared, and is the difference real?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.figures.scores import draw_differences
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.significance import Comparison, compare_logits
from fer_mlflow.settings import params_of
from fer_mlflow.settings.scoring import CompareSettings
from fer_mlflow.softlabels.rows import SharedRows, find_shared_rows
from fer_mlflow.tracking.runs import TrackedRun, metric_keys, open_run
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.evaluate import SEED
from fer_mlflow.workflows.sources import Source, read_run_or_folder

_LOGGED = ("benchmark", "weights", "space", "dtype", "calibration", "clahe")  # of each protocol, as params


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareResult(RunResult):
    """Two sets of soft labels side by side.

    Attributes
    ----------
    a, b : what is compared
    protocols : how each was made, line by line
    verdict : whether they may be compared, and why
    comparison : differences on the shared rows; None where they may not be compared
    table : each metric of A, of B, and their difference
    changed_rows_location : where the table of rows with another prediction is
    """

    a: Source
    b: Source
    protocols: tuple[dict[str, str], dict[str, str]]
    verdict: str
    comparison: Comparison | None
    table: pd.DataFrame | None
    changed_rows_location: str


@workflow(CompareSettings)
def compare(settings: CompareSettings, progress: Progress = no_progress) -> CompareResult:
    """Set two runs' soft labels side by side: how they were made, then, where that allows it, their scores."""
    a, b = read_run_or_folder(settings.run_a), read_run_or_folder(settings.run_b)
    protocols = a.bundle.protocol, b.bundle.protocol
    shared = find_shared_rows(a.bundle, b.bundle)
    comparison = table = None
    with open_run("compare", settings.name or f"compare · {a.name}  with  {b.name}", settings.experiment) as run:
        differ = [label for label in protocols[0] if protocols[0][label] != protocols[1][label]]
        sides = zip("ab", protocols, strict=True)
        run.log_params(params_of(settings) | {f"{side}/{name}": own[name] for side, own in sides for name in _LOGGED})
        tags = {"fer.verdict": shared.verdict, "fer.protocol_differences": ", ".join(differ) or "none"}
        if shared.is_comparable:
            comparison, table = _compare(run, a, b, shared)
            tags |= a.tags() if a.bundle.selection_sha256 == b.bundle.selection_sha256 else {}
        run.set_tags(tags | {"fer.source_run_a": a.run_id or "folder", "fer.source_run_b": b.run_id or "folder"})
    return CompareResult(
        run_id=run.run_id,
        ui=run.ui,
        a=a,
        b=b,
        protocols=protocols,
        verdict=shared.verdict,
        comparison=comparison,
        table=table,
        changed_rows_location=run.artifact_location("tables/changed_rows.parquet"),
    )


def _compare(run: TrackedRun, a: Source, b: Source, shared: SharedRows) -> tuple[Comparison, pd.DataFrame]:
    """Compare A and B on the shared rows, and log their metrics, the differences, and the rows that changed."""
    bundle, classes, labels = a.bundle, a.bundle.classes, a.bundle.labels[shared.rows_a]
    logits_a = bundle.logits[shared.rows_a].astype(np.float64)
    logits_b = b.bundle.logits[shared.rows_b].astype(np.float64)[:, shared.columns_b]
    comparison = compare_logits(logits_a, logits_b, labels, classes, np.random.default_rng(SEED))
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
    run.log_metrics(metrics | metric_keys(table.set_index("metric").to_dict()))
    run.log_table("differences", table)
    run.log_table("changed_rows", rows.reset_index(drop=True).assign(**predictions))
    run.log_figure("differences.png", draw_differences(table, runs=(a.name, b.name)))
    return comparison, table
