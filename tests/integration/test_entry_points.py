"""Every entry point, in the environment that `mlflow run` makes for a user who has a clone and nothing else.

The tests are one story: each goes on with the runs of those before it.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
import toys
import yaml
from conftest import PROJECT
from mlflow import MlflowClient
from scipy.special import softmax

import fer_mlflow

SMALL = {"arch": "test_resnet", "img_size": 32, "epochs": 1, "batch_size": 16, "workers": 0, "lr": 0.01}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Return a manifest with three splits of 84 images."""
    path = toys.write_faces(tmp_path_factory.mktemp("faces"), 84)
    header, *rows = path.read_text().splitlines()
    splits = ("val", "train", "test", "train")
    rows = [row.replace(",test,", f",{splits[number % 4]},") for number, row in enumerate(rows)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def exported(machine, faces, toy_teachers):
    """Return the export runs by split. The first one makes the environment; nothing of ours is installed in it."""
    runs = {}
    for split in ("test", "train"):
        machine.mlflow_run("export", manifest=faces, teachers=toy_teachers, weights="A=0.6,B=0.4", split=split)
        runs[split] = machine.last("export")
    return runs


def test_export_runs_in_an_environment_without_the_project(machine, exported):
    assert exported["test"].data.tags["mlflow.source.git.commit"] == machine.commit
    assert exported["test"].data.tags["mlflow.project.entryPoint"] == "export"
    find = "import importlib.util as u; print(u.find_spec('fer_mlflow'), u.find_spec('pytest'))"
    command = [machine.python, "-c", find]
    done = subprocess.run(command, cwd=machine.home, env=machine.env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "None"]


def test_a_git_uri_is_a_project_too(machine, exported, faces, toy_teachers):
    options = {"manifest": faces, "teachers": toy_teachers, "weights": "A=0.5,B=0.5", "space": "prob", "split": "test"}
    machine.mlflow_run("export", project=f"file://{machine.clone}", **options)
    run = machine.last("export")
    assert run.data.tags["mlflow.source.git.commit"] == machine.commit
    assert run.data.params["space"] == "prob"


def test_paths_are_those_of_the_folder_that_mlflow_run_was_typed_in(machine, exported, faces, toy_teachers):
    options = {"teachers": toy_teachers, "weights": "A=1", "split": "test"}
    machine.mlflow_run("export", cwd=faces.parent, manifest=faces.name, **options)
    assert machine.last("export").data.params["ensemble"] == "A=1"


def test_manifest(machine, exported, faces):
    out = faces.with_name("merged.csv")
    machine.mlflow_run("manifest", action="merge", inputs=f"{faces}:train,{faces}:val", out=out)
    assert machine.last("manifest").info.status == "FINISHED"
    assert len(out.read_text().splitlines()) == 1 + 63


def test_train(machine, exported, faces):
    machine.mlflow_run("train", manifest=faces, out=machine.folder / "trained.pt", **SMALL)
    assert 0 <= machine.last("train").data.metrics["val_accuracy"] <= 1
    assert (machine.folder / "trained.pt").stat().st_size > 0


@pytest.mark.parametrize("entry", ["evaluate", "calibrate", "inspect"])
def test_a_look_at_a_run(machine, exported, entry):
    source = exported["test"].info.run_id
    machine.mlflow_run(entry, run=source)
    assert machine.last(entry).data.tags["fer.source_run"] == source


def test_compare(machine, exported, faces, toy_teachers):
    first, second, *_ = (run.info.run_id for run in machine.runs("export") if run.data.params["split"] == "test")
    machine.mlflow_run("compare", run_a=first, run_b=second)
    assert machine.last("compare").data.tags["fer.verdict"].startswith("comparable")


def test_sweep(machine, exported, faces, toy_teachers):
    machine.mlflow_run("sweep", manifest=faces, teachers=toy_teachers, split="val,test", members="A,B", step=0.25)
    assert machine.last("sweep").data.tags["mlflow.project.entryPoint"] == "sweep"


def test_reproduce(machine, exported):
    found = exported["test"]
    machine.mlflow_run("reproduce", benchmark="manifest:test", accuracy=round(found.data.metrics["accuracy"], 4))
    assert machine.last("reproduce").info.status == "FINISHED"


def test_triage(machine, exported):
    machine.mlflow_run("triage")
    assert machine.last("triage").info.status == "FINISHED"
    assert "triage.status" in machine.runs("export")[0].data.tags


def test_fetch_and_verify(machine, exported, faces, toy_teachers):
    out = machine.folder / "fetched"
    machine.mlflow_run("fetch", best="nll", benchmark="manifest:test", manifest=faces, split="test", out=out)
    assert machine.last("fetch").info.status == "FINISHED"
    options = {"manifest": faces, "split": "test", "teachers": toy_teachers, "recompute": 4}
    machine.mlflow_run("verify", run_or_folder=out, **options)
    assert machine.last("verify").data.tags["fer.verdict"] == "pass"


@pytest.fixture(scope="module")
def student(machine, exported, faces):
    """Return the run that trained a student and logged it as a model."""
    source = exported["train"].info.run_id
    machine.mlflow_run(
        "distill", manifest=faces, softlabels=source, even_bad="true", onnx="true", temperature=2, **SMALL
    )
    return machine.last("distill")


def test_distill(student):
    assert student.data.params["temperature"] == "2"
    assert "test/macro_f1" in student.data.metrics


def test_promote(machine, student):
    machine.mlflow_run("promote", run=student.info.run_id, force="a toy is no better than chance")
    run = machine.last("promote")
    assert run.data.tags["fer.source_run"] == student.info.run_id
    version = MlflowClient(machine.uri).get_model_version_by_alias("fer-student", "champion")
    assert version.source == student.data.tags["fer.model"]


def test_lineage(machine, student):
    machine.mlflow_run("lineage", run=student.info.run_id)
    run = machine.last("lineage")
    assert (run.info.status, run.data.params["run"]) == ("FINISHED", student.info.run_id)


def test_the_champion_answers_as_mlflow_serves_it(machine, student, faces):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/fer-student@champion", "--env-manager", "local"]
    log = machine.folder / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [machine.python, *command, "--port", str(port)],
            cwd=faces.parent,
            env=machine.env | {"PATH": f"{machine.python.parent}:{machine.env['PATH']}"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    scored = machine.last("student")  # the student's logits on the test rows
    folder = MlflowClient(machine.uri).download_artifacts(
        scored.info.run_id, "softlabels", str(machine.folder / "elsewhere")
    )
    bundle = fer_mlflow.SoftLabels.open(folder)
    paths = bundle.index["path"].tolist()
    try:
        images = [base64.b64encode((faces.parent / path).read_bytes()).decode() for path in paths]
        answers = [
            post(server, port, {"dataframe_records": [{column: value} for value in values]}, log)["predictions"]
            for column, values in (("image", images), ("path", paths))
        ]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert answers[0] == answers[1]
    probs = np.array([[row[f"p/{name}"] for name in toys.CLASSES] for row in answers[0]])
    np.testing.assert_allclose(probs, softmax(bundle.logits.astype(np.float64), axis=1), atol=1e-4)
    assert [row["label"] for row in answers[0]] == [toys.CLASSES[at] for at in bundle.logits.argmax(axis=1)]


def post(server, port, body, log):
    """Return the server's answer to a request, when it is up."""
    headers = {"Content-Type": "application/json"}
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_no_entry_point_is_left_out():
    entries = set(yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"])
    tried = {"export", "manifest", "train", "evaluate", "calibrate", "inspect", "compare", "sweep", "reproduce"}
    tried |= {"triage", "promote", "lineage", "fetch", "verify", "distill"}
    assert entries - {"main", "demo"} == tried  # `make demo` is the test of demo
