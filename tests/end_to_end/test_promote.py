"""`fer-mlflow promote`, driven as a user does, against a real store: who gets the alias, who does not, what is kept."""

import getpass
import hashlib
import os
import re
from unittest.mock import patch

import numpy as np
import pytest
from mlflow import MlflowClient, MlflowException
from toys import CLASSES, draw_logits, error_line, publish, write_bundle

import fer_mlflow
from fer_mlflow.errors import JobError
from fer_mlflow.tracking.runs import open_run

ROWS = 400
LOGITS, LABELS = draw_logits(ROWS, seed=5)


def noisy(noise):
    """Return logits that are the worse the more noise they have, with errors that models of little noise share."""
    return (LOGITS + np.random.default_rng(1).normal(0, noise, LOGITS.shape)).astype(np.float32)


GOOD, ALIKE, POOR = noisy(0.3), noisy(0.35), noisy(4)


def bundle(folder, logits, name="A", **more):
    """Write soft labels of one teacher, or of an ensemble whose weights follow from the name's length."""
    weights = more.pop("weights", {name: 1.0})
    return write_bundle(
        folder / f"{name}{len(list(folder.iterdir()))}", logits, LABELS[: len(logits)], weights=weights, **more
    )


@pytest.fixture
def exports(place, tmp_path):
    """Return the ids of three export runs: of poor soft labels, of good ones, and of others that are as good."""
    shares = {"poor": (POOR, 0.1), "good": (GOOD, 0.2), "alike": (ALIKE, 0.3)}
    return {
        name: publish(place, bundle(tmp_path, logits, weights={"A": 1 - share, "B": share}))
        for name, (logits, share) in shares.items()
    }


def holder(place, name="fer-softlabels", alias="champion"):
    """Return the version that has an alias."""
    return MlflowClient(place.uri).get_model_version_by_alias(name, alias)


def versions(place, name):
    return MlflowClient(place.uri).search_model_versions(f"name = '{name}'")


@pytest.mark.server
def test_the_alias_goes_to_what_is_better_and_to_nothing_else(place, exports):
    options = ["--name", "story", "--alias", "best"]
    first = place.run("promote", exports["poor"], *options).stdout.splitlines()
    assert first[:2] == ["story version 1 is best now", "  no version had it before"]
    assert first[3:5] == [f"  made     {exports['poor']}", "  model    models:/story@best"]
    second = place.run("promote", exports["good"][:8], *options).stdout
    found = re.fullmatch(
        r"story version 2 is best now\n  better: macro_f1 (0\.\d{4}) against (0\.\d{4}) of story version 1 on "
        r"test · faces \(400 rows\), difference \+(0\.\d{4}) \[\+0\.\d{4}, \+0\.\d{4}\], p = 0\.0001\n\n(.*\n)*",
        second,
    )
    new, old, difference = map(float, found.groups()[:3])
    assert difference == pytest.approx(new - old, abs=2e-4)
    version = holder(place, "story", "best")
    assert (version.run_id, version.source) == (exports["good"], f"runs:/{exports['good']}/softlabels")
    kept = {key: text for key, text in version.tags.items() if key.startswith("promotion.")}
    assert float(kept["promotion.difference"]) == pytest.approx(difference, abs=5e-5)
    assert 0 < float(kept["promotion.low"]) < difference < float(kept["promotion.high"])
    assert float(kept["promotion.p_value"]) < 0.01
    run = MlflowClient(place.uri).get_run(exports["good"])
    expected = {
        "metric": "macro_f1",
        "verdict": "better",
        "rows": "400",
        "benchmark": "faces:test",
        "selection_sha256": run.data.tags["fer.selection_sha256"],
        "champion_version": "story version 1",
        "champion_run": exports["poor"],
        "alias": "best",
    }
    assert {key: kept[f"promotion.{key}"] for key in expected} == expected
    assert re.fullmatch(rf"{getpass.getuser()} at \d{{4}}-\d\d-\d\dT\d\d:\d\dZ", kept["promotion.by"])
    assert second.splitlines()[1].strip() in version.description
    # Within noise: refused with the numbers, which the new version keeps, and the alias stays.
    line = error_line(place.run("promote", exports["alike"], *options, status=1))
    assert re.fullmatch(
        r"not promoted: not significantly better: macro_f1 0\.\d{4} against 0\.\d{4} of story version 2 on "
        r"test · faces \(400 rows\), difference -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\], p = 0\.\d\d?; it is version 3 now; "
        r"--margin takes one that is not worse, --force REASON any",
        line,
    )
    assert holder(place, "story", "best").version == version.version
    refused = next(each for each in versions(place, "story") if each.run_id == exports["alike"])
    assert refused.tags["promotion.verdict"] == "not significantly better"
    assert line.partition(";")[0] in refused.description
    # The same run, or the same bundle of another run, changes nothing.
    again = place.run("promote", exports["good"], *options).stdout
    assert again.startswith(f"story version 2 is best already\n  it has what run {exports['good']} made\n")
    # Not worse by more than a margin; then the poor one, by force.
    assert "is best now\n  not worse: " in place.run("promote", exports["alike"], *options, "--margin", 0.05).stdout
    assert str(holder(place, "story", "best").version) == "3"
    line = error_line(place.run("promote", exports["poor"], *options, "--margin", 0.05, status=1))
    assert line.startswith("not promoted: worse: macro_f1 ")
    place.run("promote", exports["poor"], *options, "--force", "the demo needs it")
    version = holder(place, "story", "best")
    assert (version.run_id, version.tags["promotion.forced"]) == (exports["poor"], "the demo needs it")
    assert version.tags["promotion.why"].startswith("by force, the demo needs it: worse: macro_f1 ")
    assert len(versions(place, "story")) == 3
    # A reason that was not needed is not kept, and one of before does not stay.
    place.run("promote", exports["good"], *options, "--force", "to be sure")
    assert holder(place, "story", "best").tags.get("promotion.forced", "") == ""
    place.run("promote", exports["poor"], *options, status=1)
    poor = next(each for each in versions(place, "story") if each.run_id == exports["poor"])
    assert poor.tags["promotion.forced"] == ""


