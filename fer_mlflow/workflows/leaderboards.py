"""Leaderboards: one frame of runs, benchmark by benchmark, best first; as tables, Markdown, CSV and a page of HTML."""

import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from statistics import mode
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow import tables
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import DEFAULT, is_lower_better
from fer_mlflow.scoring.significance import bootstrap_intervals, holm
from fer_mlflow.tracking import bundles, records, store
from fer_mlflow.tracking.records import Evidence, Judgement, RunRecord

BOARD = "selection_sha256"  # runs on the same rows stand on one leaderboard
SETTINGS = ("ensemble", "space", "clahe", "calibration")  # two runs that share them have the same configuration
COLUMNS = (
    *("benchmark", BOARD, "rows", "in_sample", "runs", "rank", "kind", "configuration", *SETTINGS),
    *("status", "person", "run_id", "experiment_id"),
)
TESTED = ("level", "p_value", "macro_f1_low", "macro_f1_high")
LEVEL_MARK = "≈"
_LEFT_OUT = 5  # runs that are named below a leaderboard
LEGEND = (
    f"{LEVEL_MARK}  not significantly different from the best: paired test, p at least 0.05 after Holm's adjustment"
)


def build_leaderboard(
    runs: Iterable[RunRecord], judgements: Mapping[str, Judgement], metric: str, statuses: Sequence[str] = (store.GOOD,)
) -> pd.DataFrame:
    """Return the runs that have soft labels, the metric and one of the statuses: by benchmark, best first.

    Of runs that are equally good the one with fewer teachers comes first, then the order of names. Where runs are
    there and none has the metric, a ContractError names those that they have.

    The frame has a row for each run. `rows` (the most common number), `in_sample` (whether a teacher was trained on
    these rows) and `runs` (their number) are the same for all runs of a benchmark; `rank` counts from 1 on each
    benchmark; `space` is empty for one teacher. The other columns are metrics, NaN where a run has none.
    """
    eligible = [run for run in runs if run.is_bundled and run.selection and judgements[run.run_id].status in statuses]
    boards: dict[str, list[RunRecord]] = {}
    for run in eligible:
        if metric in run.metrics:
            boards.setdefault(run.selection, []).append(run)
    if eligible and not boards:
        known = sorted({name for run in eligible for name in run.metrics})
        raise ContractError(f"--metric {metric}: no run has it; they have {', '.join(known[:40]) or 'none'}")
    selections = Counter(ranked[0].benchmark for ranked in boards.values())
    lines: list[dict[str, Any]] = []
    for selection, ranked in boards.items():
        name = ranked[0].benchmark
        counts = [int(text) for run in ranked if (text := run.params.get("rows", "")).isdecimal()]
        shared = {
            "benchmark": tables.one_line(name if selections[name] == 1 else f"{name} ({selection[:8]})"),
            "rows": mode(counts or [0]),
            "in_sample": any(run.tags.get("fer.in_sample") == "true" for run in ranked),
            "runs": len(ranked),
        }
        lines += [_line(run) | shared | {"status": judgements[run.run_id].status} for run in ranked]
    metrics = sorted({name for line in lines for name in line}.difference(COLUMNS))
    frame = pd.DataFrame(lines, columns=[*COLUMNS, *metrics])
    if frame.empty:
        return frame
    keys = ["benchmark", BOARD, metric, "teachers", *SETTINGS, "run_id"]
    frame = frame.assign(teachers=frame["ensemble"].str.count(","))
    frame = frame.sort_values(keys, ascending=[key != metric or is_lower_better(metric) for key in keys])
    frame = frame.drop(columns="teachers").reset_index(drop=True)
    return frame.assign(rank=frame.groupby(BOARD).cumcount() + 1)


