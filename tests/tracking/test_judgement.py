"""Verdicts: the worst rule decides, the newest sound run stands for its configuration, a person stands above all."""

import itertools

import pytest
from runs import evidence_of, record

from fer_mlflow.tracking.records import Evidence, Judgement
from fer_mlflow.tracking.store import person_of
from fer_mlflow.tracking.triage import build_context, changes, judge, judge_one, parse_reasons, wanted_tags

NOW_MS = 10_000_000
SOUND = evidence_of([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 0])
BROKEN = Evidence(problem="softlabels.npz: SHA-256 is 12")
ONE = {"fer.config_key": "one"}
KEEP = {"triage.status": "good", "triage.written": "good", "triage.overruled": "keep"}
CALLED_BAD = {"triage.status": "bad", "triage.written": "bad", "triage.overruled": "bad"}


def sound(run_id="r1", **more):
    return record(run_id, metrics=dict(SOUND.metrics) | more.pop("metrics", {}), **more)


def judged(*runs, **evidence) -> dict[str, Judgement]:
    known = {run.run_id: SOUND for run in runs} | evidence
    return judge(runs, build_context(runs, {key: each for key, each in known.items() if each}, NOW_MS, 3600))


def statuses(*runs, **evidence) -> dict[str, str]:
    return {run_id: found.status for run_id, found in judged(*runs, **evidence).items()}


def test_the_worst_rule_decides_and_all_are_named():
    run = sound(status="FAILED", tags={"fer.alignment": "warn: blocks"})
    assert judged(run)["r1"] == Judgement("bad", ("ended badly: FAILED", "alignment: blocks"))
    assert judged(sound(tags={"fer.alignment": "warn: blocks"}))["r1"] == Judgement("warn", ("alignment: blocks",))
    assert judged(sound())["r1"] == Judgement("good")
    assert judge([], build_context([], {}, NOW_MS, 3600)) == {}


def test_a_finding_cannot_be_taken_for_two():
    run = sound(status="FAILED", tags={"fer.error": "no space; not finite: nll"})
    assert judged(run)["r1"].reasons == ("ended badly: FAILED: no space, not finite: nll",)


# --- superseded --------------------------------------------------------------------------------------------------


def test_the_newest_sound_run_of_a_configuration_supersedes_the_others():
    runs = [sound(name, tags=ONE, start_ms=at) for name, at in (("old", 1), ("older", 0), ("new", 2))]
    for order in itertools.permutations(runs):
        found = judged(*order)
        assert {run_id: each.status for run_id, each in found.items()} == {
            "new": "good",
            "old": "superseded",
            "older": "superseded",
        }
        assert found["older"].reasons == ("superseded: run new has the same configuration and is newer",)


def test_a_bad_run_supersedes_nothing_and_is_not_superseded():
    old, new = sound("old", tags=ONE, start_ms=1), sound("new", tags=ONE, start_ms=2)
    for newest in (
        sound("newest", tags=ONE, start_ms=3, status="FAILED"),
        sound("newest", tags=ONE | CALLED_BAD, start_ms=3),
        sound("newest", tags=ONE, start_ms=3, metrics={"accuracy": 0.1}),
    ):
        assert statuses(old, new, newest) == {"old": "superseded", "new": "good", "newest": "bad"}
    assert statuses(old, sound("new", tags=ONE, start_ms=2), new=BROKEN) == {"old": "good", "new": "bad"}
    broken_old = sound("old", tags=ONE, start_ms=1, params={"rows": "5"})
    assert statuses(broken_old, new)["old"] == "bad"


def test_a_run_that_has_not_ended_supersedes_nothing_yet():
    assert statuses(sound("old", tags=ONE), sound("new", tags=ONE, start_ms=NOW_MS, status="RUNNING")) == {
        "old": "good",
        "new": "good",
    }


def test_a_run_with_a_doubt_supersedes_as_any_other():
    doubted = sound("new", tags=ONE | {"fer.alignment": "warn: blocks"}, start_ms=2000)
    assert statuses(sound("old", tags=ONE), doubted) == {"old": "superseded", "new": "warn"}


def test_only_runs_of_one_kind_and_one_known_configuration_supersede_each_other():
    new = sound("new", tags=ONE, start_ms=2)
    assert set(statuses(sound("old", kind="teacher", tags=ONE), new).values()) == {"good"}
    assert set(statuses(sound("old", tags={"fer.config_key": "two"}), new).values()) == {"good"}
    without = {"fer.config_key": None}
    assert set(statuses(sound("a", tags=without), sound("b", tags=without, start_ms=2)).values()) == {"good"}
    empty = {"fer.config_key": ""}
    assert set(statuses(sound("a", tags=empty), sound("b", tags=empty, start_ms=2)).values()) == {"good"}


