"""Boards: who is first, who is level with the first, and what holds across benchmarks; and how they are shown."""

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from runs import evidence_of, record

from fer_mlflow.commands.board_views import (
    across_table,
    bad_runs_csv,
    board_csv,
    board_lines,
    board_markdown,
    board_page,
)
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.significance import bootstrap_intervals, holm, mcnemar_p_value, paired_differences
from fer_mlflow.tracking.judgement import Judgement
from fer_mlflow.tracking.leaderboard import across, build_boards, difference_p_value, with_significance

GOOD = Judgement("good")


def boards(*runs, metric="macro_f1", statuses=("good",), **verdicts):
    judgements = {run.run_id: verdicts.get(run.run_id, GOOD) for run in runs}
    return build_boards(runs, judgements, metric, statuses)


def run(run_id, macro_f1=0.5, ensemble="A=0.5,B=0.5", benchmark="faces:test", selection="ab" * 32, **more):
    return record(
        run_id,
        metrics={"macro_f1": macro_f1} | more.pop("metrics", {}),
        params={"ensemble": ensemble} | more.pop("params", {}),
        tags={"fer.benchmark": benchmark, "fer.selection_sha256": selection} | more.pop("tags", {}),
        **more,
    )


def order(board) -> list[str]:
    return [entry.run_id for entry in board.entries]


def test_the_best_comes_first_whichever_way_a_metric_goes():
    runs = [
        run("a", 0.6, metrics={"nll": 0.9}),
        run("b", 0.7, metrics={"nll": 1.1}),
        run("c", 0.5, metrics={"nll": 1.0}),
    ]
    assert order(boards(*runs)[0]) == ["b", "a", "c"]
    assert order(boards(*runs, metric="nll")[0]) == ["a", "c", "b"]


def test_ties_do_not_depend_on_the_order_of_runs():
    runs = [run("a", ensemble="A=0.5,B=0.5"), run("b", ensemble="C=1"), run("c", ensemble="A=0.4,B=0.6")]
    assert order(boards(*runs)[0]) == order(boards(*runs[::-1])[0]) == ["b", "c", "a"]


def test_only_finished_good_runs_with_soft_labels_and_the_metric_stand_there():
    runs = [
        run("good"),
        run("bad"),
        run("running", status="RUNNING"),
        run("evaluation", kind="evaluate"),
        run("without", metrics={"macro_f1": None}),
    ]
    assert order(boards(*runs, bad=Judgement("bad"))[0]) == ["good"]
    everything = boards(*runs, bad=Judgement("bad"), statuses=("good", "bad"))[0]
    assert {entry.run_id: entry.status for entry in everything.entries} == {"good": "good", "bad": "bad"}


def test_a_metric_that_no_run_has_is_refused_and_the_others_are_named():
    with pytest.raises(ContractError, match=r"--metric f2: no run has it; they have accuracy, ece, macro_f1, nll"):
        boards(run("a"), metric="f2")
    assert boards() == []


def test_every_selection_has_its_board_and_two_of_one_name_are_told_apart():
    found = boards(run("a"), run("b", selection="cd" * 32), run("c", benchmark="other", selection="ef" * 32))
    assert [board.benchmark for board in found] == ["faces:test (abababab)", "faces:test (cdcdcdcd)", "other"]


# --- significance -------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300)
SKILLS = {"first": 0.8, "close": 0.78, "far": 0.4}
EVIDENCE = {
    name: evidence_of(LABELS, np.where(RNG.random(300) < skill, LABELS, RNG.integers(0, 3, 300)))
    for name, skill in SKILLS.items()
}


def board_with(metric="macro_f1", evidence=EVIDENCE):
    runs = [run(name, metrics=dict(each.metrics)) for name, each in EVIDENCE.items()]
    for each in runs:
        each.metrics.update(EVIDENCE[each.run_id].metrics)
    return with_significance(boards(*runs, metric=metric)[0], evidence)


def by_hand(first, other):
    a, b = (EVIDENCE[name].predictions.astype(int) for name in (first, other))
    return paired_differences(LABELS, a, b, 3, np.random.default_rng(0))


def test_marks_are_the_paired_tests_adjusted_over_the_table():
    board = board_with()
    assert order(board) == ["first", "close", "far"]
    expected = holm(np.array([by_hand("first", name).macro_f1.p_value for name in ("close", "far")]))
    assert [entry.p_value for entry in board.entries] == [None, *expected]
    assert [entry.is_level for entry in board.entries] == [False, True, False]
    interval = bootstrap_intervals(
        LABELS, EVIDENCE["far"].predictions.astype(int), 3, np.random.default_rng(0)
    ).macro_f1
    assert board.entries[2].interval == interval


def test_accuracy_is_tested_by_mcnemar_and_a_class_by_its_f1():
    correct = {name: each.predictions == LABELS for name, each in EVIDENCE.items()}
    assert difference_p_value(EVIDENCE["first"], EVIDENCE["far"], "accuracy") == mcnemar_p_value(
        correct["first"], correct["far"]
    )
    expected = by_hand("first", "far").f1[1].p_value
    assert difference_p_value(EVIDENCE["first"], EVIDENCE["far"], "f1/Happy") == expected
    assert difference_p_value(EVIDENCE["first"], EVIDENCE["far"], "f1/Bored") is None
    assert difference_p_value(EVIDENCE["first"], EVIDENCE["far"], "nll") < 0.001


