"""Every rule, on a run that breaks it and on runs that do not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from runs import CLASSES, SELECTION, evidence_of, record

from fer_mlflow.tracking.evidence import Evidence
from fer_mlflow.tracking.rules import METRIC_TOLERANCE, RULES, last_alive_ms, survey

LABELS = [0, 0, 1, 1, 2, 2]
SOUND = evidence_of(LABELS, [0, 0, 1, 1, 2, 0])
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS = 3_600_000
BROKEN = Evidence(problem="softlabels.npz: SHA-256 is 12")
GONE = Evidence(problem="without classorder.json", is_missing=True)


def sound(run_id="r1", **more):
    """Return a run whose metrics are what SOUND gives."""
    return record(run_id, metrics=dict(SOUND.metrics) | more.pop("metrics", {}), **more)


def found(run, others=None, evidence=SOUND, other_evidence=SOUND) -> dict[str, str]:
    """Return rule -> finding for a run among two sound ones."""
    runs = [run, *((sound("r2"), sound("r3")) if others is None else others)]
    known = {each.run_id: other_evidence for each in runs[1:]} | ({run.run_id: evidence} if evidence else {})
    around = survey(runs, known, NOW_MS, 3600)
    return {rule.name: said for rule in RULES if (said := rule.check(run, around)) is not None}


def of(evidence, **more) -> tuple:
    """Return a run that is what a bundle says, and the bundle's evidence."""
    return record(metrics=dict(evidence.metrics), params={"rows": str(evidence.rows)}, **more), evidence


@pytest.mark.parametrize(
    "run",
    [
        sound(),
        sound(kind="teacher"),
        sound(params={"ensemble": None}),
        sound(tags={"fer.alignment": None}),
        sound(metrics={"ece_adaptive": 0.2, "after/nll": 0.3}),  # numbers that a bundle does not give
        sound(name="two\nlines 🙂 <script>"),
    ],
)
def test_a_sound_run_breaks_no_rule(run):
    assert found(run) == {}
    assert found(run, evidence=None) == {}


def test_every_rule_is_explained_and_named_once():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.explanation and rule.severity in ("bad", "warn") for rule in RULES)
    assert not any("; " in rule.name or ": " in rule.name for rule in RULES)  # they part the text of the tag
    assert all("\n" not in rule.explanation for rule in RULES)


def test_other_kinds_of_runs_break_no_rule_of_exports():
    for kind in ("evaluate", "calibrate", "train", "triage", ""):
        run = record(kind=kind, params={"rows": "3"}, metrics={"accuracy": 0.1}, tags={"fer.bundle_sha256": None})
        assert found(run, evidence=None) == {}
        assert found(record(kind=kind, params={}, tags={"fer.selection_sha256": None}), evidence=None) == {}


# --- the run itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["export", "teacher", "evaluate", "triage"])
def test_ended_badly(kind):
    run = sound(status="FAILED", kind=kind, tags={"fer.error": "disk full"})
    assert found(run, evidence=None)["ended badly"] == "FAILED: disk full"
    assert found(sound(status="KILLED", kind=kind), evidence=None) == {"ended badly": "KILLED"}
    assert "ended badly" not in found(sound(kind=kind, tags={"fer.error": "mended since"}), evidence=None)


def heartbeat(hours: float, **more) -> dict[str, str]:
    return {
        "fer.heartbeat": json.dumps({"host": "h", "pid": 1, "at": (NOW - timedelta(hours=hours)).isoformat()} | more)
    }


@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED"])
def test_stale(status):
    old = NOW_MS - 2 * HOUR_MS
    said = found(sound(status=status, start_ms=old), evidence=None)
    assert said == {"stale": f"{status}, last alive at 2026-11-23 10:00 UTC"}
    assert "stale" in found(sound(status=status, start_ms=old, tags=heartbeat(1.01)), evidence=None)
    assert found(sound(status=status, start_ms=old, tags=heartbeat(0.99)), evidence=None) == {}
    assert found(sound(status=status, start_ms=NOW_MS - HOUR_MS + 1000), evidence=None) == {}
    assert found(sound(status=status, start_ms=NOW_MS + HOUR_MS), evidence=None) == {}  # another machine's clock
    assert "stale" not in found(sound(start_ms=old))


