"""`fer-mlflow train` and `demo`, against a real store."""

import re
import signal
import time

import pytest
from mlflow import MlflowClient
from toys import write_faces

from fer_mlflow.files import sha256_of_file

SMALL = ("--arch", "test_resnet", "--img-size", "32", "--epochs", "2", "--batch-size", "16", "--workers", "0")


@pytest.fixture
def faces(tmp_path):
    """Return a manifest with a training and a validation split."""
    manifest = write_faces(tmp_path / "faces", 84)
    lines = manifest.read_text().splitlines()
    rows = [line.replace(",test,", ",val," if i % 4 == 0 else ",train,") for i, line in enumerate(lines)]
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def test_a_run_has_the_curve_and_the_checkpoint(workplace, faces):
    result = workplace.run("train", "--manifest", faces, *SMALL, "--out", "t/A.pt", "--lr", "0.01")
    (run,) = workplace.runs("train")
    assert run.info.status == "FINISHED"
    assert (run.data.params["arch"], run.data.params["lr"], run.data.params["rows"]) == ("test_resnet", "0.01", "63")
    client = MlflowClient(workplace.uri)
    for metric in ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [1, 2]
    macro_f1 = [point.value for point in client.get_metric_history(run.info.run_id, "val_macro_f1")]
    assert run.data.metrics["best_val_macro_f1"] == max(macro_f1)
    assert sorted(entry.dataset.name for entry in run.inputs.dataset_inputs) == ["manifest:train", "manifest:val"]
    checkpoint = workplace.folder / "t/A.pt"
    assert run.data.tags["fer.checkpoint_sha256"] == sha256_of_file(checkpoint)
    artifact = client.download_artifacts(run.info.run_id, "teacher/test_resnet.pt", str(workplace.folder))
    assert sha256_of_file(artifact) == sha256_of_file(checkpoint)
    assert f"val_macro_f1  {max(macro_f1):.4f}" in result.stdout
    assert "epoch 2/2" in result.stderr
    assert not list((workplace.folder / "cache/training").iterdir())


@pytest.mark.parametrize(("split", "word"), [("train", "true"), ("val", "false")])
def test_an_export_says_whether_its_teachers_saw_the_rows(workplace, faces, split, word):
    workplace.run("train", "--manifest", faces, *SMALL, "--out", "A.pt")
    (workplace.folder / "teachers.yaml").write_text("A: {checkpoint: A.pt}\n")
    options = ["--manifest", faces, "--teachers", "teachers.yaml", "--weights", "A=1", "--split", split]
    result = workplace.run("export", *options)
    (run,) = workplace.runs("export")
    assert run.data.tags["fer.in_sample"] == word
    report = workplace.bundle(run).report
    assert report["teachers"]["A"]["in_sample"] == word
    assert report["teachers"]["A"]["in_sample_rows"] == (63 if word == "true" else 0)
    assert ("rows that were trained on: A 63" in result.stderr) == (word == "true")
    other = workplace.run("export", *options, "--clahe", "true")
    assert "warning: clahe: predicted with another CLAHE than in training: A (here clip 2, 8 tiles)" in other.stderr


def test_a_teacher_that_does_not_say_is_unknown(workplace, toy_faces, toy_teachers):
    workplace.run("export", "--manifest", toy_faces, "--teachers", toy_teachers, "--weights", "A=1")
    assert workplace.runs("export")[0].data.tags["fer.in_sample"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--arch", "resnet_18"], "has no model 'resnet_18'; did you mean"),
        (["--val-split", "dev"], 'no row has split "dev"; its splits are train (63), val (21)'),
        (["--optimizer", "adamww"], "timm has no 'adamww'"),
        (["--init", "none.pt"], "--init none.pt: no such file"),
        (["--val-split", "train"], "63 images are both in manifest:train and in manifest:train"),
    ],
)
def test_bad_input_is_one_line_and_opens_no_run(workplace, faces, changes, message):
    result = workplace.run("train", "--manifest", faces, *SMALL, *changes, status=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not workplace.runs()


@pytest.mark.slow
def test_a_killed_training_goes_on(workplace, faces):
    many = [*SMALL[:4], "--epochs", "40", *SMALL[6:]]
    process = workplace.start("train", "--manifest", faces, *many)
    deadline = time.monotonic() + 120
    while not list((workplace.folder / "cache").glob("training/*/last.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert workplace.runs("train")[0].info.status == "RUNNING"
    workplace.run("train", "--manifest", faces, *many, "--out", "resumed.pt")
    history = MlflowClient(workplace.uri).get_metric_history(workplace.runs("train")[0].info.run_id, "train_loss")
    assert [point.step for point in history] == list(range(1, 41))


@pytest.mark.slow
def test_the_demo_ends_with_a_leaderboard_of_stored_numbers_and_reuses_all_of_it(workplace, coarse_figures):
    options = ["--out", "tour", "--faces", "240", "--epochs", "1"]
    result = workplace.run("demo", *options)
    runs = {run.info.run_id[:8]: run for run in workplace.runs()}
    tables = result.stdout.split("leaderboard of ")[1:]
    shown = set()
    for table in tables:
        ranked = table.split("left out")[0]
        lines = [line.split() for line in ranked.splitlines() if line.strip()[:1].isdigit()]
        for *_, macro_f1, _low, _high, accuracy, ece, nll, run_id in lines:
            metrics = runs[run_id].data.metrics
            found = {"macro_f1": macro_f1, "accuracy": accuracy, "ece": ece, "nll": nll}
            assert {name: f"{metrics[name]:.4f}" for name in found} == found
            shown.add(run_id)
        ranks = [float(line[-7]) for line in lines]
        assert ranks == sorted(ranks, reverse=True)
    # One epoch on 240 faces teaches little: what is not shown is no better than the most frequent class.
    for run in [run for kind in ("export", "teacher", "student") for run in workplace.runs(kind)]:
        status = run.data.tags["triage.status"]
        assert (run.info.run_id[:8] in shown) == (status == "good"), run.data.tags.get("triage.reasons")
    looked = [run for kind in ("evaluate", "calibrate", "inspect") for run in workplace.runs(kind)]
    below = {run.data.tags["mlflow.parentRunId"] for run in looked if "fer.source_run" in run.data.tags}
    assert below == {run.data.tags["fer.source_run"] for run in looked if "fer.source_run" in run.data.tags}
    assert len(below) == 1
    assert len(workplace.runs("compare")) == 1
    assert len(workplace.runs("train")) == 3
    assert len(workplace.runs("export")) == 9  # four on two splits, and one on the training rows for the student
    assert len(workplace.runs("teacher")) == 9
    assert {run.info.run_name for run in workplace.runs("distill")} == {"student-ce", "student-kd"}
    assert {run.data.params["ensemble"] for run in workplace.runs("student")} == {"student-ce=1", "student-kd=1"}
    (demo,) = workplace.runs("demo")
    assert [file.path for file in MlflowClient(workplace.uri).list_artifacts(demo.info.run_id)] == ["faces.png"]
    again = workplace.run("demo", *options)
    counts = r"\d+ runs:.*"  # the second demo has two runs more
    assert (
        re.split(counts, again.stdout.partition("leaderboard of ")[2])[0]
        == re.split(counts, result.stdout.partition("leaderboard of ")[2])[0]
    )
    assert len(workplace.runs()) == len(runs) + 2  # the second demo's own, and its triage