def test_of_two_that_began_together_one_supersedes_whatever_their_order():
    a, b = sound("a", tags=ONE), sound("b", tags=ONE)
    assert statuses(a, b) == statuses(b, a) == {"a": "superseded", "b": "good"}


def test_a_run_that_a_person_kept_is_not_superseded_and_supersedes():
    kept = sound("kept", tags=ONE | KEEP, start_ms=1)
    assert statuses(kept, sound("new", tags=ONE, start_ms=2)) == {"kept": "good", "new": "good"}
    assert statuses(kept, sound("old", tags=ONE, start_ms=0)) == {"kept": "good", "old": "superseded"}


# --- people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (KEEP, "good"),
        (CALLED_BAD, "bad"),
        ({"triage.status": "excellent"}, "excellent"),
        ({"triage.status": "excellent", "triage.written": "good"}, "excellent"),
        ({"triage.status": "good", "triage.written": "bad"}, "good"),
        ({"triage.status": "warn"}, "warn"),
    ],
)
@pytest.mark.parametrize("run_status", ["FINISHED", "FAILED", "RUNNING"])
def test_what_a_person_set_stays(tags, status, run_status):
    run = sound(tags=tags | {"triage.reasons": "wrong crop; and late"}, status=run_status)
    assert person_of(run.tags)
    assert judged(run, r1=BROKEN)["r1"] == Judgement(status, ("wrong crop; and late",), by_person=True)
    assert judged(sound(tags=tags))["r1"] == Judgement(status, by_person=True)


def test_what_triage_wrote_itself_does_not_stay():
    for status in ("good", "bad", "warn", "superseded"):
        run = sound(tags={"triage.status": status, "triage.written": status, "triage.reasons": "ended badly: FAILED"})
        assert judged(run)["r1"] == Judgement("good")
    assert judged(sound(tags={"triage.written": "bad", "triage.reasons": "ended badly: FAILED"}))["r1"].status == "good"


# --- bundles that are not looked at now --------------------------------------------------------------------------


def test_a_reason_from_a_bundle_stays_where_it_is_not_read_again():
    reasons = "softlabels.npz: SHA-256 is 12: bad"
    own = {"triage.status": "bad", "triage.written": "bad"}
    run = sound(tags=own | {"triage.reasons": f"ended badly: FAILED; bundle broken: {reasons}; alignment: blocks"})
    assert judge_one(run, build_context([run], {}, NOW_MS, 3600)) == Judgement("bad", (f"bundle broken: {reasons}",))
    assert judge_one(run, build_context([run], {"r1": SOUND}, NOW_MS, 3600)) == Judgement("good")
    nonsense = sound(tags=own | {"triage.reasons": "; ;: ; no such rule: x; below majority"})
    assert judge_one(nonsense, build_context([run], {}, NOW_MS, 3600)) == Judgement("bad", ("below majority: ",))


def test_verdicts_are_the_same_when_they_are_read_from_their_tag():
    run = sound(status="FAILED", tags={"fer.alignment": "warn: blocks"})
    found = judged(run, r1=BROKEN)["r1"]
    tags = {key: text for key, text in wanted_tags(run, found, "faces:test", None).items() if text}
    again = sound(status="FAILED", tags=run.tags | tags)
    assert judged(again, r1=None)["r1"] == found
    assert changes(again, wanted_tags(again, found, "faces:test", None)) == {}


def test_reasons_are_taken_apart_as_they_were_put_together():
    assert parse_reasons("a: 1: 2; b; c: ") == {"a": "1: 2", "b": "", "c": ""}
    assert parse_reasons("") == {}


# --- tags --------------------------------------------------------------------------------------------------------


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
    assert changes(sound(tags=tags), wanted_tags(run, Judgement("good"), "", 2)) == {"triage.benchmark": None}


def test_of_a_run_that_a_person_judged_only_the_rank_is_written():
    person = Judgement("good", ("I looked",), by_person=True)
    run = sound(tags=KEEP | {"triage.rank": "3", "triage.benchmark": "old"})
    assert wanted_tags(run, person, "faces:test", 1) == {"triage.rank": "1"}
    assert changes(run, wanted_tags(run, person, "faces:test", None)) == {"triage.rank": None}
    assert changes(sound(tags=KEEP), wanted_tags(run, person, "faces:test", None)) == {}


def test_long_reasons_are_cut_to_what_a_tag_holds():
    reasons = wanted_tags(sound(), Judgement("bad", ("x" * 4999, "y: z")), "", None)["triage.reasons"]
    assert (len(reasons), reasons[-1]) == (5000, ";")
