"""Every rule on a run that breaks it and on one that does not, and what a person's word does to them."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from runs import CLASSES, SELECTION, evidence_of, record

from fer_mlflow.tracking.evidence import Evidence
from fer_mlflow.tracking.judgement import Judgement, changes, judge, judge_one, wanted_tags
from fer_mlflow.tracking.rules import RULES, survey

LABELS = [0, 0, 1, 1, 2, 2]
SOUND = evidence_of(LABELS, [0, 0, 1, 1, 2, 0])
NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)


def sound(run_id="r1", **more):
    """Return a run whose metrics are what SOUND gives."""
    return record(run_id, metrics=dict(SOUND.metrics) | more.pop("metrics", {}), **more)


def found(run, others=(), evidence=SOUND, other_evidence=SOUND) -> dict[str, str]:
    """Return rule -> finding for a run among two sound ones."""
    runs = [run, *(others or (sound("r2"), sound("r3")))]
    known = {each.run_id: other_evidence for each in runs[1:]} | ({run.run_id: evidence} if evidence else {})
    around = survey(runs, known, NOW_MS, 3600)
    return {rule.name: said for rule in RULES if (said := rule.check(run, around)) is not None}


def test_a_sound_run_breaks_no_rule():
    assert found(sound()) == {}
    assert found(sound(kind="teacher")) == {}


def heartbeat(hours: float) -> str:
    return json.dumps({"host": "h", "pid": 1, "at": (NOW - timedelta(hours=hours)).isoformat()})


@pytest.mark.parametrize(
    ("rule", "run", "said"),
    [
        ("ended badly", sound(status="FAILED", tags={"fer.error": "disk full"}), "FAILED: disk full"),
        ("ended badly", sound(status="KILLED"), "KILLED"),
        ("stale", sound(status="RUNNING", tags={"fer.heartbeat": heartbeat(1.5)}), "last alive 1.5 h ago"),
        ("stale", sound(status="RUNNING", start_ms=NOW_MS - 7_200_000), "last alive 2.0 h ago"),
        ("stale", sound(status="SCHEDULED", start_ms=NOW_MS - 7_200_000), "SCHEDULED"),
        ("no bundle", sound(tags={"fer.bundle_sha256": None}), "no bundle was logged"),
        ("other rows", sound(params={"rows": "5"}), "5 rows, the benchmark has 6"),
        ("rows differ", sound(params={"rows": "5"}), "the bundle has 6 rows, the run says 5"),
        ("not finite", sound(metrics={"nll": float("nan"), "ece": float("inf")}), "ece, nll"),
        ("metrics differ", sound(metrics={"accuracy": 0.9}), "accuracy 0.9 for 0.833333"),
        ("metrics differ", sound(metrics={"brier": None}), "brier nan for"),
        ("alignment", sound(tags={"fer.alignment": "warn: assignment, blocks"}), "assignment, blocks"),
    ],
)
def test_a_rule_finds_what_the_run_says(rule, run, said):
    assert said in found(run)[rule]


@pytest.mark.parametrize(
    ("rule", "evidence", "said"),
    [
        ("bundle incomplete", Evidence(problem="without classorder.json", is_missing=True), "without classorder.json"),
        ("bundle broken", Evidence(problem="softlabels.npz: SHA-256 is …"), "SHA-256"),
        ("rows left out", evidence_of(LABELS, LABELS, selected_rows=8), "2 of 8 rows"),
        ("class order", evidence_of(LABELS, LABELS, classes=("Happy", "Angry", "Sad")), "Happy, Angry, Sad; the"),
        ("one class", evidence_of(LABELS, [1] * 6), "Happy takes 100.0% of predictions"),
    ],
)
def test_a_rule_finds_what_the_bundle_says(rule, evidence, said):
    assert said in found(sound(), evidence=evidence)[rule]


def test_a_run_that_is_alive_or_of_another_kind_breaks_no_rule_of_exports():
    assert found(sound(status="RUNNING", tags={"fer.heartbeat": heartbeat(0.5), "fer.bundle_sha256": None})) == {}
    evaluation = record(kind="evaluate", tags={"fer.bundle_sha256": None}, params={"rows": "3"})
    assert found(evaluation, evidence=None) == {}


def test_a_broken_heartbeat_counts_from_the_start():
    assert "stale" in found(sound(status="RUNNING", tags={"fer.heartbeat": "{"}, start_ms=NOW_MS - 3_700_000))


def test_a_run_no_better_than_the_most_frequent_class_is_bad():
    labels = [0, 0, 0, 0, 1, 2]
    evidence = evidence_of(labels, [0, 0, 0, 0, 0, 0])
    run = record(metrics=dict(evidence.metrics))
    said = found(run, evidence=evidence, other_evidence=evidence)
    assert "accuracy 0.6667, always saying the most frequent class gives 0.6667" in said["below majority"]
    better = evidence_of(labels, [0, 0, 0, 0, 1, 0])
    assert "below majority" not in found(record(metrics=dict(better.metrics)), evidence=better, other_evidence=better)


def test_one_class_is_no_fault_where_nearly_all_labels_are_of_one():
    labels = [0] * 59 + [1]
    evidence = evidence_of(labels, [0] * 60)
    run = record(metrics=dict(evidence.metrics))
    assert "one class" not in found(run, evidence=evidence, other_evidence=evidence)


def test_one_name_for_two_benchmarks_is_a_warning_on_both():
    other = sound("r2", tags={"fer.selection_sha256": "ef" * 32})
    said = found(sound(), others=(other, sound("r3")))["name clash"]
    assert said == f"faces:test is {SELECTION[:12]} here and {'ef' * 6} in other runs"
    assert "name clash" in found(other, others=(sound(), sound("r3")))


def test_every_rule_is_explained_and_named_once():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.explanation and rule.severity in ("bad", "warn") for rule in RULES)
    assert not any("; " in rule.name or ": " in rule.name for rule in RULES)


# --- verdicts -----------------------------------------------------------------------------------------------------


def judged(*runs, evidence=None) -> dict[str, Judgement]:
    known = {run.run_id: SOUND for run in runs} if evidence is None else evidence
    return judge(runs, survey(runs, known, NOW_MS, 3600))


def test_the_worst_rule_decides_and_all_are_named():
    run = sound(status="FAILED", tags={"fer.alignment": "warn: blocks"})
    verdict = judged(run)["r1"]
    assert (verdict.status, verdict.reasons) == ("bad", ("ended badly: FAILED", "alignment: blocks"))
    assert judged(sound(tags={"fer.alignment": "warn: blocks"}))["r1"].status == "warn"
    assert judged(sound())["r1"] == Judgement("good")


def test_the_newest_sound_run_of_a_configuration_supersedes_the_others():
    key = {"fer.config_key": "one"}
    old, new = sound("old", tags=key, start_ms=1), sound("new", tags=key, start_ms=2)
    verdicts = judged(new, old)
    assert verdicts["new"].status == "good"
    assert verdicts["old"].status == "superseded"
    assert "run new" in verdicts["old"].reasons[0]
    broken = sound("newest", tags=key, start_ms=3, status="FAILED")
    assert judged(old, new, broken)["new"].status == "good"
    teacher = sound("teacher", kind="teacher", tags=key, start_ms=9)
    assert judged(new, teacher)["new"].status == "good"


def test_what_a_person_said_stays():
    bad = {"triage.status": "bad", "triage.written": "bad", "triage.overruled": "bad", "triage.reasons": "wrong crop"}
    assert judged(sound(tags=bad))["r1"] == Judgement("bad", ("wrong crop",), by_person=True)
    keep = {"triage.status": "good", "triage.written": "good", "triage.overruled": "keep"}
    assert judged(sound(status="FAILED", tags=keep))["r1"].status == "good"
    by_hand = {"triage.status": "excellent", "triage.written": "good"}
    assert judged(sound(tags=by_hand))["r1"].status == "excellent"
    assert judged(sound(tags={"triage.status": "good"}))["r1"].by_person
    key = {"fer.config_key": "one"}
    verdicts = judged(sound("old", tags=key | keep, start_ms=1), sound("new", tags=key, start_ms=2))
    assert verdicts["old"].status == "good"


def test_what_a_bundle_said_before_stays_where_it_is_not_read_again():
    tags = {
        "triage.status": "bad",
        "triage.written": "bad",
        "triage.reasons": "ended badly: FAILED; bundle broken: softlabels.npz: SHA-256 is 12",
    }
    run = sound(tags=tags)
    kept = judge_one(run, survey([run], {}, NOW_MS, 3600))
    assert kept == Judgement("bad", ("bundle broken: softlabels.npz: SHA-256 is 12",))
    assert judge_one(run, survey([run], {"r1": SOUND}, NOW_MS, 3600)).status == "good"


def test_only_tags_that_differ_are_written():
    run = sound()
    wanted = wanted_tags(run, Judgement("good"), "faces:test", 2)
    tags = {"triage.status": "good", "triage.written": "good", "triage.benchmark": "faces:test", "triage.rank": "2"}
    assert changes(run, wanted) == tags
    assert changes(sound(tags=tags), wanted) == {}
    worse = wanted_tags(run, Judgement("bad", ("a: b", "c: d")), "faces:test", None)
    assert changes(sound(tags=tags), worse) == {
        "triage.status": "bad",
        "triage.written": "bad",
        "triage.reasons": "a: b; c: d",
        "triage.rank": None,
    }
    person = wanted_tags(run, Judgement("bad", by_person=True), "faces:test", None)
    assert changes(sound(tags={"triage.status": "bad"}), person) == {}
    assert len(wanted_tags(run, Judgement("bad", ("x" * 9000,)), "", None)["triage.reasons"]) == 5000


def test_classes_of_the_toys_are_three():
    assert SOUND.classes == CLASSES
