"""What `compare` does, apart from its options, so that `--help` imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

import click
import numpy as np
import pandas as pd

from fer_mlflow.commands.evaluating import SEED
from fer_mlflow.figures import draw_differences
from fer_mlflow.scoring.comparison import Comparison, compare_logits
from fer_mlflow.scoring.metrics import score
from fer_mlflow.softlabels.protocol import SharedRows, describe_protocol, find_shared_rows
from fer_mlflow.tracking.runs import metric_key, open_run
from fer_mlflow.tracking.store import describe_way_to_ui
from fer_mlflow.workflows.sources import Source, read_run_or_folder

NOT_COMPARABLE = 3  # exit status
_LEVEL = 0.05


def compare(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    a, b = (read_run_or_folder(options[name]) for name in ("run_a", "run_b"))
    protocols = describe_protocol(a.bundle), describe_protocol(b.bundle)
    shared = find_shared_rows(a.bundle, b.bundle)
    name = options["name"] or f"compare · {a.name}  with  {b.name}"
    comparison = table = None
    with open_run("compare", name, options["experiment"] or "") as run:
        differ = [label for label in protocols[0] if protocols[0][label] != protocols[1][label]]
        run.log_params({**{key: text for key, text in typed.items() if text}, **_sides(a, b)})
        tags = {"fer.verdict": shared.verdict, "fer.protocol_differences": ", ".join(differ) or "none"}
        if shared.is_comparable:
            comparison, table = _compare(a, b, shared)
            _log(run, comparison, table, a, b)
            tags |= a.tags() if a.bundle.selection_sha256 == b.bundle.selection_sha256 else {}
        run.set_tags(tags | {"fer.source_run_a": a.run_id or "folder", "fer.source_run_b": b.run_id or "folder"})
    _print_protocols(a, b, protocols)
    click.echo(f"\n{shared.verdict}")
    if comparison is not None and table is not None:
        _print_scores(table)
        _print_changes(comparison)
    click.echo(f"\n  run      {run.run_id}")
    if comparison is not None:
        click.echo(f"  rows     {run.artifact_location('tables/changed_rows.parquet')}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")
    if comparison is None:
        click.get_current_context().exit(NOT_COMPARABLE)


def _sides(a: Source, b: Source) -> dict[str, str]:
    """Return both ensembles as params."""
    return {
        f"{side}/{key}": text
        for side, source in (("a", a), ("b", b))
        for key, text in describe_protocol(source.bundle).items()
        if key in ("benchmark", "weights", "space", "dtype", "calibration", "clahe")
    }


def _compare(a: Source, b: Source, shared: SharedRows) -> tuple[Comparison, pd.DataFrame]:
    """Return the comparison on the shared rows, and each metric of A, of B, and their difference."""
    classes, labels = a.bundle.classes, a.bundle.labels[shared.rows_a]
    logits_a = a.bundle.logits[shared.rows_a].astype(np.float64)
    logits_b = b.bundle.logits[shared.rows_b].astype(np.float64)[:, shared.columns_b]
    comparison = compare_logits(logits_a, logits_b, labels, classes, np.random.default_rng(SEED))
    scores_a, scores_b = (score(logits, labels).named(classes) for logits in (logits_a, logits_b))
    table = pd.DataFrame(
        {
            "metric": name,
            "a": scores_a[name],
            "b": scores_b[name],
            "difference": each.value,
            "low": each.interval.low,
            "high": each.interval.high,
            "p_value": each.p_value,
        }
        for name, each in comparison.differences.items()
    )
    return comparison, table


def _log(run, comparison: Comparison, table: pd.DataFrame, a: Source, b: Source) -> None:
    """Log the differences as metrics, table and figure, and the rows whose prediction changed."""
    bundle = a.bundle
    run.log_benchmark(bundle.report["benchmark"]["name"], bundle.selection_sha256, bundle.manifest_sha256, len(bundle))
    metrics = {"rows": float(len(comparison.labels)), "changed_rows": float(comparison.changed.sum())}
    for row in table.to_dict("records"):
        for key in ("a", "b", "difference", "low", "high", "p_value"):
            if not np.isnan(row[key]):
                metrics[metric_key(key, *row["metric"].split("/"))] = row[key]
    run.log_metrics(metrics)
    run.log_table("differences", table)
    run.log_table("changed_rows", changed_rows(comparison, a, b))
    figure = draw_differences(
        table["metric"].tolist(),
        *(table[key].to_numpy() for key in ("difference", "low", "high", "p_value")),
        runs=(a.name, b.name),
    )
    run.log_figure("differences.png", figure)


def changed_rows(comparison: Comparison, a: Source, b: Source) -> pd.DataFrame:
    """Return the rows on which A and B predict different classes."""
    names = np.array(a.bundle.classes, dtype=object)
    shared = find_shared_rows(a.bundle, b.bundle)
    changed = comparison.changed
    table = a.bundle.index.iloc[shared.rows_a[changed]][["row", "path", "label", "split", "source"]]
    return table.reset_index(drop=True).assign(
        prediction_a=names[comparison.predictions_a[changed]], prediction_b=names[comparison.predictions_b[changed]]
    )


def _print_protocols(a: Source, b: Source, protocols) -> None:
    """Print how both were made, a mark at every line that differs."""
    for side, source in (("A", a), ("B", b)):
        click.echo(f"{side}  {source.name}  ({source.run_id or source.bundle.folder})")
    click.echo()
    for label, text in protocols[0].items():
        other = protocols[1][label]
        if text == other:
            click.echo(f"    {label:<24}{text}")
        else:
            click.echo(f"  ≠ {label:<24}{text}")
            click.echo(f"    {'':<24}{other}")


def _print_scores(table: pd.DataFrame) -> None:
    """Print each metric's difference with its interval and p-value."""
    width = max(map(len, table["metric"]))
    click.echo(f"\n  {'':<{width}}       A       B    B - A  95 % interval            p")
    for row in table.itertuples():
        mark = " *" if row.p_value < _LEVEL else ""
        interval = "none" if np.isnan(row.low) else f"[{row.low:+.4f}, {row.high:+.4f}]"
        click.echo(
            f"  {row.metric:<{width}}  {row.a:6.4f}  {row.b:6.4f}  {row.difference:+.4f}  {interval:<20}  "
            f"{p_value_text(row.p_value):>7}{mark}"
        )
    click.echo(
        "\n  * p below 0.05, every metric on its own: where nothing differs, four in ten tables like this show a star"
    )
    leads = table[table["metric"].isin(["accuracy", "macro_f1"])]
    if not (leads["p_value"] < _LEVEL).any():
        click.echo("  neither accuracy nor macro-F1 tells A and B apart on these rows")


def p_value_text(p_value: float) -> str:
    """Return a p-value to four places, a smaller one as what it is below."""
    return "none" if np.isnan(p_value) else "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def _print_changes(comparison: Comparison) -> None:
    """Print how many rows changed, and in which direction."""
    changed, mended, broken = (int(each.sum()) for each in (comparison.changed, comparison.mended, comparison.broken))
    click.echo(
        f"  {changed:,} of {len(comparison.labels):,} rows have another prediction: only B is right on {mended:,}, "
        f"only A on {broken:,}, neither on {changed - mended - broken:,}"
    )
