"""What `reproduce` does, apart from its options, so that `--help` imports nothing heavy."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import click
import numpy as np
import pandas as pd

from fer_mlflow.commands.configurations import Configurations, count_kept, read_weightings
from fer_mlflow.commands.options import split_names
from fer_mlflow.commands.reproduction_report import describe_reproduction
from fer_mlflow.commands.teacher_sets import (
    TeacherSet,
    benchmarks_of,
    classes_of,
    count_ways,
    gather_teacher_sets,
    names_of,
    read_teacher_sets,
)
from fer_mlflow.errors import ContractError
from fer_mlflow.files import cache_folder
from fer_mlflow.progress import show_progress
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.search.choice import Variants, equal_weights
from fer_mlflow.search.reproduction import BenchmarkCounts, Reproduction, Target, find_subsets, search_candidates
from fer_mlflow.tables import report_markdown, report_text
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.tracking.store import describe_way_to_ui

_NUMBERS = tuple(metric_names(having=lambda metric: metric.direction))


def reproduce(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    found = read_teacher_sets(options, typed)
    target = read_target(options, classes_of(found))
    names = names_of(found)
    weightings = read_weightings(options, names, count_ways(found) * len(options["space"]))
    said = ", ".join(f"{name} {value:g}" for name, value in target.values.items())
    with open_run("reproduce", options["name"] or f"reproduce · {said}", options["experiment"] or "") as run:
        run.log_params(typed)
        benchmarks = benchmarks_of(gather_teacher_sets(found, run, typed))
        ways_of_all = list(dict.fromkeys(way for each in benchmarks.values() for way in each))
        configurations = Configurations.product(ways_of_all, options["space"], weightings)
        result = _search(target, benchmarks, configurations)
        blocks = describe_reproduction(result, target, benchmarks, configurations, options["show"])
        run.log_text("reproduction.md", report_markdown(blocks))
        table = _table(result, configurations, names)
        run.log_table("matches", table)
        run.log_csv("matches", table)
        run.log_metrics({"matches": float(len(result.matches)), "nearest/distance": result.nearest.distance})
    click.echo(report_text(blocks))
    click.echo(f"\n  run      {run.run_id}")
    click.echo(f"  table    {run.artifact_location('tables/matches.csv')}")
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")


def read_target(options: Mapping[str, Any], classes: tuple[str, ...]) -> Target:
    """Return the numbers that options give.

    Raises
    ------
    ContractError
        no number at all, an unknown class, or an F1 that is none
    """
    values = {name: float(options[name]) for name in _NUMBERS if options[name] is not None}
    for part in split_names(options["f1"]):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not equals or not 0 <= value <= 1:
            raise ContractError(f'--f1: "{part}" is not CLASS=number with a share of 1; write for example Disgust=0.61')
        if name not in classes:
            raise ContractError(f"--f1: no class {name}; there are {', '.join(classes)}")
        values[f"f1/{name}"] = value
    if not values:
        raise ContractError("no number to look for: give --accuracy, --macro-f1, --f1, --nll, --ece or --brier")
    return Target(values, options["tolerance"], options["temperature"], options["rows"])


def _search(
    target: Target, benchmarks: Mapping[str, dict[str, TeacherSet]], configurations: Configurations
) -> Reproduction:
    """Tally every configuration on the parts of every benchmark, and search."""
    searched = {}
    ways = set(configurations.pools)
    for benchmark, sets in benchmarks.items():
        if missing := ways - set(sets):
            lacking = ", ".join(way or "no CLAHE" for way in missing)
            raise ContractError(
                f"{benchmark}: its teachers were not asked with {lacking}, as they were elsewhere; see --clahe"
            )
        any_set = next(iter(sets.values()))
        index = any_set.bundle.index[any_set.known]
        parts, groups = find_subsets(index["split"].to_numpy(object), index["source"].to_numpy(object))
        pools: Variants = {way: sets[way].pool(groups) for way in sets}
        counts = count_kept(pools, configurations, cache_folder(), benchmark, target.temperature or 1.0)

        def fused(m: int, pools: Variants = pools) -> np.ndarray:
            return configurations.choice(m).fused(pools)

        searched[benchmark] = BenchmarkCounts(counts, parts, any_set.bundle.labels[any_set.known], groups, fused)
    classes = next(iter(next(iter(benchmarks.values())).values())).bundle.classes
    usual, related = _related(configurations)
    with ExitStack() as stack:
        count: Callable[[int], object] | None = None

        def on_sought(total: int) -> None:
            nonlocal count
            count = count or stack.enter_context(show_progress("seeking temperatures", total))
            count(1)

        return search_candidates(target, searched, classes, usual, related, on_sought)


def _related(configurations: Configurations) -> tuple[int, dict[str, np.ndarray]]:
    """Return the configuration nearest to equal weights, as usual, and those that differ from it in one thing."""
    K = configurations.weights.shape[1]
    same_arm = (configurations.pools == configurations.pools[0]) & (configurations.spaces == configurations.spaces[0])
    far = np.abs(configurations.weights - equal_weights(K)).max(axis=1)
    usual = int(np.where(same_arm, far, np.inf).argmin())
    same_weights = (configurations.weights == configurations.weights[usual]).all(axis=1)
    same_pool = configurations.pools == configurations.pools[usual]
    same_space = configurations.spaces == configurations.spaces[usual]
    related = {
        "weights": np.flatnonzero(same_arm & ~same_weights),
        "space": np.flatnonzero(same_weights & same_pool & ~same_space),
        "CLAHE": np.flatnonzero(same_weights & same_space & ~same_pool),
    }
    return usual, {what: places for what, places in related.items() if len(places)}


def _table(result: Reproduction, configurations: Configurations, names: tuple[str, ...]) -> pd.DataFrame:
    """Return one row for each match, or the nearest where there is none."""
    rows = []
    for each in result.matches or [result.nearest]:
        choice = configurations.choice(each.configuration)
        shares = {f"w/{name}": float(share) for name, share in zip(names, choice.weights, strict=True)}
        rows.append(
            {
                "distance": each.distance,
                "is_match": each.is_match,
                "benchmark": each.benchmark,
                "part": each.subset,
                "rows": each.rows,
                "asked": choice.variant,
                "space": choice.space,
                **shares,
                "temperature": each.temperature,
                **each.scores,
            }
        )
    return pd.DataFrame(rows)
