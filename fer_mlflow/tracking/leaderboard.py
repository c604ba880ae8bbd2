"""Leaderboards: one frame of runs, benchmark by benchmark, best first, and which do not differ from the best."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mode
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import DEFAULT, is_lower_better
from fer_mlflow.scoring.significance import bootstrap_intervals, holm
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.records import SEED, SIGNIFICANT, Evidence, Judgement, RunRecord, difference_p_value, record_of
from fer_mlflow.tracking.store import BAD, BUNDLED_KINDS, GOOD, STATUS, search_runs

BOARD = "selection_sha256"  # runs on the same rows stand on one leaderboard
SETTINGS = ("ensemble", "space", "clahe", "calibration")  # two runs that share them have the same configuration
COLUMNS = (
    *("benchmark", BOARD, "rows", "in_sample", "runs", "rank", "kind", "configuration", *SETTINGS),
    *("status", "run_id", "experiment_id"),
)
TESTED = ("level", "p_value", "macro_f1_low", "macro_f1_high")


def build_leaderboard(
    runs: Iterable[RunRecord],
    judgements: Mapping[str, Judgement],
    metric: str,
    statuses: Sequence[str] = (GOOD,),
) -> pd.DataFrame:
    """Return the runs that have soft labels, the metric and one of the statuses: by benchmark, best first.

    Of runs that are equally good the one with fewer teachers comes first, then the order of names.

    Returns
    -------
    DataFrame
        a row for each run. `rows` (the most common number), `in_sample` (whether a teacher was trained on these rows)
        and `runs` (their number) are the same for all runs of a benchmark; `rank` counts from 1 on each benchmark;
        `space` is empty for one teacher. The other columns are metrics, NaN where a run has none

    Raises
    ------
    ContractError
        runs are there, and none has the metric
    """
    eligible = [run for run in runs if run.is_bundled and run.selection and judgements[run.run_id].status in statuses]
    boards: dict[str, list[RunRecord]] = {}
    for run in eligible:
        if metric in run.metrics:
            boards.setdefault(run.selection, []).append(run)
    if eligible and not boards:
        known = sorted({name for run in eligible for name in run.metrics})
        raise ContractError(f"--metric {metric}: no run has it; they have {', '.join(known[:40]) or 'none'}")
    names: dict[str, set[str]] = {}
    for selection, ranked in boards.items():
        names.setdefault(ranked[0].benchmark, set()).add(selection)
    lines = []
    for selection, ranked in boards.items():
        name = ranked[0].benchmark
        counts = [int(text) for run in ranked if (text := run.params.get("rows", "")).isdecimal()]
        shared = {
            "benchmark": one_line(name if len(names[name]) == 1 else f"{name} ({selection[:8]})"),
            "rows": mode(counts or [0]),
            "in_sample": any(run.tags.get("fer.in_sample") == "true" for run in ranked),
            "runs": len(ranked),
        }
        lines += [_line(run) | shared | {"status": judgements[run.run_id].status} for run in ranked]
    return _ranked(lines, metric)


def _line(run: RunRecord) -> dict[str, Any]:
    """Return a run's configuration and metrics as a row of a leaderboard."""
    ensemble, calibration = run.params.get("ensemble", ""), run.params.get("calibration", "none")
    protocol = f"{run.of_ensemble('clahe_clip')}/{run.of_ensemble('clahe_tile')}".strip("/")
    settings = {
        "ensemble": one_line(ensemble or run.name),
        "space": run.of_ensemble("space") if "," in ensemble else "",
        "clahe": f"clahe {protocol}" if protocol not in ("", "2/8", "2.0/8") else "clahe",
        "calibration": "" if calibration == "none" else one_line(calibration),
    }
    if run.of_ensemble("clahe") != "true":
        settings["clahe"] = ""
    own = {BOARD: run.selection, "kind": run.kind, "run_id": run.run_id, "experiment_id": run.experiment_id}
    metrics = {name: value for name, value in run.metrics.items() if name not in COLUMNS + TESTED}
    return {**metrics, **own, **settings, "configuration": " · ".join(filter(None, settings.values()))}


