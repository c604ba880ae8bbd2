"""`fer-mlflow distill`: one student, a grid of them, what is refused, and the ONNX student that takes images."""

import base64
import json
import signal
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from toys import artifact, error_line, write_soft_labels

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.images import decode_image, prepare_image
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import ImageError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.student.distillation import SoftObjective
from fer_mlflow.teachers.checkpoint import load_teacher
from fer_mlflow.teachers.spec import TeacherSpec
from fer_mlflow.tracking.serving import image_bytes

SMALL = ("--arch", "test_resnet", "--img-size", "32", "--epochs", "2", "--batch-size", "16", "--workers", "0")
SMALL = (*SMALL, "--lr", "0.01")


def by_kind(workplace, kind):
    (run,) = workplace.runs(kind)
    return run


def plain_logits(checkpoint, part):
    """Return a student's logits by a plain loop, one image at a time."""
    student = load_teacher(TeacherSpec("s", checkpoint), FER7)
    mean, std = (
        torch.tensor(student.preprocessing.mean).view(3, 1, 1),
        torch.tensor(student.preprocessing.std).view(3, 1, 1),
    )
    rows = []
    for path in part.paths:
        pixels = prepare_image((part.root / path).read_bytes(), student.preprocessing)
        image = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
        with torch.no_grad():
            rows.append(student.model.eval()(image[None])[0][torch.from_numpy(np.asarray(student.columns))].numpy())
    return np.array(rows)


def test_a_student_of_the_best_configuration_stands_beside_its_teachers(workplace, split_faces, toy_teachers):
    for split in ("train", "test"):
        for weights in ("A=0.7,B=0.3", "A=0.2,B=0.8"):
            options = ["--teachers", toy_teachers, "--weights", weights, "--split", split]
            workplace.run("export", "--manifest", split_faces, *options)
    exports = {(run.data.params["split"], run.data.params["ensemble"]): run for run in workplace.runs("export")}
    on_test = [(run.data.metrics["nll"], ensemble) for (split, ensemble), run in exports.items() if split == "test"]
    best = exports["train", min(on_test)[1]]
    options = ["--softlabels", "best:nll@manifest:test", "--target", "mixture", "--temperature", "2"]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *options, "--out", "s.pt", "--name", "KD")
    assert f"soft labels of run {best.info.run_id}: " in result.stderr
    run = by_kind(workplace, "distill")
    assert run.info.status == "FINISHED"
    assert run.data.tags["fer.source_run"] == best.info.run_id
    assert (run.data.params["ensemble"], run.data.params["target_kind"]) == (min(on_test)[1], "mixture")
    assert (run.data.params["effective_temperature"], run.data.params["temperature"]) == ("2", "2")
    assert [
        point.step for point in MlflowClient(workplace.uri).get_metric_history(run.info.run_id, "val_macro_f1")
    ] == [
        1,
        2,
    ]
    checkpoint = workplace.folder / "s.pt"
    assert run.data.tags["fer.checkpoint_sha256"] == sha256_of_file(checkpoint)
    distilled = torch.load(checkpoint, weights_only=True)["distilled"]
    assert (distilled["target"], distilled["bundle_sha256"]) == ("mixture", best.data.tags["fer.bundle_sha256"])
    # The student on the test rows: its own run, below the training, in the leaderboard of its teachers.
    scored = by_kind(workplace, "student")
    test = read_benchmark(split_faces, FER7, split="test")
    np.testing.assert_allclose(workplace.bundle(scored).logits, plain_logits(checkpoint, test), atol=1e-4)
    assert scored.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert scored.data.params["ensemble"] == "KD=1"
    assert scored.data.metrics["macro_f1"] == run.data.metrics["test/macro_f1"]
    assert {key.rpartition("/")[0] for key in run.data.metrics} == {"", "test"}  # the sections of charts
    verdict, about, links = run.data.tags["mlflow.note.content"].split("  \n")
    val, test_f1 = run.data.metrics["best_val_macro_f1"], scored.data.metrics["macro_f1"]
    assert verdict.startswith(rf"val\_macro\_f1 **{val:.4f}** · val\_accuracy ")
    assert verdict.endswith(rf" · test · manifest: macro\_f1 **{test_f1:.4f}**")
    assert " · soft labels " in about
    assert links == f"[source](#/experiments/0/runs/{best.info.run_id})"
    assert f"](#/experiments/0/runs/{run.info.run_id})" in scored.data.tags["mlflow.note.content"]
    assert f"macro_f1           {scored.data.metrics['macro_f1']:.4f}  [" in result.stdout
    shown = workplace.run("triage", "--even-bad", "true", "--benchmark", "manifest:test").stdout
    (line,) = (line for line in shown.splitlines() if scored.info.run_id[:8] in line)
    words = [word for word in line.split()[1:] if word not in ("≈", "bad", "·")]
    assert words[:2] == ["KD=1", "student"]
    reasons = by_kind(workplace, "student").data.tags.get("triage.reasons", "")
    assert not {"superseded", "worse than a teacher", "other rows"} & {
        part.split(":")[0] for part in reasons.split("; ")
    }
    assert by_kind(workplace, "distill").data.tags["triage.status"] == "good"
    # A student is no teacher of the next one, unless it is named; random teachers are no better than chance.
    again = ["--even-bad", "true", "--epochs", "1", "--test-split", "none"]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *options, *again)
    assert f"soft labels of run {best.info.run_id}: " in result.stderr
    # Its checkpoint is a teacher's.
    (workplace.folder / "students.yaml").write_text("S: {checkpoint: s.pt}\n")
    options = ["--teachers", "students.yaml", "--weights", "S=1", "--split", "test"]
    workplace.run("export", "--manifest", split_faces, *options)
    np.testing.assert_array_equal(workplace.bundle(workplace.runs("export")[0]).logits, workplace.bundle(scored).logits)


