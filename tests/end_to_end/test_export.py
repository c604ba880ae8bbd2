"""`fer-mlflow export`, driven as a user does, against a real store."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from click.testing import CliRunner
from mlflow import MlflowClient
from scipy.special import softmax
from toys import CLASSES

from fer_mlflow import SoftLabels
from fer_mlflow.cli import main


def arguments(manifest, teachers, weights="A=0.5,B=0.5", *more):
    return ["export", "--manifest", manifest, "--teachers", teachers, "--weights", weights, *more]


@pytest.fixture
def own_faces(toy_faces, tmp_path) -> Path:
    """Return the manifest of a copy of the toy faces."""
    shutil.copytree(toy_faces.parent, tmp_path / "faces")
    return tmp_path / "faces" / toy_faces.name


def test_one_run_has_all_that_the_design_asks_for(workplace, toy_faces, toy_teachers):
    typed = ["--space", "prob", "--clahe", "true", "--clahe-clip", "2", "--split", "test"]
    workplace.run_installed(*arguments(toy_faces, toy_teachers, "B=0.25,A=0.75", *typed))
    (run,) = workplace.runs("export")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "prob · clahe · A 0.75 · B 0.25 · test · manifest"
    params = run.data.params
    assert {key: params[key] for key in ("space", "clahe", "split", "dtype")} == {
        "space": "prob",
        "clahe": "true",
        "split": "test",
        "dtype": "float32",
    }
    assert (params["ensemble"], params["w/A"], params["w/B"]) == ("A=0.75,B=0.25", "0.75", "0.25")
    assert (params["benchmark"], params["rows"]) == ("manifest:test", "70")
    bundle = workplace.bundle(run)
    probs = softmax(bundle.logits.astype(float), axis=1)
    predictions = probs.argmax(axis=1)
    assert run.data.metrics["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(bundle.labels, predictions))
    assert run.data.metrics["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(bundle.labels, predictions, average="macro", zero_division=0)
    )
    assert run.data.metrics["nll"] == pytest.approx(
        sklearn.metrics.log_loss(bundle.labels, probs, labels=range(7)), abs=1e-6
    )
    assert {f"f1/{name}" for name in CLASSES} | {"ece", "brier", "mean_max_prob", "p99_max_prob"} < set(
        run.data.metrics
    )
    assert dict(bundle.metrics) == run.data.metrics
    tags = run.data.tags
    assert (tags["fer.bundle_sha256"], tags["fer.selection_sha256"]) == (bundle.sha256, bundle.selection_sha256)
    assert tags["fer.benchmark"] == "manifest:test"
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("manifest:test", bundle.selection_sha256[:32])
    teachers = {each.data.params["ensemble"]: each for each in workplace.runs("teacher")}
    assert {name: each.info.status for name, each in teachers.items()} == {"A=1": "FINISHED", "B=1": "FINISHED"}
    assert tags["fer.teacher_run/A"] == teachers["A=1"].info.run_id
    assert teachers["A=1"].data.metrics.keys() == run.data.metrics.keys()


def test_the_bundle_is_the_formula_over_the_teachers_runs(workplace, toy_faces, toy_teachers):
    workplace.run(*arguments(toy_faces, toy_teachers, "A=0.2,B=0.3,C=0.5"))
    (run,) = workplace.runs("export")
    alone = {r.data.params["ensemble"][0]: workplace.bundle(r).logits.astype(float) for r in workplace.runs("teacher")}
    fused = 0.2 * alone["A"] + 0.3 * alone["B"] + 0.5 * alone["C"]
    np.testing.assert_allclose(workplace.bundle(run).logits, fused, atol=1e-6)


def test_what_is_printed_is_what_is_stored(workplace, toy_faces, toy_teachers):
    result = workplace.run_installed(*arguments(toy_faces, toy_teachers))
    (run,) = workplace.runs("export")
    lines = result.stdout.splitlines()
    assert lines[0] == "logit · A 0.5 · B 0.5  on  manifest, 70 rows"
    assert re.search(rf"accuracy +{run.data.metrics['accuracy']:.4f}    f1/Angry", result.stdout)
    assert f"  run      {run.info.run_id}" in lines
    folder = Path(next(line.split()[1] for line in lines if line.startswith("  bundle ")))
    assert SoftLabels.open(folder).sha256 == run.data.tags["fer.bundle_sha256"]
    assert lines[-1] == f"  ui       mlflow ui --backend-store-uri {workplace.uri}"
    assert "predicting with A, B: 70 rows" in result.stderr
    assert not list((workplace.folder / "cache/logits").iterdir())  # nothing is left behind
    assert not list((workplace.folder / "cache/bundles").iterdir())


def test_other_weights_need_no_forward_pass_and_no_checkpoint(workplace, toy_faces, toy_teachers):
    workplace.run(*arguments(toy_faces, toy_teachers))
    code = "import sys\nfrom fer_mlflow.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *map(str, arguments(toy_faces, toy_teachers, "A=0.9,B=0.1"))]
    result = subprocess.run(
        [*command, "--space", "prob"],
        env=workplace.env,
        cwd=workplace.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "False"  # torch was not even imported
    assert result.stdout.count("reused from run") == 2
    assert len(workplace.runs("teacher")) == 2
    assert len(workplace.runs("export")) == 2


def test_a_further_teacher_is_the_only_one_asked(workplace, toy_faces, toy_teachers):
    workplace.run(*arguments(toy_faces, toy_teachers, "A=1"))
    result = workplace.run(*arguments(toy_faces, toy_teachers, "A=0.5,C=0.5"))
    assert "predicting with C: 70 rows" in result.stderr
    result = workplace.run(*arguments(toy_faces, toy_teachers, "A=1", "--precision", "bf16"))
    assert "predicting with A: 70 rows" in result.stderr


def test_the_same_command_gives_the_same_bytes(workplace, toy_faces, toy_teachers):
    for out in ("one", "two"):
        workplace.run(*arguments(toy_faces, toy_teachers, "A=0.5,B=0.5", "--out", out, "--dtype", "float16"))
    one, two = workplace.folder / "one", workplace.folder / "two"
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
    assert SoftLabels.open(one).logits.dtype == np.float16


def test_an_out_folder_takes_the_same_bundle_again_and_no_other(workplace, toy_faces, toy_teachers):
    (workplace.folder / "notes").mkdir()
    (workplace.folder / "notes/todo.txt").write_text("x")
    base = arguments(toy_faces, toy_teachers, "A=1")
    result = workplace.run(*base, "--out", "notes", status=2)
    assert "notes holds other things; name a new folder" in result.stderr
    workplace.run(*base, "--out", "copy")
    workplace.run(*base, "--out", "copy")
    result = workplace.run(*arguments(toy_faces, toy_teachers, "A=0.5,B=0.5"), "--out", "copy", status=2)
    assert "holds the bundle of another configuration" in result.stderr
    assert len(workplace.runs("export")) == 2  # what is refused opens no run


def test_rows_without_labels_get_soft_labels_and_no_metrics(workplace, tmp_path, toy_teachers):
    from toys import write_faces

    result = workplace.run(*arguments(write_faces(tmp_path / "plain", 9, labelled=False), toy_teachers, "A=1"))
    assert "no row has a label: soft labels are exported, metrics are left out" in result.stdout
    (run,) = workplace.runs("export")
    assert run.data.metrics == {}
    assert len(workplace.bundle(run)) == 9


def test_images_that_cannot_be_decoded_fail_or_are_left_out(workplace, own_faces, toy_teachers):
    (own_faces.parent / "images/f0005.jpg").write_bytes(b"broken")
    result = workplace.run(*arguments(own_faces, toy_teachers, "A=1"), status=2)
    assert 'fer-mlflow: 1 images cannot be decoded: row 6 "images/f0005.jpg"' in result.stderr
    (failed,) = workplace.runs("export")
    assert failed.info.status == "FAILED"
    assert "row 6" in failed.data.tags["fer.error"]
    result = workplace.run(*arguments(own_faces, toy_teachers, "A=1", "--on-bad-image", "skip"))
    bundle = workplace.bundle(workplace.runs("export")[0])
    assert len(bundle) == 69
    assert [bad["row"] for bad in bundle.report["unreadable"]] == [5]
    assert "1 images could not be decoded and are left out" in result.stderr
    result = workplace.run(*arguments(own_faces, toy_teachers, "A=1"), status=2)  # reused, and still refused
    assert "row 6" in result.stderr


def test_a_changed_image_is_found_and_its_teachers_asked_again(workplace, own_faces, toy_teachers):
    workplace.run(*arguments(own_faces, toy_teachers, "A=1"))
    shutil.copyfile(own_faces.parent / "images/f0001.jpg", own_faces.parent / "images/f0008.jpg")
    trusting = workplace.run(*arguments(own_faces, toy_teachers, "A=1", "--verify-paths", "false"))
    assert "reused from" in trusting.stdout
    result = workplace.run(*arguments(own_faces, toy_teachers, "A=1"))
    assert "predicts again: 1 images changed since run" in result.stderr
    assert 'row 9 "images/f0008.jpg" first' in result.stderr
    bundle = workplace.bundle(workplace.runs("export")[0])
    np.testing.assert_allclose(bundle.logits[8], bundle.logits[1], atol=1e-4)
    again = workplace.run(*arguments(own_faces, toy_teachers, "A=1"))
    assert "reused from" in again.stdout


def test_an_edited_manifest_is_another_benchmark(workplace, own_faces, toy_teachers):
    workplace.run(*arguments(own_faces, toy_teachers, "A=1"))
    text = own_faces.read_text()
    own_faces.write_text(text.replace("f0003.jpg,Happy", "f0003.jpg,Sad"))
    result = workplace.run(*arguments(own_faces, toy_teachers, "A=1"))
    assert "predicting with A: 70 rows" in result.stderr
    assert len({run.data.tags["fer.selection_sha256"] for run in workplace.runs("export")}) == 2


@pytest.mark.parametrize("damage", ["changed", "missing", "other bundle"])
def test_a_teacher_run_that_does_not_verify_is_asked_again(workplace, toy_faces, toy_teachers, damage):
    workplace.run(*arguments(toy_faces, toy_teachers, "A=0.5,B=0.5"))
    folders = {
        run.data.params["ensemble"]: Path(run.info.artifact_uri.removeprefix("file://")) / "softlabels"
        for run in workplace.runs("teacher")
    }
    damaged = folders["A=1"]
    if damage == "changed":
        data = bytearray((damaged / "softlabels.npz").read_bytes())
        data[-400] ^= 1
        (damaged / "softlabels.npz").write_bytes(data)
    elif damage == "missing":
        (damaged / "softlabels_index.jsonl").unlink()
    else:
        shutil.rmtree(damaged)
        shutil.copytree(folders["B=1"], damaged)
    result = workplace.run(*arguments(toy_faces, toy_teachers, "A=0.3,B=0.7"))
    assert "warning: teacher A is not reused:" in result.stderr
    assert "predicting with A: 70 rows" in result.stderr
    assert len(workplace.runs("teacher")) == 3


def test_a_teacher_run_that_triage_called_bad_is_not_used(workplace, toy_faces, toy_teachers):
    workplace.run(*arguments(toy_faces, toy_teachers, "A=1"))
    (run,) = workplace.runs("teacher")
    MlflowClient(workplace.uri).set_tag(run.info.run_id, "triage.status", "bad")
    result = workplace.run(*arguments(toy_faces, toy_teachers, "A=1"))
    assert "predicting with A: 70 rows" in result.stderr


def test_suspicious_statistics_are_said_reported_and_tagged(workplace, many_faces, toy_teachers):
    result = workplace.run(*arguments(many_faces, toy_teachers, "A=1"))  # random weights agree with labels by chance
    assert "warning: agreement: labels and predictions agree on" in result.stderr
    (run,) = workplace.runs("export")
    assert run.data.tags["fer.alignment"].startswith("warn: agreement")
    report = workplace.bundle(run).report
    assert {check["name"]: check["verdict"] for check in report["checks"]}["agreement"] == "warn"
    assert json.dumps(report["teachers"]["A"]["preprocessing"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"--weights": "A=0.5,B=0.6"},
            "--weights: shares sum to 1.1, not to 1; normalised they are A=0.454545,B=0.545455",
        ),
        ({"--weights": "A=0.5,X=0.5"}, "no teacher X among A, B, C"),
        ({"--split": "val"}, 'no row has split "val"; its splits are test (70)'),
        ({"--manifest": "none.csv"}, "manifest none.csv: No such file"),
        ({"--root": "/no/such/folder"}, "/no/such/folder is not a folder"),
        ({"--classes": "none.yaml"}, "class file none.yaml"),
    ],
)
def test_bad_input_is_one_line_and_opens_no_run(tmp_path, monkeypatch, toy_faces, toy_teachers, changes, message):
    monkeypatch.chdir(tmp_path)
    options = {"--manifest": str(toy_faces), "--teachers": str(toy_teachers), "--weights": "A=1"} | changes
    result = CliRunner().invoke(main, ["export", *(word for pair in options.items() for word in pair)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # not even a store


def test_a_checkpoint_that_cannot_be_used_fails_before_the_forward_pass(workplace, toy_faces, toy_teachers, tmp_path):
    shutil.copytree(toy_teachers.parent, tmp_path / "teachers")
    (tmp_path / "teachers/B.pt").write_bytes(b"no checkpoint")
    result = workplace.run(*arguments(toy_faces, tmp_path / "teachers/teachers.yaml"), status=2)
    assert "fer-mlflow: teacher B (" in result.stderr
    assert "predicting" not in result.stderr
