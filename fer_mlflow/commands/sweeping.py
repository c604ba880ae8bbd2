"""What `sweep` does, apart from its options, so that `--help` imports nothing heavy."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fer_mlflow.calibration.crossfit import stratified_folds
from fer_mlflow.commands.configurations import (
    Configurations,
    best_in,
    configurations_table,
    count_kept,
    read_weightings,
)
from fer_mlflow.commands.options import split_names
from fer_mlflow.commands.sweep_logging import log_sweep
from fer_mlflow.commands.sweep_report import print_sweep
from fer_mlflow.commands.sweep_result import Sweep
from fer_mlflow.commands.sweep_runs import export_choices, log_best
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
from fer_mlflow.scoring.metrics import is_lower_better, metric_names
from fer_mlflow.search.assessment import assess_crossfitted, assess_on
from fer_mlflow.search.choice import Choice, Variants, choose_greedily, choose_likeliest
from fer_mlflow.search.pareto import pareto_front
from fer_mlflow.search.plateau import check_metric, find_plateau
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.workflows.ensemble import warn

GREEDY = tuple(metric_names(having=lambda metric: metric.from_counts))
OPTIMISED = (*GREEDY, "nll")


def sweep(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    options = _with_splits(options)
    found = read_teacher_sets(options, typed)
    _check_options(options, found)
    names = names_of(found)
    weightings = read_weightings(options, names, count_ways(found) * len(options["space"]))
    name = options["name"] or f"sweep · {', '.join(names)} · {' and '.join(options['space'])}"
    with open_run("sweep", name, options["experiment"] or "") as run:
        run.log_params(typed)
        benchmarks = benchmarks_of(gather_teacher_sets(found, run, typed))
        result = _search(benchmarks, weightings, options)
        log_sweep(run, result)
        nested = log_best(run, result, benchmarks, options["log_top"], typed)
        exported = export_choices(run, result, options["export_top"], typed)
    print_sweep(result, run, nested, exported)


def _with_splits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose --split has the splits to choose and to report on, too."""
    named = [options[name] for name in ("fit_split", "report_split") if options[name]]
    if len(named) == 1:
        raise ContractError("--fit-split and --report-split go together: choose on one, report on the other")
    if len(named) == 2 and named[0] == named[1]:
        raise ContractError(
            f"--fit-split and --report-split are both {named[0]}; to do so on purpose: --in-sample true"
        )
    if named and options["in_sample"]:
        raise ContractError(
            "--in-sample true judges on the rows of the choice, --report-split on others: leave one out"
        )
    if not named or options["benchmark"] or ":" in (options["manifest"] or ""):
        return dict(options)
    there = split_names(options["split"])
    return {**options, "split": ",".join(dict.fromkeys([*named, *there]))}


def _check_options(options: Mapping[str, Any], found) -> None:
    """Refuse metrics that cannot be used, and a choice without anything to judge it on."""
    classes = classes_of(found)
    check_metric(options["metric"], classes)
    if options["optimize"] not in (None, *OPTIMISED):
        raise ContractError(f"--optimize {options['optimize']!r}: it is one of {', '.join(OPTIMISED)}")
    known = metric_names(classes, having=lambda metric: metric.direction)
    axes = [part.strip() for part in options["pareto"].split(",")]
    if len(axes) != 2 or axes[0] == axes[1] or not set(axes) <= set(known):
        raise ContractError(f"--pareto {options['pareto']}: name two of {', '.join(known)}, comma-separated")
    if not (options["in_sample"] or options["fit_split"] or options["crossfit"]):
        raise ContractError("nothing says on which rows to choose: give --crossfit K, --fit-split or --in-sample true")
    if options["export_top"] and isinstance(found[0], TeacherSet):
        raise ContractError("--export-top needs the images: name --manifest and --teachers in the place of --benchmark")