def test_the_same_bundle_of_another_run_is_the_champion_already(workplace, tmp_path):
    same = bundle(tmp_path, GOOD)
    a, b = publish(workplace, same), publish(workplace, same)
    workplace.run("promote", a)
    assert f"is champion already\n  it has what run {b} made" in workplace.run("promote", b).stdout
    assert [each.run_id for each in versions(workplace, "fer-softlabels")] == [a]


@pytest.mark.server
def test_a_version_is_named_wherever_a_run_is(place, exports, tmp_path):
    place.run("promote", exports["good"], "--name", "named")
    place.run("promote", exports["poor"], "--name", "named", status=1)
    out = tmp_path / "fetched"
    shown = place.run("fetch", "--run", "models:/named@champion", "--out", out).stdout
    assert f"  run       {exports['good']}\n" in shown
    np.testing.assert_array_equal(fer_mlflow.SoftLabels.open(out).logits, GOOD)
    shown = place.run("compare", "models:/named@champion", "models:/named/2").stdout
    assert f"({exports['good']})" in shown.splitlines()[0]
    assert f"({exports['poor']})" in shown.splitlines()[1]
    place.run("inspect", "--run", "models:/named/2")
    assert place.runs("inspect")[0].data.tags["fer.source_run"] == exports["poor"]
    shown = place.run("verify", "models:/named@champion", status=1).stdout  # a toy's report has no checks
    assert shown.startswith(f"run {exports['good']}\n")
    with patch.dict(os.environ, place.env):
        np.testing.assert_array_equal(fer_mlflow.fetch_soft_labels("models:/named/2").logits, POOR)
    for wrong in ("@staging", "/3", ""):
        line = error_line(place.run("fetch", "--run", f"models:/named{wrong}", "--out", tmp_path / "no", status=2))
        assert line == (
            f"models:/named{wrong}: no such version; there are models:/named/1, models:/named/2, models:/named@champion"
        )
    line = error_line(place.run("evaluate", "--run", "models:/none@champion", status=2))
    assert line.startswith("models:/none@champion: no such version; there are ")
    assert "named" in line


def test_where_no_model_is_registered_the_message_says_how(workplace):
    line = error_line(workplace.run("fetch", "--run", "models:/fer-student@champion", status=2))
    assert line == "models:/fer-student@champion: no such version; there are none; see `promote`"


