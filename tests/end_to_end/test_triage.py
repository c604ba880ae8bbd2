"""`fer-mlflow triage`, driven as a user does, against a local store and a real server."""

import csv
import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Workplace
from mlflow import MlflowClient
from toys import draw_logits, error_line, publish, publish_ensemble, write_bundle

from fer_mlflow.tracking import tagging

TRIAGE = ("triage.status", "triage.reasons", "triage.benchmark", "triage.rank", "triage.written", "triage.overruled")
LOGITS, LABELS = draw_logits(120, seed=3)
NOISE = np.random.default_rng(0).normal(0, 3, LOGITS.shape).astype(np.float32)


@pytest.fixture(params=["local", "server"])
def place(request, tmp_path):
    """Return a workplace on a store of its own, and once on a real server."""
    if request.param == "local":
        return request.getfixturevalue("workplace")
    server = request.getfixturevalue("server")
    (tmp_path / "at-server").mkdir()
    return Workplace(tmp_path / "at-server", server.uri)


def tags_of(place) -> dict[str, dict[str, str]]:
    """Return run id -> triage's tags, of runs that have some."""
    found = {run.info.run_id: {k: v for k, v in run.data.tags.items() if k in TRIAGE} for run in place.runs()}
    return {run_id: tags for run_id, tags in found.items() if tags}


def statuses(place) -> dict[str, str]:
    return {run_id: tags["triage.status"] for run_id, tags in tags_of(place).items()}


def export(place, tmp_path, name: str, logits=LOGITS, **more) -> str:
    """Log an export of some logits, and return the run's id."""
    bundle = write_bundle(tmp_path / "bundles" / name, logits, LABELS, weights={name: 1.0}, **more)
    return publish(place, bundle)


def artifact_of(place, run_id: str, name: str) -> Path:
    """Return a bundle's file where the store keeps it."""
    roots = [place.folder / "mlruns", place.folder.parent / "server" / "artifacts"]
    return next(found for root in roots for found in root.glob(f"**/{run_id}/artifacts/softlabels/{name}"))


def test_planted_faults_are_found_and_no_good_run_is_called_bad(place, tmp_path):
    good = export(place, tmp_path, "good")
    better = export(place, tmp_path, "better", LOGITS + np.eye(7, dtype=np.float32)[LABELS])
    broken, incomplete, lying = (
        export(place, tmp_path, name, LOGITS * factor)
        for name, factor in (("broken", 0.9), ("incomplete", 0.8), ("lying", 0.7))
    )
    one_class = export(place, tmp_path, "one", LOGITS * 0 + np.eye(7, dtype=np.float32)[3])
    index = artifact_of(place, broken, "softlabels_index.jsonl")
    index.write_bytes(index.read_bytes().replace(b"f0001", b"f0002"))
    artifact_of(place, incomplete, "classorder.json").unlink()
    client = MlflowClient(place.uri)
    client.log_metric(lying, "accuracy", 0.99)
    failed = client.create_run("0", tags={"fer.kind": "export", "fer.error": "disk full"}).info.run_id
    client.set_terminated(failed, "FAILED")
    foreign = client.create_run("0").info.run_id  # of another tool
    client.set_terminated(foreign, "FINISHED")
    result = place.run("triage")
    found = tags_of(place)
    assert {run_id: tags["triage.status"] for run_id, tags in found.items()} == {
        good: "good",
        better: "good",
        **dict.fromkeys((broken, incomplete, lying, one_class, failed), "bad"),
    }
    reasons = {run_id: tags.get("triage.reasons", "") for run_id, tags in found.items()}
    assert reasons[broken].startswith("bundle broken: ")
    assert reasons[incomplete] == "bundle incomplete: without classorder.json"
    assert reasons[lying].startswith("metrics differ: accuracy 0.99 for 0.")
    assert "one class: Happy takes 100.0% of predictions" in reasons[one_class]
    assert reasons[failed] == "ended badly: FAILED: disk full"
    assert (found[better]["triage.rank"], found[good]["triage.rank"]) == ("1", "2")
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [line[-1] for line in lines[:2]] == [better[:8], good[:8]]
    assert "7 runs: 2 good, 0 warn, 5 bad, 0 superseded" in result.stdout
    (run,) = place.runs("triage")
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"leaderboard.md", "leaderboard.csv", "leaderboard.html", "bad_runs.csv"}
    local = client.download_artifacts(run.info.run_id, "bad_runs.csv", str(tmp_path))
    rows = list(csv.DictReader(Path(local).read_text().splitlines()))
    assert {row["run_id"] for row in rows} == {broken, incomplete, lying, one_class, failed}
    page = Path(client.download_artifacts(run.info.run_id, "leaderboard.html", str(tmp_path))).read_text()
    assert (f"{place.uri}/#/experiments/0/runs/{good}" in page) == place.uri.startswith("http")
    assert "triage.status" not in dict(client.get_run(foreign).data.tags)
    # A second triage finds the same and writes nothing.
    before = tags_of(place)
    assert "tags changed on 0 runs" in place.run("triage").stdout
    assert tags_of(place) == before
    shutil.rmtree(place.folder / "cache")
    assert "tags changed on 0 runs" in place.run("triage").stdout
    assert tags_of(place) == before