def test_stale_says_the_same_however_long_it_lasts():
    run = sound(status="RUNNING", start_ms=NOW_MS - 2 * HOUR_MS)
    (rule,) = (rule for rule in RULES if rule.name == "stale")
    said = {rule.check(run, survey([run], {}, NOW_MS + hours * HOUR_MS, 3600)) for hours in (0, 1, 50)}
    assert len(said) == 1


def test_stale_is_as_long_as_it_is_asked_to_be():
    run = sound(status="RUNNING", start_ms=NOW_MS - 90_000)
    (rule,) = (rule for rule in RULES if rule.name == "stale")
    assert rule.check(run, survey([run], {}, NOW_MS, 60)) is not None
    assert rule.check(run, survey([run], {}, NOW_MS, 90)) is None
    assert rule.check(run, survey([run], {}, NOW_MS, 120)) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "{}", '{"at": null}', '{"at": 5}', '{"at": "noon"}', '{"at": ["x"]}']
)
def test_a_heartbeat_that_says_nothing_counts_as_none(text):
    assert last_alive_ms(record(tags={"fer.heartbeat": text}, start_ms=1234)) == 1234
    assert last_alive_ms(record(tags=heartbeat(2), start_ms=1234)) == NOW_MS - 2 * HOUR_MS


def test_no_bundle():
    assert found(sound(tags={"fer.bundle_sha256": None}), evidence=None) == {"no bundle": "no bundle was logged"}
    for status in ("FAILED", "KILLED", "RUNNING"):  # of those another rule speaks
        assert "no bundle" not in found(sound(status=status, tags={"fer.bundle_sha256": None}), evidence=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308])
def test_not_finite(value):
    assert found(sound(metrics={"nll": value, "ece": value}), evidence=None)["not finite"] == "ece, nll"
    assert found(record(kind="evaluate", metrics={"after/nll": value}), evidence=None) == {"not finite": "after/nll"}
    assert "not finite" not in found(record(metrics={"nll": 1e300}), evidence=None)


def test_alignment():
    said = found(sound(tags={"fer.alignment": "warn: assignment, blocks"}))
    assert said == {"alignment": "assignment, blocks"}
    assert found(sound(tags={"fer.alignment": "pass"})) == {}


# --- the run among others ----------------------------------------------------------------------------------------


def test_other_rows():
    assert found(sound(params={"rows": "5"}), evidence=None) == {"other rows": "5 rows, the benchmark has 6"}
    assert found(sound(params={"rows": None}), evidence=None) == {"other rows": "no rows, the benchmark has 6"}
    assert found(sound(params={"rows": "5"}), others=[], evidence=None) == {}
    other = {"fer.selection_sha256": "ef" * 32, "fer.benchmark": "others"}
    assert found(sound(params={"rows": "5"}, tags=other), evidence=None) == {}


def test_runs_that_did_not_end_do_not_say_how_many_rows_a_benchmark_has():
    dead = [sound(f"d{number}", status="FAILED", params={"rows": None}) for number in range(5)]
    early = [sound(f"e{number}", status="RUNNING", params={"rows": "2"}) for number in range(5)]
    assert found(sound(), others=[*dead, *early], evidence=None, other_evidence=BROKEN) == {}
    assert "other rows" not in found(dead[0], others=[sound()], evidence=None)


def test_of_two_runs_that_differ_the_one_whose_bundle_says_so_is_right():
    liar = sound("r2", params={"rows": "5"})
    assert found(sound(), others=[liar]) == {}
    assert found(liar, others=[sound()]).keys() == {"other rows", "rows differ"}


def test_name_clash():
    other = sound("r2", tags={"fer.selection_sha256": "ef" * 32})
    said = found(sound(), others=[other, sound("r3")])
    assert said == {"name clash": f"faces:test is {SELECTION[:12]} here and {'ef' * 6} in other runs"}
    assert "name clash" in found(other, others=[sound(), sound("r3")], evidence=None)
    apart = sound("r2", tags={"fer.selection_sha256": "ef" * 32, "fer.benchmark": "others"})
    assert found(sound(), others=[apart]) == {}
    assert found(sound(), others=[record("r2", kind="evaluate", tags={"fer.selection_sha256": "ef" * 32})]) == {}


