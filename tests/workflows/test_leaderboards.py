"""Leaderboards for people: exact text in a terminal, and names that can do nothing in CSV, Markdown and HTML."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from runs import record

from fer_mlflow.cli.scoring import leaderboard_lines
from fer_mlflow.tables import one_line, part_lines
from fer_mlflow.tracking.records import Judgement
from fer_mlflow.workflows.leaderboards import (
    LEGEND,
    across_table,
    as_csv,
    as_markdown,
    as_page,
    board_table,
    build_leaderboard,
    left_out_lines,
    rank_across,
    recommendation,
)
from fer_mlflow.workflows.triage import TriageResult

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


def entry(run_id="0123456789ab", macro_f1=0.5, ensemble="A=0.5,B=0.5", benchmark="faces:test", **more):
    """Return a run, and what is known of it: p-value and interval."""
    tested = {name: more.pop(name, float("nan")) for name in ("p_value", "macro_f1_low", "macro_f1_high")}
    metrics = {"macro_f1": macro_f1, "accuracy": 0.75, "ece": 0.0625, "nll": 1.5} | more.pop("metrics", {})
    tags = {"fer.benchmark": benchmark, "fer.selection_sha256": more.pop("selection", SELECTION)}
    params = {"ensemble": ensemble, "rows": "3068"} | more.pop("params", {})
    return record(run_id, metrics=metrics, params=params, tags=tags, **more), tested


def frame_of(*entries, metric="macro_f1") -> pd.DataFrame:
    runs = [run for run, _ in entries]
    frame = build_leaderboard(runs, {run.run_id: Judgement("good") for run in runs}, metric)
    known = pd.DataFrame([{"run_id": run.run_id} | tested for run, tested in entries])
    frame = frame.merge(known, on="run_id", how="left") if len(frame) else frame.assign(**dict.fromkeys(known))
    return frame.assign(level=frame["p_value"] >= 0.05)


CLAHE = {"clahe": "true"}
SMALL = frame_of(
    entry("0123456789ab", 0.8, "A=0.4,B=0.6", params=CLAHE, macro_f1_low=0.75, macro_f1_high=0.85,
          metrics={"f1/Fear": 0.3}),
    entry("1123456789ab", 0.79, "A=1", kind="teacher", macro_f1_low=0.7, macro_f1_high=0.8, p_value=0.25),
    entry("2123456789ab", 0.5, "B=1", p_value=0.001, metrics={"ece": None, "f1/Fear": 1.0}),
)  # fmt: skip


def text_of(frame, metric="macro_f1", classes=(), across=None, in_sample=(), width=None) -> list[str]:
    result = TriageResult(
        run_id="", ui="", action="judge", dry_run=True, changes={}, leaderboard=frame, across=across,
        in_sample=in_sample, metric=metric, classes=classes,
    )  # fmt: skip
    lines = [line for part in leaderboard_lines(result) for line in part_lines(part, width)]
    return "\n".join(lines).splitlines()


# --- terminal ----------------------------------------------------------------------------------------------------


def test_a_leaderboard_in_the_terminal():
    assert text_of(SMALL.assign(runs=5), classes=("Fear",)) == [
        "leaderboard of faces:test · 3,068 rows · abababababab",
        "",
        "        ensemble     settings       macro_f1            95 %  accuracy     ece     nll  f1/Fear  run",
        "  --------------------------------------------------------------------------------------------------",
        "  1     A=0.4,B=0.6  logit · clahe    0.8000  [0.750, 0.850]    0.7500  0.0625  1.5000   0.3000  01234567",
        "  2  ≈  A=1                           0.7900  [0.700, 0.800]    0.7500  0.0625  1.5000        –  11234567",
        "  3     B=1                           0.5000                    0.7500       –  1.5000   1.0000  21234567",
        "  … and 2 more",
        "  ≈  not significantly different from the best: paired test, p at least 0.05 after Holm's adjustment",
    ]


def test_in_a_narrow_terminal_the_least_important_columns_go_and_names_wrap():
    names = "ConvNeXt=0.2,EfficientNet=0.3,RegNetX=0.25,ResNet18=0.25"
    frame = frame_of(entry("0" * 12, 0.8, names, params=CLAHE, macro_f1_low=0.75, macro_f1_high=0.85), entry("1" * 12))
    assert text_of(frame, classes=("Fear",), width=80)[2:] == [
        "       ensemble                settings       macro_f1            95 %  run",
        "  -------------------------------------------------------------------------",
        "  1    ConvNeXt=0.2,           logit · clahe    0.8000  [0.750, 0.850]  00000000",
        "       EfficientNet=0.3,",
        "       RegNetX=0.25,",
        "       ResNet18=0.25",
        "  2    A=0.5,B=0.5             logit            0.5000                  11111111",
        "  4 columns do not fit into 80: accuracy, ece, nll, f1/Fear; a wider terminal or",
        "  a pipe has them",
    ]
    assert text_of(frame, classes=("Fear",), width=160) == text_of(frame, classes=("Fear",))


def test_the_person_who_set_a_status_stands_beside_it():
    run, _ = entry()
    person = {"triage.status": "bad", "triage.written": "bad", "triage.overruled": "bad by ann at 2026-11-24T10:00Z"}
    judged = {run.run_id: Judgement("bad", ("blurred",), by_person=True)}
    for tags, who in ((person, "bad by ann"), (person | {"triage.overruled": "bad"}, "bad by hand"), ({}, "bad")):
        known = replace(run, tags=run.tags | tags)
        board = build_leaderboard([known], judged, "macro_f1", ("bad",)).assign(
            macro_f1_low=None, macro_f1_high=None, level=False
        )
        assert board_table(board, "macro_f1").rows[0][3] == f"{who} · logit"
        assert left_out_lines([known], judged)[1] == f"  01234567  {who:<4}  {run.name}: blurred"


def test_a_leaderboard_of_one_run_by_another_metric():
    assert text_of(frame_of(entry(params={"rows": "1"}), metric="nll"), "nll") == [
        "leaderboard of faces:test · 1 rows · abababababab",
        "",
        "       ensemble     settings     nll  macro_f1  95 %  accuracy     ece  run",
        "  -------------------------------------------------------------------------",
        "  1    A=0.5,B=0.5  logit     1.5000    0.5000          0.7500  0.0625  01234567",
    ]


def test_a_student_is_called_one_beside_its_teachers():
    student = entry("b" * 12, 0.4, "KD=1", params=CLAHE, kind="student")
    rows = board_table(frame_of(entry("a" * 12), student), "macro_f1").rows
    assert [row[2:4] for row in rows] == [["A=0.5,B=0.5", "logit"], ["KD=1", "student · clahe"]]


def test_a_leaderboard_names_that_teachers_were_trained_on_its_rows():
    run, tested = entry()
    known = replace(run, tags=run.tags | {"fer.in_sample": "true"})
    assert text_of(frame_of((known, tested)))[0].endswith(" · teachers were trained on these rows")


def test_a_metric_is_a_column_once_and_a_class_that_no_run_has_an_empty_one():
    table = board_table(frame_of(entry(metrics={"f1/Sad": 0.5}), metric="f1/Sad"), "f1/Sad", ("Sad", "Bored", "Sad"))
    assert table.header[2:] == ["ensemble", "settings", "f1/Sad", "macro_f1", "95 %", "accuracy", "ece", "nll",
                                "f1/Bored", "run"]  # fmt: skip


def test_columns_stay_in_line_whatever_the_names():
    entries = [entry(f"{at}" * 12, ensemble=name, params={"calibration": name}) for at, name in enumerate(HOSTILE)]
    assert len({line.index("0.5000") for line in text_of(frame_of(*entries))[4:]}) == 1


def two_boards():
    return frame_of(
        entry("a" * 12, 0.6, "A=1", benchmark="one"),
        entry("b" * 12, 0.5, "B=1", benchmark="one"),
        entry("c" * 12, 0.9, "B=1", benchmark="two", selection="cd" * 32),
    )


def test_configurations_across_benchmarks_in_the_terminal():
    across = rank_across(two_boards(), "macro_f1")
    assert text_of(two_boards()[:0], across=across, in_sample=("three",)) == [
        "configurations across 2 benchmarks, macro_f1 (rank)",
        "",
        "  configuration         one         two  mean rank",
        "  ------------------------------------------------",
        "  B=1            0.5000 (2)  0.9000 (1)       1.50",
        "  A=1            0.6000 (1)           –       1.00",
        "  recommended: B=1, mean rank 1.50",
        "  left out, since teachers were trained on these rows: three",
    ]
    best = entry("a" * 12, 0.9, "C=0.5,D=0.5", benchmark="one", params=CLAHE)
    apart = rank_across(frame_of(best, entry("b" * 12, benchmark="two", selection="cd" * 32)), "macro_f1")
    assert recommendation(apart).endswith(", mean rank 1.00 (tried on 1 of 2 benchmarks only)")
    assert text_of(two_boards()[:0], across=pd.DataFrame()) == []


# --- CSV ---------------------------------------------------------------------------------------------------------


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_gives_the_numbers_back():
    values = [123456.789012345, 0.1 + 0.2, 1e-17, -0.0]
    lines = parsed(as_csv(frame_of(*(entry(f"r{at}", value) for at, value in enumerate(values)))))
    assert [line["macro_f1"] for line in lines] == [repr(value) for value in values]
    first, second, third = parsed(as_csv(SMALL))
    assert (
        first | {"level": "False", "p_value": "", "rank": "1", "configuration": "logit · clahe · A=0.4,B=0.6"} == first
    )
    assert second | {"level": "True", "p_value": "0.25", "rank": "2", "space": ""} == second
    assert third | {"level": "False", "p_value": "0.001", "macro_f1_low": "", "ece": ""} == third
    assert (float(first["macro_f1_low"]), float(first["macro_f1_high"])) == (0.75, 0.85)
    settings = {"ensemble": "A=0.4,B=0.6", "space": "logit", "clahe": "clahe", "calibration": ""}
    own = {"benchmark": "faces:test", "selection_sha256": SELECTION, "kind": "export", "status": "good"}
    assert first | settings | own | {"run_id": "0123456789ab", "f1/Fear": "0.3"} == first


def test_the_csv_has_every_metric_of_every_benchmark():
    extra = entry("d" * 12, benchmark="two", selection="cd" * 32, metrics={"brier": 0.25})
    lines = parsed(as_csv(frame_of(entry("a" * 12, benchmark="one"), extra)))
    assert [(line["benchmark"], line["rank"], line["brier"]) for line in lines] == [
        ("one", "1", ""),
        ("two", "1", "0.25"),
    ]
    assert parsed(as_csv(two_boards()[:0])) == []


@pytest.mark.parametrize("formula", ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "a\r=1"])
def test_no_cell_of_text_is_a_formula(formula):
    run, tested = entry(formula, ensemble=formula, benchmark=formula, params={"calibration": formula}, name=formula)
    header, *lines = csv.reader(io.StringIO(as_csv(frame_of((run, tested)))))
    assert len(lines) == 1  # and none begins where a name would break it
    assert len(lines[0]) == len(header)
    assert not [cell for cell in lines[0] if cell.strip().startswith(("=", "+", "-", "@"))]
    assert len([cell for cell in lines[0] if cell.lstrip("' ") == one_line(formula).lstrip()]) >= 4


@pytest.mark.parametrize("name", [*HOSTILE, 'a "quoted", text', "a;b", "'", "a-b=c", "x\ny"])
def test_any_name_comes_back_from_the_csv(name):
    (line,) = parsed(as_csv(frame_of(entry(ensemble=name, benchmark=name))))
    assert (line["ensemble"], line["benchmark"]) == (one_line(name),) * 2


def cells(line: str) -> list[str]:
    """Return the cells of a Markdown table's line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_leaderboard_in_markdown():
    lines = as_markdown(SMALL, "macro_f1").splitlines()
    assert lines[:6] == ["# Leaderboard", "", f"- {LEGEND}", "", "## faces:test", ""]
    assert lines[6] == "- 3,068 rows · abababababab"
    header, rule, *rows = (cells(line) for line in lines if line.startswith("|"))
    assert header == ["", "", "ensemble", "settings", "macro\\_f1", "95 %", "accuracy", "ece", "nll", "run"]
    assert len(rule) == len(header)
    assert rows == [
        ["1", "", "A=0.4,B=0.6", "logit · clahe", "0.8000", "\\[0.750, 0.850\\]", "0.7500", "0.0625", "1.5000",
         "01234567"],
        ["2", "≈", "A=1", "", "0.7900", "\\[0.700, 0.800\\]", "0.7500", "0.0625", "1.5000", "11234567"],
        ["3", "", "B=1", "", "0.5000", "", "0.7500", "–", "1.5000", "21234567"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_takes_names_as_text(name):
    frame = frame_of(entry(ensemble=name, benchmark=name, params={"calibration": name}))
    text = as_markdown(frame, "macro_f1", rank_across(frame, "macro_f1"))
    assert not re.search(r"(?<!\\)<", text)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(cells(line)) for line in tables] == [10, 10, 10, 3, 3, 3]
    assert not re.search(r"(?<!\\)[`*_\[\]]", cells(tables[2])[2])


def test_configurations_across_benchmarks_in_markdown():
    lines = as_markdown(two_boards(), "macro_f1", rank_across(two_boards(), "macro_f1")).splitlines()
    at = lines.index("## Across benchmarks")
    assert [cells(line) for line in lines[at:] if line.startswith("|")] == [
        ["configuration", "one", "two", "mean rank"],
        ["---", "---:", "---:", "---:"],
        ["B=1", "0.5000 (2)", "0.9000 (1)", "1.50"],
        ["A=1", "0.6000 (1)", "–", "1.00"],
    ]
    assert "- recommended: B=1, mean rank 1.50" in lines
    assert across_table(rank_across(two_boards(), "macro_f1")).header == ["configuration", "one", "two", "mean rank"]


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


def page_of(frame, across=None, address=lambda experiment, run_id: None) -> tuple[str, Page]:
    text = as_page(frame, "macro_f1", across, address)
    return text, Page(text)


def test_the_page_has_a_line_for_each_run_and_those_not_different_from_the_best_are_marked():
    other = frame_of(entry("c" * 12, 0.9, benchmark="other", selection="cd" * 32))
    text, page = page_of(pd.concat([SMALL, other]))
    assert page.heads == [
        *("rank", "benchmark", "ensemble", "settings", "macro_f1", "95 %", "accuracy", "ece", "nll", "run"),
    ]
    assert page.options == ["all", "faces:test", "other"]
    rows = page.rows[1:]
    assert [len(row) for row in rows] == [11] * 4
    assert rows[1] == [
        *("2", "≈", "faces:test", "A=1", "", "0.7900", "[0.700, 0.800]", "0.7500", "0.0625", "1.5000", "11234567"),
    ]
    assert text.count('<tr class="level">') == 3  # the firsts, and the one that does not differ
    assert page_of(SMALL[:0])[1].rows == [[]]


def test_the_page_needs_nothing_else():
    text, page = page_of(SMALL)
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not {"link", "img", "iframe", "object", "embed", "base", "a"} & set(page.tags)
    assert not [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|eval\(|innerHTML", text)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"<!--[A-Z]+-->", text)  # every place is filled
    assert '<meta charset="utf-8">' in text


def test_runs_are_linked_where_there_is_a_page_for_them():
    _, page = page_of(SMALL, address=lambda experiment, run_id: f'http://host/?a="b"&c/#/{experiment}/{run_id}')
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f'http://host/?a="b"&c/#/0/{run_id}' for run_id in SMALL["run_id"]]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_takes_names_as_text(name):
    frame = frame_of(entry(ensemble=name, benchmark=name, params={"calibration": name}))
    _, page = page_of(frame, rank_across(frame, "macro_f1"))
    tame, _ = page_of(frame_of(entry()), rank_across(frame_of(entry()), "macro_f1"))
    assert page.tags == Page(tame).tags
    settings = name if "," not in name else f"logit · {name}"
    assert page.rows[1][2:5] == [name, name, settings]
    assert page.options[-1] == name
    assert "onerror" not in "".join(name for _, name, _ in page.attributes)


def test_the_page_has_the_table_across_benchmarks_where_there_is_one():
    text, page = page_of(two_boards(), rank_across(two_boards(), "macro_f1"))
    assert "recommended: B=1, mean rank 1.50" in text
    assert "pre" in page.tags
    assert "pre" not in page_of(two_boards())[1].tags