def test_the_best_configuration_must_have_been_exported_for_the_training_rows(workplace, split_faces, toy_teachers):
    options = ["--teachers", toy_teachers, "--weights", "A=1", "--split", "test"]
    workplace.run("export", "--manifest", split_faces, *options)
    result = workplace.run(
        "distill", "--manifest", split_faces, *SMALL, "--softlabels", "best:accuracy@manifest:test", status=2
    )
    assert "no run has its soft labels of manifest:train; export them with --weights A=1" in error_line(result)
    assert not workplace.runs("distill")


def test_a_killed_grid_goes_on_and_compares_its_best_on_the_test_rows(workplace, split_faces, train_bundle):
    grid = ["--softlabels", train_bundle.folder, "--grid", "temperature=1,4;loss=kd;seed=0,1", "--epochs", "3"]
    process = workplace.start("distill", "--manifest", split_faces, *SMALL, *grid)
    deadline = time.monotonic() + 120
    while not [run for run in workplace.runs("distill") if run.info.status == "FINISHED"]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finished = {run.info.run_id for run in workplace.runs("distill") if run.info.status == "FINISHED"}
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *grid, "--out", "best.pt")
    assert result.stderr.count("reused from run") == len(finished)
    (parent,) = (
        run for run in workplace.runs("distill") if run.data.params.get("grid") and run.info.status == "FINISHED"
    )
    children = [
        run for run in workplace.runs("distill") if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(children) == 6  # of labels alone, T 1 and T 4, two seeds each; those of the first attempt are here too
    assert finished <= {run.info.run_id for run in children}
    assert len({run.info.run_name for run in children}) == 6
    assert "loss kd, temperature 4, seed 1 · train · manifest" in {run.info.run_name for run in children}
    table = pd.read_parquet(artifact(parent, "tables/grid.parquet"))
    assert sorted(table["configuration"].unique()) == ["loss ce", "loss kd, temperature 1", "loss kd, temperature 4"]
    means = table[table["configuration"] != "loss ce"].groupby("configuration")["best_val_macro_f1"].mean()
    best = table.set_index("run_id").loc[parent.data.tags["fer.best_run"]]
    assert means[best["configuration"]] == means.max()
    own = table[table["configuration"] == best["configuration"]]
    assert best["best_val_macro_f1"] == own["best_val_macro_f1"].max()
    tested = table[table["test_macro_f1"].notna()]
    assert len(tested) == 4  # two seeds of the best, two of the baseline
    metrics = parent.data.metrics
    baseline = table.set_index("run_id").loc[parent.data.tags["fer.baseline_run"]]
    assert baseline["configuration"] == "loss ce"
    assert metrics["test/difference macro_f1"] == pytest.approx(best["test_macro_f1"] - baseline["test_macro_f1"])
    scores = tested.pivot(index="seed", columns="configuration", values="test_accuracy")
    seed_difference = (scores[best["configuration"]] - scores["loss ce"]).mean()
    assert {key.rpartition("/")[0] for key in metrics} == {"", "test"}
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("best: ")
    assert f"[best](#/experiments/0/runs/{parent.data.tags['fer.best_run']})" in note
    assert metrics["test/seed_difference accuracy"] == pytest.approx(seed_difference)
    assert metrics["test/difference macro_f1 low"] <= metrics["test/difference macro_f1 high"]
    sha256 = {run.info.run_id: run.data.tags["fer.checkpoint_sha256"] for run in children}
    assert sha256_of_file(workplace.folder / "best.pt") == sha256[parent.data.tags["fer.best_run"]]
    assert len(workplace.runs("student")) == 4
    assert "best - baseline, paired over rows" in result.stdout
    assert f"{metrics['test/difference macro_f1']:+.4f}" in result.stdout
    again = workplace.run("distill", "--manifest", split_faces, *SMALL, *grid)
    assert again.stderr.count("reused from run") == 6
    assert len(workplace.runs("student")) == 4
    assert again.stdout.partition("\n  run ")[0] == result.stdout.partition("\n  run ")[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--softlabels", "none"], "run 'none': a run id is 4 to 32 digits"),
        (["--softlabels", ""], "--loss kd needs soft labels: --softlabels RUN, FOLDER or best:METRIC@BENCHMARK"),
        (["--softlabels", "best:macro_f1"], "write best:METRIC@BENCHMARK"),
        (["--classes", "classes.yaml"], "soft labels are of the classes Angry, Disgust"),
        (["--train-split", "val", "--val-split", "test"], "21 of 21 rows have no soft labels: row 1"),
        (["--test-split", "tests"], 'no row has split "tests"; its splits are'),
        (["--target", "prob"], "the logits of A, B are not to be had"),
        (["--grid", "temperature=1,0"], "--grid: temperature: '0' is not a number above 0"),
        (["--grid", "temperatures=1"], '--grid: "temperatures=1" is not OPTION=value,value'),
        (["--grid", "loss=ce"], "nothing in it learns from soft labels"),
        (["--grid", "loss=kd;loss=dkd"], "--grid: loss is there twice"),
    ],
)
def test_bad_input_is_one_line_and_opens_no_run(workplace, split_faces, train_bundle, changes, message):
    order = ["Neutral", *FER7.names[:-1]]
    (workplace.folder / "classes.yaml").write_text(yaml.safe_dump(order))
    own = ["--softlabels", train_bundle.folder]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own, *changes, status=2)
    assert message in result.stderr
    assert not workplace.runs()