# --- the bundle --------------------------------------------------------------------------------------------------


def test_bundle_incomplete():
    assert found(sound(), evidence=GONE) == {"bundle incomplete": "without classorder.json"}


def test_bundle_broken():
    assert found(sound(), evidence=BROKEN) == {"bundle broken": "softlabels.npz: SHA-256 is 12"}


def test_rows_differ():
    seven = evidence_of([*LABELS, 0], [*LABELS, 0])
    run = record(metrics=dict(seven.metrics))
    said = found(run, others=[], evidence=seven)
    assert said["rows differ"] == "the bundle has 7 rows, the run says 6"
    run = record(metrics=dict(seven.metrics), params={"rows": None})
    assert found(run, others=[], evidence=seven)["rows differ"] == "the bundle has 7 rows, the run says nothing"
    assert "rows differ" not in found(*of(seven)[:1], others=[], evidence=seven)


def test_rows_differ_where_the_bundle_is_of_another_selection():
    other = replace(SOUND, selection="ef" * 32)
    said = found(sound(), evidence=other)
    assert said == {"rows differ": f"the bundle is of selection {'ef' * 6}, the run says {SELECTION[:12]}"}
    assert found(sound(), evidence=replace(SOUND, selection="")) == {}  # remembered by an older version
    # What it holds says nothing of the benchmark that it is tagged with.
    foreign = replace(evidence_of([0, 0, 0, 0, 1], [0] * 5, classes=("Sad", "Happy", "Angry")), selection="ef" * 32)
    assert found(sound(), others=[sound("r2"), sound("r3")], other_evidence=foreign) == {}


def test_rows_left_out():
    evidence = replace(SOUND, selected_rows=1008)
    assert found(sound(), evidence=evidence) == {"rows left out": "1,002 of 1,008 rows were left out as unreadable"}


def test_class_order():
    turned = evidence_of(LABELS, [0, 0, 1, 1, 2, 0], classes=("Happy", "Angry", "Sad"))
    run = record(metrics=dict(turned.metrics))
    assert found(run, evidence=turned) == {
        "class order": "Happy, Angry, Sad; the benchmark's other runs have Angry, Happy, Sad"
    }
    assert "class order" not in found(sound(), evidence=SOUND, others=[run, sound("r2")], other_evidence=SOUND)
    assert "class order" not in found(run, others=[], evidence=turned)
    elsewhere = record(metrics=dict(turned.metrics), tags={"fer.selection_sha256": "ef" * 32, "fer.benchmark": "x"})
    assert found(elsewhere, evidence=replace(turned, selection="ef" * 32)) == {}


def test_class_order_counts_no_broken_bundles():
    turned = evidence_of(LABELS, LABELS, classes=("Happy", "Angry", "Sad"))
    broken = replace(turned, problem="broken")
    assert found(sound(), other_evidence=broken) == {}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"accuracy": 0.9}, "accuracy 0.9 for 0.833333"),
        ({"accuracy": None}, "accuracy nan for 0.833333"),
        ({"accuracy": float("nan")}, "accuracy nan for 0.833333"),
        ({"accuracy": 5 / 6 + 2 * METRIC_TOLERANCE}, "accuracy 0.833335 for 0.833333"),
        ({"f1/Sad": 0.0, "nll": -1.0}, "nll -1 for "),
    ],
)
def test_metrics_differ(metrics, said):
    assert said in found(sound(metrics=metrics))["metrics differ"]


def test_metrics_do_not_differ_by_rounding():
    assert found(sound(metrics={"accuracy": 5 / 6 + METRIC_TOLERANCE / 2})) == {}