def test_what_cannot_be_compared_is_refused_with_the_reason(workplace, tmp_path):
    other = write_bundle(tmp_path / "o", GOOD, LABELS, paths=[f"o{row}.jpg" for row in range(ROWS)], benchmark="o:test")
    seen = {"teachers": {"A": {**bundle(tmp_path, GOOD).report["teachers"]["A"], "in_sample": "true"}}}
    runs = {
        "holder": publish(workplace, bundle(tmp_path, POOR)),
        "other rows": publish(workplace, other),
        "in-sample": publish(workplace, bundle(tmp_path, GOOD, **seen)),
        "bad": publish(
            workplace, bundle(tmp_path, GOOD, "B"), **{"triage.status": "bad", "triage.reasons": "shuffled"}
        ),
    }
    reasons = {
        "other rows": r"fer-softlabels version 1 \(A\) and run [0-9a-f]{32} \(B\) are not comparable because the "
        r"benchmarks share 0 labelled images; 30 are needed; name a --benchmark of both",
        "in-sample": r"one of the two was trained on images of faces:test; name another --benchmark",
        "bad": rf"run {runs['bad']} is bad \(shuffled\)",
    }
    workplace.run("promote", runs["holder"])
    for name, reason in reasons.items():
        line = error_line(workplace.run("promote", runs[name], status=1))
        assert re.fullmatch(rf"not promoted: {reason}; or move the alias all the same by --force REASON", line), line
    assert len(versions(workplace, "fer-softlabels")) == 1
    workplace.run("promote", runs["bad"], "--force", "it is sound: I looked")
    assert holder(workplace).tags["promotion.why"] == (
        f"by force, it is sound: I looked: run {runs['bad']} is bad (shuffled)"
    )
    for options, words in (
        (["--metric", "ece"], "--metric ece has no paired test; there are accuracy, macro_f1, balanced_accuracy, nll"),
        (["--alias", "v1"], "--alias v1, --name None: use letters, digits, _, -"),
        (["--name", "it's"], "--alias champion, --name it's: use letters"),
    ):
        assert words in error_line(workplace.run("promote", runs["holder"], *options, status=2))


def test_evidence_on_a_benchmark_is_of_the_same_configuration(workplace, tmp_path):
    """Soft labels of the training rows are promoted by what their configuration does on the test rows."""
    runs = {}
    for name, logits, share in (("poor", POOR, 0.25), ("good", GOOD, 0.5)):
        for split in ("train", "test"):
            paths = [f"{split}/{row}.jpg" for row in range(ROWS)]
            own = {"weights": {"A": 1 - share, "B": share}, "paths": paths, "benchmark": f"faces:{split}"}
            params = {"ensemble": f"A={1 - share},B={share}"}
            runs[name, split] = publish(workplace, bundle(tmp_path, logits, **own), params=params)
    workplace.run("promote", runs["poor", "train"], "--benchmark", "faces:test")
    shown = workplace.run("promote", runs["good", "train"], "--benchmark", "faces:test", "--metric", "nll").stdout
    assert re.search(r"better: nll \d\.\d{4} against \d\.\d{4} of fer-softlabels version 1 on test · faces ", shown)
    version = holder(workplace)
    assert (version.run_id, float(version.tags["promotion.difference"]) < 0) == (runs["good", "train"], True)
    shown = workplace.run("fetch", "--run", "models:/fer-softlabels@champion").stdout
    assert f"  run       {runs['good', 'train']}\n" in shown
    line = error_line(workplace.run("promote", runs["poor", "train"], "--benchmark", "faces:val", status=1))
    assert "the run has no soft labels on faces:val; export them there, or name another --benchmark" in line


def trained(place, kind, name, **tags):
    """Log a finished training whose checkpoint is that of a toy teacher's name, and return its id."""
    with patch.dict(os.environ, place.env), open_run(kind, name) as run:
        run.log(tags={"fer.checkpoint_sha256": hashlib.sha256(name.encode()).hexdigest(), **tags})
        run.log_text("weights.pt", name)
    return run.run_id


