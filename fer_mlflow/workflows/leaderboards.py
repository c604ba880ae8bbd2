"""Leaderboards for people, as tables, Markdown, CSV and a page of HTML: all of one frame (`build_leaderboard`)."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files

import pandas as pd

from fer_mlflow.tables import Cell, Section, Table, csv_text, format_cell, report_markdown, text_lines
from fer_mlflow.tracking.leaderboard import BOARD, SETTINGS, TESTED
from fer_mlflow.tracking.records import Judgement, RunRecord
from fer_mlflow.tracking.store import BAD, SHOWN_METRICS

LEVEL_MARK = "≈"
LEGEND = (
    f"{LEVEL_MARK}  not significantly different from the best: paired test, p at least 0.05 after Holm's adjustment"
)
IN_SAMPLE = "teachers were trained on these rows"


def boards_of(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the leaderboard of each benchmark."""
    for _, board in frame.groupby(BOARD, sort=False):
        yield board


def board_table(board: pd.DataFrame, metric: str, classes: Sequence[str] = ()) -> Table:
    """Return a benchmark's leaderboard: rank, mark, ensemble, settings, metrics, run; `metric` is the first metric."""
    names = list(dict.fromkeys([metric, *SHOWN_METRICS, *(f"f1/{name}" for name in classes)]))
    columns = board.reindex(columns=[*board.columns, *(name for name in names if name not in board)])
    heads = [head for name in names for head in ([name, "95 %"] if name == "macro_f1" else [name])]
    rows: list[list[Cell]] = []
    for line in columns.to_dict("records"):
        interval = "" if pd.isna(line["macro_f1_low"]) else f"[{line['macro_f1_low']:.3f}, {line['macro_f1_high']:.3f}]"
        settings = ["student" if line["kind"] == "student" else "", *(line[name] for name in SETTINGS[1:])]
        rows.append(
            [
                *(line["rank"], LEVEL_MARK if line["level"] else "", line["ensemble"]),
                " · ".join(filter(None, settings)),
                *(interval if head == "95 %" else line[head] for head in heads),
                line["run_id"][:8],
            ]
        )
    return Table(["", "", "ensemble", "settings", *heads, "run"], rows, align=f"rlll{'r' * len(heads)}l")


def board_title(board: pd.DataFrame) -> str:
    """Return the number of rows, the first digits of the selection, and whether a teacher was trained on them."""
    first = board.iloc[0]
    parts = [f"{first['rows']:,} rows", first[BOARD][:12], *([IN_SAMPLE] if first["in_sample"] else [])]
    return " · ".join(parts)


def across_table(across: pd.DataFrame) -> Table:
    """Return configurations × benchmarks, each cell value and rank, and their mean rank."""
    benchmarks = list(across["value"].columns)
    rows: list[list[Cell]] = []
    for configuration, values, ranks, mean_rank in zip(
        across.index, across["value"].to_numpy(), across["rank"].to_numpy(), across["mean_rank"], strict=True
    ):
        pairs = zip(values, ranks, strict=True)
        cells = ["–" if pd.isna(rank) else f"{value:.4f} ({rank:.0f})" for value, rank in pairs]
        rows.append([configuration, *cells, f"{mean_rank:.2f}"])
    return Table(["configuration", *benchmarks, "mean rank"], rows, align=f"l{'r' * (len(benchmarks) + 1)}")


def recommendation(across: pd.DataFrame) -> str:
    """Return the first configuration, and what speaks against it as the default."""
    tried, benchmarks = int(across["rank"].iloc[0].notna().sum()), across["rank"].shape[1]
    only = "" if tried == benchmarks else f" (tried on {tried} of {benchmarks} benchmarks only)"
    return f"recommended: {across.index[0]}, mean rank {across['mean_rank'].iloc[0]:.2f}{only}"


def leaderboard_markdown(frame: pd.DataFrame, metric: str, across: pd.DataFrame | None = None) -> str:
    """Return leaderboards as Markdown."""
    sections = [Section("Leaderboard", [LEGEND])]
    for board in boards_of(frame):
        sections.append(Section(board["benchmark"].iloc[0], [board_title(board)], board_table(board, metric)))
    if across is not None and len(across):
        sections.append(Section("Across benchmarks", [recommendation(across)], across_table(across)))
    return report_markdown(sections)


def leaderboard_csv(frame: pd.DataFrame) -> str:
    """Return leaderboards as CSV: the frame, a line for each run."""
    first = ["benchmark", BOARD, "rank", *TESTED, "kind", "configuration", *SETTINGS, "status", "run_id"]
    metrics = list(frame.columns[frame.columns.get_loc("experiment_id") + 1 :].difference(TESTED))
    columns = frame[[*first, *metrics]].astype(object)
    return csv_text(columns.columns.tolist(), columns.where(columns.notna(), None).to_numpy().tolist())


def bad_runs_csv(runs: Sequence[RunRecord], judgements: Mapping[str, Judgement]) -> str:
    """Return the bad runs and the reasons."""
    rows = [
        [run.run_id, run.kind, run.name, run.benchmark, run.status, "; ".join(judgements[run.run_id].reasons)]
        for run in runs
        if judgements[run.run_id].status == BAD
    ]
    return csv_text(["run_id", "kind", "name", "benchmark", "run_status", "reasons"], rows)


def leaderboard_page(
    frame: pd.DataFrame, metric: str, across: pd.DataFrame | None, address: Callable[[str, str], str | None]
) -> str:
    """Return one HTML page that needs nothing else: sortable by a click, filtered by benchmark and by text.

    Parameters
    ----------
    address : (experiment id, run id) -> the run's page, None where there is no server
    """
    heads, lines = board_table(frame, metric).header, []
    for board in boards_of(frame):
        name = board["benchmark"].iloc[0]
        for line, row in zip(board.itertuples(), board_table(board, metric).rows, strict=True):
            *cells, run = (html.escape(format_cell(cell)) for cell in (*row[:2], name, *row[2:]))
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
        text = "\n".join([*text_lines(across_table(across), indent=0, rule=True), recommendation(across)])
        parts["ACROSS"] = f"<h2>Across benchmarks</h2><pre>{html.escape(text)}</pre>"
    page = files("fer_mlflow.workflows").joinpath("leaderboard.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page