def test_metrics_do_not_differ_where_a_class_has_characters_that_a_metric_cannot_have():
    names = ("Angry!", "Happy (wide)", "Sad/Tired")
    evidence = evidence_of(LABELS, [0, 0, 1, 1, 2, 0], classes=names)
    logged = {name.replace("!", "_").replace("(", "_").replace(")", "_"): x for name, x in evidence.metrics.items()}
    assert logged.keys() != evidence.metrics.keys()
    assert found(record(metrics=logged), others=[], evidence=evidence) == {}
    wrong = found(record(metrics=logged | {"f1/Angry_": 0.0}), others=[], evidence=evidence)
    assert wrong["metrics differ"].startswith("f1/Angry! 0 for 0.8")


def test_of_many_metrics_that_differ_five_are_named():
    said = found(sound(metrics=dict.fromkeys(SOUND.metrics)))["metrics differ"]
    assert said.count(" for ") == 5


def test_below_majority():
    labels = [0, 0, 0, 0, 1, 2]
    level, better, worse = (evidence_of(labels, each) for each in ([0] * 6, [0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 1, 2]))
    said = found(*of(level)[:1], evidence=level, other_evidence=better)
    assert said["below majority"] == "accuracy 0.6667, always saying the most frequent class gives 0.6667"
    assert "below majority" in found(*of(worse)[:1], evidence=worse, other_evidence=better)
    assert found(*of(better)[:1], evidence=better, other_evidence=better) == {}
    # Labels are the benchmark's: another run's bundle says which class is the most frequent.
    assert "below majority" in found(record(metrics={"accuracy": 0.5}), evidence=None, other_evidence=better)
    assert "below majority" not in found(record(metrics={"accuracy": 0.5}), evidence=None, other_evidence=BROKEN)
    assert "below majority" not in found(record(metrics={"accuracy": None}), evidence=None, other_evidence=better)


def test_one_class():
    labels = np.arange(100) % 3
    mostly = np.where(np.arange(100) < 96, 1, labels)
    evidence = evidence_of(labels, mostly)
    run = of(evidence)[0]
    assert found(run, others=[], evidence=evidence)["one class"] == "Happy takes 97.0% of predictions"
    less = evidence_of(labels, np.where(np.arange(100) < 93, 1, labels))
    assert np.bincount(less.predictions).max() == 95  # exactly 95 % is not more than 95 %
    assert "one class" not in found(of(less)[0], others=[], evidence=less)


def test_one_class_is_no_fault_where_nearly_all_labels_are_of_one():
    labels = [0] * 59 + [1]
    evidence = evidence_of(labels, [0] * 60)
    said = found(of(evidence)[0], others=[], evidence=evidence)
    assert said.keys() == {"below majority"}


def test_worse_than_a_teacher():
    run = sound()
    around = survey([run], {"r1": SOUND}, NOW_MS, 3600)
    (rule,) = (rule for rule in RULES if rule.name == "worse than a teacher")
    assert rule.check(run, around) is None
    around.worse_than_teacher = {"r1": "macro-F1 0.5, A alone has 0.9"}
    assert rule.check(run, around) == "macro-F1 0.5, A alone has 0.9"
    assert rule.check(sound("r2"), around) is None


def test_bundles_without_labels_break_no_rule():
    evidence = evidence_of(LABELS, LABELS)
    nothing = np.empty(0, np.int16)
    evidence = replace(evidence, labels=nothing, predictions=nothing, losses=nothing.astype(np.float32), metrics={})
    run = record(metrics=dict.fromkeys(record().metrics))
    assert found(run, others=[record("r2", metrics=dict.fromkeys(record().metrics))], evidence=evidence,
                 other_evidence=evidence) == {}  # fmt: skip


def test_what_is_usual_does_not_depend_on_the_order_of_runs():
    runs = [sound(f"r{number}", params={"rows": str(5 + number % 2)}) for number in range(6)]
    usual = [survey(order, {}, NOW_MS, 3600).usual_rows for order in (runs, runs[::-1])]
    assert usual[0] == usual[1] == {SELECTION: "5"}


def test_the_toys_are_of_three_classes():
    assert SOUND.classes == CLASSES


def test_a_comparison_that_cannot_be_made_is_no_failure():
    refused = record(kind="compare", status="FAILED", tags={"fer.verdict": "not comparable because …"})
    assert found(refused, evidence=None) == {}