def test_a_manifest_that_was_edited_after_the_export_is_refused(workplace, split_faces, train_bundle):
    split_faces.write_text(split_faces.read_text().replace("f0001.jpg,Disgust,", "f0001.jpg,Happy,"))
    own = ["--softlabels", train_bundle.folder]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own, status=2)
    assert (
        '1 of 54 rows are not what they were when the soft labels were exported: row 1 "images/f0001.jpg"'
        in error_line(result)
    )


def test_rows_without_soft_labels_are_trained_on_their_labels_alone(workplace, split_faces, tmp_path):
    part = read_benchmark(split_faces, FER7, split="train")
    bundle = write_soft_labels(tmp_path / "first", read_benchmark(split_faces, FER7, split="train", limit=30))
    own = ["--softlabels", bundle.folder, "--test-split", "none"]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own, status=2)
    assert f"{len(part) - 30} of {len(part)} rows have no soft labels" in error_line(result)
    assert "--missing ce" in result.stderr
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own, "--missing", "ce")
    assert f"warning: {len(part) - 30} rows have no soft labels and are trained on their labels alone" in result.stderr
    assert by_kind(workplace, "distill").data.params["rows_without_soft_labels"] == str(len(part) - 30)
    assert not workplace.runs("student")  # no test split, no scores


