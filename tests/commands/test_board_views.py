"""Boards to read: exact text in a terminal, and names that can do nothing in CSV, Markdown and HTML."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from runs import record

from fer_mlflow.commands.board_views import (
    across_table,
    bad_runs_csv,
    board_csv,
    board_lines,
    board_markdown,
    board_page,
)
from fer_mlflow.scoring.significance import Interval
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.leaderboard import Board, Entry, across
from fer_mlflow.tracking.triage.judgement import Judgement

SELECTION = "ab" * 32
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b`c`d*e_f[g](h)~i",
    "&lt;b&gt; &amp; <b>",
    "<!--ROWS-->",
    "\\| \\",
    "</td></table>",
    "🙂 Łódź ×",
]


def entry(run_id="0123456789ab", macro_f1=0.5, ensemble="A=0.5,B=0.5", **more) -> Entry:
    own = {
        "experiment_id": "7",
        "name": "a run",
        "kind": "export",
        "space": "logit",
        "clahe": "",
        "calibration": "",
        "status": "good",
        "metrics": {"macro_f1": macro_f1, "accuracy": 0.75, "ece": 0.0625, "nll": 1.5} | more.pop("metrics", {}),
    }
    return Entry(run_id=run_id, ensemble=ensemble, **own | more)


def board(*entries, benchmark="faces:test", selection=SELECTION, metric="macro_f1", rows=3068) -> Board:
    return Board(benchmark, selection, rows, metric, entries)


SMALL = board(
    entry("0123456789ab", 0.8, "A=0.4,B=0.6", clahe="clahe", interval=Interval(0.75, 0.85), metrics={"f1/Fear": 0.3}),
    entry("1123456789ab", 0.79, "A=1", space="", kind="teacher", interval=Interval(0.7, 0.8), p_value=0.25),
    entry("2123456789ab", 0.5, "B=1", space="", p_value=0.001, metrics={"ece": None, "f1/Fear": 1.0}),
)
SMALL.entries[2].metrics.pop("ece")


# --- terminal ----------------------------------------------------------------------------------------------------


def test_a_board_in_the_terminal():
    assert "\n".join(board_lines(SMALL, ("Fear",), in_all=5)) == (
        "leaderboard of faces:test · 3,068 rows · abababababab\n"
        "\n"
        "        ensemble     settings       macro_f1            95 %  accuracy     ece     nll  f1/Fear  run\n"
        "  --------------------------------------------------------------------------------------------------\n"
        "  1     A=0.4,B=0.6  logit · clahe    0.8000  [0.750, 0.850]    0.7500  0.0625  1.5000   0.3000  01234567\n"
        "  2  ≈  A=1                           0.7900  [0.700, 0.800]    0.7500  0.0625  1.5000           11234567\n"
        "  3     B=1                           0.5000                    0.7500          1.5000   1.0000  21234567\n"
        "  … and 2 more\n"
        "  ≈  not told apart from the first: paired test, p at least 0.05 after Holm's adjustment"
    )


def test_a_student_is_called_one_beside_its_teachers():
    lines = board_lines(board(entry("a" * 12), entry("b" * 12, 0.4, "KD=1", space="", clahe="clahe", kind="student")))
    assert [line.split()[1:5] for line in lines[4:]] == [
        ["A=0.5,B=0.5", "logit", "0.5000", "0.7500"],
        ["KD=1", "student", "·", "clahe"],
    ]


def test_a_board_of_one_run_by_another_metric():
    assert "\n".join(board_lines(board(entry(), metric="nll", rows=1), in_all=1)) == (
        "leaderboard of faces:test · 1 rows · abababababab\n"
        "\n"
        "       ensemble     settings     nll  macro_f1  95 %  accuracy     ece  run\n"
        "  -------------------------------------------------------------------------\n"
        "  1    A=0.5,B=0.5  logit     1.5000    0.5000          0.7500  0.0625  01234567"
    )


def test_a_metric_is_a_column_once_and_a_class_that_no_run_has_an_empty_one():
    (_, _, header, *_) = board_lines(board(entry(metrics={"f1/Sad": 0.5}), metric="f1/Sad"), ("Sad", "Bored", "Sad"))
    assert header.split() == ["ensemble", "settings", "f1/Sad", "macro_f1", "95", "%", "accuracy", "ece", "nll",
                              "f1/Bored", "run"]  # fmt: skip


def test_columns_stay_in_line_whatever_the_names():
    entries = [entry(f"{at}" * 12, ensemble=name, calibration=name) for at, name in enumerate(HOSTILE)]
    lines = board_lines(board(*entries))[4:]
    assert len({line.index("0.5000") for line in lines}) == 1
    assert len(board_lines(board())) == 4  # a head without lines


def two_boards():
    one = board(entry("a" * 12, 0.6, "A=1", space=""), entry("b" * 12, 0.5, "B=1", space=""), benchmark="one")
    two = board(entry("c" * 12, 0.9, "B=1", space=""), benchmark="two", selection="cd" * 32)
    return [one, two]


def test_configurations_across_benchmarks_in_the_terminal():
    boards = two_boards()
    assert "\n".join(across_table(across(boards), boards)) == (
        "configurations across 2 benchmarks, macro_f1 (rank)\n"
        "\n"
        "  configuration         one         two  mean rank\n"
        "  ------------------------------------------------\n"
        "  B=1            0.5000 (2)  0.9000 (1)       1.50\n"
        "  A=1            0.6000 (1)           –       1.00\n"
        "  recommended: B=1, mean rank 1.50"
    )
    alone = [board(entry(ensemble="C=1", clahe="clahe"), benchmark="one"), board(benchmark="two", selection="cd" * 32)]
    assert across_table(across(alone), alone)[-1] == (
        "  recommended: C=1 · logit · clahe, mean rank 1.00 (tried on 1 of 2 benchmarks only)"
    )
    assert across_table([], []) == ["configurations across 0 benchmarks,  (rank)", "", "  configuration  mean rank",
                                    "  ------------------------"]  # fmt: skip


# --- CSV ---------------------------------------------------------------------------------------------------------


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_gives_the_numbers_back():
    values = [0.1 + 0.2, 1e-17, 123456.789012345, float("nan"), -0.0]
    boards = [board(*(entry(f"r{at}", value) for at, value in enumerate(values)))]
    lines = parsed(board_csv(boards))
    assert [line["macro_f1"] for line in lines] == [repr(value) for value in values]
    first, second, third = parsed(board_csv([SMALL]))
    assert first | {"level_with_first": "false", "p_value": "", "rank": "1"} == first
    assert second | {"level_with_first": "true", "p_value": "0.25", "rank": "2", "space": ""} == second
    assert third | {"level_with_first": "false", "p_value": "0.001", "macro_f1_low": "", "ece": ""} == third
    assert (float(first["macro_f1_low"]), float(first["macro_f1_high"])) == (0.75, 0.85)
    assert (
        first
        | {
            "benchmark": "faces:test",
            "selection_sha256": SELECTION,
            "ensemble": "A=0.4,B=0.6",
            "space": "logit",
            "clahe": "clahe",
            "calibration": "",
            "status": "good",
            "run_id": "0123456789ab",
            "f1/Fear": "0.3",
        }
        == first
    )


def test_the_csv_has_every_metric_of_every_board():
    boards = two_boards()
    boards[1].entries[0].metrics["brier"] = 0.25
    lines = parsed(board_csv(boards))
    assert [line["brier"] for line in lines] == ["", "", "0.25"]
    assert [line["benchmark"] for line in lines] == ["one", "one", "two"]
    assert [line["rank"] for line in lines] == ["1", "2", "1"]
    assert parsed(board_csv([])) == []


@pytest.mark.parametrize("formula", ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "a\r=1"])
def test_no_cell_of_text_is_a_formula(formula):
    hostile = board(entry(formula, ensemble=formula, calibration=formula, clahe=formula), benchmark=formula)
    run = record(formula, name=formula, tags={"fer.benchmark": formula})
    for text in (board_csv([hostile]), bad_runs_csv([run], {formula: Judgement("bad", (formula,))})):
        header, *lines = csv.reader(io.StringIO(text))
        assert len(lines) == 1  # and none begins where a name would break it
        assert len(lines[0]) == len(header)
        assert not [cell for cell in lines[0] if cell.strip().startswith(("=", "+", "-", "@"))]
        assert len([cell for cell in lines[0] if cell.lstrip("' ") == one_line(formula).lstrip()]) >= 4


@pytest.mark.parametrize("name", [*HOSTILE, 'a "quoted", text', "a;b", "'", "a-b=c", "x\ny"])
def test_any_name_comes_back_from_the_csv(name):
    hostile = board(entry(ensemble=name), benchmark=name)
    (line,) = parsed(board_csv([hostile]))
    assert (line["ensemble"], line["benchmark"]) == (one_line(name),) * 2


def test_bad_runs_and_why():
    runs = [record("a"), record("b", kind="teacher", status="FAILED", name="two\nlines"), record("c")]
    verdicts = {"a": Judgement("good"), "b": Judgement("bad", ("x: 1", "y: 2")), "c": Judgement("warn", ("z",))}
    (line,) = parsed(bad_runs_csv(runs, verdicts))
    assert line == {
        "run_id": "b",
        "kind": "teacher",
        "name": "two lines",
        "benchmark": "faces:test",
        "run_status": "FAILED",
        "reasons": "x: 1; y: 2",
    }
    assert parsed(bad_runs_csv(runs[:1], verdicts)) == []


# --- Markdown ----------------------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    """Return the cells of a Markdown table's line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_board_in_markdown():
    lines = board_markdown([SMALL], [], []).splitlines()
    assert lines[0] == "## faces:test"
    assert lines[2] == "3,068 rows, selection `abababababab`"
    header, rule, *rows = (cells(line) for line in lines if line.startswith("|"))
    assert header == ["", "", "ensemble", "settings", "macro_f1", "accuracy", "ece", "nll", "95 %", "run"]
    assert len(rule) == len(header)
    assert rows == [
        [
            "1",
            "",
            "A=0.4,B=0.6",
            "logit · clahe",
            "0.8000",
            "0.7500",
            "0.0625",
            "1.5000",
            "[0.750, 0.850]",
            "`01234567`",
        ],
        ["2", "≈", "A=1", "", "0.7900", "0.7500", "0.0625", "1.5000", "[0.700, 0.800]", "`11234567`"],
        ["3", "", "B=1", "", "0.5000", "0.7500", "", "1.5000", "", "`21234567`"],
    ]
    assert lines[-1].startswith("≈  not told apart")


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_takes_names_as_text(name):
    hostile = [board(entry(ensemble=name, calibration=name), benchmark=name)]
    text = board_markdown(hostile, across(hostile), hostile)
    assert not re.search(r"<(?!!--)", text.replace("\\<", ""))
    assert "<!--" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(cells(line)) for line in tables] == [10, 10, 10, 3, 3, 3]
    assert not re.search(r"(?<!\\)[`*_\[\]]", cells(tables[2])[2])


