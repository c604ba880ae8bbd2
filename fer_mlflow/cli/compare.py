"""`compare`: may two results be compared, and is the difference real?"""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.scoring import CompareSettings

_LEVEL = 0.05


@workflow_command("compare", CompareSettings)
def command(result) -> Iterator[str]:
    """Set two runs' soft labels side by side: first how they were made, then, where that allows it, their scores.

    RUN_A and RUN_B are export or teacher runs, by their id or its first digits, or folders of bundles. The exit
    status is 3 where they cannot be compared.
    """
    for side, source in (("A", result.a), ("B", result.b)):
        yield f"{side}  {source.name}  ({source.run_id or source.bundle.folder})"
    yield ""
    for label, text in result.protocols[0].items():
        other = result.protocols[1][label]
        yield f"  {'≠' if text != other else ' '} {label:<24}{text}"
        if text != other:
            yield f"    {'':<24}{other}"
    yield f"\n{result.verdict}"
    if result.comparison is not None:
        yield from _score_lines(result.table)
        yield _changes(result.comparison)
    yield ""
    yield from where_lines(result, rows=result.comparison is not None and result.changed_rows_location)
    if result.comparison is None:
        raise click.exceptions.Exit(3)


def _score_lines(table) -> Iterator[str]:
    """Yield each metric's difference with its interval and p-value."""
    from fer_mlflow.scoring.metrics import metric_names

    width = max(map(len, table["metric"]))
    yield f"\n  {'':<{width}}       A       B    B - A  95 % interval            p"
    for row in table.itertuples():
        mark = " *" if row.p_value < _LEVEL else ""
        interval = "none" if row.low != row.low else f"[{row.low:+.4f}, {row.high:+.4f}]"
        yield (
            f"  {row.metric:<{width}}  {row.a:6.4f}  {row.b:6.4f}  {row.difference:+.4f}  {interval:<20}  "
            f"{format_p_value(row.p_value):>7}{mark}"
        )
    yield "\n  * p below 0.05, every metric on its own: where nothing differs, four in ten tables like this show a star"
    headline = metric_names(having=lambda metric: metric.from_counts and "slices" in metric.shown)
    if not (table[table["metric"].isin(headline)]["p_value"] < _LEVEL).any():
        yield f"  neither {' nor '.join(headline)} differs significantly between A and B on these rows"


def format_p_value(p_value: float) -> str:
    """Return a p-value to four places, a smaller one as what it is below; `none` for NaN."""
    return "none" if p_value != p_value else "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def _changes(comparison) -> str:
    """Return how many predictions changed, and in which direction."""
    changed, better, worse = (
        int(each.sum()) for each in (comparison.changed, comparison.only_b_right, comparison.only_a_right)
    )
    return (
        f"  {changed:,} of {len(comparison.labels):,} rows have another prediction: only B is right on {better:,}, "
        f"only A on {worse:,}, neither on {changed - better - worse:,}"
    )
