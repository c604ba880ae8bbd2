"""The commands that search: sweep and reproduce."""

from collections import Counter
from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.search import ReproduceSettings, SweepSettings
from fer_mlflow.tables import Part, Table, format_interval

_SHOWN = 8
_NAMES = {"equal weights": "equal weights", "best teacher": "the best single teacher"}


@workflow_command("sweep", SweepSettings, has_rows=True)
def sweep(result) -> Iterator[Part]:
    """Score every weighting of teachers in each space, choose one, and measure the choice on other rows."""
    configurations = result.configurations
    spaces, variants = dict.fromkeys(configurations.spaces), dict.fromkeys(configurations.variants)
    arms = ", ".join(spaces)
    if len(variants) > 1:
        arms += f" x {', '.join(variant or 'default' for variant in variants)}"
    count = len(configurations)
    yield f"sweep of {', '.join(result.fitted.names)}  on  {', '.join(result.tables)}"
    yield f"  {count:,} configurations: {count // (len(spaces) * len(variants)):,} weightings x {arms}\n"
    yield _best_table(result)
    yield from _plateau_lines(result)
    yield from _choice_lines(result)
    yield ""
    for rank, run_id in enumerate(result.nested, start=1):
        yield f"  {f'#{rank}':<8} run {run_id}"
    for name, run_id in result.exported.items():
        yield f"  exported {name} run {run_id}"
    figures = f"weights.png, pareto.png ({result.front.sum():,} on the front of {' and '.join(result.axes)})"
    yield from where_lines(result, figures=figures, table=result.table_location)


def _best_table(result) -> Table:
    """Return the best configurations on the benchmark of the choice."""
    from fer_mlflow.scoring.metrics import metric_names

    shown = metric_names(having=lambda metric: "sweep" in metric.shown)
    columns = [name for name in dict.fromkeys([result.metric, *shown]) if name in result.table]
    rows = [
        [rank, *result.table[columns].iloc[m], result.configurations.describe(m)]
        for rank, m in enumerate(result.order[:_SHOWN].tolist(), start=1)
    ]
    header = ["rank", *columns, f"configuration   (on {result.fitted.benchmark})"]
    return Table(header, rows, widths=[4, *(8 for _ in columns)], optional=columns[:0:-1])


def _plateau_lines(result) -> Iterator[str]:
    """Yield how many configurations are as good as the best, and what they have in common."""
    inside, configurations = result.plateau, result.configurations
    panels = sorted(Counter(map(str, configurations.panels[inside])).items())
    where = ", ".join(f"{panel} {number:,}" for panel, number in panels)
    yield f"\nplateau: {inside.sum():,} of {len(inside):,} are within one paired standard error of the best"
    yield f"  {configurations.describe_weights(inside)}; {where}"


def _choice_lines(result) -> Iterator[str]:
    """Yield what was chosen, and its differences from baselines on rows that it was not chosen on."""
    assessment, metric = result.assessment, result.chosen_by
    yield f"\nchosen by {metric}: {result.choice.describe(result.configurations.teachers)}"
    for note in dict.fromkeys(choice.note for choice in [result.choice, *assessment.choices] if choice.note):
        yield f"  {note}"
    yield f"  {result.protocol}, {result.reported.bundle.labelled.sum():,} rows"
    scores = {name: each.get(metric, float("nan")) for name, each in assessment.metrics.items()}
    yield f"  {'chosen':<14} {metric} {scores['chosen']:.4f}"
    for baseline, difference in result.differences.items():
        yield (
            f"  {baseline:<14} {metric} {scores[baseline]:.4f}   chosen - {baseline} {difference.value:+.4f} "
            f"{format_interval(difference.interval, '+')}, p {difference.p_value:.2g}"
        )
    better = [_NAMES[baseline] for baseline in result.differences if assessment.is_better(baseline, metric)]
    others = [_NAMES[baseline] for baseline in result.differences if not assessment.is_better(baseline, metric)]
    if better:
        yield f"  the choice is significantly better than {' and than '.join(better)}"
    if others:
        yield f"  no weighting found here is significantly better than {' or '.join(others)}"


@workflow_command("reproduce", ReproduceSettings)
def reproduce(result) -> Iterator[Part]:
    """Search benchmarks, subsets of them, preprocessing, spaces, weights and temperatures for published numbers."""
    yield result.report
    yield ""
    yield from where_lines(result, table=result.table_location)
