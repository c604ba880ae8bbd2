"""`export`: from a manifest and teachers to a tracked, verified soft-label bundle."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.scoring import ExportSettings


@workflow_command("export", ExportSettings)
def command(result) -> Iterator[str]:
    """Compute teachers' logits on a benchmark, fuse them, and log the soft labels as an MLflow run.

    Logits that were computed before on the same rows with the same preprocessing are reused.
    """
    yield f"{result.name}, {len(result.soft_labels):,} rows\n"
    if result.metrics:
        yield from metrics_lines(result.metrics)
    else:
        yield "  no row has a label: soft labels are exported, metrics are left out"
    yield ""
    for name, run_id in result.teacher_runs.items():
        how = "computed, kept as" if name in result.computed else "reused from"
        yield f"  teacher  {name} {how} run {run_id}"
    yield from where_lines(result, bundle=result.location, copy=result.out)


def metrics_lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield metrics in lines of two columns: scores on the left, F1 of each class on the right."""
    left = [(name, value) for name, value in metrics.items() if not name.startswith("f1/")]
    right = [(name, value) for name, value in metrics.items() if name.startswith("f1/")]
    width = max(map(len, metrics))
    for pair in zip_longest(left, right, fillvalue=("", 0.0)):
        yield ("  " + "    ".join(f"{name:<{width}} {value:7.4f}" for name, value in pair if name)).rstrip()