def _line(run: RunRecord) -> dict[str, Any]:
    """Return a run's configuration and metrics as a row of a leaderboard."""
    ensemble, calibration = run.params.get("ensemble", ""), run.params.get("calibration", "none")
    clahe = ""
    if run.of_ensemble("clahe") == "true":
        protocol = f"{run.of_ensemble('clahe_clip') or '2.0'}/{run.of_ensemble('clahe_tile') or '8'}"
        clahe = "clahe" if protocol in ("2/8", "2.0/8") else f"clahe {protocol}"
    settings = {
        "ensemble": tables.one_line(ensemble or run.name),
        "space": run.of_ensemble("space") if "," in ensemble else "",
        "clahe": clahe,
        "calibration": "" if calibration == "none" else tables.one_line(calibration),
    }
    parts = list(settings.values())
    parts = [*parts[1:], parts[0]] if "," in ensemble else parts  # in the order of the configuration's name
    own = {BOARD: run.selection, "kind": run.kind, "run_id": run.run_id, "experiment_id": run.experiment_id}
    metrics = {name: value for name, value in run.metrics.items() if name not in COLUMNS + TESTED}
    own["person"] = store.person_of(run.tags)
    return {**metrics, **own, **settings, "configuration": " · ".join(filter(None, parts))}