def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_best_checkpoint(
    workplace, split_faces, train_bundle, monkeypatch
):
    plain = SoftObjective.__call__

    def breaks(self, logits, labels, rows, epoch):
        return plain(self, logits, labels, rows, epoch) * (float("nan") if epoch == 1 else 1.0)

    monkeypatch.setattr(SoftObjective, "__call__", breaks)
    own = ["--softlabels", train_bundle.folder]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own, status=1)
    last = result.stderr.splitlines()[-1]
    assert "epoch 2, step 1: the loss is nan; lower --lr" in last
    assert "the checkpoint of epoch 1 is " in last
    run = by_kind(workplace, "distill")
    assert run.info.status == "FAILED"
    assert "epoch 2, step 1: the loss is nan" in run.data.tags["fer.error"]
    kept = last.split("the checkpoint of epoch 1 is ")[1].split(";")[0].strip()
    assert sha256_of_file(kept) == sha256_of_file(artifact(run, "teacher/test_resnet.pt"))
    assert torch.load(kept, weights_only=True)["distilled"]["loss"] == "kd"
    # In a grid, only the students that it befalls fail.
    result = workplace.run(
        "distill", "--manifest", split_faces, *SMALL, *own, "--grid", "loss=kd", "--test-split", "none", status=1
    )
    assert "no student of soft labels could be trained" in result.stderr


def test_an_onnx_student_takes_images_and_says_what_torch_says(workplace, split_faces, train_bundle, monkeypatch):
    own = ["--softlabels", train_bundle.folder, "--loss", "dkd", "--onnx", "true", "--out", "s.pt", "--clahe", "false"]
    own += ["--log-images", "false"]
    result = workplace.run("distill", "--manifest", split_faces, *SMALL, *own)
    run = by_kind(workplace, "distill")
    assert run.data.metrics["onnx/rows"] == 21
    assert run.data.metrics["onnx/changed"] == 0
    uri = run.data.tags["fer.model"]
    assert f"model       {uri}" in result.stdout
    from mlflow.pyfunc.scoring_server import invocations

    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    model = mlflow.pyfunc.load_model(uri)
    assert [column.name for column in model.metadata.signature.inputs.inputs] == ["image", "path"]
    example = model.metadata.load_input_example(mlflow.artifacts.download_artifacts(uri))
    assert np.ptp(decode_image(image_bytes(example["image"].iloc[0]))) == 0  # a face, but for --log-images false
    part = read_benchmark(split_faces, FER7, split="test")
    images = [(part.root / path).read_bytes() for path in part.paths]
    predicted = model.predict(pd.DataFrame({"image": images}))
    logits = torch.from_numpy(plain_logits(workplace.folder / "s.pt", part))
    probs = torch.softmax(logits.double(), dim=1).numpy()
    np.testing.assert_allclose(predicted[[f"p/{name}" for name in FER7.names]], probs, atol=1e-5)
    assert predicted["label"].tolist() == [FER7.names[at] for at in logits.argmax(dim=1)]
    monkeypatch.chdir(part.root)
    pd.testing.assert_frame_equal(model.predict(pd.DataFrame({"path": part.paths.astype(object)})), predicted)
    for path, problem in (("no.jpg", "image 1: No such file"), ("../manifest.csv", "image 1: ")):
        with pytest.raises(ImageError, match=problem):
            model.predict(pd.DataFrame({"path": [path]}))
    # What `mlflow models serve` and `predict` do with a request.
    request = json.dumps({"dataframe_records": [{"image": base64.b64encode(each).decode()} for each in images]})
    answer = invocations(request, "application/json", model, model.metadata.get_input_schema())
    assert answer.status == 200, answer.response
    assert pd.DataFrame(json.loads(answer.response)["predictions"])["label"].tolist() == predicted["label"].tolist()
