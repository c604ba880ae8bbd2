"""Leaderboards to read: in a terminal, as Markdown, as CSV, and as one self-contained page."""

import csv
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files

from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.leaderboard import AcrossRow, Board, Entry
from fer_mlflow.tracking.triage.judgement import Judgement
from fer_mlflow.tracking.triage.records import RunRecord
from fer_mlflow.tracking.triage.tags import BAD

LEVEL_MARK = "≈"
_LEGEND = f"{LEVEL_MARK}  not told apart from the first: paired test, p at least 0.05 after Holm's adjustment"
_SCORES = sorted(metric_names(having=lambda metric: "leaderboard" in metric.shown))
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would take such a cell for a formula


def _columns(metric: str, classes: Sequence[str]) -> list[str]:
    """Return the metrics that a board shows, the one that it is ranked by first."""
    wanted = [metric, *(name for name in _SCORES if name != metric), *(f"f1/{name}" for name in classes)]
    return list(dict.fromkeys(wanted))


def _settings(entry: Entry) -> str:
    kind = "student" if entry.kind == "student" else ""
    return " · ".join(filter(None, (kind, entry.space, entry.clahe, entry.calibration)))


def _interval(entry: Entry) -> str:
    return f"[{entry.interval.low:.3f}, {entry.interval.high:.3f}]" if entry.interval else ""


def _number(entry: Entry, metric: str) -> str:
    value = entry.metrics.get(metric)
    return "" if value is None else f"{value:.4f}"


def board_lines(board: Board, classes: Sequence[str] = (), in_all: int | None = None) -> list[str]:
    """Return a leaderboard for a terminal: rank, mark, ensemble, settings, metrics, run."""
    metrics = _columns(board.metric, classes)
    rows = [
        [
            str(rank),
            LEVEL_MARK if entry.is_level else "",
            entry.ensemble,
            _settings(entry),
            *(cell for metric in metrics for cell in _cells(entry, metric)),
            entry.run_id[:8],
        ]
        for rank, entry in enumerate(board.entries, start=1)
    ]
    heads = [cell for metric in metrics for cell in ([metric, "95 %"] if metric == "macro_f1" else [metric])]
    header = ["", "", "ensemble", "settings", *heads, "run"]
    lines = _aligned([header, *rows], left={1, 2, 3, len(header) - 1})
    trained_on = " · teachers were trained on these rows" if board.is_trained_on else ""
    found = [f"leaderboard of {board.benchmark} · {board.rows:,} rows · {board.selection[:12]}{trained_on}", ""]
    found += [f"  {lines[0]}", f"  {'-' * len(lines[0])}", *(f"  {line}" for line in lines[1:])]
    if in_all is not None and in_all > len(board.entries):
        found.append(f"  … and {in_all - len(board.entries):,} more")
    return [*found, f"  {_LEGEND}"] if any(entry.is_level for entry in board.entries) else found


def _cells(entry: Entry, metric: str) -> list[str]:
    return [_number(entry, metric), _interval(entry)] if metric == "macro_f1" else [_number(entry, metric)]


