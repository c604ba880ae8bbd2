"""`verify` prints every check with its verdict, goes on after one that fails, and asks the teachers again."""

import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from mlflow import MlflowClient
from toys import write_faces, write_teachers

from fer_mlflow import SoftLabels

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


@pytest.fixture(scope="module")
def sound(local_place, faces, toy_teachers):
    """Return a function that exports once with further options and gives the bundle's folder."""

    def export(*more):
        out = local_place.folder / ("bundle" + "".join(more))
        if not out.exists():
            options = ["--manifest", faces, "--teachers", toy_teachers, "--weights", "A=0.5,B=0.5", "--out", out]
            local_place.run("export", *options, *more)
        return out

    return export


@pytest.fixture
def folder(sound, tmp_path):
    """Return a copy of a bundle, to be spoilt."""
    return shutil.copytree(sound(), tmp_path / "copy")


def rehash(folder, **changes):
    """Make the descriptor fit the files as they are now."""
    hashes = json.loads((folder / DESCRIPTOR).read_text())
    hashes["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in hashes["files"]}
    (folder / DESCRIPTOR).write_text(json.dumps(hashes | changes))


def write_logits(folder, logits):
    buffer = io.BytesIO()
    np.savez(buffer, logits=logits)
    (folder / "softlabels.npz").write_bytes(buffer.getvalue())


def edit_json(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def test_a_sound_run_passes_every_check(place, exported):
    before = len(place.runs())
    result = place.run("verify", exported[:12])
    assert list(verdicts(result)) == [*FROM_FILES, *AGAIN, *QUOTED]
    assert failed(result) == []
    lines = result.stdout.splitlines()
    assert lines[:3] == [f"run {exported}", "A 0.5 · B 0.5 · logit  on  manifest, 70 rows", ""]
    counts = {word: list(verdicts(result).values()).count(word) for word in ("pass", "warn", "skip")}
    assert lines[-1] == f"verifies ({counts['pass']} pass, {counts['warn']} warn, {counts['skip']} skip)"
    assert len(place.runs()) == before


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


@pytest.mark.parametrize(
    ("change", "again", "expected"),
    [
        (lambda f: (f / "softlabels.npz").unlink(), False, ["hash softlabels.npz", "logits"]),
        (lambda f: (f / DESCRIPTOR).unlink(), False, ["descriptor"]),
        (lambda f: (f / "alignmentreport.json").write_text("{"), False, ["hash alignmentreport.json", "report file"]),
        (lambda f: write_logits(f, np.zeros((70, 6), np.float32)), True, ["logits"]),
        (lambda f: write_logits(f, np.full((70, 7), np.nan, np.float32)), True, ["finite"]),
        (lambda f: write_logits(f, np.zeros((69, 7), np.float32)), True, ["row count"]),
        (lambda f: write_logits(f, SoftLabels.open(f).logits[::-1]), True, ["metrics again"]),
        (lambda f: write_logits(f, SoftLabels.open(f).logits.astype(np.float16)), True, ["metrics again", "report"]),
        (
            lambda f: edit_json(f, "ensemble_metrics.json", lambda m: m.update(ece=m["ece"] + 1e-5)),
            True,
            ["metrics again"],
        ),
        (lambda f: edit_json(f, "ensemble_metrics.json", lambda m: m.clear()), True, ["metrics again"]),
        (lambda f: edit_json(f, "classorder.json", lambda c: c.sort()), True, ["metrics again"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["benchmark"].update(rows=71)), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["teachers"].pop("A")), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r.pop("ensemble")), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["checks"].clear()), True, AGAIN[4:]),
        (
            lambda f: edit_json(f, "alignmentreport.json", lambda r: [c.update(verdict="pass") for c in r["checks"]]),
            True,
            ["agreement", "blocks"],
        ),
    ],
)
def test_each_fault_fails_its_own_check(workplace, folder, change, again, expected):
    change(folder)
    if again:
        rehash(folder)
    result = workplace.run("verify", folder, status=1)
    assert failed(result) == expected
    assert result.stdout.startswith(f"folder {folder}\n")
    assert not (workplace.folder / "mlflow.db.lock").exists()  # a folder needs no store


