"""Every rule, on a run that breaks it and on runs that do not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from runs import CLASSES, SELECTION, evidence_of, record

from fer_mlflow.tracking.records import Evidence, difference_p_value
from fer_mlflow.tracking.triage import METRIC_TOLERANCE, RULES, build_context, last_alive_ms

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


def reasons_of(run, others=None, evidence=SOUND, other_evidence=SOUND) -> dict[str, str]:
    """Return rule -> finding for a run among two sound ones."""
    runs = [run, *((sound("r2"), sound("r3")) if others is None else others)]
    known = {each.run_id: other_evidence for each in runs[1:]} | ({run.run_id: evidence} if evidence else {})
    context = build_context(runs, known, NOW_MS, 3600)
    return {rule.name: reason for rule in RULES if (reason := rule.check(run, context)) is not None}


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
    assert reasons_of(run) == {}
    assert reasons_of(run, evidence=None) == {}


def test_every_rule_is_explained_and_named_once():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.explanation and rule.severity in ("bad", "warn") for rule in RULES)
    assert not any("; " in rule.name or ": " in rule.name for rule in RULES)  # they part the text of the tag
    assert all("\n" not in rule.explanation for rule in RULES)


def test_other_kinds_of_runs_break_no_rule_of_exports():
    for kind in ("evaluate", "calibrate", "train", "triage", ""):
        run = record(kind=kind, params={"rows": "3"}, metrics={"accuracy": 0.1}, tags={"fer.bundle_sha256": None})
        assert reasons_of(run, evidence=None) == {}
        assert reasons_of(record(kind=kind, params={}, tags={"fer.selection_sha256": None}), evidence=None) == {}


# --- the run itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["export", "teacher", "evaluate", "triage"])
def test_ended_badly(kind):
    run = sound(status="FAILED", kind=kind, tags={"fer.error": "disk full"})
    assert reasons_of(run, evidence=None)["ended badly"] == "FAILED: disk full"
    assert reasons_of(sound(status="KILLED", kind=kind), evidence=None) == {"ended badly": "KILLED"}
    assert "ended badly" not in reasons_of(sound(kind=kind, tags={"fer.error": "repaired since"}), evidence=None)


def heartbeat(hours: float, **more) -> dict[str, str]:
    return {
        "fer.heartbeat": json.dumps({"host": "h", "pid": 1, "at": (NOW - timedelta(hours=hours)).isoformat()} | more)
    }


@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED"])
def test_stale(status):
    old = NOW_MS - 2 * HOUR_MS
    reasons = reasons_of(sound(status=status, start_ms=old), evidence=None)
    assert reasons == {"stale": f"{status}, last alive at 2026-11-23 10:00 UTC"}
    assert "stale" in reasons_of(sound(status=status, start_ms=old, tags=heartbeat(1.01)), evidence=None)
    assert reasons_of(sound(status=status, start_ms=old, tags=heartbeat(0.99)), evidence=None) == {}
    assert reasons_of(sound(status=status, start_ms=NOW_MS - HOUR_MS + 1000), evidence=None) == {}
    assert reasons_of(sound(status=status, start_ms=NOW_MS + HOUR_MS), evidence=None) == {}  # another machine's clock
    assert "stale" not in reasons_of(sound(start_ms=old))


def test_the_reason_of_stale_is_the_same_however_long_it_lasts():
    run = sound(status="RUNNING", start_ms=NOW_MS - 2 * HOUR_MS)
    (rule,) = (rule for rule in RULES if rule.name == "stale")
    reasons = {rule.check(run, build_context([run], {}, NOW_MS + hours * HOUR_MS, 3600)) for hours in (0, 1, 50)}
    assert len(reasons) == 1


def test_stale_follows_its_option():
    run = sound(status="RUNNING", start_ms=NOW_MS - 90_000)
    (rule,) = (rule for rule in RULES if rule.name == "stale")
    assert rule.check(run, build_context([run], {}, NOW_MS, 60)) is not None
    assert rule.check(run, build_context([run], {}, NOW_MS, 90)) is None
    assert rule.check(run, build_context([run], {}, NOW_MS, 120)) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "{}", '{"at": null}', '{"at": 5}', '{"at": "noon"}', '{"at": ["x"]}']
)
def test_a_heartbeat_without_a_time_counts_as_none(text):
    assert last_alive_ms(record(tags={"fer.heartbeat": text}, start_ms=1234)) == 1234
    assert last_alive_ms(record(tags=heartbeat(2), start_ms=1234)) == NOW_MS - 2 * HOUR_MS


def test_no_bundle():
    assert reasons_of(sound(tags={"fer.bundle_sha256": None}), evidence=None) == {"no bundle": "no bundle was logged"}
    for status in ("FAILED", "KILLED", "RUNNING"):  # another rule covers those
        assert "no bundle" not in reasons_of(sound(status=status, tags={"fer.bundle_sha256": None}), evidence=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308])
def test_not_finite(value):
    assert reasons_of(sound(metrics={"nll": value, "ece": value}), evidence=None)["not finite"] == "ece, nll"
    assert reasons_of(record(kind="evaluate", metrics={"after/nll": value}), evidence=None) == {
        "not finite": "after/nll"
    }
    assert "not finite" not in reasons_of(record(metrics={"nll": 1e300}), evidence=None)


def test_alignment():
    reasons = reasons_of(sound(tags={"fer.alignment": "warn: assignment, blocks"}))
    assert reasons == {"alignment": "assignment, blocks"}
    assert reasons_of(sound(tags={"fer.alignment": "pass"})) == {}


# --- the run among others ----------------------------------------------------------------------------------------


def test_other_rows():
    assert reasons_of(sound(params={"rows": "5"}), evidence=None) == {"other rows": "5 rows, the benchmark has 6"}
    assert reasons_of(sound(params={"rows": None}), evidence=None) == {"other rows": "no rows, the benchmark has 6"}
    assert reasons_of(sound(params={"rows": "5"}), others=[], evidence=None) == {}
    other = {"fer.selection_sha256": "ef" * 32, "fer.benchmark": "others"}
    assert reasons_of(sound(params={"rows": "5"}, tags=other), evidence=None) == {}


def test_runs_that_did_not_end_have_no_vote_on_a_benchmarks_rows():
    dead = [sound(f"d{number}", status="FAILED", params={"rows": None}) for number in range(5)]
    early = [sound(f"e{number}", status="RUNNING", params={"rows": "2"}) for number in range(5)]
    assert reasons_of(sound(), others=[*dead, *early], evidence=None, other_evidence=BROKEN) == {}
    assert "other rows" not in reasons_of(dead[0], others=[sound()], evidence=None)


def test_of_two_runs_that_differ_the_one_whose_bundle_agrees_is_right():
    liar = sound("r2", params={"rows": "5"})
    assert reasons_of(sound(), others=[liar]) == {}
    assert reasons_of(liar, others=[sound()]).keys() == {"other rows", "rows differ"}


def test_name_clash():
    other = sound("r2", tags={"fer.selection_sha256": "ef" * 32})
    reasons = reasons_of(sound(), others=[other, sound("r3")])
    assert reasons == {"name clash": f"faces:test is {SELECTION[:12]} here and {'ef' * 6} in other runs"}
    assert "name clash" in reasons_of(other, others=[sound(), sound("r3")], evidence=None)
    apart = sound("r2", tags={"fer.selection_sha256": "ef" * 32, "fer.benchmark": "others"})
    assert reasons_of(sound(), others=[apart]) == {}
    assert reasons_of(sound(), others=[record("r2", kind="evaluate", tags={"fer.selection_sha256": "ef" * 32})]) == {}


# --- the bundle --------------------------------------------------------------------------------------------------


def test_bundle_incomplete():
    assert reasons_of(sound(), evidence=GONE) == {"bundle incomplete": "without classorder.json"}


def test_bundle_broken():
    assert reasons_of(sound(), evidence=BROKEN) == {"bundle broken": "softlabels.npz: SHA-256 is 12"}


def test_rows_differ():
    seven = evidence_of([*LABELS, 0], [*LABELS, 0])
    run = record(metrics=dict(seven.metrics))
    reasons = reasons_of(run, others=[], evidence=seven)
    assert reasons["rows differ"] == "the bundle has 7 rows, the run's param is 6"
    run = record(metrics=dict(seven.metrics), params={"rows": None})
    reasons = reasons_of(run, others=[], evidence=seven)
    assert reasons["rows differ"] == "the bundle has 7 rows, the run's param is missing"
    assert "rows differ" not in reasons_of(*of(seven)[:1], others=[], evidence=seven)


def test_rows_differ_where_the_bundle_is_of_another_selection():
    other = replace(SOUND, selection="ef" * 32)
    reasons = reasons_of(sound(), evidence=other)
    assert reasons == {"rows differ": f"the bundle is of selection {'ef' * 6}, the run's tag is {SELECTION[:12]}"}
    assert reasons_of(sound(), evidence=replace(SOUND, selection="")) == {}  # remembered by an older version
    # What it holds says nothing of the benchmark that it is tagged with.
    foreign = replace(evidence_of([0, 0, 0, 0, 1], [0] * 5, classes=("Sad", "Happy", "Angry")), selection="ef" * 32)
    assert reasons_of(sound(), others=[sound("r2"), sound("r3")], other_evidence=foreign) == {}


def test_rows_left_out():
    evidence = replace(SOUND, selected_rows=1008)
    assert reasons_of(sound(), evidence=evidence) == {
        "rows left out": "1,002 of 1,008 rows were left out as unreadable"
    }


def test_class_order():
    turned = evidence_of(LABELS, [0, 0, 1, 1, 2, 0], classes=("Happy", "Angry", "Sad"))
    run = record(metrics=dict(turned.metrics))
    assert reasons_of(run, evidence=turned) == {
        "class order": "Happy, Angry, Sad; the benchmark's other runs have Angry, Happy, Sad"
    }
    assert "class order" not in reasons_of(sound(), evidence=SOUND, others=[run, sound("r2")], other_evidence=SOUND)
    assert "class order" not in reasons_of(run, others=[], evidence=turned)
    elsewhere = record(metrics=dict(turned.metrics), tags={"fer.selection_sha256": "ef" * 32, "fer.benchmark": "x"})
    assert reasons_of(elsewhere, evidence=replace(turned, selection="ef" * 32)) == {}


def test_class_order_counts_no_broken_bundles():
    turned = evidence_of(LABELS, LABELS, classes=("Happy", "Angry", "Sad"))
    broken = replace(turned, problem="broken")
    assert reasons_of(sound(), other_evidence=broken) == {}


@pytest.mark.parametrize(
    ("metrics", "reasons"),
    [
        ({"accuracy": 0.9}, "accuracy 0.9 for 0.833333"),
        ({"accuracy": float("nan")}, "accuracy nan for 0.833333"),
        ({"accuracy": 5 / 6 + 2 * METRIC_TOLERANCE}, "accuracy 0.833335 for 0.833333"),
        ({"f1/Sad": 0.0, "nll": -1.0}, "nll -1 for "),
    ],
)
def test_metrics_differ(metrics, reasons):
    assert reasons in reasons_of(sound(metrics=metrics))["metrics differ"]


def test_a_metric_that_the_run_or_the_bundle_lacks_is_not_compared():
    assert reasons_of(sound(metrics={"f1/Sad": None, "nll": None, "balanced_accuracy": None})) == {}
    assert reasons_of(sound(metrics={"kappa": 0.5})) == {}


def test_metrics_do_not_differ_by_rounding():
    assert reasons_of(sound(metrics={"accuracy": 5 / 6 + METRIC_TOLERANCE / 2})) == {}


def test_metrics_do_not_differ_where_a_class_has_characters_that_a_metric_cannot_have():
    names = ("Angry!", "Happy (wide)", "Sad/Tired")
    evidence = evidence_of(LABELS, [0, 0, 1, 1, 2, 0], classes=names)
    logged = {name.replace("!", "_").replace("(", "_").replace(")", "_"): x for name, x in evidence.metrics.items()}
    assert logged.keys() != evidence.metrics.keys()
    assert reasons_of(record(metrics=logged), others=[], evidence=evidence) == {}
    wrong = reasons_of(record(metrics=logged | {"f1/Angry_": 0.0}), others=[], evidence=evidence)
    assert wrong["metrics differ"].startswith("f1/Angry! 0 for 0.8")


def test_of_many_metrics_that_differ_five_are_named():
    reasons = reasons_of(sound(metrics=dict.fromkeys(SOUND.metrics, -1.0)))["metrics differ"]
    assert reasons.count(" for ") == 5


def test_below_majority():
    labels = [0, 0, 0, 0, 1, 2]
    level, better, worse = (evidence_of(labels, each) for each in ([0] * 6, [0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 1, 2]))
    reasons = reasons_of(*of(level)[:1], evidence=level, other_evidence=better)
    assert reasons["below majority"] == "accuracy 0.6667, always predicting the most frequent class gives 0.6667"
    assert "below majority" in reasons_of(*of(worse)[:1], evidence=worse, other_evidence=better)
    assert reasons_of(*of(better)[:1], evidence=better, other_evidence=better) == {}
    # Labels are the benchmark's: another run's bundle says which class is the most frequent.
    assert "below majority" in reasons_of(record(metrics={"accuracy": 0.5}), evidence=None, other_evidence=better)
    assert "below majority" not in reasons_of(record(metrics={"accuracy": 0.5}), evidence=None, other_evidence=BROKEN)
    assert "below majority" not in reasons_of(record(metrics={"accuracy": None}), evidence=None, other_evidence=better)


def test_one_class():
    labels = np.arange(100) % 3
    mostly = np.where(np.arange(100) < 96, 1, labels)
    evidence = evidence_of(labels, mostly)
    run = of(evidence)[0]
    assert reasons_of(run, others=[], evidence=evidence)["one class"] == "Happy takes 97.0% of predictions"
    less = evidence_of(labels, np.where(np.arange(100) < 93, 1, labels))
    assert np.bincount(less.predictions).max() == 95  # exactly 95 % is not more than 95 %
    assert "one class" not in reasons_of(of(less)[0], others=[], evidence=less)


def test_one_class_is_no_fault_where_nearly_all_labels_are_of_one():
    labels = [0] * 59 + [1]
    evidence = evidence_of(labels, [0] * 60)
    reasons = reasons_of(of(evidence)[0], others=[], evidence=evidence)
    assert reasons.keys() == {"below majority"}


RNG = np.random.default_rng(0)
MANY = RNG.integers(0, 3, 300)
SHARP, DULL = (
    evidence_of(MANY, np.where(RNG.random(300) < skill, MANY, RNG.integers(0, 3, 300))) for skill in (0.8, 0.4)
)


def test_worse_than_a_teacher():
    tags = {"fer.teacher_run/A": "a", "fer.teacher_run/B": "b"}
    evidence = {"a": SHARP, "b": DULL, "r1": DULL}
    teachers = [
        record(name, kind="teacher", metrics=dict(evidence[name].metrics), params={"ensemble": f"{name.upper()}=1"})
        for name in "ab"
    ]

    def reason(own=DULL, tags=tags, **without) -> str | None:
        run = record(metrics=dict(own.metrics), tags=tags)
        context = build_context([*teachers, run], evidence | {"r1": own} | without, NOW_MS, 3600)
        (rule,) = (rule for rule in RULES if rule.name == "worse than a teacher")
        return rule.check(run, context)

    p_value = difference_p_value(SHARP, DULL, "macro_f1")
    assert p_value < 0.001
    ours, theirs = DULL.metrics["macro_f1"], SHARP.metrics["macro_f1"]
    assert reason() == f"macro-F1 {ours:.4f}, A alone has {theirs:.4f} (p = {p_value:.4f})"
    assert reason(SHARP) is None
    assert reason(tags={"fer.teacher_run/A": "a"}) is None  # one teacher is no ensemble
    assert reason(tags=tags | {"fer.teacher_run/A": "gone"}) is None
    assert reason(a=BROKEN) is None
    assert reason(BROKEN) is None


def test_bundles_without_labels_break_no_rule():
    evidence = evidence_of(LABELS, LABELS)
    nothing = np.empty(0, np.int16)
    evidence = replace(evidence, labels=nothing, predictions=nothing, losses=nothing.astype(np.float32), metrics={})
    run = record(metrics=dict.fromkeys(record().metrics))
    assert reasons_of(run, others=[record("r2", metrics=dict.fromkeys(record().metrics))], evidence=evidence,
                 other_evidence=evidence) == {}  # fmt: skip


def test_what_is_usual_does_not_depend_on_the_order_of_runs():
    runs = [sound(f"r{number}", params={"rows": str(5 + number % 2)}) for number in range(6)]
    usual = [build_context(order, {}, NOW_MS, 3600).usual_rows for order in (runs, runs[::-1])]
    assert usual[0] == usual[1] == {SELECTION: "5"}


def test_the_toys_are_of_three_classes():
    assert SOUND.classes == CLASSES


def test_a_comparison_that_cannot_be_made_is_no_failure():
    refused = record(kind="compare", status="FAILED", tags={"fer.verdict": "not comparable because …"})
    assert reasons_of(refused, evidence=None) == {}
