"""What a sweep's own run gets: the whole table, figures, what was chosen and what it is worth."""

import numpy as np
import pandas as pd

from fer_mlflow.commands.sweep_result import Sweep
from fer_mlflow.figures import draw_pareto, draw_weight_map
from fer_mlflow.search.assessment import BASELINES
from fer_mlflow.settings.weights import format_weights
from fer_mlflow.tracking.runs import TrackedRun, metric_key

_PANELS = 4


def log_sweep(run: TrackedRun, result: Sweep) -> None:
    """Log the table, figures, what was chosen and what it is worth."""
    reported, fitted = result.reported, result.fitted.benchmark
    run.log_benchmark(
        reported.benchmark, reported.bundle.selection_sha256, reported.bundle.manifest_sha256, len(reported.bundle)
    )
    marks = {"plateau": result.plateau, "front": result.front}
    whole = pd.concat(
        [
            table.assign(**(marks if name == fitted else {key: None for key in marks})).assign(benchmark=name)
            for name, table in result.tables.items()
        ],
        ignore_index=True,
    )
    whole = whole[["benchmark", *(column for column in whole if column != "benchmark")]]
    run.log_table("sweep", whole.astype({"plateau": "boolean", "front": "boolean"}))
    run.log_csv("sweep", whole)
    _log_figures(run, result, fitted)
    used = result.weights_of(result.choice)
    run.log_params(
        {
            "benchmark_of_choice": fitted,
            "chosen": format_weights(used),
            "chosen/space": result.choice.space,
            "chosen/asked": result.choice.variant or "as usual",
            "chosen/temperature": f"{result.choice.temperature:.6g}",
            **{f"w/{name}": share for name, share in used.items()},
        }
    )
    run.log_metrics(_named_metrics(result))
    run.set_tags(
        {
            "fer.benchmark": reported.benchmark,
            "fer.selection_sha256": reported.bundle.selection_sha256,
            "fer.selection_protocol": result.protocol,
            "fer.selection_in_sample": str(result.is_in_sample).lower(),
        }
    )


def _log_figures(run: TrackedRun, result: Sweep, fitted: str) -> None:
    """Log the map of weights and the front; what no configuration has a score of is not drawn."""
    table, every = result.tables[fitted], list(map(str, result.configurations.panels))
    # A figure has room for four panels: those with the best configurations.
    drawn = list(dict.fromkeys(every[m] for m in result.order))[:_PANELS]
    shown = np.array([m for m, panel in enumerate(every) if panel in drawn])
    panels = [every[m] for m in shown]
    if result.metric in table:
        figure = draw_weight_map(
            result.configurations.weights[shown],
            result.values[shown],
            panels,
            result.names,
            metric=result.metric,
            title=fitted,
            best=int(np.searchsorted(shown, result.best)),
            plateau=result.plateau[shown],
        )
        run.log_figure("weights.png", figure)
    x, y = result.axes
    if x in table and y in table:
        figure = draw_pareto(
            table[x].to_numpy()[shown],
            table[y].to_numpy()[shown],
            result.front[shown],
            panels,
            x_metric=x,
            y_metric=y,
            title=fitted,
            marks={label: int(np.searchsorted(shown, m)) for label, m in _marks(result).items()},
        )
        run.log_figure("pareto.png", figure)


def _named_metrics(result: Sweep) -> dict[str, float]:
    """Return the metrics of the sweep's run: the choice's as they were judged, and its leads."""
    judged = result.judgement
    named = {"configurations": float(len(result.configurations)), "plateau": float(result.plateau.sum())}
    named |= judged.metrics["chosen"]
    for rival in BASELINES:
        words = rival.replace(" ", "_")
        named |= {f"{words}/{name}": value for name, value in judged.metrics[rival].items()}
        lead = judged.differences[rival].differences[result.chosen_by]
        named[f"lead/{words}"] = lead.value
        named[f"lead/{words}_p"] = lead.p_value
    return {metric_key(*name.split("/")): value for name, value in named.items() if np.isfinite(value)}


def _marks(result: Sweep) -> dict[str, int]:
    """Return what is named in the figure of the front: the best, and what is nearest to equal weights."""
    configurations, names = result.configurations, result.names
    marks = {f"best {result.metric}": result.best}
    own = np.flatnonzero(
        (configurations.spaces == configurations.spaces[result.best])
        & (configurations.pools == configurations.pools[result.best])
    )
    far = np.abs(configurations.weights[own] - 1 / len(names)).max(axis=1)
    nearest = int(own[far.argmin()])
    return marks if nearest == result.best else marks | {"nearest to equal weights": nearest}
