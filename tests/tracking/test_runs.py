"""A run ends with the status it earned, and takes what is logged as it is meant."""

import json
import os
import signal
import subprocess
import sys
import threading

import mlflow
import pytest
import toys

from fer_mlflow.errors import Interrupted
from fer_mlflow.tracking import command_line, runs
from fer_mlflow.tracking.runs import open_run


@pytest.fixture(autouse=True)
def in_workplace(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    monkeypatch.chdir(workplace.folder)
    with command_line():
        yield


def only_run(workplace):
    (run,) = workplace.runs()
    return run


def test_a_run_that_ends_well_is_finished(workplace):
    with open_run("export", "RN18 0.4 · L0 0.6") as run:
        assert only_run(workplace).info.status == "RUNNING"
        run.log({"weights": "RN18=0.4,L0=0.6", "clahe": "true", "root": ""})
        run.log(metrics={"accuracy": 0.123456789012345, "f1/Angry": 0.0})
    found = only_run(workplace)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "RN18 0.4 · L0 0.6")
    assert found.data.params == {"weights": "RN18=0.4,L0=0.6", "clahe": "true", "root": ""}
    assert found.data.metrics == {"accuracy": 0.123456789012345, "f1/Angry": 0.0}
    assert found.data.tags["fer.kind"] == "export"


def test_an_exception_fails_it_and_says_why_without_secrets(workplace):
    with pytest.raises(ValueError, match="broke"), open_run("export", "r"):
        raise ValueError("broke at http://ann:secret@host/")
    found = only_run(workplace)
    assert found.info.status == "FAILED"
    assert found.data.tags["fer.error"] == "broke at http://***@host/"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_kills_it(workplace, number):
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, open_run("export", "r"):
        os.kill(os.getpid(), number)
        signal.pause()
    found = only_run(workplace)
    assert (found.info.status, found.data.tags["fer.error"]) == ("KILLED", f"stopped by {number.name}")
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) is handler


def test_a_signal_within_a_tracking_call_waits_for_its_end(workplace, monkeypatch):
    real, ended = mlflow.MlflowClient.log_batch, []

    def interrupted(*arguments, **named):
        # Not the heartbeat's call: a second signal stops the process at once.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments, **named)
        if is_main:
            ended.append(True)

    with pytest.raises(Interrupted), open_run("export", "r") as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", interrupted)
        try:
            run.log(metrics={"accuracy": 0.5})
        finally:
            monkeypatch.setattr(mlflow.MlflowClient, "log_batch", real)
    assert ended == [True]
    assert (only_run(workplace).info.status, only_run(workplace).data.metrics) == ("KILLED", {"accuracy": 0.5})


def test_the_heartbeat_says_which_process_is_alive(workplace, monkeypatch):
    monkeypatch.setattr(runs, "HEARTBEAT_S", 0.05)
    seen = set()
    with open_run("export", "r"):
        while len(seen) < 2:  # it beats on; the seconds of its time are all that can differ
            if beat := only_run(workplace).data.tags.get("fer.heartbeat"):
                seen.add(beat)
    assert {json.loads(beat)["pid"] for beat in seen} == {os.getpid()}
    assert {"host", "pid", "at"} == set(json.loads(seen.pop()))


def test_params_that_the_run_has_are_left_alone(workplace):
    with open_run("export", "r") as run:
        run.log({"name": "''", "split": "test"})
        run.log({"name": "other", "split": "test", "new": "1"})
    assert only_run(workplace).data.params == {"name": "''", "split": "test", "new": "1"}


def test_more_params_than_one_batch_takes(workplace):
    with open_run("export", "r") as run:
        run.log({f"p{number}": number for number in range(250)})
    assert len(only_run(workplace).data.params) == 250


def test_the_benchmark_is_the_runs_dataset_under_our_digest(workplace, tmp_path):
    logits, labels = toys.draw_logits(40)
    bundle = toys.write_bundle(tmp_path / "b", logits, labels)
    with open_run("export", "r") as run:
        run.log_benchmark("faces:test", bundle)
    (entry,) = only_run(workplace).inputs.dataset_inputs
    digest = bundle.selection_sha256[:32]
    assert (entry.dataset.name, entry.dataset.digest) == ("faces:test", digest)
    assert json.loads(entry.dataset.profile) == {"rows": 40}
    client = mlflow.MlflowClient()
    assert client.search_runs(["0"], f"dataset.digest = '{digest}'")
    assert not client.search_runs(["0"], f"dataset.digest = '{'c' * 32}'")


def test_the_descriptor_is_uploaded_last(workplace, tmp_path, monkeypatch):
    for name in ("z.txt", "hash_manifest.json", "a.txt"):
        (tmp_path / name).write_text(name)
    order = []
    real = mlflow.MlflowClient.log_artifact
    monkeypatch.setattr(
        mlflow.MlflowClient, "log_artifact", lambda *a: (order.append(os.path.basename(a[2])), real(*a))
    )
    with open_run("export", "r") as run:
        run.log_folder(tmp_path, "softlabels", last="hash_manifest.json")
        assert [f.path for f in run.client.list_artifacts(run.run_id, "softlabels")] == [
            "softlabels/a.txt",
            "softlabels/hash_manifest.json",
            "softlabels/z.txt",
        ]
    assert order == ["a.txt", "z.txt", "hash_manifest.json"]


def test_a_sibling_is_a_run_of_its_own(workplace):
    with open_run("export", "r") as run:
        with run.sibling("teacher", 1000.0) as other:
            other.log(tags={"fer.kind": "teacher"})
        with pytest.raises(ValueError, match="no"), run.sibling("broken", 2000.0):
            raise ValueError("no")
    found = {each.info.run_name: each.info for each in workplace.runs()}
    assert {name: info.status for name, info in found.items()} == {
        "r": "FINISHED",
        "teacher": "FINISHED",
        "broken": "FAILED",
    }
    assert found["teacher"].start_time == 1_000_000


def test_the_run_of_mlflow_run_is_joined_and_its_experiment_kept(workplace, tmp_path):
    client = mlflow.MlflowClient()
    opened = client.create_run("0", run_name="opened by mlflow run")
    client.log_param(opened.info.run_id, "name", "''")
    code = (
        "from fer_mlflow.tracking import command_line\n"
        "from fer_mlflow.tracking.runs import open_run\n"
        "with command_line(), open_run('export', 'ours', 'another experiment') as run:\n"
        "    run.log({'name': '', 'space': 'prob'})"
    )
    env = workplace.env | {"MLFLOW_RUN_ID": opened.info.run_id}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=workplace.folder)
    found = only_run(workplace)
    assert (found.info.run_id, found.info.status, found.info.run_name) == (opened.info.run_id, "FINISHED", "ours")
    assert found.data.params == {"name": "''", "space": "prob"}
    assert client.get_experiment_by_name("another experiment") is None


def test_a_setting_of_soft_labels_that_the_run_has_with_another_text_gets_a_prefix(workplace):
    with open_run("distill", "student") as run:
        run.log({"clahe": "false", "precision": "fp32", "epochs": 3})
        run.log({"clahe": "true", "precision": "fp32", "space": "prob", "epochs": 4}, of_ensemble=True)
    assert only_run(workplace).data.params == {
        "clahe": "false",
        "precision": "fp32",
        "epochs": "3",
        "space": "prob",
        "ensemble/clahe": "true",
    }
