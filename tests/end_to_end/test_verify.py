"""`verify` on the command line: it prints every check with its verdict, and goes on after one that fails."""

import re
import shutil

import pytest
from mlflow import MlflowClient
from toys import write_faces

DESCRIPTOR = "hash_manifest.json"
FROM_FILES = ["descriptor", *(f"hash {name}" for name in ("softlabels.npz", "softlabels_index.jsonl"))]
FROM_FILES += [f"hash {name}" for name in ("classorder.json", "alignmentreport.json", "ensemble_metrics.json")]
FROM_FILES += ["class order", "logits", "index", "finite", "row order", "labels", "image hashes", "row count"]
FROM_FILES += ["selection", "metrics file", "report file"]
AGAIN = ["run's tag", "metrics again", "run's metrics", "report", "agreement", "blocks", "assignment", "support"]
QUOTED = ["rows", "images", "recheck", "images_on_disk", "teacher_pairs", "in_sample", "clahe"]


def verdicts(result) -> dict[str, str]:
    """Return check -> verdict as they are printed, in this order."""
    return {name: word for word, name in re.findall(r"^  (pass|warn|skip|FAIL)  (.*?)  ", result.stdout, re.MULTILINE)}


def failed(result) -> list[str]:
    return [name for name, word in verdicts(result).items() if word == "FAIL"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), 70)


@pytest.fixture(scope="module")
def exported(place, faces, toy_teachers):
    """Return the id of an export."""
    place.run("export", "--manifest", faces, "--teachers", toy_teachers, "--weights", "A=0.5,B=0.5")
    return place.runs("export")[0].info.run_id


@pytest.mark.server
def test_a_sound_run_passes_every_check(place, exported):
    before = len(place.runs())
    result = place.run("verify", exported[:12])
    assert list(verdicts(result)) == [*FROM_FILES, *AGAIN, *QUOTED]
    assert failed(result) == []
    lines = result.stdout.splitlines()
    assert lines[:3] == [f"run {exported}", "logit · A 0.5 · B 0.5  on  manifest, 70 rows", ""]
    counts = {word: list(verdicts(result).values()).count(word) for word in ("pass", "warn", "skip")}
    assert lines[-1] == f"verifies ({counts['pass']} pass, {counts['warn']} warn, {counts['skip']} skip)"
    assert len(place.runs()) == before


@pytest.mark.server
def test_what_is_broken_in_the_store_fails_and_everything_else_is_still_checked(place, exported):
    path = place.stored(exported) / "softlabels_index.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"Happy", b"Sad", 1))
    try:
        result = place.run("verify", exported, status=1)
    finally:
        path.write_bytes(kept)
    assert failed(result) == ["hash softlabels_index.jsonl", "selection", "metrics again"]
    assert list(verdicts(result)) == [*FROM_FILES, *AGAIN, *QUOTED]
    assert result.stdout.splitlines()[-1].startswith("does not verify: 3 of 32 checks fail (")


def test_a_run_that_is_tagged_with_another_bundle_fails(place, exported):
    path = place.stored(exported) / DESCRIPTOR
    kept = path.read_bytes()
    path.write_bytes(kept + b"\n")
    try:
        result = place.run("verify", exported, status=1)
    finally:
        path.write_bytes(kept)
    assert failed(result) == ["run's tag"]


def test_a_run_without_soft_labels_is_said(place, exported):
    client = MlflowClient(place.uri)
    evaluation = client.create_run("0", tags={"fer.kind": "evaluate", "fer.source_run": exported})
    client.set_terminated(evaluation.info.run_id)
    result = place.run("verify", evaluation.info.run_id, status=2)
    assert f"(evaluate, FINISHED) has no soft labels; they are in run {exported}" in result.stderr


@pytest.mark.server
def test_an_export_that_did_not_end_is_said_to_lack_its_tag(place, exported):
    client = MlflowClient(place.uri)
    stuck = client.create_run("0", tags={"fer.kind": "export"}).info.run_id
    client.log_artifact(stuck, str(place.stored(exported) / "softlabels.npz"), "softlabels")
    client.set_terminated(stuck, "FAILED")
    result = place.run("verify", stuck, status=1)
    assert failed(result)[:2] == ["descriptor", "class order"]
    assert verdicts(result)["logits"] == "pass"
    assert f"run {stuck} has no tag fer.bundle_sha256: its export did not end well" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recompute", "3"], "--recompute needs --manifest and --teachers too"),
        (["--recompute", "3", "--manifest", "m.csv"], "--recompute needs --teachers too"),
        (["--teachers", "t.yaml"], "--teachers goes with --recompute N"),
        (["--split", "test"], "--split goes with a manifest"),
        (["--manifest", "none.csv"], "manifest none.csv: No such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(place, exported, options, message):
    assert message in place.run("verify", place.stored(exported), *options, status=2).stderr


def test_under_mlflow_run_the_verdict_is_the_runs(place, exported, tmp_path):
    folder = shutil.copytree(place.stored(exported), tmp_path / "copy")
    (folder / "classorder.json").write_text("[]")
    _, found = place.run_joined("verify", folder, status=1)
    assert found.data.tags["fer.kind"] == "verify"
    assert found.data.tags["fer.verdict"] == "fail: hash classorder.json, class order"
    assert (found.info.status, found.data.metrics["checks_fail"]) == ("FINISHED", 2)
    assert set(found.data.metrics) == {f"checks_{word}" for word in ("pass", "warn", "skip", "fail")}  # one section
    note = found.data.tags["mlflow.note.content"]
    assert note.startswith("fail: hash classorder.json, class order · ")