def test_everything_can_be_looked_at_first_and_taken_back(workplace, tmp_path):
    run_id = export(workplace, tmp_path, "a")
    said = workplace.run("triage", "--dry-run", "true").stdout
    assert f"would tag {run_id[:8]}" in said
    assert tags_of(workplace) == {}
    assert workplace.runs("triage") == []
    workplace.run("triage")
    assert statuses(workplace) == {run_id: "good"}
    assert (
        "would take triage's tags back from 1 of 2 runs"
        in workplace.run("triage", "--clear", "true", "--dry-run", "true").stdout
    )
    assert statuses(workplace) == {run_id: "good"}
    assert "took triage's tags back from 1 of 2 runs" in workplace.run("triage", "--clear", "true").stdout
    assert tags_of(workplace) == {}
    workplace.run("triage")
    assert statuses(workplace) == {run_id: "good"}


def test_a_person_stands_above_the_rules(place, tmp_path):
    sound, other = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    broken = export(place, tmp_path, "c", LOGITS * 2)
    artifact_of(place, broken, "classorder.json").unlink()
    place.run("triage")
    said = place.run("triage", "--bad", sound[:8], "--reason", "wrong crop").stdout
    assert said == f"run {sound} is bad from now on; `triage --clear true` takes it back\n"
    place.run("triage", "--keep", broken)
    MlflowClient(place.uri).set_tag(other, "triage.status", "excellent")  # by hand, in the UI
    place.run("triage")
    assert statuses(place) == {sound: "bad", broken: "good", other: "excellent"}
    assert tags_of(place)[sound]["triage.reasons"] == "wrong crop"
    assert "triage.rank" not in tags_of(place)[sound]
    place.run("triage", "--clear", "true")
    assert tags_of(place) == {other: {"triage.status": "excellent"}}
    place.run("triage")
    assert statuses(place) == {sound: "good", broken: "bad", other: "excellent"}


def test_a_deleted_run_leaves_the_boards_and_a_restored_one_comes_back(workplace, tmp_path):
    a, b = export(workplace, tmp_path, "a"), export(workplace, tmp_path, "b", LOGITS * 0.5)
    client = MlflowClient(workplace.uri)
    assert b[:8] in workplace.run("triage").stdout
    client.delete_run(b)
    assert b[:8] not in workplace.run("triage").stdout
    client.restore_run(b)
    assert b[:8] in workplace.run("triage").stdout
    experiment = client.create_experiment("other", artifact_location=str(tmp_path / "other"))
    elsewhere = client.create_run(experiment, tags={"fer.kind": "export"}).info.run_id
    client.set_terminated(elsewhere, "FAILED")
    workplace.run("triage")
    assert statuses(workplace)[elsewhere] == "bad"
    client.delete_experiment(experiment)
    assert "2 runs" not in workplace.run("triage").stdout.partition("runs:")[0]
    assert {a, b} <= statuses(workplace).keys()


