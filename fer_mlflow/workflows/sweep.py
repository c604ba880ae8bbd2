"""`sweep`: every weighting, fusion space and preprocessing, from logits that are computed once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.calibration import stratified_folds
from fer_mlflow.errors import ContractError
from fer_mlflow.figures.sweep import WeightMap, draw_pareto, draw_weight_map
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import is_lower_better, metric_names, metric_of
from fer_mlflow.scoring.significance import Difference
from fer_mlflow.search import choices
from fer_mlflow.search.teacher_logits import check_metric, find_plateau
from fer_mlflow.settings.search import SweepSettings
from fer_mlflow.settings.texts import format_weights
from fer_mlflow.tracking import bundles
from fer_mlflow.tracking.runs import TrackedRun, metric_keys, open_run
from fer_mlflow.workflows import RunResult, plain, warn, workflow
from fer_mlflow.workflows.configurations import Configurations, export_choice, log_choice, read_weightings
from fer_mlflow.workflows.sources import Benchmarks, SearchInput, TeacherSet

_PANELS = 4  # that a figure has room for
_IN_JSON = 100  # configurations; the run's table has all


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult(RunResult):
    """What was scored and chosen.

    Attributes
    ----------
    fit, report : variant -> teachers' logits, of the benchmark of the choice and of the one that it is measured on
    metric : ranks configurations
    configurations : M of them
    tables : benchmark -> scores of each configuration
    best, plateau, front : on the benchmark of the choice: the best one, (M,) bool those within one paired standard
        error of it, and (M,) bool those that no other is better than in both metrics of `axes`
    chosen_by : the metric of the choice
    choice : made on all rows of the benchmark of the choice
    assessment : what such a choice is worth
    protocol : how choosing and measuring were kept apart, in words; `is_in_sample` where they were not
    nested : runs of the best configurations, the best first
    exported : configuration -> the run that has its soft labels
    table_location : where the table of all configurations is
    """

    fit: Mapping[str, TeacherSet]
    report: Mapping[str, TeacherSet]
    metric: str
    configurations: Configurations
    tables: dict[str, pd.DataFrame]
    best: int
    plateau: np.ndarray
    axes: tuple[str, ...]
    front: np.ndarray
    chosen_by: str
    choice: choices.Choice
    assessment: choices.Assessment
    protocol: str
    is_in_sample: bool
    nested: tuple[str, ...] = ()
    exported: Mapping[str, str] = field(default_factory=dict)
    table_location: str = ""
    not_in_json = ("fit", "report", "configurations", "tables", "best")

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON has them, the teachers' shares, and the best of the configurations."""
        best = plain(self.table.iloc[self.order[:_IN_JSON]])
        return super().plain() | {"shares": self.choice.shares(self.fitted.names), "best_configurations": best}

    @property
    def differences(self) -> dict[str, Difference]:
        """Baseline -> chosen - baseline in the metric of the choice; empty where that has no paired test."""
        tests = {name: each.differences for name, each in self.assessment.differences.items()}
        return {name: each[self.chosen_by] for name, each in tests.items() if self.chosen_by in each}

    @property
    def fitted(self) -> TeacherSet:
        """The rows of the choice, under the first preprocessing."""
        return next(iter(self.fit.values()))

    @property
    def reported(self) -> TeacherSet:
        """The rows that the choice is measured on, under the first preprocessing."""
        return next(iter(self.report.values()))

    @property
    def table(self) -> pd.DataFrame:
        """The scores on the rows of the choice."""
        return self.tables[self.fitted.benchmark]

    @property
    def values(self) -> np.ndarray:
        """(M,) the metric of each configuration on the rows of the choice; NaN where none of them has its class."""
        return self.table[self.metric].to_numpy() if self.metric in self.table else np.full(len(self.table), np.nan)

    @property
    def order(self) -> np.ndarray:
        """Places of the configurations, the best first; of equal ones that of the lowest NLL."""
        values = self.values if is_lower_better(self.metric) else -self.values
        return np.lexsort((self.table["nll"].to_numpy(), values))


