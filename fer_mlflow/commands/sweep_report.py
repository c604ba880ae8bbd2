"""What `sweep` prints: the best configurations, how many are as good, what was chosen and what that is worth."""

from collections.abc import Mapping, Sequence

import click
import numpy as np

from fer_mlflow.commands.configurations import format_span
from fer_mlflow.commands.sweep_result import Sweep
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.search.assessment import BASELINES
from fer_mlflow.search.choice import Choice
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.tracking.store import describe_way_to_ui

_SHOWN = 8
_NAMES = {"equal weights": "equal weights", "best teacher": "the best single teacher"}


def print_sweep(result: Sweep, run: TrackedRun, nested: Sequence[str], exported: Mapping[str, str]) -> None:
    """Print what was found, and where everything is."""
    spaces, ways = dict.fromkeys(result.configurations.spaces), dict.fromkeys(result.configurations.pools)
    arms = " x ".join([", ".join(spaces), *([", ".join(way or "as usual" for way in ways)] if len(ways) > 1 else [])])
    count = len(result.configurations)
    click.echo(f"sweep of {', '.join(result.names)}  on  {', '.join(result.tables)}")
    click.echo(f"  {count:,} configurations: {count // (len(spaces) * len(ways)):,} weightings x {arms}\n")
    _print_best(result)
    click.echo(f"\n{_plateau_sentence(result)}")
    _print_choice(result)
    click.echo()
    for rank, run_id in enumerate(nested, start=1):
        click.echo(f"  {f'#{rank}':<8} run {run_id}")
    for name, run_id in exported.items():
        click.echo(f"  exported {name} run {run_id}")
    click.echo(f"  run      {run.run_id}")
    click.echo(
        f"  figures  weights.png, pareto.png ({result.front.sum():,} on the front of {' and '.join(result.axes)})"
    )
    click.echo(f"  table    {run.artifact_location('tables/sweep.csv')}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")


def _print_best(result: Sweep) -> None:
    """Print the best configurations on the benchmark of the choice."""
    table = result.tables[result.fitted.benchmark]
    shown = metric_names(having=lambda metric: "sweep" in metric.shown)
    columns = [name for name in dict.fromkeys([result.metric, *shown]) if name in table]
    click.echo(f"  rank  {'  '.join(f'{name:>8}' for name in columns)}  configuration   (on {result.fitted.benchmark})")
    for rank, m in enumerate(result.order[:_SHOWN].tolist(), start=1):
        numbers = "  ".join(f"{table[name].iloc[m]:>{max(8, len(name))}.4f}" for name in columns)
        click.echo(f"  {rank:>4}  {numbers}  {name_choice(result, result.configurations.choice(m))}")


def name_choice(result: Sweep, choice: Choice) -> str:
    """Return a configuration in a few words."""
    shares = [f"{name} {share:.3g}" for name, share in result.weights_of(choice).items()]
    at = [f"T {choice.temperature:.3g}"] if choice.temperature != 1 else []
    return " · ".join([*shares, choice.space, *filter(None, [choice.variant]), *at])


def _plateau_sentence(result: Sweep) -> str:
    """Return how many configurations are as good as the best, and what they have in common."""
    inside = result.configurations.weights[result.plateau]
    spans = [format_span(*span) for span in zip(result.names, inside.min(axis=0), inside.max(axis=0), strict=True)]
    panels, counts = np.unique(result.configurations.panels[result.plateau].astype(str), return_counts=True)
    where = ", ".join(f"{panel} {number:,}" for panel, number in zip(panels, counts, strict=True))
    return (
        f"plateau: {len(inside):,} of {len(result.configurations):,} are within one paired standard error of the best\n"
        f"  {', '.join(spans)}; {where}"
    )


def _print_choice(result: Sweep) -> None:
    """Print what was chosen, and its leads on rows that it was not chosen on."""
    judged, metric = result.judgement, result.chosen_by
    click.echo(f"\nchosen by {metric}: {name_choice(result, result.choice)}")
    for said in dict.fromkeys(choice.note for choice in [result.choice, *judged.choices] if choice.note):
        click.echo(f"  {said}")
    click.echo(f"  {result.protocol}, {result.reported.known.sum():,} rows")
    scores = {name: each.get(metric, np.nan) for name, each in judged.metrics.items()}
    click.echo(f"  {'chosen':<14} {metric} {scores['chosen']:.4f}")
    beaten: dict[bool, list[str]] = {True: [], False: []}
    for rival in BASELINES:
        lead = judged.differences[rival].differences.get(metric)
        if lead is None:
            continue
        click.echo(
            f"  {rival:<14} {metric} {scores[rival]:.4f}   chosen - {rival} {lead.value:+.4f} "
            f"[{lead.interval.low:+.4f}, {lead.interval.high:+.4f}], p {lead.p_value:.2g}"
        )
        beaten[judged.is_better(rival, metric)].append(_NAMES[rival])
    if beaten[True]:
        click.echo(f"  the choice is significantly better than {' and than '.join(beaten[True])}")
    if beaten[False]:
        click.echo(f"  no weighting found here is significantly better than {' or '.join(beaten[False])}")