def _search(benchmarks: Mapping[str, dict[str, TeacherSet]], weightings: np.ndarray, options) -> Sweep:
    """Score every configuration on every benchmark, choose, and judge the choice."""
    fit = (
        benchmarks[_named(benchmarks, options["fit_split"])]
        if options["fit_split"]
        else next(iter(benchmarks.values()))
    )
    report = benchmarks[_named(benchmarks, options["report_split"])] if options["report_split"] else fit
    first = next(iter(fit.values()))
    classes, metric = first.bundle.classes, options["metric"]
    judged_by = options["optimize"] or metric
    labels = first.bundle.labels[first.known]
    parts = options["crossfit"] if report is fit and not options["in_sample"] else 0
    folds = stratified_folds(labels, parts, np.random.default_rng(options["seed"])) if parts else None
    configurations = Configurations.product(list(fit), options["space"], weightings)
    pools: Variants = {way: each.pool(folds) for way, each in fit.items()}
    counts, tables = None, {}
    for benchmark, ways in benchmarks.items():
        own = pools if ways is fit else {way: each.pool() for way, each in ways.items()}
        found = count_kept(own, configurations, cache_folder(), benchmark)
        tables[benchmark] = configurations_table(configurations, first.names, found.scores(classes))
        counts = found if ways is fit else counts
    assert counts is not None  # fit is one of the benchmarks
    best, plateau = find_plateau(metric, classes, counts, labels, lambda m: configurations.row_scores(pools, m))

    rng = np.random.default_rng(options["seed"])
    with show_progress("choosing weights", parts + 1) as count:

        def choose(held: int | None, others: Variants) -> Choice:
            if options["optimize"]:
                choice = _optimise(others, options)
            else:
                groups = None if held is None else np.arange(parts) != held
                choice = best_in(configurations, counts, metric, classes, groups)
            count(1)
            return choice

        choice = choose(None, pools)
        if folds is not None:
            judgement = assess_crossfitted(pools, choose, folds, judged_by, classes, rng)
            protocol = f"cross-fitted: chosen on {parts - 1} parts of {parts}, judged on the other"
        else:
            other = pools if report is fit else {way: each.pool() for way, each in report.items()}
            judgement = assess_on(pools, other, choice, judged_by, classes, rng)
            protocol = "chosen and judged on the same rows"
    if report is not fit:
        protocol = f"chosen on {first.benchmark}, judged on {next(iter(report.values())).benchmark}"
        _warn_of_overlap(first, next(iter(report.values())))
    table = tables[first.benchmark]
    axes = [part.strip() for part in options["pareto"].split(",")]
    values = np.column_stack([table[name] if name in table else np.zeros(len(table)) for name in axes])
    front = pareto_front(values, np.array([is_lower_better(name) for name in axes]))
    return Sweep(
        fit,
        report,
        metric,
        configurations,
        tables,
        best,
        plateau,
        (axes[0], axes[1]),
        front,
        judged_by,
        choice,
        judgement,
        protocol,
        bool(options["in_sample"]),
    )


def _named(benchmarks: Mapping[str, Any], split: str) -> str:
    """Return the benchmark of a split's name, or of its whole name."""
    found = [name for name in benchmarks if name == split or name.partition(":")[2] == split]
    if len(found) != 1:
        raise ContractError(
            f"split {split} is {len(found)} of the benchmarks {', '.join(benchmarks)}; name one of them"
        )
    return found[0]


def _optimise(pools: Variants, options: Mapping[str, Any]) -> Choice:
    if options["optimize"] == "nll":
        return choose_likeliest(pools, options["space"])
    return choose_greedily(pools, options["space"], options["optimize"], workers=os.cpu_count() or 1)


def _warn_of_overlap(fit: TeacherSet, report: TeacherSet) -> None:
    """Say how many images are both chosen and judged on."""
    shared = int(report.bundle.index["image_sha256"].isin(fit.bundle.index["image_sha256"]).sum())
    if shared:
        warn(
            f"{shared:,} images are in both {fit.benchmark} and {report.benchmark}, so the choice is judged partly "
            "in-sample"
        )