def _ranked(lines: Sequence[Mapping[str, Any]], metric: str) -> pd.DataFrame:
    """Return rows as a frame in the order of benchmarks and ranks."""
    metrics = sorted({name for line in lines for name in line}.difference(COLUMNS))
    frame = pd.DataFrame(lines, columns=[*COLUMNS, *metrics])
    if not lines:
        return frame
    keys = ["benchmark", BOARD, metric, "teachers", *SETTINGS, "run_id"]
    frame = frame.assign(teachers=frame["ensemble"].str.count(","))
    frame = frame.sort_values(keys, ascending=[key != metric or is_lower_better(metric) for key in keys])
    frame = frame.drop(columns="teachers").reset_index(drop=True)
    return frame.assign(rank=frame.groupby(BOARD).cumcount() + 1)


def add_significance(frame: pd.DataFrame, metric: str, evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """Return a leaderboard with intervals of macro-F1, and paired tests of each run against its benchmark's best.

    Added are `macro_f1_low` and `macro_f1_high` (95 %), `p_value`, Holm-adjusted over the runs of a benchmark that were
    tested (NaN where there is no evidence, or no test of the metric), and `level`: whether the run does not differ
    significantly from the best.
    """
    p_values: dict[str, float] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for _, board in frame.groupby(BOARD, sort=False):
        best, own = evidence.get(board["run_id"].iloc[0]), {}
        for run_id in board["run_id"]:
            each = evidence.get(run_id)
            if each is None or each.problem or not len(each.labels):
                continue
            rng = np.random.default_rng(SEED)
            interval = bootstrap_intervals(each.labels, each.predictions, each.classes, rng)[DEFAULT]
            low[run_id], high[run_id] = interval.low, interval.high
            p_value = difference_p_value(best, each, metric) if best is not None and each is not best else None
            if p_value is not None:
                own[run_id] = p_value
        p_values |= dict(zip(own, holm(np.array(list(own.values()))).tolist(), strict=True))
    columns = {"p_value": p_values, "macro_f1_low": low, "macro_f1_high": high}
    frame = frame.assign(**{name: frame["run_id"].map(values).astype(float) for name, values in columns.items()})
    return frame.assign(level=frame["p_value"] >= SIGNIFICANT)


def rank_across(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return configurations × benchmarks, the configuration to recommend first.

    Ranks are among the configurations of a benchmark (equal values share the better rank), of several runs of one the
    best counts. Configurations with runs on more benchmarks come first, then those with the lower mean rank: what was
    tried only where it shines is no default. Benchmarks that a teacher was trained on are left out: there the one that
    learned them by heart is first.

    Returns
    -------
    DataFrame
        indexed by configuration; columns `value` and `rank`, each by benchmark and NaN where there is no run, and
        `mean_rank`; empty where no benchmark is left
    """
    best = frame[~frame["in_sample"].astype(bool)].drop_duplicates([BOARD, "configuration"])
    if best.empty:
        return pd.DataFrame()
    ranks = best.groupby(BOARD)[metric].rank("min", ascending=is_lower_better(metric), na_option="bottom")
    best = best.assign(value=best[metric], rank=ranks)
    wide = best.pivot(index="configuration", columns=BOARD, values=["value", "rank"])
    wide = wide[[(name, selection) for name in ("value", "rank") for selection in best[BOARD].unique()]]
    labels = dict(zip(best[BOARD], best["benchmark"], strict=True))
    tried, mean_rank = wide["rank"].notna().sum(axis=1), wide["rank"].mean(axis=1)
    order = pd.DataFrame({"tried": -tried, "mean_rank": mean_rank, "name": wide.index}, index=wide.index)
    wide = wide.rename(columns=labels, level=1)
    wide["mean_rank", ""] = mean_rank
    return wide.loc[order.sort_values(["tried", "mean_rank", "name"]).index]


def read_leaderboard(client: MlflowClient, selection_sha256: str, metric: str = DEFAULT) -> pd.DataFrame:
    """Return the leaderboard of exactly these rows; of runs with one configuration only the newest.

    Runs that triage called bad, and runs without the metric, are left out.
    """
    newest: dict[str, RunRecord] = {}
    condition = f"tags.`fer.selection_sha256` = '{selection_sha256}' AND attributes.status = 'FINISHED'"
    for run in map(record_of, search_runs(client, condition)):
        if run.kind in BUNDLED_KINDS and run.tags.get(STATUS) != BAD and metric in run.metrics:
            newest.setdefault(run.tags["fer.config_key"], run)
    good = dict.fromkeys((run.run_id for run in newest.values()), Judgement(GOOD))
    return build_leaderboard(newest.values(), good, metric)