def test_students_and_teachers_are_found_from_any_of_their_runs(workplace, tmp_path):
    students = {name: trained(workplace, "distill", name) for name in ("S1", "S2")}
    scored = {
        name: publish(workplace, bundle(tmp_path, logits, name), "student", **{"fer.source_run": students[name]})
        for name, logits in (("S1", POOR), ("S2", GOOD))
    }
    grid = trained(workplace, "distill", "grid", **{"fer.best_run": students["S2"], "fer.model": "models:/m-0"})
    # The training of a student: its soft labels are in another run, which `models:/` names.
    workplace.run("promote", students["S1"])
    version = holder(workplace, "fer-student")
    assert (version.run_id, version.source) == (students["S1"], f"runs:/{students['S1']}/teacher")
    assert version.tags["fer.softlabels_run"] == scored["S1"]
    assert "is champion already" in workplace.run("promote", scored["S1"]).stdout
    with patch("mlflow.MlflowClient.create_model_version", side_effect=MlflowException("not this time")) as made:
        line = error_line(workplace.run("promote", grid, status=1))
    assert "registering a version of fer-student failed (not this time)" in line
    assert made.call_args.args[1:] == ("models:/m-0", students["S2"])
    assert made.call_args.kwargs["model_id"] == "m-0"
    assert holder(workplace, "fer-student").run_id == students["S1"]
    # A teacher's logits stand for its training, and without one for themselves.
    teacher = trained(workplace, "train", "T")
    logits = publish(workplace, bundle(tmp_path, GOOD, "T"), "teacher")
    foreign = publish(workplace, bundle(tmp_path, POOR, "F"), "teacher")
    workplace.run("promote", logits)
    version = holder(workplace, "fer-teacher")
    assert (version.run_id, version.tags["fer.softlabels_run"]) == (teacher, logits)
    assert "fer-teacher version 1 on test · faces" in workplace.run("promote", foreign, status=1).stderr
    found = next(each for each in versions(workplace, "fer-teacher") if each.run_id == foreign)
    assert found.source == f"runs:/{foreign}/softlabels"
    # What made nothing.
    workplace.run("inspect", "--run", logits)
    inspected = workplace.runs("inspect")[0].info.run_id
    line = error_line(workplace.run("promote", inspected, status=2))
    assert line == f"run {inspected} (inspect) made no student, teacher or soft labels"


def test_students_of_an_earlier_version_are_promoted_by_the_runs_of_their_logits(workplace, tmp_path):
    """Their runs lack the tag with the checkpoint's digest."""
    client = MlflowClient(workplace.uri)
    for name, logits in (("S1", POOR), ("S2", GOOD)):
        student = trained(workplace, "distill", name)
        scored = publish(workplace, bundle(tmp_path, logits, name), "student", **{"fer.source_run": student})
        client.delete_tag(scored, "fer.checkpoint_sha256")
        shown = workplace.run("promote", scored).stdout
        assert holder(workplace, "fer-student").run_id == student
    assert "better: macro_f1 " in shown


def test_a_crash_before_the_alias_moves_leaves_it_and_nothing_is_registered_twice(workplace, exports, tmp_path):
    poor, good = (publish(workplace, bundle(tmp_path, logits)) for logits in (POOR, GOOD))
    workplace.run("promote", poor)
    with patch("mlflow.MlflowClient.set_registered_model_alias", side_effect=MlflowException("gone")):
        line = error_line(workplace.run("promote", good, status=1))
    assert "moving fer-softlabels@champion failed (gone)" in line
    assert holder(workplace).run_id == poor
    workplace.run("promote", good)
    assert holder(workplace).run_id == good
    assert len(versions(workplace, "fer-softlabels")) == 2


def test_the_run_that_mlflow_run_opened_has_the_verdict(workplace, tmp_path):
    poor, good = (publish(workplace, bundle(tmp_path, logits)) for logits in (POOR, GOOD))
    _, run = workplace.run_joined("promote", good)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["fer.kind"], run.data.tags["fer.source_run"]) == ("promote", good)
    assert (run.data.tags["fer.verdict"], run.data.params["alias"]) == ("no version had it before", "champion")
    result, run = workplace.run_joined("promote", poor, status=1)
    assert run.info.status == "FAILED"
    assert run.data.tags["fer.error"] == error_line(result)


def test_promote_is_a_function(workplace, tmp_path):
    good, poor = (publish(workplace, bundle(tmp_path, logits)) for logits in (GOOD, POOR))
    with patch.dict(os.environ, workplace.env):
        result = fer_mlflow.promote(run=good, alias="staging", name="faces")
        assert (result.name, result.version, result.alias, result.moved) == ("faces", "1", "staging", True)
        assert (result.source_run, result.run_id) == (good, "")
        with pytest.raises(JobError, match=r"^not promoted: worse: macro_f1 .* of faces version 1 on test · faces"):
            fer_mlflow.promote(run=poor, alias="staging", name="faces")
    assert set(CLASSES) == set(workplace.bundle(workplace.runs("export")[0]).classes)
    assert not workplace.runs("promote")
