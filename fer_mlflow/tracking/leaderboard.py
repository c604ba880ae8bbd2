"""Which runs did best on one benchmark, and which of them the rows cannot tell from the best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mode

import numpy as np
from mlflow import MlflowClient

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import DEFAULT, is_lower_better
from fer_mlflow.scoring.significance import Interval, bootstrap_intervals, holm
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.searching import BUNDLED_KINDS, search_runs
from fer_mlflow.tracking.triage.evidence import SEED, Evidence, difference_p_value
from fer_mlflow.tracking.triage.judgement import Judgement
from fer_mlflow.tracking.triage.records import RunRecord, record_of
from fer_mlflow.tracking.triage.tags import GOOD

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Entry:
    """One run on one benchmark.

    Attributes
    ----------
    kind : export, teacher or student
    ensemble, space, clahe, calibration : what the run is; space is empty for one teacher
    interval : 95 % of macro-F1, None where the bundle was not read
    p_value : of "no difference to the first", adjusted for the table (Holm); None where it was not tested
    """

    run_id: str
    experiment_id: str
    name: str
    kind: str
    ensemble: str
    space: str
    clahe: str
    calibration: str
    status: str
    metrics: dict[str, float]
    interval: Interval | None = None
    p_value: float | None = None

    @property
    def configuration(self) -> tuple[str, ...]:
        """What makes two entries on different benchmarks the same configuration."""
        return self.ensemble, self.space, self.clahe, self.calibration

    @property
    def is_level(self) -> bool:
        """Whether the rows cannot tell this run from the first."""
        return self.p_value is not None and self.p_value >= SIGNIFICANT


@dataclass(frozen=True)
class Board:
    """The leaderboard of one benchmark, best first.

    Attributes
    ----------
    is_trained_on : whether some teacher in it was trained on these rows, so that scores are too good
    """

    benchmark: str
    selection: str
    rows: int
    metric: str
    entries: tuple[Entry, ...]
    is_trained_on: bool = False


def entry_of(run: RunRecord, status: str = GOOD) -> Entry:
    """Return a run as a line of a leaderboard."""
    clahe = run.of_ensemble("clahe") == "true"
    protocol = f"{run.of_ensemble('clahe_clip')}/{run.of_ensemble('clahe_tile')}".strip("/") if clahe else ""
    is_usual = protocol in ("", "2/8", "2.0/8")
    return Entry(
        run.run_id,
        run.experiment_id,
        run.name,
        run.kind,
        one_line(run.params.get("ensemble", run.name)),
        "" if "," not in run.params.get("ensemble", "") else run.of_ensemble("space"),
        ("clahe" if is_usual else f"clahe {protocol}") if clahe else "",
        "" if run.params.get("calibration") == "none" else one_line(run.params.get("calibration", "")),
        status,
        run.metrics,
    )


def build_boards(
    runs: Iterable[RunRecord],
    judgements: Mapping[str, Judgement],
    metric: str,
    statuses: Sequence[str] = (GOOD,),
) -> list[Board]:
    """Return a board for each selection digest that has a run with one of the statuses, in order of their names.

    Of runs that are equally good the one with fewer teachers comes first, then the order of names.

    Raises
    ------
    ContractError
        runs are there, and none has the metric
    """
    by_selection: dict[str, list[RunRecord]] = {}
    eligible = [
        run
        for run in runs
        if run.kind in BUNDLED_KINDS
        and run.status == "FINISHED"
        and run.selection
        and judgements[run.run_id].status in statuses
    ]
    for run in eligible:
        if metric in run.metrics:
            by_selection.setdefault(run.selection, []).append(run)
    if eligible and not by_selection:
        known = sorted({name for run in eligible for name in run.metrics})
        raise ContractError(f"--metric {metric}: no run has it; they have {', '.join(known[:40]) or 'none'}")
    names: dict[str, set[str]] = {}
    for selection, found in by_selection.items():
        names.setdefault(found[0].benchmark, set()).add(selection)
    boards = []
    for selection, found in by_selection.items():
        name = found[0].benchmark
        label = name if len(names[name]) == 1 else f"{name} ({selection[:8]})"
        entries = sorted((entry_of(run, judgements[run.run_id].status) for run in found), key=_rank_key(metric))
        rows = [int(text) for run in found if (text := run.params.get("rows", "")).isdecimal()]
        trained_on = any(run.tags.get("fer.in_sample") == "true" for run in found)
        boards.append(Board(one_line(label), selection, mode(rows or [0]), metric, tuple(entries), trained_on))
    return sorted(boards, key=lambda board: (board.benchmark, board.selection))


def _rank_key(metric: str):
    sign = 1 if is_lower_better(metric) else -1
    return lambda entry: (
        math.isnan(entry.metrics[metric]),
        0.0 if math.isnan(entry.metrics[metric]) else sign * entry.metrics[metric],
        entry.ensemble.count(","),
        entry.ensemble,
        entry.configuration,
        entry.run_id,
    )


def with_significance(board: Board, evidence: Mapping[str, Evidence]) -> Board:
    """Return the board with intervals and adjusted p-values of the entries that there is evidence of.

    Each is held against the first: accuracy, macro-F1 and F1 by paired tests of counts, NLL by the paired t test.
    Other metrics have no test. Holm's adjustment is over the entries that were tested.
    """
    first = evidence.get(board.entries[0].run_id) if board.entries else None
    p_values: dict[str, float] = {}
    intervals = {}
    for entry in board.entries:
        found = evidence.get(entry.run_id)
        if found is None or found.problem or not len(found.labels):
            continue
        rng = np.random.default_rng(SEED)
        intervals[entry.run_id] = bootstrap_intervals(found.labels, found.predictions, found.classes, rng)[DEFAULT]
        if first is not None and found is not first:
            p_value = difference_p_value(first, found, board.metric)
            if p_value is not None:
                p_values[entry.run_id] = p_value
    adjusted = dict(zip(p_values, holm(np.array(list(p_values.values()))).tolist(), strict=True))
    entries = (
        replace(entry, interval=intervals.get(entry.run_id), p_value=adjusted.get(entry.run_id))
        for entry in board.entries
    )
    return replace(board, entries=tuple(entries))


@dataclass(frozen=True)
class AcrossRow:
    """One configuration over all benchmarks: its value and rank on each (None where it has no run), and their mean."""

    configuration: tuple[str, ...]
    values: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    mean_rank: float


def across(boards: Sequence[Board]) -> list[AcrossRow]:
    """Return the configurations of several boards, the one to recommend first.

    Ranks are among the configurations of a board (equal values share the better rank). Configurations with runs on
    more benchmarks come first, then those with the lower mean rank: what was tried only where it shines is no default.
    Leave out boards of rows that teachers were trained on: there the one that learned them by heart leads.
    """
    cells: dict[tuple[str, ...], dict[int, tuple[float, int]]] = {}
    for at, board in enumerate(boards):
        seen: dict[tuple[str, ...], float] = {}
        for entry in board.entries:
            seen.setdefault(entry.configuration, entry.metrics[board.metric])
        values = list(seen.values())
        for configuration, value in seen.items():
            cells.setdefault(configuration, {})[at] = value, 1 + values.index(value)
    rows = []
    for configuration, found in cells.items():
        rows.append(
            AcrossRow(
                configuration,
                tuple(found[at][0] if at in found else None for at in range(len(boards))),
                tuple(found[at][1] if at in found else None for at in range(len(boards))),
                float(np.mean([rank for _, rank in found.values()])),
            )
        )
    return sorted(rows, key=lambda row: (-sum(r is not None for r in row.ranks), row.mean_rank, row.configuration))


def read_leaderboard(client: MlflowClient, selection_sha256: str, metric: str = "macro_f1") -> list[Entry]:
    """Return the runs on exactly these rows, best first; of runs with one configuration only the newest.

    Runs that triage called bad, and runs without the metric, are left out.
    """
    found: dict[str, RunRecord] = {}
    condition = f"tags.`fer.selection_sha256` = '{selection_sha256}' AND attributes.status = 'FINISHED'"
    for run in map(record_of, search_runs(client, condition)):
        is_ranked = run.kind in BUNDLED_KINDS and run.tags.get("triage.status") != "bad"
        if is_ranked and metric in run.metrics:
            found.setdefault(run.tags["fer.config_key"], run)
    return sorted(map(entry_of, found.values()), key=_rank_key(metric))