def boards_of(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the leaderboard of each benchmark."""
    for _, board in frame.groupby(BOARD, sort=False):
        yield board


def add_significance(frame: pd.DataFrame, metric: str, evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """Return a leaderboard with intervals of macro-F1, and paired tests of each run against its benchmark's best.

    Added are `macro_f1_low` and `macro_f1_high` (95 %), `p_value`, Holm-adjusted over the runs of a benchmark that were
    tested (NaN where there is no evidence, or no test of the metric), and `level`: whether the run does not differ
    significantly from the best.
    """
    p_values: dict[str, float] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for board in boards_of(frame):
        best, own = evidence.get(board["run_id"].iloc[0]), {}
        for run_id in board["run_id"]:
            each = evidence.get(run_id)
            if each is None or each.problem or not len(each.labels):
                continue
            rng = np.random.default_rng(bundles.SEED)
            interval = bootstrap_intervals(each.labels, each.predictions, each.classes, rng)[DEFAULT]
            low[run_id], high[run_id] = interval.low, interval.high
            if best is not None and each is not best:
                own[run_id] = records.difference_p_value(best, each, metric)
        own = {run_id: p_value for run_id, p_value in own.items() if p_value is not None}
        p_values |= dict(zip(own, holm(np.array(list(own.values()))).tolist(), strict=True))
    columns = {"p_value": p_values, "macro_f1_low": low, "macro_f1_high": high}
    frame = frame.assign(**{name: frame["run_id"].map(values).astype(float) for name, values in columns.items()})
    return frame.assign(level=frame["p_value"] >= records.SIGNIFICANT)


def significance_text(line: Mapping[str, Any]) -> str:
    """Return the mark of a run that was tested, and the interval of its macro-F1; empty where there are none."""
    mark = [f"{LEVEL_MARK} not significantly different from the best"] * bool(line["level"])
    return " · ".join(mark + [f"{DEFAULT} {line[DEFAULT]:.3f} {text}" for text in [_interval(line)] if text])


def _interval(line: Mapping[str, Any]) -> str:
    low = line["macro_f1_low"]
    return "" if pd.isna(low) else f"[{low:.3f}, {line['macro_f1_high']:.3f}]"


def rank_across(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return configurations × benchmarks, the configuration to recommend first.

    Ranks are among the configurations of a benchmark (equal values share the better rank), of several runs of one the
    best counts. Configurations with runs on more benchmarks come first, then those with the lower mean rank: what was
    tried only where it shines is no default. Benchmarks that a teacher was trained on are left out: there the one that
    learned them by heart is first.

    The columns are `value` and `rank`, each by benchmark and NaN where there is no run, and `mean_rank`; the frame is
    empty where no benchmark is left.
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


def read_leaderboard(client: Any, selection_sha256: str, metric: str = DEFAULT) -> pd.DataFrame:
    """Return the leaderboard of exactly these rows; of runs with one configuration only the newest.

    Runs that triage called bad, and runs without the metric, are left out.
    """
    condition = f"tags.`fer.selection_sha256` = '{selection_sha256}'"
    found = (run for kind in store.BUNDLED_KINDS for run in store.search_finished(client, kind, condition))
    usable = (run for run in found if metric in run.data.metrics and not records.is_bad(run))
    newest = list(map(records.record_of, records.newest_of_each(usable)))
    return build_leaderboard(newest, {run.run_id: Judgement(store.GOOD) for run in newest}, metric)


def find_left_out(
    runs: Iterable[RunRecord], judgements: Mapping[str, Judgement], statuses: Sequence[str]
) -> dict[str, list[str]]:
    """Return selection digest -> ids of the bad and doubtful runs whose status keeps them off, newest first.

    Superseded runs are no loss: a newer run of their configuration stands there.
    """
    found: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda each: (-each.start_ms, each.run_id)):
        status = judgements[run.run_id].status
        if run.is_bundled and run.selection and status in (store.BAD, store.WARN) and status not in statuses:
            found.setdefault(run.selection, []).append(run.run_id)
    return found


def left_out_lines(runs: Sequence[RunRecord], judgements: Mapping[str, Judgement]) -> list[str]:
    """Return the lines about the runs of a benchmark that are not on its leaderboard: which, why, and what to do."""
    how = "`triage --keep RUN` puts a run back, --even-bad true shows all"
    lines = [f"left out: {len(runs):,} {'run' if len(runs) == 1 else 'runs'}; {how}"]
    for run in runs[:_LEFT_OUT]:
        judgement = judgements[run.run_id]
        status = f"{judgement.status} {store.person_of(run.tags)}".rstrip()
        lines.append(f"  {run.run_id[:8]}  {status:<4}  {run.name}: {'; '.join(judgement.reasons)}")
    return lines + [f"  and {len(runs) - _LEFT_OUT:,} more"] * (len(runs) > _LEFT_OUT)


def board_table(board: pd.DataFrame, metric: str, classes: Sequence[str] = ()) -> tables.Table:
    """Return a benchmark's leaderboard: rank, mark, ensemble, settings, metrics, run; `metric` is the first metric."""
    names = dict.fromkeys([metric, *store.SHOWN_METRICS, *(f"f1/{name}" for name in classes)])
    heads = [head for name in names for head in ([name, "95 %"] if name == "macro_f1" else [name])]
    rows: list[list[tables.Cell]] = []
    for line in board.to_dict("records"):
        status = [f"{line['status']} {line['person']}".rstrip()] * (line["status"] != store.GOOD)
        kind = ["student"] * (line["kind"] == "student")
        settings = [*status, *kind, *(line[name] for name in SETTINGS[1:] if line[name])]
        named = [line["rank"], LEVEL_MARK if line["level"] else "", line["ensemble"], " · ".join(settings)]
        numbers = [_interval(line) if head == "95 %" else line.get(head) for head in heads]
        rows.append([*named, *numbers, line["run_id"][:8]])
    header, align = ["", "", "ensemble", "settings", *heads, "run"], f"rlll{'r' * len(heads)}l"
    goes = [head for head in heads[:0:-1] if head != "95 %"]  # requested classes go last
    optional = sorted(goes, key=lambda head: head.startswith("f1/"))
    return tables.Table(header, rows, align, rule=True, optional=optional)


def board_title(board: pd.DataFrame) -> str:
    """Return the number of rows, the first digits of the selection, and whether a teacher was trained on them."""
    first = board.iloc[0]
    in_sample = " · teachers were trained on these rows" * bool(first["in_sample"])
    return f"{first['rows']:,} rows · {first[BOARD][:12]}{in_sample}"


def across_table(across: pd.DataFrame) -> tables.Table:
    """Return configurations × benchmarks, each cell value and rank, and their mean rank."""
    benchmarks = list(across["value"].columns)
    rows: list[list[tables.Cell]] = []
    for configuration, line in across.iterrows():
        pairs = zip(line["value"], line["rank"], strict=True)
        cells = ["–" if pd.isna(rank) else f"{value:.4f} ({rank:.0f})" for value, rank in pairs]
        rows.append([configuration, *cells, f"{line['mean_rank', '']:.2f}"])
    header, align = ["configuration", *benchmarks, "mean rank"], f"l{'r' * (len(benchmarks) + 1)}"
    return tables.Table(header, rows, align, rule=True, optional=benchmarks[:0:-1])


def recommendation(across: pd.DataFrame) -> str:
    """Return the first configuration, and what speaks against it as the default."""
    tried, benchmarks = int(across["rank"].iloc[0].notna().sum()), across["rank"].shape[1]
    only = "" if tried == benchmarks else f" (tried on {tried} of {benchmarks} benchmarks only)"
    return f"recommended: {across.index[0]}, mean rank {across['mean_rank'].iloc[0]:.2f}{only}"


def as_markdown(
    frame: pd.DataFrame, metric: str, across: pd.DataFrame | None = None, left_out: Mapping[str, list] | None = None
) -> str:
    """Return leaderboards as Markdown; `left_out` has the lines about the runs that are not on one, by its digest."""
    sections = [tables.Section("Leaderboard", [LEGEND])]
    for board in boards_of(frame):
        first = board.iloc[0]
        lines = [board_title(board), *(left_out or {}).get(first[BOARD], ())]
        sections.append(tables.Section(first["benchmark"], lines, board_table(board, metric)))
    if across is not None and len(across):
        sections.append(tables.Section("Across benchmarks", [recommendation(across)], across_table(across)))
    return tables.report_markdown(sections)


def as_note(frame: pd.DataFrame, metric: str) -> str:
    """Return leaderboards as the note of an experiment: the best run of each, then the tables; runs are links."""
    best = frame.drop_duplicates(BOARD).to_dict("records")
    named = ((store.split_first(each["benchmark"]), each) for each in best)
    lines = [f"best on {name}: {each['configuration']}, {metric} {each[metric]:.4f}" for name, each in named]
    text = "\n\n".join([*map(tables.escape_markdown, lines), as_markdown(frame, metric)])
    for line in frame.to_dict("records"):
        short, address = line["run_id"][:8], f"#/experiments/{line['experiment_id']}/runs/{line['run_id']}"
        text = text.replace(f"| {short} |", f"| [{short}]({address}) |")
    return text


def as_csv(frame: pd.DataFrame) -> str:
    """Return leaderboards as CSV: the frame, a line for each run."""
    first = ["benchmark", BOARD, "rank", *TESTED, "kind", "configuration", *SETTINGS, "status", "run_id"]
    metrics = list(frame.columns[frame.columns.get_loc("experiment_id") + 1 :].difference(TESTED))
    columns = frame[[*first, *metrics]].astype(object)
    return tables.csv_text(columns.columns.tolist(), columns.where(columns.notna(), None).to_numpy().tolist())


def as_page(
    frame: pd.DataFrame, metric: str, across: pd.DataFrame | None, address: Callable[[str, str], str | None]
) -> str:
    """Return one HTML page that needs nothing else: sortable by a click, filtered by benchmark and by text.

    `address` gives the page of a run, by experiment and run, and None where there is no server.
    """
    heads, lines = board_table(frame, metric).header, []
    for board in boards_of(frame):
        name = board["benchmark"].iloc[0]
        for line, row in zip(board.itertuples(), board_table(board, metric).rows, strict=True):
            *cells, run = (html.escape(tables.format_cell(cell)) for cell in (*row[:2], name, *row[2:]))
            link = address(line.experiment_id, line.run_id)
            run = f'<a href="{html.escape(link, quote=True)}"><code>{run}</code></a>' if link else f"<code>{run}</code>"
            group = ' class="level"' if line.level or line.rank == 1 else ""
            lines.append(f"<tr{group}><td>{'</td><td>'.join([*cells, run])}</td></tr>")
    parts = {
        "OPTIONS": "".join(f"<option>{html.escape(name)}</option>" for name in frame["benchmark"].unique()),
        "HEADS": "".join(f"<th>{html.escape(head)}</th>" for head in ("rank", "", "benchmark", *heads[2:])),
        "ROWS": "\n".join(lines),
        "LEGEND": html.escape(LEGEND),
        "ACROSS": "",
    }
    if across is not None and len(across):
        text = "\n".join([*tables.text_lines(across_table(across), indent=0), recommendation(across)])
        parts["ACROSS"] = f"<h2>Across benchmarks</h2><pre>{html.escape(text)}</pre>"
    page = files("fer_mlflow.workflows").joinpath("leaderboard.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page