def _aligned(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Return rows as lines of columns; those in `left` begin together, the others end together."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def across_table(rows: Sequence[AcrossRow], boards: Sequence[Board]) -> list[str]:
    """Return configurations x benchmarks for a terminal, each cell value and rank, and the one to recommend."""
    header = ["configuration", *(board.benchmark for board in boards), "mean rank"]
    lines = _aligned([header, *([name, *cells] for name, cells in _across_cells(rows))], left={0})
    metric = boards[0].metric if boards else ""
    return [
        f"configurations across {len(boards)} benchmarks, {metric} (rank)",
        "",
        *(f"  {line}" for line in (lines[0], "-" * len(lines[0]), *lines[1:])),
        *([f"  recommended: {_recommendation(rows, len(boards))}"] if rows else []),
    ]


def _across_cells(rows: Sequence[AcrossRow]) -> Iterable[tuple[str, list[str]]]:
    for row in rows:
        cells = [f"{v:.4f} ({r})" if v is not None else "–" for v, r in zip(row.values, row.ranks, strict=True)]
        yield " · ".join(filter(None, row.configuration)), [*cells, f"{row.mean_rank:.2f}"]


def _recommendation(rows: Sequence[AcrossRow], n_boards: int) -> str:
    """Return the first configuration, and what speaks against calling it the default."""
    first = rows[0]
    tried = sum(rank is not None for rank in first.ranks)
    said = " · ".join(filter(None, first.configuration)) + f", mean rank {first.mean_rank:.2f}"
    return said if tried == n_boards else f"{said} (tried on {tried} of {n_boards} benchmarks only)"


def board_markdown(boards: Sequence[Board], rows: Sequence[AcrossRow], all_boards: Sequence[Board]) -> str:
    """Return leaderboards as Markdown; names are escaped."""
    parts = []
    for board in boards:
        metrics = _columns(board.metric, ())
        rows_of = f"{board.rows:,} rows, selection `{board.selection[:12]}`"
        rows_of += "; teachers were trained on these rows" if board.is_trained_on else ""
        parts += [f"## {_escaped(board.benchmark)}", "", rows_of, ""]
        parts += [f"| | | ensemble | settings | {' | '.join(metrics)} | 95 % | run |"]
        parts += ["| ---: | --- | --- | --- |" + " ---: |" * len(metrics) + " --- | --- |"]
        for rank, entry in enumerate(board.entries, start=1):
            cells = [
                str(rank),
                LEVEL_MARK if entry.is_level else "",
                _escaped(entry.ensemble),
                _escaped(_settings(entry)),
            ]
            cells += [*(_number(entry, metric) for metric in metrics), _interval(entry), f"`{entry.run_id[:8]}`"]
            parts.append(f"| {' | '.join(cells)} |")
        parts += ["", _LEGEND, ""]
    if rows:
        parts += ["## Across benchmarks", ""]
        parts += [f"| configuration | {' | '.join(_escaped(b.benchmark) for b in all_boards)} | mean rank |"]
        parts += ["| --- |" + " ---: |" * (len(all_boards) + 1)]
        parts += [f"| {_escaped(name)} | {' | '.join(cells)} |" for name, cells in _across_cells(rows)]
        parts += ["", f"Recommended: {_escaped(_recommendation(rows, len(all_boards)))}", ""]
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Return text that Markdown, and HTML inside it, takes as it is."""
    for character in "\\`*_[]|<>":
        text = text.replace(character, f"\\{character}" if character not in "<>" else html.escape(character))
    return text


def board_csv(boards: Sequence[Board]) -> str:
    """Return all boards as one CSV, a line for each run."""
    names = sorted({name for board in boards for entry in board.entries for name in entry.metrics})
    header = ["benchmark", "selection_sha256", "rank", "level_with_first", "p_value", "ensemble", "space", "clahe"]
    header += ["calibration", "status", "run_id", "macro_f1_low", "macro_f1_high", *names]
    lines = []
    for board in boards:
        for rank, entry in enumerate(board.entries, start=1):
            low, high = (entry.interval.low, entry.interval.high) if entry.interval else ("", "")
            p_value = "" if entry.p_value is None else entry.p_value
            cells = [board.benchmark, board.selection, rank, str(entry.is_level).lower(), p_value]
            cells += [
                entry.ensemble,
                entry.space,
                entry.clahe,
                entry.calibration,
                entry.status,
                entry.run_id,
                low,
                high,
            ]
            lines.append([*cells, *(entry.metrics.get(name, "") for name in names)])
    return _csv([header, *lines])


def bad_runs_csv(runs: Sequence[RunRecord], judgements: Mapping[str, Judgement]) -> str:
    """Return the bad runs and why they are bad."""
    lines = [
        [run.run_id, run.kind, run.name, run.benchmark, run.status, "; ".join(judgements[run.run_id].reasons)]
        for run in runs
        if judgements[run.run_id].status == BAD
    ]
    return _csv([["run_id", "kind", "name", "benchmark", "run_status", "reasons"], *lines])


def _csv(rows: Sequence[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue()


def _safe(cell):
    """Return a cell of one line that no spreadsheet takes for a formula."""
    if not isinstance(cell, str):
        return cell
    cell = one_line(cell)
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) else cell


def board_page(
    boards: Sequence[Board],
    rows: Sequence[AcrossRow],
    all_boards: Sequence[Board],
    address: Callable[[str, str], str | None],
) -> str:
    """Return one HTML page that needs nothing else: sortable by a click, filtered by benchmark and by text.

    Parameters
    ----------
    address : (experiment id, run id) -> the run's page, None where there is no server
    """
    metrics = _columns(boards[0].metric if boards else "macro_f1", ())
    heads = ["rank", "", "benchmark", "ensemble", "settings", *metrics, "95 %", "run"]
    body = []
    for board in boards:
        for rank, entry in enumerate(board.entries, start=1):
            link = address(entry.experiment_id, entry.run_id)
            run = f"<code>{entry.run_id[:8]}</code>"
            run = f'<a href="{html.escape(link, quote=True)}">{run}</a>' if link else run
            cells = [str(rank), LEVEL_MARK if entry.is_level else "", board.benchmark, entry.ensemble, _settings(entry)]
            cells = [html.escape(cell) for cell in cells]
            cells += [*(_number(entry, metric) for metric in metrics), _interval(entry), run]
            row_class = ' class="level"' if entry.is_level or rank == 1 else ""
            body.append(f"<tr{row_class}><td>{'</td><td>'.join(cells)}</td></tr>")
    page = files("fer_mlflow.commands").joinpath("leaderboard.html").read_text(encoding="utf-8")
    options = "".join(f"<option>{html.escape(board.benchmark)}</option>" for board in boards)
    table = "\n".join(across_table(rows, all_boards)) if rows else ""
    filled = {
        "OPTIONS": options,
        "HEADS": "".join(f"<th>{html.escape(head)}</th>" for head in heads),
        "ROWS": "\n".join(body),
        "LEGEND": html.escape(_LEGEND),
        "ACROSS": f"<h2>Across benchmarks</h2><pre>{html.escape(table)}</pre>" if table else "",
    }
    for name, text in filled.items():
        page = page.replace(f"<!--{name}-->", text)
    return page