def test_a_metric_without_a_test_has_no_marks():
    assert [entry.p_value for entry in board_with("ece").entries] == [None, None, None]


def test_what_is_not_known_is_not_marked():
    board = board_with(evidence={name: EVIDENCE[name] for name in ("first", "far")})
    assert [entry.p_value is None for entry in board.entries] == [True, True, False]
    assert board.entries[1].interval is None
    assert [entry.p_value for entry in board_with(evidence={"far": EVIDENCE["far"]}).entries] == [None] * 3
    other_rows = EVIDENCE | {"far": evidence_of(LABELS[::-1], LABELS)}
    assert board_with(evidence=other_rows).entries[2].p_value is None


# --- across -------------------------------------------------------------------------------------------------------


def two_benchmarks():
    one, two = {"selection": "11" * 32, "benchmark": "one"}, {"selection": "22" * 32, "benchmark": "two"}
    return boards(
        run("a1", 0.6, "A=1", **one),
        run("b1", 0.7, "B=1", **one),
        run("c1", 0.9, "C=1", **one),
        run("a2", 0.8, "A=1", **two),
        run("b2", 0.5, "B=1", **two),
    )


def test_ranks_across_benchmarks_by_hand():
    rows = across(two_benchmarks())
    assert [(row.configuration[0], row.ranks, row.mean_rank) for row in rows] == [
        ("A=1", (3, 1), 2.0),
        ("B=1", (2, 2), 2.0),
        ("C=1", (1, None), 1.0),  # best where it was tried, but tried once only
    ]
    assert rows[0].values == (0.6, 0.8)
    tied = boards(run("a", 0.5, "A=1"), run("b", 0.5, "B=1"))
    assert [row.ranks for row in across(tied)] == [(1,), (1,)]


def test_the_recommendation_says_where_it_was_not_tried():
    found = two_benchmarks()
    assert across_table(across(found), found)[-1] == "  recommended: A=1, mean rank 2.00"
    single = boards(run("a", 0.5, "A=1", selection="11" * 32, benchmark="one"), run("b", 0.5, "B=1"))
    assert across_table(across(single), single)[-1].endswith("(tried on 1 of 2 benchmarks only)")


# --- views --------------------------------------------------------------------------------------------------------


def test_a_board_in_the_terminal():
    board = board_with()
    lines = board_lines(board, ("Happy",), in_all=5)
    first, level, far = lines[4:7]
    value = EVIDENCE["first"].metrics
    assert lines[0] == "leaderboard of faces:test · 6 rows · abababababab"
    assert lines[2].split() == [
        "ensemble",
        "settings",
        "macro_f1",
        "95",
        "%",
        "accuracy",
        "ece",
        "nll",
        "f1/Happy",
        "run",
    ]
    assert first.split()[:4] == ["1", "A=0.5,B=0.5", "logit", f"{value['macro_f1']:.4f}"]
    assert first.split()[-2:] == [f"{value['f1/Happy']:.4f}", "first"]
    assert level.split()[:2] == ["2", "≈"]
    assert "≈" not in far
    assert lines[7] == "  … and 2 more"
    assert lines[8].startswith("  ≈  not told apart from the first")


def test_the_csv_gives_the_numbers_back_and_defuses_formulas():
    hostile = boards(run("a", 0.123456789, '=cmd|"/c calc"!A1'))
    (line,) = csv.DictReader(io.StringIO(board_csv(hostile)))
    assert float(line["macro_f1"]) == 0.123456789
    assert line["ensemble"] == '\'=cmd|"/c calc"!A1'
    assert (line["rank"], line["run_id"], line["p_value"]) == ("1", "a", "")
    rows = list(csv.DictReader(io.StringIO(board_csv([board_with()]))))
    assert [row["level_with_first"] for row in rows] == ["false", "true", "false"]
    assert float(rows[1]["macro_f1_low"]) == board_with().entries[1].interval.low
    said = bad_runs_csv([run("a"), run("b")], {"a": GOOD, "b": Judgement("bad", ("x: 1", "y: 2"))})
    (bad,) = csv.DictReader(io.StringIO(said))
    assert (bad["run_id"], bad["reasons"]) == ("b", "x: 1; y: 2")


class Page(HTMLParser):
    """Collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells and self.tags[-1] in ("td", "code", "a"):
            self.cells[-1] += data


def test_the_page_stands_alone_and_takes_names_as_text():
    hostile = "<script>alert(1)</script>"
    found = boards(run("a", 0.5, hostile, benchmark='"><img src=x>'), run("b", 0.4, "A=1", benchmark='"><img src=x>'))
    text = board_page(found, [], [], lambda experiment, run_id: None)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "a" not in page.tags
    assert hostile in page.cells
    assert page.tags.count("tr") == 3  # heads, and a row for each entry
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "http" not in text
    assert "<!--" not in text
    linked = Page(board_page(found, [], [], lambda experiment, run_id: f"http://host/#/{experiment}/{run_id}"))
    assert ("href", "http://host/#/0/a") in linked.attributes


def test_markdown_takes_names_as_text():
    found = boards(run("a", 0.5, "A|B `x` <b>*"))
    line = next(line for line in board_markdown(found, [], []).splitlines() if line.startswith("| 1 |"))
    assert r"A\|B \`x\` &lt;b&gt;\*" in line
    assert "## Across benchmarks" in board_markdown(found, across(found), found)