def test_configurations_across_benchmarks_in_markdown():
    boards = two_boards()
    lines = board_markdown(boards, across(boards), boards).splitlines()
    at = lines.index("## Across benchmarks")
    assert [cells(line) for line in lines[at:] if line.startswith("|")] == [
        ["configuration", "one", "two", "mean rank"],
        ["---", "---:", "---:", "---:"],
        ["B=1", "0.5000 (2)", "0.9000 (1)", "1.50"],
        ["A=1", "0.6000 (1)", "–", "1.00"],
    ]
    assert "Recommended: B=1, mean rank 1.50" in lines
    assert board_markdown([], [], []) == ""


# --- HTML --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.heads, self.options = [], [], [], [], []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = {"th": self.heads, "option": self.options}.get(self.open[-1] if self.open else "")
        if inside is not None:
            inside.append(data)
        elif "td" in self.open:
            self.rows[-1][-1] += data


def page_of(boards, rows=(), address=lambda experiment, run_id: None) -> tuple[str, Page]:
    text = board_page(boards, rows, boards, address)
    return text, Page(text)


def test_the_page_has_a_line_for_each_run_and_what_is_level_with_the_first_is_marked():
    other = board(entry("c" * 12, 0.9), benchmark="other", selection="cd" * 32)
    text, page = page_of([SMALL, other])
    assert page.heads == [
        "rank",
        "benchmark",
        "ensemble",
        "settings",
        "macro_f1",
        "accuracy",
        "ece",
        "nll",
        "95 %",
        "run",
    ]
    assert page.options == ["all", "faces:test", "other"]
    rows = page.rows[1:]
    assert [len(row) for row in rows] == [11] * 4
    assert rows[1] == [
        "2",
        "≈",
        "faces:test",
        "A=1",
        "",
        "0.7900",
        "0.7500",
        "0.0625",
        "1.5000",
        "[0.700, 0.800]",
        "11234567",
    ]
    assert text.count('<tr class="level">') == 3  # the firsts, and the one that is level
    assert page_of([])[1].rows == [[]]