@workflow(SweepSettings)
def sweep(settings: SweepSettings, progress: Progress = no_progress) -> SweepResult:
    """Score every weighting of teachers in each space, choose one, and measure the choice on other rows."""
    found = SearchInput.read(settings)
    _check(settings, found.classes)
    weightings = read_weightings(settings, found.teachers, found.variants)
    by, spaces, teachers = settings.optimize or settings.metric, " and ".join(settings.space), ", ".join(found.teachers)
    name, params = " · ".join(["sweep", by, spaces, teachers, found.benchmarks]), settings.params
    with open_run("sweep", settings.name or name, settings.experiment) as run:
        run.log(params)
        benchmarks = found.gather(run, settings, progress)
        result = _search(benchmarks, weightings, settings, progress)
        _log(run, result)
        best = [result.configurations.choice(m) for m in result.order[: max(settings.log_top, settings.export_top)]]
        nested = tuple(
            log_choice(run, result.report[each.variant], each, rank + 1, _scores_elsewhere(result, rank), params)
            for rank, each in enumerate(best[: settings.log_top])
        )
        chosen = [result.choice, *best[: settings.export_top]] if settings.export_top else []
        fitted = result.fitted
        exported = dict(export_choice(run, result.report[each.variant], each, fitted) for each in chosen)
        metric, links = result.chosen_by, dict(result.reported.run_ids)
        links |= {f"rank {number}": each for number, each in enumerate(nested, start=1)} | exported
        better = (f"{bundles.describe_difference(each)} over {name}" for name, each in result.differences.items())
        score = f"{metric} **{result.assessment.metrics['chosen'].get(metric, float('nan')):.4f}**"
        verdict = f"{result.choice.describe(found.teachers)}: {' · '.join([score, *better])}"
        run.describe(verdict, f"{len(result.configurations):,} configurations · {result.protocol}", links)
    return replace(
        result,
        run_id=run.run_id,
        ui=run.ui,
        nested=nested,
        exported=exported,
        table_location=run.artifact_location("tables/sweep.csv"),
    )


def _check(settings: SweepSettings, classes: tuple[str, ...]) -> None:
    """Refuse metrics that cannot be used."""
    check_metric(settings.metric, classes)
    optimised = [*metric_names(having=lambda metric: metric.from_counts), "nll"]
    if settings.optimize not in (None, *optimised):
        raise ContractError(f"--optimize {settings.optimize!r}: it is one of {', '.join(optimised)}")
    known, axes = metric_names(classes, having=lambda metric: metric.direction), settings.pareto
    if len(axes) != 2 or axes[0] == axes[1] or not set(axes) <= set(known):
        raise ContractError(f"--pareto {','.join(axes)}: name two of {', '.join(known)}, comma-separated")


def _search(benchmarks: Benchmarks, weightings: np.ndarray, settings: SweepSettings, progress: Progress) -> SweepResult:
    """Score every configuration on every benchmark, choose, and assess the choice."""
    fit = benchmarks[_named(benchmarks, settings.fit_split)]
    report = benchmarks[_named(benchmarks, settings.report_split)] if settings.report_split else fit
    first, reported = next(iter(fit.values())), next(iter(report.values()))
    classes, metric = first.bundle.classes, settings.metric
    chosen_by = settings.optimize or metric
    rng = np.random.default_rng(settings.seed)
    K = settings.crossfit or 0 if report is fit and not settings.in_sample else 0
    folds = stratified_folds(first.labels, K, np.random.default_rng(settings.seed)) if K else None
    configurations = Configurations.product(first.names, list(fit), settings.space, weightings)
    logits: dict[str, choices.Variants] = {}
    all_counts, tables = {}, {}
    for benchmark, sets in benchmarks.items():
        groups = folds if sets is fit else None
        logits[benchmark] = {name: each.labelled_logits(groups) for name, each in sets.items()}
        all_counts[benchmark] = configurations.count(logits[benchmark], benchmark, progress)
        tables[benchmark] = configurations.table(all_counts[benchmark].scores(classes))
    variants, counts = logits[first.benchmark], all_counts[first.benchmark]
    best, plateau = find_plateau(
        metric, classes, counts, first.labels, lambda m: configurations.choice(m).row_scores(variants)
    )

    with progress("choosing weights", K + 1) as count:

        def choose(held: int | None, others: choices.Variants) -> choices.Choice:
            if settings.optimize == "nll":
                choice = choices.choose_likeliest(others, settings.space)
            elif settings.optimize:
                choice = choices.choose_greedily(others, settings.space, settings.optimize, workers=os.cpu_count() or 1)
            else:
                groups = None if held is None else np.arange(K) != held
                choice = configurations.choice(counts.best(metric, classes, groups)[0])
            count(1)
            return choice

        choice = choose(None, variants)
        if folds is not None:
            assessment = choices.assess_crossfitted(variants, choose, folds, chosen_by, classes, rng)
            protocol = f"cross-fitted: chosen on {K - 1} folds of {K}, measured on the other"
        else:
            assessment = choices.assess_on(variants, logits[reported.benchmark], choice, chosen_by, classes, rng)
            protocol = "chosen and measured on the same rows"
    if report is not fit:
        protocol = f"chosen on {first.benchmark}, measured on {reported.benchmark}"
        here, there = (each.bundle.index["image_sha256"] for each in (reported, first))
        if shared := int(here.isin(there).sum()):
            warn(
                f"{shared:,} images are in both {first.benchmark} and {reported.benchmark}, so the choice is measured "
                "partly in-sample"
            )
    table = tables[first.benchmark]
    values = np.column_stack([table[name] if name in table else np.zeros(len(table)) for name in settings.pareto])
    return SweepResult(
        fit=fit,
        report=report,
        metric=metric,
        configurations=configurations,
        tables=tables,
        best=best,
        plateau=plateau,
        axes=settings.pareto,
        front=choices.pareto_front(values, np.array([is_lower_better(name) for name in settings.pareto])),
        chosen_by=chosen_by,
        choice=choice,
        assessment=assessment,
        protocol=protocol,
        is_in_sample=settings.in_sample,
    )