@pytest.mark.parametrize("lacking", ["balanced_accuracy", "f1/Fear"])
def test_a_bundle_that_lacks_a_metric_opens_and_verifies(workplace, folder, lacking):
    """Another version stores other metrics: what both have is compared."""
    edit_json(folder, "ensemble_metrics.json", lambda metrics: metrics.pop(lacking))
    rehash(folder)
    assert lacking not in SoftLabels.open(folder).metrics
    result = workplace.run("verify", folder)
    assert f"labelled rows, without {lacking}" in result.stdout
    edit_json(folder, "ensemble_metrics.json", lambda metrics: metrics.update(ece=0.5))
    rehash(folder)
    assert failed(workplace.run("verify", folder, status=1)) == ["metrics again"]


def test_an_export_that_did_not_end_is_said_to_lack_its_tag(place, exported):
    client = MlflowClient(place.uri)
    stuck = client.create_run("0", tags={"fer.kind": "export"}).info.run_id
    client.log_artifact(stuck, str(place.stored(exported) / "softlabels.npz"), "softlabels")
    client.set_terminated(stuck, "FAILED")
    result = place.run("verify", stuck, status=1)
    assert failed(result)[:2] == ["descriptor", "class order"]
    assert verdicts(result)["logits"] == "pass"
    assert f"run {stuck} has no tag fer.bundle_sha256: its export did not end well" in result.stdout


