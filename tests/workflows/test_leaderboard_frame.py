"""The frame of leaderboards: its order, which runs do not differ from the best, and what holds across benchmarks."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import new_workplace
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from runs import evidence_of, record
from scipy import stats

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.significance import bootstrap_intervals, mcnemar_p_value, paired_differences
from fer_mlflow.tracking import records
from fer_mlflow.tracking.records import Evidence, Judgement, difference_p_value
from fer_mlflow.workflows.leaderboards import (
    TESTED,
    add_significance,
    build_leaderboard,
    rank_across,
    read_leaderboard,
)

GOOD = Judgement("good")


def frame_of(*runs, metric="macro_f1", statuses=("good",), **verdicts):
    judgements = {run.run_id: verdicts.get(run.run_id, GOOD) for run in runs}
    return build_leaderboard(runs, judgements, metric, statuses)


def run(run_id, macro_f1=0.5, ensemble="A=0.5,B=0.5", benchmark="faces:test", selection="ab" * 32, **more):
    return record(
        run_id,
        metrics={"macro_f1": macro_f1} | more.pop("metrics", {}),
        params={"ensemble": ensemble} | more.pop("params", {}),
        tags={"fer.benchmark": benchmark, "fer.selection_sha256": selection} | more.pop("tags", {}),
        **more,
    )


def order(frame) -> list[str]:
    return frame["run_id"].tolist()


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
    assert order(frame_of(*runs, metric=metric)) == expected


def test_ties_do_not_depend_on_the_order_of_runs():
    runs = [
        run("d", ensemble="A=0.5,B=0.5"),
        run("c", ensemble="A=0.5,B=0.5"),
        run("b", ensemble="C=1"),
        run("a", ensemble="A=0.4,B=0.6"),
        run("e", ensemble="A=0.5,B=0.5", params={"space": "prob"}),
    ]
    for some in itertools.permutations(runs):
        assert order(frame_of(*some)) == ["b", "a", "c", "d", "e"]  # one teacher, then the names, then the ids


def test_a_value_that_is_nan_comes_last():
    nan = float("nan")
    runs = [run("n1", nan), run("a", 0.1), run("n2", nan, "C=1"), run("b", 0.9)]
    for some in itertools.permutations(runs):
        assert order(frame_of(*some)) == ["b", "a", "n2", "n1"]
        lower = [run(r.run_id, metrics={"nll": r.metrics["macro_f1"]}) for r in some]
        assert order(frame_of(*lower, metric="nll"))[2:] == ["n1", "n2"]


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
    assert order(frame_of(*runs, **verdicts)) == ["good"]
    everything = frame_of(*runs, **verdicts, statuses=("good", "warn", "bad", "superseded"))
    assert dict(zip(everything["run_id"], everything["status"], strict=True)) == {
        "good": "good",
        "bad": "bad",
        "doubtful": "warn",
        "old": "superseded",
    }


def test_teachers_ensembles_and_calibrated_runs_stand_beside_each_other():
    clahe = {"clahe": "true", "clahe_tile": "8"}
    temperature = "temperature, T = 1.53, fitted on nonexpert:val"
    runs = [
        run("ensemble", 0.9, "A=0.4,B=0.6", params={"clahe": "true", "space": "prob"}),
        run("teacher", 0.8, "A=1", kind="teacher", params={"calibration": "none"}),
        run("calibrated", 0.7, params={"calibration": temperature}),
        run("clahe", 0.6, params=clahe | {"clahe_clip": "2"}),
        run("other clahe", 0.5, params=clahe | {"clahe_clip": "4"}),
        run("old", 0.4, params={"space": None, "clahe": None, "ensemble/space": "prob", "ensemble/clahe": "true"}),
        run("bare", 0.3, params={"ensemble": None, "space": None, "clahe": None, "rows": None}),
    ]
    frame = frame_of(*runs)
    columns = ["run_id", "kind", "ensemble", "space", "clahe", "calibration"]
    assert list(frame[columns].itertuples(index=False, name=None)) == [
        ("ensemble", "export", "A=0.4,B=0.6", "prob", "clahe", ""),
        ("teacher", "teacher", "A=1", "", "", ""),
        ("calibrated", "export", "A=0.5,B=0.5", "logit", "", temperature),
        ("clahe", "export", "A=0.5,B=0.5", "logit", "clahe", ""),
        ("other clahe", "export", "A=0.5,B=0.5", "logit", "clahe 4/8", ""),
        ("old", "export", "A=0.5,B=0.5", "prob", "clahe", ""),
        ("bare", "export", "bare", "", "", ""),
    ]
    assert set(frame["rows"]) == {6}
    assert frame["configuration"][4] == "logit · clahe 4/8 · A=0.5,B=0.5"


def test_a_student_stands_beside_its_teachers():
    frame = frame_of(
        run("t", 0.5, kind="teacher"), run("s", 0.6, "KD=1", kind="student"), run("d", 0.9, kind="distill")
    )
    assert list(zip(frame["run_id"], frame["kind"], strict=True)) == [("s", "student"), ("t", "teacher")]


def test_names_stay_on_their_line():
    frame = frame_of(run("a", ensemble="A=1\n\x1b[31mB", benchmark="faces\r\n🙂:test"))
    assert (frame["benchmark"][0], frame["ensemble"][0]) == ("faces  🙂:test", "A=1  [31mB")
    nameless = record("b", params={"ensemble": None}, name="two\nlines")
    assert frame_of(nameless)["ensemble"][0] == "two lines"


def test_a_metric_cannot_stand_for_a_column():
    frame = frame_of(run("a", metrics={"rank": 7.0, "rows": 0.5, "p_value": 0.1}))
    assert (frame["rank"][0], frame["rows"][0], "p_value" in frame) == (1, 6, False)


def test_a_metric_that_no_run_has_is_refused_and_the_others_are_named():
    with pytest.raises(ContractError, match=r"^--metric f2: no run has it; they have accuracy, ece, macro_f1, nll$"):
        frame_of(run("a"), metric="f2")
    assert len(frame_of()) == len(frame_of(run("a"), metric="f2", a=Judgement("bad"))) == 0
    bare = run("a", metrics=dict.fromkeys(("macro_f1", "accuracy", "nll", "ece")))
    with pytest.raises(ContractError, match=r"no run has it; they have none$"):
        frame_of(bare)
    # One benchmark whose runs have it is enough.
    found = frame_of(run("a", metrics={"f2": 1}), run("b", benchmark="x", selection="cd" * 32), metric="f2")
    assert found["benchmark"].tolist() == ["faces:test"]


def test_every_selection_has_its_board_and_two_of_one_name_have_two_names():
    runs = [run("a"), run("b", selection="cd" * 32), run("c", benchmark="other", selection="ef" * 32)]
    for some in itertools.permutations(runs):
        frame = frame_of(*some)
        assert frame["benchmark"].tolist() == ["faces:test (abababab)", "faces:test (cdcdcdcd)", "other"]
        assert (order(frame), frame["rank"].tolist()) == (["a", "b", "c"], [1, 1, 1])


@pytest.mark.parametrize(("texts", "rows"), [(["6"], 6), (["x"], 0), ([None], 0), (["6", "6", "5"], 6), (["-1"], 0)])
def test_a_benchmark_has_the_rows_that_most_runs_have(texts, rows):
    frame = frame_of(*(run(f"r{at}", params={"rows": text}) for at, text in enumerate(texts)))
    assert frame["rows"].tolist() == [rows] * len(texts)
    assert frame["runs"].tolist() == [len(texts)] * len(texts)


# --- significance -------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300)
SKILLS = {"first": 0.8, "close": 0.78, "far": 0.4}
EVIDENCE = {
    name: evidence_of(LABELS, np.where(RNG.random(300) < skill, LABELS, RNG.integers(0, 3, 300)))
    for name, skill in SKILLS.items()
}


def compared(metric="macro_f1", evidence=EVIDENCE):
    runs = [run(name, metrics=dict(each.metrics)) for name, each in EVIDENCE.items()]
    for each in runs:
        each.metrics.update(EVIDENCE[each.run_id].metrics)
    return add_significance(frame_of(*runs, metric=metric), metric, evidence)


def by_hand(first, other):
    a, b = (EVIDENCE[name].predictions.astype(int) for name in (first, other))
    return paired_differences(LABELS, a, b, EVIDENCE[first].classes, np.random.default_rng(0))


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "balanced_accuracy", "f1/Sad", "nll"])
def test_marks_are_the_paired_tests_adjusted_over_the_table(metric):
    frame = compared(metric)
    assert order(frame) == ["first", "close", "far"]
    p_values = []
    for name in ("close", "far"):
        if metric == "nll":
            p_values.append(stats.ttest_rel(EVIDENCE[name].losses.astype(float), EVIDENCE["first"].losses).pvalue)
        else:
            found = by_hand("first", name)
            p_values.append(found[metric].p_value)
    low, high = sorted(p_values)
    adjusted = {low: min(1, 2 * low), high: max(min(1, 2 * low), high)}  # Holm of two
    np.testing.assert_allclose(frame["p_value"][1:], [adjusted[p] for p in p_values], rtol=1e-5)
    assert np.isnan(frame["p_value"][0])
    assert frame["level"].tolist() == [False, True, False]
    for row in frame.itertuples():
        predictions = EVIDENCE[row.run_id].predictions.astype(int)
        classes = EVIDENCE[row.run_id].classes
        expected = bootstrap_intervals(LABELS, predictions, classes, np.random.default_rng(0))["macro_f1"]
        assert (row.macro_f1_low, row.macro_f1_high) == (expected.low, expected.high)
        assert row.macro_f1_low < row.macro_f1 < row.macro_f1_high


@pytest.mark.parametrize(("p_value", "level"), [(0.0, False), (0.0499, False), (0.05, True), (1.0, True)])
def test_level_is_what_is_not_significant_at_5_percent(monkeypatch, p_value, level):
    monkeypatch.setattr(records, "difference_p_value", lambda *_: p_value)
    evidence = {name: EVIDENCE[name] for name in ("first", "close")}
    assert compared(evidence=evidence)["level"].tolist() == [False, level, False]


def test_more_runs_in_the_table_make_each_harder_to_tell_from_the_first():
    alone = compared(evidence={name: EVIDENCE[name] for name in ("first", "close")})["p_value"][1]
    many = {f"copy {at}": EVIDENCE["close"] for at in range(4)} | {"first": EVIDENCE["first"]}
    runs = [run(name, metrics=dict(each.metrics)) for name, each in many.items()]
    found = add_significance(frame_of(*runs), "macro_f1", many)
    assert found["p_value"][1:].tolist() == [pytest.approx(min(1, 4 * alone))] * 4


def test_the_numbers_are_the_same_every_time():
    pd.testing.assert_frame_equal(compared(), compared())


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
    assert compared("ece")["p_value"].isna().all()
    assert not compared("ece")["level"].any()


def test_what_is_not_known_is_not_marked():
    def unknown(evidence, column="p_value") -> list[bool]:
        return compared(evidence=evidence)[column].isna().tolist()

    without_close = {name: EVIDENCE[name] for name in ("first", "far")}
    assert unknown(without_close) == [True, True, False]
    assert unknown(without_close, "macro_f1_low") == [False, True, False]
    assert unknown({"far": EVIDENCE["far"]}) == [True] * 3
    for far in (
        evidence_of(LABELS[::-1], LABELS),  # other rows
        replace(EVIDENCE["far"], classes=("Happy", "Angry", "Sad")),
        Evidence(problem="broken"),
        Evidence(classes=EVIDENCE["far"].classes, rows=300, selected_rows=300),  # no labels
    ):
        assert unknown(EVIDENCE | {"far": far}) == [True, False, True]
        assert unknown(EVIDENCE | {"far": far}, "macro_f1_low")[2] == (not len(far.labels))
    assert unknown(EVIDENCE | {"first": Evidence(problem="broken")}) == [True] * 3
    nothing = add_significance(compared()[:0], "macro_f1", EVIDENCE)
    assert (len(nothing), set(TESTED) <= set(nothing.columns)) == (0, True)


def test_every_benchmark_has_its_own_best_and_its_own_adjustment():
    elsewhere = {"benchmark": "other", "selection": "cd" * 32}
    runs = [run(name, metrics=dict(each.metrics)) for name, each in EVIDENCE.items()]
    runs += [run(f"{name} 2", metrics=dict(EVIDENCE[name].metrics), **elsewhere) for name in ("close", "far")]
    evidence = EVIDENCE | {f"{name} 2": EVIDENCE[name] for name in ("close", "far")}
    frame = add_significance(frame_of(*runs), "macro_f1", evidence)
    assert order(frame) == ["first", "close", "far", "close 2", "far 2"]
    pd.testing.assert_series_equal(frame["p_value"][:3], compared()["p_value"])
    assert frame["p_value"][4] == difference_p_value(EVIDENCE["close"], EVIDENCE["far"], "macro_f1")


# --- across -------------------------------------------------------------------------------------------------------


ONE, TWO = {"selection": "11" * 32, "benchmark": "one"}, {"selection": "22" * 32, "benchmark": "two"}


def ranks_of(*runs, metric="macro_f1") -> dict[str, list]:
    """Return configuration -> rank on each benchmark (None where there is no run) and the mean rank, in order."""
    across = rank_across(frame_of(*runs, metric=metric), metric)
    if across.empty:
        return {}
    rows = zip(across.index, across["rank"].to_numpy().tolist(), across["mean_rank"], strict=True)
    return {name: [*(None if rank != rank else rank for rank in ranks), mean] for name, ranks, mean in rows}


def test_ranks_across_benchmarks_by_hand():
    runs = [
        run("a1", 0.6, "A=1", **ONE),
        run("b1", 0.7, "B=1", **ONE),
        run("c1", 0.9, "C=1", **ONE),
        run("a2", 0.8, "A=1", **TWO),
        run("b2", 0.5, "B=1", **TWO),
    ]
    assert list(ranks_of(*runs).items()) == [
        ("A=1", [3, 1, 2.0]),
        ("B=1", [2, 2, 2.0]),
        ("C=1", [1, None, 1.0]),  # best where it was tried, but tried once only
    ]
    assert rank_across(frame_of(*runs), "macro_f1")["value"].loc["A=1"].tolist() == [0.6, 0.8]
    assert rank_across(frame_of(*runs), "macro_f1")["rank"].columns.tolist() == ["one", "two"]
    assert ranks_of(run("a", 0.5, "A=1"), run("b", 0.5, "B=1")) == {"A=1": [1, 1.0], "B=1": [1, 1.0]}
    assert ranks_of() == {}


def test_of_several_runs_of_one_configuration_the_best_counts_and_takes_one_rank():
    runs = run("a", 0.6, "A=1"), run("b", 0.9, "B=1"), run("c", 0.8, "B=1"), run("d", 0.7, "C=1")
    assert list(ranks_of(*runs).items()) == [("B=1", [1, 1.0]), ("C=1", [2, 2.0]), ("A=1", [3, 3.0])]
    assert rank_across(frame_of(*runs), "macro_f1")["value"].loc["B=1"].tolist() == [0.9]


def test_mean_ranks_over_three_benchmarks_by_hand():
    table = {"one": (0.9, 0.8, 0.7), "two": (0.5, 0.9, 0.5), "three": (0.2, 0.4, 0.3)}
    runs = [
        run(f"{name}{at}", value, f"{'ABC'[at]}=1", benchmark=name, selection=f"{number}" * 64)
        for number, (name, values) in enumerate(table.items())
        for at, value in enumerate(values)
    ]
    assert list(ranks_of(*runs).items()) == [  # benchmarks in the order of their names
        ("B=1", [2, 1, 1, pytest.approx(4 / 3)]),
        ("A=1", [1, 3, 2, 2.0]),
        ("C=1", [3, 2, 2, pytest.approx(7 / 3)]),
    ]
    lower = [replace(each, metrics={"nll": each.metrics["macro_f1"]}) for each in runs]
    assert list(ranks_of(*lower, metric="nll"))[-1] == "B=1"


def test_calibrated_runs_are_configurations_of_their_own():
    runs = run("a", 0.6), run("b", 0.7, params={"calibration": "affine, fitted on val"})
    assert list(ranks_of(*runs)) == ["logit · affine, fitted on val · A=0.5,B=0.5", "logit · A=0.5,B=0.5"]


def test_benchmarks_that_a_teacher_was_trained_on_are_left_out_across():
    fair = run("a", 0.6, "A=1", **ONE, tags={"fer.in_sample": "false"})
    known = run("b", 0.9, "B=1", **TWO, tags={"fer.in_sample": "true"})
    assert frame_of(fair, known)["in_sample"].tolist() == [False, True]
    assert ranks_of(fair, known) == {"A=1": [1, 1.0]}
    assert ranks_of(known) == {}


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
    assert [ids[run_id] for run_id in read_leaderboard(client, "ab" * 32)["run_id"]] == ["other", "new"]
    assert len(read_leaderboard(client, "ef" * 32)) == 0