def _named(benchmarks: Benchmarks, split: str | None) -> str:
    """Return the benchmark of a split's name, or of its whole name; the first one where no split is named."""
    found = [name for name in benchmarks if split is None or split in (name, name.partition(":")[2])]
    if split is not None and len(found) != 1:
        raise ContractError(
            f"split {split} is {len(found)} of the benchmarks {', '.join(benchmarks)}; name one of them"
        )
    return found[0]


def _scores_elsewhere(result: SweepResult, rank: int) -> dict[str, float]:
    """Return `elsewhere/<benchmark> <metric>` of a configuration on the benchmarks that are not reported on."""
    m = int(result.order[rank])
    tables = {name: table for name, table in result.tables.items() if name != result.reported.benchmark}
    values = {key: {name: table[name].iloc[m] for name in table if metric_of(name)} for key, table in tables.items()}
    return metric_keys(values, "elsewhere")


def _log(run: TrackedRun, result: SweepResult) -> None:
    """Log the table, figures, what was chosen and what it is worth."""
    reported, fitted = result.reported, result.fitted.benchmark
    run.log_benchmark(reported.benchmark, reported.bundle)
    marks = {"plateau": result.plateau, "front": result.front}
    frames = [
        table.assign(benchmark=name, **(marks if name == fitted else dict.fromkeys(marks)))
        for name, table in result.tables.items()
    ]
    whole = pd.concat(frames, ignore_index=True).astype(dict.fromkeys(marks, "boolean"))
    whole.insert(0, "benchmark", whole.pop("benchmark"))
    run.log_table("sweep", whole, csv=True)
    _log_figures(run, result)
    used = result.choice.shares(result.fitted.names)
    run.log(
        params={
            "benchmark_of_choice": fitted,
            "chosen": format_weights(used),
            "chosen/space": result.choice.space,
            "chosen/preprocessing": result.choice.variant or "default",
            "chosen/temperature": f"{result.choice.temperature:.6g}",
            **{f"w/{name}": share for name, share in used.items()},
        },
        metrics=_metrics(result),
        tags={
            "fer.benchmark": reported.benchmark,
            "fer.selection_sha256": reported.bundle.selection_sha256,
            "fer.selection_protocol": result.protocol,
            "fer.selection_in_sample": str(result.is_in_sample).lower(),
        },
    )


def _log_figures(run: TrackedRun, result: SweepResult) -> None:
    """Log the map of weights and the front; what no configuration has a score of is not drawn."""
    table, title, every = result.table, result.fitted.benchmark, list(map(str, result.configurations.panels))
    drawn = list(dict.fromkeys(every[m] for m in result.order))[:_PANELS]  # those with the best configurations
    shown = np.array([m for m, panel in enumerate(every) if panel in drawn])
    panels = [every[m] for m in shown]
    if result.metric in table:
        weight_map = WeightMap(
            result.configurations.weights[shown],
            result.values[shown],
            panels,
            result.fitted.names,
            metric=result.metric,
            best=int(np.searchsorted(shown, result.best)),
            plateau=result.plateau[shown],
        )
        run.log_figure("weights.png", draw_weight_map(weight_map, title))
    x, y = result.axes
    if x in table and y in table:
        figure = draw_pareto(
            table[x].to_numpy()[shown],
            table[y].to_numpy()[shown],
            result.front[shown],
            panels,
            x_metric=x,
            y_metric=y,
            title=title,
            marks={label: int(np.searchsorted(shown, m)) for label, m in _marks(result).items()},
        )
        run.log_figure("pareto.png", figure)


def _metrics(result: SweepResult) -> dict[str, float]:
    """Return the metrics of the sweep's run: the choice's as they were measured, and its differences from baselines."""
    assessment = result.assessment
    values: dict[str, float | dict[str, float]] = {**assessment.metrics["chosen"]}
    values |= {"configurations": len(result.configurations), "plateau": float(result.plateau.sum())}
    for baseline in choices.BASELINES:
        words = baseline.replace(" ", "_")
        values[words] = assessment.metrics[baseline]
        if difference := result.differences.get(baseline):
            values |= {f"difference/{words}": difference.value, f"difference/{words}_p": difference.p_value}
    return metric_keys(values)


def _marks(result: SweepResult) -> dict[str, int]:
    """Return what is named in the figure of the front: the best, and what is nearest to equal weights."""
    configurations, best = result.configurations, result.best
    own = np.flatnonzero(configurations.panels == configurations.panels[best])
    far = np.abs(configurations.weights[own] - 1 / len(result.fitted.names)).max(axis=1)
    nearest = int(own[far.argmin()])
    marks = {f"best {result.metric}": best}
    return marks if nearest == best else marks | {"nearest to equal weights": nearest}