def test_a_folder_is_held_against_a_manifest(workplace, sound, faces, tmp_path):
    result = workplace.run("verify", sound(), "--manifest", faces)
    assert verdicts(result)["manifest"] == "pass"
    header, first, *rest = faces.read_text().splitlines()
    for lines in ([header, *rest, first], [header, *rest]):
        (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
        result = workplace.run("verify", sound(), "--manifest", tmp_path / "mine.csv", status=1)
        assert failed(result) == ["manifest"]


@pytest.fixture
def recompute(workplace, faces, toy_teachers):
    """Return a function that verifies a folder with some rows predicted again."""

    def run(folder, *more, rows=70, manifest=faces, teachers=toy_teachers, status=0):
        options = ["--recompute", rows, "--manifest", manifest, "--teachers", teachers, "--device", "cpu"]
        return workplace.run("verify", folder, *options, *more, status=status)

    return run


@pytest.mark.parametrize(
    "options",
    [
        ("--space", "prob", "--clahe", "true"),
        ("--dtype", "float16"),
        ("--precision", "bf16"),
    ],
    ids=" ".join,
)
def test_teachers_that_predict_again_give_the_same(recompute, sound, options):
    result = recompute(sound(*options))
    names = ["checkpoint A", "checkpoint B", "preprocessing", "drawn images", "teachers", "logits again"]
    assert [verdicts(result)[name] for name in names] == ["pass"] * 6
    assert "70 rows predicted again; largest difference" in result.stdout


@pytest.mark.parametrize(("by", "status"), [(9e-4, 0), (1.1e-3, 1)])
def test_a_stored_logit_may_differ_by_a_thousandth(recompute, folder, by, status):
    logits = SoftLabels.open(folder).logits.copy()
    logits[12, 3] += by
    write_logits(folder, logits)
    rehash(folder)
    result = recompute(folder, status=1)  # the metrics notice, too
    assert verdicts(result)["logits again"] == ("FAIL" if status else "pass")
    assert ('1 of 70 rows differ: row 13 "images/f0012.jpg" (0.0011)' in result.stdout) == bool(status)


def test_rows_are_drawn_by_the_seed(recompute, folder):
    logits = SoftLabels.open(folder).logits.copy()
    logits[7, 2] += 1
    write_logits(folder, logits)
    rehash(folder)
    found = {seed: verdicts(recompute(folder, "--seed", seed, rows=35, status=1))["logits again"] for seed in range(4)}
    again = {seed: verdicts(recompute(folder, "--seed", seed, rows=35, status=1))["logits again"] for seed in range(2)}
    assert set(found.values()) == {"pass", "FAIL"}
    assert all(found[seed] == again[seed] for seed in again)


def test_other_checkpoints_settings_and_images_fail(recompute, sound, faces, toy_teachers, tmp_path):
    import torch

    write_teachers(tmp_path / "others", "AB")
    content = torch.load(tmp_path / "others/A.pt", weights_only=True)
    torch.save({**content, "epoch": 2}, tmp_path / "others/A.pt")
    result = recompute(sound(), teachers=tmp_path / "others/teachers.yaml", status=1)
    assert failed(result) == ["checkpoint A"]
    assert verdicts(result)["logits again"] == "skip"
    shutil.copytree(toy_teachers.parent, tmp_path / "same")
    text = toy_teachers.read_text().replace("0.25, 0.25, 0.25", "0.25, 0.25, 0.5")
    (tmp_path / "same/teachers.yaml").write_text(text)
    result = recompute(sound(), teachers=tmp_path / "same/teachers.yaml", status=1)
    assert failed(result) == ["teachers", "logits again"]
    assert "A: std is (0.25, 0.25, 0.5), was (0.25, 0.25, 0.25)" in result.stdout
    shutil.copytree(faces.parent, tmp_path / "faces")
    (tmp_path / "faces/images/f0003.jpg").write_bytes((faces.parent / "images/f0004.jpg").read_bytes())
    result = recompute(sound(), manifest=tmp_path / "faces" / faces.name, status=1)
    assert failed(result) == ["drawn images"]
    assert '1 of 70 are not the ones that teachers decoded: row 4 "images/f0003.jpg" (other bytes)' in result.stdout
    assert "69 rows predicted again" in result.stdout


def test_a_calibrated_bundle_is_verified_where_its_temperature_says_how(local_place, recompute, sound, tmp_path):
    local_place.run("calibrate", "--bundle", sound(), "--export", "true", "--in-sample", "true")
    run_id = local_place.runs("export")[0].info.run_id
    calibrated = SoftLabels.open(local_place.stored(run_id))
    assert calibrated.report["calibration"]["temperature"] != 1
    assert verdicts(recompute(calibrated.folder))["logits again"] == "pass"
    folder = shutil.copytree(calibrated.folder, tmp_path / "vector")
    edit_json(folder, "alignmentreport.json", lambda report: report["calibration"].update(method="vector"))
    rehash(folder)
    result = recompute(folder)
    assert verdicts(result)["logits again"] == "skip"
    assert "calibrated (vector)" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recompute", "3"], "--recompute needs --manifest and --teachers too"),
        (["--recompute", "3", "--manifest", "m.csv"], "--recompute needs --teachers too"),
        (["--teachers", "t.yaml"], "--teachers goes with --recompute N"),
        (["--split", "test"], "--split goes with a manifest"),
        (["--recompute", "0"], "neither a whole number of at least 1 nor empty"),
        (["--manifest", "none.csv"], "manifest none.csv: No such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(workplace, sound, options, said):
    assert said in workplace.run("verify", sound(), *options, status=2).stderr


def test_under_mlflow_run_the_verdict_is_the_runs(local_place, folder, monkeypatch):
    (folder / "classorder.json").write_text("[]")
    client = MlflowClient(local_place.uri)
    opened = client.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    local_place.run("verify", folder, status=1)
    found = client.get_run(opened.info.run_id)
    assert found.data.tags["fer.kind"] == "verify"
    assert found.data.tags["fer.verdict"] == "fail: hash classorder.json, class order"
    assert (found.info.status, found.data.metrics["checks/fail"]) == ("FINISHED", 2)