def test_what_another_machine_wrote_is_seen(workplace, tmp_path):
    a, b = export(workplace, tmp_path, "a"), export(workplace, tmp_path, "b", LOGITS * 0.5)
    workplace.run("triage")
    other = Workplace(tmp_path / "other-machine", workplace.uri)
    other.folder.mkdir()
    artifact_of(workplace, b, "classorder.json").unlink()
    other.run("triage", "--deep", "true")
    assert statuses(workplace) == {a: "good", b: "bad"}
    assert "tags changed on 0 runs" in workplace.run("triage", "--deep", "false").stdout.replace(
        "tags changed on 1 runs", "tags changed on 0 runs"
    )
    assert b[:8] not in workplace.run("triage", "--deep", "true").stdout
    other.run("triage", "--keep", b)
    assert b[:8] in workplace.run("triage").stdout
    assert statuses(workplace)[b] == "good"


def test_a_dead_run_is_ended_on_request(workplace, tmp_path):
    export(workplace, tmp_path, "a")
    client = MlflowClient(workplace.uri)
    long_ago = int((time.time() - 7200) * 1000)
    dead = client.create_run("0", start_time=long_ago, tags={"fer.kind": "export"}).info.run_id
    now = json.dumps({"host": "h", "pid": 1, "at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())})
    alive = client.create_run("0", start_time=long_ago, tags={"fer.kind": "export", "fer.heartbeat": now}).info.run_id
    workplace.run("triage", "--stale-after", "3h")
    assert client.get_run(dead).info.status == "RUNNING"
    assert statuses(workplace)[dead] == "good"
    workplace.run("triage")
    assert statuses(workplace)[dead] == "bad"
    said = workplace.run("triage", "--reap", "true").stdout
    assert f"ended dead run {dead}" in said
    assert (client.get_run(dead).info.status, client.get_run(alive).info.status) == ("KILLED", "RUNNING")
    workplace.run("triage")
    assert tags_of(workplace)[dead]["triage.reasons"] == "ended badly: KILLED"


def test_an_ensemble_worse_than_its_teacher_is_a_warning(workplace, tmp_path):
    sharp = LOGITS + 6 * np.eye(7, dtype=np.float32)[LABELS]
    run_id, _ = publish_ensemble(workplace, tmp_path, {"A": sharp, "B": 4 * NOISE}, LABELS, {"A": 0.2, "B": 0.8})
    workplace.run("triage")
    reason = tags_of(workplace)[run_id]["triage.reasons"]
    assert "worse than a teacher: macro-F1 0." in reason
    assert "A alone has 0.98" in reason


def test_a_newer_run_of_the_same_configuration_supersedes_the_older(workplace, tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS)
    old, new = publish(workplace, bundle), publish(workplace, bundle)
    said = workplace.run("triage").stdout
    assert statuses(workplace) == {old: "superseded", new: "good"}
    assert new in tags_of(workplace)[old]["triage.reasons"]
    assert old[:8] not in said
    assert old[:8] in workplace.run("triage", "--even-bad", "true").stdout


def many_runs(place, count: int) -> list[str]:
    """Make runs of ours in a store's tables."""
    ids = [f"{number:032x}" for number in range(count)]
    connection = sqlite3.connect(place.folder / "mlflow.db")
    with connection:
        for run_id in ids:
            connection.execute(
                "INSERT INTO runs (run_uuid, name, user_id, source_type, status, start_time, end_time,"
                " lifecycle_stage, experiment_id, artifact_uri)"
                " VALUES (?, 'toy', 'ann', 'LOCAL', 'FINISHED', 1000, 2000, 'active', 0, ?)",
                (run_id, str(place.folder)),
            )
            connection.execute("INSERT INTO tags VALUES ('fer.kind', 'evaluate', ?)", (run_id,))
    connection.close()
    return ids


def test_many_tags_are_written_as_few_are(workplace, monkeypatch):
    ids = many_runs(workplace, 130)
    workplace.run("triage")
    together = tags_of(workplace)
    assert together.keys() == set(ids)
    assert together[ids[0]] == {"triage.status": "good", "triage.written": "good"}
    assert "took triage's tags back from 130" in workplace.run("triage", "--clear", "true").stdout
    assert tags_of(workplace) == {}
    monkeypatch.setattr(tagging, "_session_maker", lambda client: None)  # as with a server
    workplace.run("triage")
    assert tags_of(workplace) == together


@pytest.mark.slow
def test_a_killed_triage_is_completed_by_the_next_and_two_at_once_agree(workplace):
    ids = many_runs(workplace, 3000)
    process = workplace.start("triage")
    deadline = time.monotonic() + 60
    connection = sqlite3.connect(workplace.folder / "mlflow.db", timeout=30)
    while not connection.execute("SELECT count(*) FROM tags WHERE key = 'triage.status'").fetchone()[0]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    pair = [workplace.start("triage") for _ in range(2)]
    for each in pair:
        out, err = each.communicate(timeout=120)
        assert each.returncode == 0, out + err
    count = "SELECT key, value, count(*) FROM tags WHERE key LIKE 'triage.%' GROUP BY key, value"
    assert connection.execute(count).fetchall() == [
        ("triage.status", "good", len(ids)),
        ("triage.written", "good", len(ids)),
    ]
    connection.close()


def test_the_ui_is_furnished_and_a_persons_note_is_left_alone(workplace, tmp_path):
    run_id = export(workplace, tmp_path, "a")
    client = MlflowClient(workplace.uri)
    assert "**faces:test**, 120 rows" in client.get_run(run_id).data.tags["mlflow.note.content"]
    result = workplace.run("triage", "--metric", "accuracy")
    tags = client.get_experiment("0").tags
    view = json.loads(tags["mlflow.sharedViewState.leaderboard"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`accuracy`", False)
    assert "triage.status` = 'good'" in view["searchFilter"]
    assert tags["mlflow.experiment.primaryMetric.name"] == "accuracy"
    assert f"`{run_id[:8]}`" in tags["mlflow.note.content"]
    assert result.stdout.splitlines()[-1].endswith("/#/experiments/0/runs?viewStateShareKey=leaderboard")
    client.set_experiment_tag("0", "mlflow.note.content", "mine")
    workplace.run("triage", "--metric", "nll")
    tags = client.get_experiment("0").tags
    assert tags["mlflow.note.content"] == "mine"
    assert json.loads(tags["mlflow.sharedViewState.leaderboard"])["orderByAsc"] is True


def test_boards_are_chosen_cut_and_ranked_as_asked(workplace, tmp_path):
    a = export(workplace, tmp_path, "a")
    b = export(workplace, tmp_path, "b", LOGITS * 0.5)
    other = export(workplace, tmp_path, "c", benchmark="others:test", split="train")
    said = workplace.run("triage", "--benchmark", "faces:test", "--classes", "Disgust,Fear", "--top", "1").stdout
    assert "others:test" not in said
    assert "f1/Disgust" in said
    assert "… and 1 more" in said
    client = MlflowClient(workplace.uri)
    digest = client.get_run(other).data.tags["fer.selection_sha256"]
    assert other[:8] in workplace.run("triage", "--benchmark", digest[:10]).stdout
    by_nll = workplace.run("triage", "--benchmark", "faces:test", "--metric", "nll").stdout
    nll = {run_id: client.get_run(run_id).data.metrics["nll"] for run_id in (a, b)}
    lines = [line.split() for line in by_nll.splitlines() if line.strip()[:1].isdigit() and "faces" not in line]
    assert [line[-1] for line in lines[:2]] == [run_id[:8] for run_id in sorted(nll, key=nll.get)]
    said = workplace.run("triage", "--across", "true").stdout
    assert "configurations across 2 benchmarks" in said
    assert "  recommended: " in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark", "nothing"], "--benchmark nothing: no run has it; there are faces:test ("),
        (["--metric", "f7"], "--metric f7: no run has it; they have accuracy"),
        (["--reason", "x"], "--reason says why a run is bad or kept"),
        (["--bad", "abcd", "--keep", "abcd"], "--bad and --keep do one thing each"),
        (["--bad", "ffff0000"], "no such run"),
    ],
)
def test_bad_input_is_one_line(workplace, tmp_path, arguments, said):
    export(workplace, tmp_path, "a")
    assert said in error_line(workplace.run("triage", *arguments, status=2))
    assert workplace.runs("triage") == []


def test_an_empty_store_says_so(workplace):
    assert "no run of ours yet" in error_line(workplace.run("triage", status=2))


def test_a_server_that_is_away_is_named_without_its_password(workplace):
    away = Workplace(workplace.folder, "http://ann:secret@127.0.0.1:9")
    line = error_line(away.run("triage", status=1))
    assert "http://***@127.0.0.1:9" in line
    assert "secret" not in line
    assert "tried for" in line
