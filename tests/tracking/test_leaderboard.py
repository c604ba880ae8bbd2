"""Boards: who is first, who is level with the first, and what holds across benchmarks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import new_workplace
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from runs import evidence_of, record
from scipy import stats

from fer_mlflow.commands.board_views import across_table, board_lines
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.significance import Interval, bootstrap_intervals, mcnemar_p_value, paired_differences
from fer_mlflow.tables import one_line
from fer_mlflow.tracking.leaderboard import (
    across,
    build_boards,
    difference_p_value,
    entry_of,
    read_leaderboard,
    with_significance,
)
from fer_mlflow.tracking.triage.evidence import Evidence
from fer_mlflow.tracking.triage.judgement import Judgement

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


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("macro_f1", ["b", "a", "c"]),
        ("accuracy", ["c", "a", "b"]),
        ("f1/Sad", ["a", "c", "b"]),
        ("nll", ["a", "c", "b"]),
        ("ece", ["c", "b", "a"]),
        ("brier", ["b", "c", "a"]),
        ("after/nll", ["b", "a", "c"]),
    ],
)
def test_the_best_comes_first_whichever_way_a_metric_goes(metric, expected):
    names = ("macro_f1", "accuracy", "f1/Sad", "nll", "ece", "brier", "after/nll")
    values = {
        "a": (0.6, 0.8, 0.9, 0.9, 0.3, 0.6, 0.5),
        "b": (0.7, 0.7, 0.1, 1.1, 0.2, 0.4, 0.4),
        "c": (0.5, 0.9, 0.5, 1.0, 0.1, 0.5, 0.6),
    }
    runs = [run(name, metrics=dict(zip(names, own, strict=True))) for name, own in values.items()]
    assert order(boards(*runs, metric=metric)[0]) == expected
    assert boards(*runs, metric=metric)[0].metric == metric


def test_ties_do_not_depend_on_the_order_of_runs():
    runs = [
        run("d", ensemble="A=0.5,B=0.5"),
        run("c", ensemble="A=0.5,B=0.5"),
        run("b", ensemble="C=1"),
        run("a", ensemble="A=0.4,B=0.6"),
        run("e", ensemble="A=0.5,B=0.5", params={"ensemble/space": "prob"}),
    ]
    for some in itertools.permutations(runs):
        assert order(boards(*some)[0]) == ["b", "a", "c", "d", "e"]  # one teacher, then the names, then the ids


def test_a_number_that_is_none_comes_last():
    nan = float("nan")
    runs = [run("n1", nan), run("a", 0.1), run("n2", nan, "C=1"), run("b", 0.9)]
    for some in itertools.permutations(runs):
        assert order(boards(*some)[0]) == ["b", "a", "n2", "n1"]
        assert order(boards(*(run(r.run_id, metrics={"nll": r.metrics["macro_f1"]}) for r in some), metric="nll")[0])[
            2:
        ] == ["n1", "n2"]


def test_only_finished_good_runs_with_soft_labels_and_the_metric_stand_there():
    runs = [
        run("good"),
        run("bad"),
        run("doubtful"),
        run("old"),
        run("called"),
        run("running", status="RUNNING"),
        run("evaluation", kind="evaluate"),
        run("without", metrics={"macro_f1": None}),
        run("nowhere", tags={"fer.selection_sha256": None}),
    ]
    verdicts = {
        "bad": Judgement("bad"),
        "doubtful": Judgement("warn"),
        "old": Judgement("superseded"),
        "called": Judgement("excellent", by_person=True),
    }
    (board,) = boards(*runs, **verdicts)
    assert order(board) == ["good"]
    (everything,) = boards(*runs, **verdicts, statuses=("good", "warn", "bad", "superseded"))
    assert {entry.run_id: entry.status for entry in everything.entries} == {
        "good": "good",
        "bad": "bad",
        "doubtful": "warn",
        "old": "superseded",
    }


def test_teachers_ensembles_and_calibrated_runs_stand_beside_each_other():
    clahe = {"ensemble/clahe": "true", "ensemble/clahe_tile": "8"}
    temperature = "temperature, T = 1.53, fitted on nonexpert:val"
    runs = [
        run("ensemble", 0.9, "A=0.4,B=0.6", params={"ensemble/clahe": "true", "ensemble/space": "prob"}),
        run("teacher", 0.8, "A=1", kind="teacher", params={"calibration": "none"}),
        run("calibrated", 0.7, params={"calibration": temperature}),
        run("clahe", 0.6, params=clahe | {"ensemble/clahe_clip": "2"}),
        run("other clahe", 0.5, params=clahe | {"ensemble/clahe_clip": "4"}),
        run("old", 0.4, params={"ensemble/space": None, "space": "prob", "clahe": "true", "ensemble/clahe": None}),
        run("bare", 0.3, params={"ensemble": None, "ensemble/space": None, "ensemble/clahe": None, "rows": None}),
    ]
    (board,) = boards(*runs)
    assert [(e.run_id, e.kind, *e.configuration) for e in board.entries] == [
        ("ensemble", "export", "A=0.4,B=0.6", "prob", "clahe", ""),
        ("teacher", "teacher", "A=1", "", "", ""),
        ("calibrated", "export", "A=0.5,B=0.5", "logit", "", temperature),
        ("clahe", "export", "A=0.5,B=0.5", "logit", "clahe", ""),
        ("other clahe", "export", "A=0.5,B=0.5", "logit", "clahe 4/8", ""),
        ("old", "export", "A=0.5,B=0.5", "prob", "clahe", ""),
        ("bare", "export", "bare", "", "", ""),
    ]
    assert board.rows == 6


def test_a_student_stands_beside_its_teachers():
    (board,) = boards(
        run("t", 0.5, kind="teacher"), run("s", 0.6, "KD=1", kind="student"), run("d", 0.9, kind="distill")
    )
    assert [(entry.run_id, entry.kind) for entry in board.entries] == [("s", "student"), ("t", "teacher")]


def test_names_stay_on_their_line():
    (board,) = boards(run("a", ensemble="A=1\n\x1b[31mB", benchmark="faces\r\n🙂:test"))
    assert (board.benchmark, board.entries[0].ensemble) == ("faces  🙂:test", "A=1  [31mB")
    nameless = record("b", params={"ensemble": None}, name="two\nlines")
    assert entry_of(nameless).ensemble == "two lines"
    assert one_line("Łódź 🙂 …") == "Łódź 🙂 …"


def test_a_metric_that_no_run_has_is_refused_and_the_others_are_named():
    with pytest.raises(ContractError, match=r"^--metric f2: no run has it; they have accuracy, ece, macro_f1, nll$"):
        boards(run("a"), metric="f2")
    assert boards() == []
    assert boards(run("a"), metric="f2", a=Judgement("bad")) == []
    bare = run("a", metrics=dict.fromkeys(("macro_f1", "accuracy", "nll", "ece")))
    with pytest.raises(ContractError, match=r"no run has it; they have none$"):
        boards(bare)
    # One benchmark whose runs have it is enough.
    found = boards(run("a", metrics={"f2": 1}), run("b", benchmark="x", selection="cd" * 32), metric="f2")
    assert [board.benchmark for board in found] == ["faces:test"]


def test_every_selection_has_its_board_and_two_of_one_name_are_told_apart():
    runs = [run("a"), run("b", selection="cd" * 32), run("c", benchmark="other", selection="ef" * 32)]
    for some in itertools.permutations(runs):
        found = boards(*some)
        assert [board.benchmark for board in found] == ["faces:test (abababab)", "faces:test (cdcdcdcd)", "other"]
        assert [order(board) for board in found] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(("texts", "rows"), [(["6"], 6), (["x"], 0), ([None], 0), (["6", "6", "5"], 6), (["-1"], 0)])
def test_a_board_says_how_many_rows_most_runs_have(texts, rows):
    (board,) = boards(*(run(f"r{at}", params={"rows": text}) for at, text in enumerate(texts)))
    assert board.rows == rows


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
    return paired_differences(LABELS, a, b, EVIDENCE[first].classes, np.random.default_rng(0))


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "balanced_accuracy", "f1/Sad", "nll"])
def test_marks_are_the_paired_tests_adjusted_over_the_table(metric):
    board = board_with(metric)
    assert order(board) == ["first", "close", "far"]
    p_values = []
    for name in ("close", "far"):
        if metric == "nll":
            p_values.append(stats.ttest_rel(EVIDENCE[name].losses.astype(float), EVIDENCE["first"].losses).pvalue)
        else:
            found = by_hand("first", name)
            p_values.append(found[metric].p_value)
    low, high = sorted(p_values)
    adjusted = {low: min(1, 2 * low), high: max(min(1, 2 * low), high)}  # Holm of two
    np.testing.assert_allclose([e.p_value for e in board.entries[1:]], [adjusted[p] for p in p_values], rtol=1e-5)
    assert board.entries[0].p_value is None
    assert [entry.is_level for entry in board.entries] == [False, True, False]
    for entry in board.entries:
        predictions = EVIDENCE[entry.run_id].predictions.astype(int)
        found = bootstrap_intervals(LABELS, predictions, EVIDENCE[entry.run_id].classes, np.random.default_rng(0))
        assert entry.interval == found["macro_f1"]


def test_level_is_what_is_not_significant_at_5_percent():
    entry = entry_of(run("a"))
    levels = {p: replace(entry, p_value=p).is_level for p in (None, 0.0, 0.0499, 0.05, 1.0)}
    assert levels == {None: False, 0.0: False, 0.0499: False, 0.05: True, 1.0: True}


def test_more_runs_in_the_table_make_each_harder_to_tell_from_the_first():
    alone = board_with(evidence={name: EVIDENCE[name] for name in ("first", "close")}).entries[1].p_value
    many = {f"copy {at}": EVIDENCE["close"] for at in range(4)} | {"first": EVIDENCE["first"]}
    runs = [run(name, metrics=dict(each.metrics)) for name, each in many.items()]
    found = with_significance(boards(*runs)[0], many)
    assert [e.p_value for e in found.entries[1:]] == [pytest.approx(min(1, 4 * alone))] * 4


def test_the_numbers_are_the_same_every_time():
    assert board_with() == board_with()


def test_accuracy_is_tested_by_mcnemar_and_a_class_by_its_f1():
    correct = {name: each.predictions == LABELS for name, each in EVIDENCE.items()}
    assert difference_p_value(EVIDENCE["first"], EVIDENCE["far"], "accuracy") == mcnemar_p_value(
        correct["first"], correct["far"]
    )
    expected = by_hand("first", "far")["f1/Happy"].p_value
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
    other_classes = EVIDENCE | {"far": replace(EVIDENCE["far"], classes=("Happy", "Angry", "Sad"))}
    assert board_with(evidence=other_classes).entries[2].p_value is None
    broken = board_with(evidence=EVIDENCE | {"far": Evidence(problem="broken")}).entries[2]
    assert (broken.p_value, broken.interval) == (None, None)
    first_is_broken = board_with(evidence=EVIDENCE | {"first": Evidence(problem="broken")})
    assert [entry.p_value for entry in first_is_broken.entries] == [None] * 3
    unlabelled = Evidence(classes=EVIDENCE["far"].classes, rows=300, selected_rows=300)
    assert board_with(evidence=EVIDENCE | {"far": unlabelled}).entries[2].interval is None
    assert with_significance(replace(board_with(), entries=()), EVIDENCE).entries == ()


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


def test_of_several_runs_of_one_configuration_the_best_counts_and_takes_one_rank():
    found = boards(run("a", 0.6, "A=1"), run("b", 0.9, "B=1"), run("c", 0.8, "B=1"), run("d", 0.7, "C=1"))
    assert [(row.configuration[0], row.ranks, row.values) for row in across(found)] == [
        ("B=1", (1,), (0.9,)),
        ("C=1", (2,), (0.7,)),
        ("A=1", (3,), (0.6,)),
    ]


def test_mean_ranks_over_three_benchmarks_by_hand():
    table = {"one": (0.9, 0.8, 0.7), "two": (0.5, 0.9, 0.5), "three": (0.2, 0.4, 0.3)}
    runs = [
        run(f"{name}{at}", value, f"{'ABC'[at]}=1", benchmark=name, selection=f"{number}" * 64)
        for number, (name, values) in enumerate(table.items())
        for at, value in enumerate(values)
    ]
    found = boards(*runs)
    assert [board.benchmark for board in found] == ["one", "three", "two"]
    rows = across(found)
    assert [(row.configuration[0], row.ranks, round(row.mean_rank, 4)) for row in rows] == [
        ("B=1", (2, 1, 1), 1.3333),
        ("A=1", (1, 3, 2), 2.0),
        ("C=1", (3, 2, 2), 2.3333),
    ]
    lower = boards(*(replace(each, metrics={"nll": each.metrics["macro_f1"]}) for each in runs), metric="nll")
    assert across(lower)[-1].configuration[0] == "B=1"
    assert across([]) == []


def test_calibrated_runs_are_configurations_of_their_own():
    found = boards(run("a", 0.6), run("b", 0.7, params={"calibration": "affine, fitted on val"}))
    assert [row.configuration[3] for row in across(found)] == ["affine, fitted on val", ""]


# --- from the store ----------------------------------------------------------------------------------------------


def test_the_store_gives_the_newest_run_of_each_configuration(migrated_store, tmp_path, monkeypatch):
    place = new_workplace(tmp_path / "w", migrated_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    client = MlflowClient(place.uri)
    ids = {}

    def put(name, value, key, *, metric="macro_f1", status="FINISHED", selection="ab" * 32, **tags):
        created = client.create_run("0", start_time=len(ids) + 1)
        own = {"fer.kind": "export", "fer.selection_sha256": selection, "fer.config_key": key} | {
            tag.replace("_", "."): text for tag, text in tags.items()
        }
        client.log_batch(
            created.info.run_id,
            metrics=[Metric(metric, value, 1, 0)],
            params=[Param("ensemble", f"{key}=1")],
            tags=[RunTag(*tag) for tag in own.items()],
        )
        client.set_terminated(created.info.run_id, status)
        ids[created.info.run_id] = name

    put("old", 0.9, "A")
    put("new", 0.5, "A")
    put("other", 0.7, "B", fer_kind="teacher")
    put("bad", 1.0, "C", triage_status="bad")
    put("failed", 1.0, "D", status="FAILED")
    put("evaluation", 1.0, "E", fer_kind="evaluate")
    put("elsewhere", 1.0, "F", selection="cd" * 32)
    put("without", 1.0, "G", metric="accuracy")
    assert [ids[entry.run_id] for entry in read_leaderboard(client, "ab" * 32)] == ["other", "new"]
    assert read_leaderboard(client, "ef" * 32) == []


def test_an_interval_is_two_numbers():
    low, high = board_with().entries[0].interval.low, board_with().entries[0].interval.high
    assert Interval(low, high) == board_with().entries[0].interval
    assert low < EVIDENCE["first"].metrics["macro_f1"] < high


def test_a_board_says_that_a_teacher_was_trained_on_its_rows():
    fair = run("a", 0.6, "A=1", selection="11" * 32, benchmark="test", tags={"fer.in_sample": "false"})
    known = run("b", 0.9, "A=1", selection="22" * 32, benchmark="train", tags={"fer.in_sample": "true"})
    found = boards(fair, known)
    assert [(board.benchmark, board.is_trained_on) for board in found] == [("test", False), ("train", True)]
    assert board_lines(found[1])[0].endswith(" · teachers were trained on these rows")
    assert "trained" not in board_lines(found[0])[0]