def test_the_page_needs_nothing_else():
    text, page = page_of([SMALL])
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not {"link", "img", "iframe", "object", "embed", "base", "a"} & set(page.tags)
    assert not [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|eval\(|innerHTML", text)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"<!--[A-Z]+-->", text)  # every place is filled
    assert '<meta charset="utf-8">' in text


def test_runs_are_linked_where_there_is_a_page_for_them():
    _, page = page_of([SMALL], address=lambda experiment, run_id: f'http://host/?a="b"&c/#/{experiment}/{run_id}')
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f'http://host/?a="b"&c/#/7/{run.run_id}' for run in SMALL.entries]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_takes_names_as_text(name):
    hostile = [board(entry(ensemble=name, calibration=name), benchmark=name)]
    _, page = page_of(hostile, across(hostile))
    tame, _ = page_of([board(entry())], across([board(entry())]))
    assert page.tags == Page(tame).tags
    assert page.rows[1][2:5] == [name, name, f"logit · {name}"]
    assert page.options[-1] == name
    assert "onerror" not in "".join(name for _, name, _ in page.attributes)


def test_across_is_on_the_page_where_it_was_asked_for():
    boards = two_boards()
    text, page = page_of(boards, across(boards))
    assert "recommended: B=1, mean rank 1.50" in text
    assert "pre" in page.tags
    assert "pre" not in page_of(boards)[1].tags
