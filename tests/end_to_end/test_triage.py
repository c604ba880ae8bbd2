"""`fer-mlflow triage`, driven as a user does, against a local store and a real server."""

import csv
import importlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, Place, Server, Workplace, new_workplace
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from toys import CLASSES, artifact, draw_logits, error_line, publish, publish_ensemble, write_bundle

from fer_mlflow.tracking.records import EvidenceStore
from fer_mlflow.tracking.triage import NEVER_STARTED

module = importlib.import_module("fer_mlflow.workflows.triage")


TRIAGE = ("triage.status", "triage.reasons", "triage.benchmark", "triage.rank", "triage.written", "triage.overruled")
LOGITS, LABELS = draw_logits(120, seed=3)
HELP = np.eye(7, dtype=np.float32)[LABELS]  # added to logits, it makes them better
NOISE = np.random.default_rng(0).normal(0, 3, LOGITS.shape).astype(np.float32)


@pytest.fixture(scope="module")
def triage_server(tmp_path_factory, migrated_store):
    """Give a running tracking server for this module, whose tests empty it."""
    running = Server(tmp_path_factory.mktemp("triage") / "server", migrated_store)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def place(request, tmp_path):
    """Return a workplace on a store of its own: a local one, and a real server's that was emptied."""
    if request.param == "local":
        own = request.getfixturevalue("workplace")
        return Place(own.folder, own.uri, own.folder)
    server = request.getfixturevalue("triage_server")
    server.empty()
    (tmp_path / "at-server").mkdir()
    return Place(tmp_path / "at-server", server.uri, server.folder)


@pytest.fixture(scope="module")
def unchanged(migrated_store, tmp_path_factory) -> Place:
    """Return a workplace with one export, for what is refused."""
    own = new_workplace(tmp_path_factory.mktemp("unchanged") / "workplace", migrated_store)
    place = Place(own.folder, own.uri, own.folder)
    export(place, tmp_path_factory.mktemp("bundle"), "a")
    return place


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


def content_of(place) -> list[str]:
    """Return everything that the store's database holds."""
    connection = sqlite3.connect(place.store / "mlflow.db")
    lines = list(connection.iterdump())
    connection.close()
    return lines


def on_boards(result) -> list[str]:
    """Return the first digits of the runs on the boards that were printed, in order."""
    return re.findall(r"^ +\d+ .* ([0-9a-f]{8})$", result.stdout, flags=re.MULTILINE)


def short(*run_ids: str) -> list[str]:
    return [run_id[:8] for run_id in run_ids]


# --- what is found -----------------------------------------------------------------------------------------------


def turned(logits=LOGITS) -> dict:
    """Return the same rows with their columns in another order, and that order."""
    order = [6, 0, 1, 2, 3, 4, 5]
    return {"logits": logits[:, order].copy(), "labels": np.argsort(order)[LABELS],
            "classes": tuple(CLASSES[at] for at in order)}  # fmt: skip


@pytest.mark.server
def test_planted_faults_are_found_and_no_good_run_is_called_bad(place, tmp_path):
    client = MlflowClient(place.uri)
    good = export(place, tmp_path, "good")
    better = export(place, tmp_path, "better", LOGITS + HELP)
    export(place, tmp_path, "third", LOGITS * 0.95)
    strong = {"A": LOGITS + 6 * HELP, "B": 4 * NOISE}
    worse, _ = publish_ensemble(place, tmp_path / "worse", strong, LABELS, {"A": 0.5, "B": 0.5})
    bad = {
        "broken": export(place, tmp_path, "broken", LOGITS * 0.9),
        "incomplete": export(place, tmp_path, "incomplete", LOGITS * 0.8),
        "lying": export(place, tmp_path, "lying", LOGITS * 0.7),
        "nan": export(place, tmp_path, "nan", LOGITS * 0.6),
        "one": export(place, tmp_path, "one", LOGITS * 0 + np.eye(7, dtype=np.float32)[3]),
        "noise": export(place, tmp_path, "noise", -LOGITS),
        "turned": publish(place, write_bundle(tmp_path / "turned", **turned(), weights={"T": 1.0})),
        "short": publish(place, write_bundle(tmp_path / "short", LOGITS * 0.5, LABELS), params={"rows": "119"}),
    }
    index = place.stored(bad["broken"]) / "softlabels_index.jsonl"
    index.write_bytes(index.read_bytes().replace(b"f0001", b"f0002"))
    (place.stored(bad["incomplete"]) / "classorder.json").unlink()
    client.log_metric(bad["lying"], "accuracy", 0.99)
    client.log_metric(bad["nan"], "nll", float("nan"))
    own = {"fer.kind": "export", "fer.error": "disk full; no room", "mlflow.runName": "two\nlines 🙂 <b>"}
    bad["failed"] = client.create_run("0", tags=own).info.run_id
    client.set_terminated(bad["failed"], "FAILED")
    bad["bare"] = client.create_run("0", tags={"fer.kind": "export"}).info.run_id  # no params, no benchmark
    client.set_terminated(bad["bare"], "FINISHED")
    foreign = client.create_run("0").info.run_id  # of another tool
    client.log_batch(foreign, metrics=[Metric("macro_f1", 2.0, 1, 0)], params=[Param("rows", "1")])
    client.set_terminated(foreign, "FAILED")

    result = place.run("triage")
    found = tags_of(place)
    assert {run_id for run_id, tags in found.items() if tags["triage.status"] == "bad"} == {*bad.values()} | {
        run.info.run_id
        for run in place.runs("teacher")
        if run.data.params["ensemble"] == "B=1"  # noise
    }
    reasons = {name: found[run_id]["triage.reasons"] for name, run_id in bad.items()}
    assert reasons["broken"].startswith("bundle broken: its bundle is broken: softlabels_index.jsonl: SHA-256 is")
    assert reasons["incomplete"] == "bundle incomplete: without classorder.json"
    assert reasons["lying"].startswith("metrics differ: accuracy 0.99 for 0.")
    assert reasons["nan"].startswith("not finite: nll; metrics differ: nll nan for ")
    assert "one class: Happy takes 100.0% of predictions" in reasons["one"]
    assert reasons["noise"].startswith("below majority: accuracy 0.")
    assert reasons["turned"].startswith("class order: Neutral, Angry, Disgust")
    assert reasons["short"] == "other rows: 119 rows, the benchmark has 120; rows differ: the bundle has 120 rows, the run's param is 119"  # fmt: skip # noqa: E501
    assert reasons["failed"] == "ended badly: FAILED: disk full, no room"
    assert reasons["bare"] == "no bundle: no bundle was logged"
    assert found[worse]["triage.status"] == "warn"
    assert found[worse]["triage.reasons"].startswith("worse than a teacher: macro-F1 0.")
    assert "A alone has 0.98" in found[worse]["triage.reasons"]
    (sharp,) = (run.info.run_id for run in place.runs("teacher") if run.data.params["ensemble"] == "A=1")
    assert [found[run_id]["triage.rank"] for run_id in (sharp, better)] == ["1", "2"]
    assert found[good] == {
        "triage.status": "good",
        "triage.written": "good",
        "triage.benchmark": "faces:test",
        "triage.rank": found[good]["triage.rank"],
    }
    assert on_boards(result)[:2] == short(sharp, better)
    assert "16 runs: 4 good, 1 warn, 11 bad, 0 superseded" in result.stdout
    (run,) = place.runs("triage")
    assert (run.data.metrics["runs_good"], run.data.metrics["runs_bad"]) == (4, 11)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"leaderboard.md", "leaderboard.csv", "leaderboard.html"}
    text = {name: Path(client.download_artifacts(run.info.run_id, name, str(tmp_path))).read_text() for name in files}
    lines = list(csv.DictReader(text["leaderboard.csv"].splitlines()))
    assert [line["run_id"] for line in lines[:2]] == [sharp, better]
    assert float(lines[1]["macro_f1"]) == client.get_run(better).data.metrics["macro_f1"]
    is_server = place.uri.startswith("http")
    assert (f'href="{place.uri}/#/experiments/0/runs/{good}"' in text["leaderboard.html"]) == is_server
    assert f"| {better[:8]} |" in text["leaderboard.md"]
    assert not [tag for tag in client.get_run(foreign).data.tags if tag.startswith("triage.")]

    # A second triage finds the same and writes nothing; nor does one that remembers nothing, nor one without bundles.
    for forget, more in ((False, ()), (True, ("--deep", "false")), (False, ("--deep", "true"))):
        if is_server and more:  # the local store has shown that
            break
        if forget:
            shutil.rmtree(place.folder / "cache")
        assert "tags changed on 0 runs" in place.run("triage", *more).stdout
        assert tags_of(place) == found


def test_a_second_triage_calls_nothing_that_writes_to_a_run(place, tmp_path, monkeypatch):
    for name in ("a", "b"):
        export(place, tmp_path, name, LOGITS * (1 + ord(name)))
    export(place, tmp_path, "one", LOGITS * 0 + np.eye(7, dtype=np.float32)[3])
    place.run("triage")
    written = []
    for name in ("set_tag", "log_batch", "delete_tag", "set_terminated"):
        inner = getattr(MlflowClient, name)

        def noting(self, run_id, *arguments, inner=inner, **more):
            written.append(run_id)
            return inner(self, run_id, *arguments, **more)

        monkeypatch.setattr(MlflowClient, name, noting)
    place.run("triage")
    newest, older = place.runs("triage")
    assert set(written) == {newest.info.run_id}
    assert older.info.status == newest.info.status == "FINISHED"


def test_a_new_run_is_held_against_the_others_where_the_cache_is_gone(place, tmp_path):
    sharp = LOGITS + 6 * HELP
    teachers = {
        f"fer.teacher_run/{name}": publish(
            place, write_bundle(tmp_path / name, logits, LABELS, weights={name: 1.0}), "teacher"
        )
        for name, logits in (("A", sharp), ("B", LOGITS))
    }
    export(place, tmp_path, "a", LOGITS * 2)
    place.run("triage")
    assert set(statuses(place).values()) == {"good"}
    wrong = publish(place, write_bundle(tmp_path / "turned", **turned(), weights={"T": 1.0}))
    dull = publish(place, write_bundle(tmp_path / "dull", LOGITS * 0.5, LABELS), **teachers)
    none = export(place, tmp_path, "noise", -LOGITS)
    shutil.rmtree(place.folder / "cache")
    place.run("triage")
    found = tags_of(place)
    assert found[wrong]["triage.reasons"].startswith("class order: ")
    assert found[dull]["triage.reasons"].startswith("worse than a teacher: ")
    assert found[none]["triage.reasons"].startswith("below majority: ")
    assert sorted(tags["triage.status"] for tags in found.values()) == ["bad", "bad", "good", "good", "good", "warn"]


@pytest.mark.server
def test_bundles_are_read_as_deep_says(place, tmp_path, monkeypatch):
    read = []
    inner = EvidenceStore.read
    monkeypatch.setattr(EvidenceStore, "read", lambda self, run: read.append(run.run_id) or inner(self, run))

    def reads(*arguments) -> list[str]:
        read.clear()
        place.run("triage", *arguments)
        return sorted(read)

    a, b = sorted((export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)))
    (place.stored(b) / "classorder.json").unlink()
    assert reads("--deep", "false") == []
    assert statuses(place) == {a: "good", b: "good"}
    assert reads("--deep", "true") == [a, b]
    assert statuses(place) == {a: "good", b: "bad"}
    assert reads() == []
    shutil.rmtree(place.folder / "cache")
    assert reads("--deep", "false") == []
    assert statuses(place) == {a: "good", b: "bad"}  # what was found stays found
    assert reads() == [a]  # of the run that stands on the board, for its interval
    c = export(place, tmp_path, "c", LOGITS * 0.7)
    assert reads() == sorted((b, c))
    assert reads("--deep", "true") == sorted((a, b, c))
    assert reads("--bad", a) == []


def test_a_run_whose_tag_is_no_digest_is_bad_and_stops_nobody(place, tmp_path):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    MlflowClient(place.uri).set_tag(b, "fer.bundle_sha256", "../../../x")
    place.run("triage")
    assert statuses(place) == {a: "good", b: "bad"}


# --- tags, and taking them back ----------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_tagged_and_changes_nothing(place, tmp_path):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    client = MlflowClient(place.uri)
    client.set_tag(a, "mlflow.runName", "two\nlines \x1b[31m")
    dead = client.create_run("0", start_time=1, tags={"fer.kind": "export"}).info.run_id
    before = content_of(place)
    result = place.run("triage", "--dry-run", "true", "--reap", "true")
    assert content_of(place) == before
    assert f"would end dead run {dead}" in result.stdout
    assert f"would tag {a[:8]} two lines  [31m: status good, benchmark faces:test, rank" in result.stdout
    assert f"would tag {dead[:8]} {client.get_run(dead).info.run_name}: status bad, reasons stale: " in result.stdout
    assert "tags to change on 3 runs" in result.stdout
    assert on_boards(result)
    place.run("triage", "--bad", a, "--dry-run", "true")
    place.run("triage", "--clear", "true", "--dry-run", "true")
    assert content_of(place) == before
    place.run("triage")
    assert statuses(place) == {a: "good", b: "good", dead: "bad"}
    before = content_of(place)
    output = place.run("triage", "--clear", "true", "--dry-run", "true").stdout
    assert output == "would remove triage's tags from 3 of 4 runs\n"
    assert content_of(place) == before


def test_a_person_stands_above_the_rules(place, tmp_path):
    sound, other = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    broken = export(place, tmp_path, "c", LOGITS * 2)
    kept = export(place, tmp_path, "d", LOGITS * 3)
    (place.stored(broken) / "classorder.json").unlink()
    output = place.run("triage", "--keep", kept).stdout  # before any triage, without a reason
    assert output == f"run {kept} is good from now on; `triage --clear {kept[:8]}` takes it back\n"
    assert place.runs("triage") == []
    place.run("triage")
    output = place.run("triage", "--bad", sound[:8], "--reason", "wrong crop; stale: x").stdout
    assert output == f"run {sound} is bad from now on; `triage --clear {sound[:8]}` takes it back\n"
    place.run("triage", "--keep", broken)
    client = MlflowClient(place.uri)
    client.set_tag(other, "triage.status", "excellent")  # by hand, in the UI
    for more in (("--deep", "true"), ("--metric", "nll", "--even-bad", "true")):
        place.run("triage", *more)
        assert statuses(place) == {sound: "bad", broken: "good", other: "excellent", kept: "good"}
        assert tags_of(place)[sound]["triage.reasons"] == "wrong crop; stale: x"
        assert "triage.reasons" not in tags_of(place)[broken]
        assert "triage.rank" not in tags_of(place)[sound]
    place.run("triage", "--keep", sound, "--reason", "it was right")  # another opinion
    assert tags_of(place)[sound]["triage.reasons"] == "it was right"
    output = place.run("triage").stdout
    assert "      3  set by a person" not in output
    assert "      4  set by a person" in output
    assert "removed triage's tags from 4 of " in place.run("triage", "--clear", "true").stdout
    assert tags_of(place) == {other: {"triage.status": "excellent"}}
    assert "removed triage's tags from 0 of" in place.run("triage", "--clear", "true").stdout
    place.run("triage")
    assert statuses(place) == {sound: "good", broken: "bad", kept: "good", other: "excellent"}
    place.run("triage", "--bad", sound, "--reason", "wrong crop")
    before = tags_of(place)
    for run_id in (other[:8], sound):  # with the status that a person set
        assert place.run("triage", "--clear", run_id).stdout == "removed triage's tags from 1 of 1 runs\n"
    assert tags_of(place) == {run_id: tags for run_id, tags in before.items() if run_id in (broken, kept)}
    place.run("triage")
    assert (statuses(place)[other], statuses(place)[sound]) == ("good", "good")


@pytest.mark.server
def test_who_set_a_status_and_when_is_kept_and_the_next_person_is_told(place, tmp_path, monkeypatch):
    run_id = export(place, tmp_path, "a")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann\n")
    assert place.run("triage", "--bad", run_id, "--reason", "blurred faces").stdout.startswith(f"run {run_id} is bad")
    word = tags_of(place)[run_id]["triage.overruled"]
    assert re.fullmatch(r"bad by ann at 20\d\d-\d\d-\d\dT\d\d:\d\dZ", word)
    output = place.run("triage").stdout
    assert f"  {run_id[:8]}  bad by ann  " in output
    assert ": blurred faces" in output
    assert "  bad by ann" in next(line for line in place.run("triage", "--even-bad", "true").stdout.splitlines()
                                  if line.startswith("  1 "))  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    told = f"run {run_id}: {word} (“blurred faces”), now good"
    trial = place.run("triage", "--keep", run_id, "--dry-run", "true").stdout
    assert trial.splitlines()[0] == told
    assert place.run("triage", "--keep", run_id).stdout.splitlines()[0] == told
    assert tags_of(place)[run_id]["triage.overruled"].startswith("good by bob at ")

    def nobody():
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    MlflowClient(place.uri).set_tag(run_id, "triage.status", "excellent")  # by hand, in the UI
    assert place.run("triage", "--bad", run_id).stdout.splitlines()[0] == f"run {run_id}: excellent by hand, now bad"
    assert tags_of(place)[run_id]["triage.overruled"].startswith("bad by unknown at ")
    MlflowClient(place.uri).set_tag(run_id, "triage.overruled", "bad")  # as it was written before
    assert f"  {run_id[:8]}  bad by hand  " in place.run("triage").stdout


@pytest.mark.server
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_person_says_while_a_triage_runs_is_kept(place, tmp_path, monkeypatch, by_hand):
    first, second = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    judge = module.rules.judge

    def judge_slowly(*given):
        found = judge(*given)
        if by_hand:
            MlflowClient(place.uri).set_tag(first, "triage.status", "bad")
        else:
            module.triage(bad=first, reason="blurred faces")
        return found

    for number in (1, 2):  # before any triage, and after one, which had called it good
        if number == 2:
            place.run("triage", "--clear", first)
            place.run("triage")
        with monkeypatch.context() as patch:
            patch.setattr(module.rules, "judge", judge_slowly)
            result = place.run("triage")
        told = f"warning: run {first}: a person has set its status meanwhile, which stays\n"
        assert number == 2 or told in result.stderr  # the second triage has nothing to write
        assert statuses(place) == {first: "bad", second: "good"}
        assert by_hand or tags_of(place)[first]["triage.reasons"] == "blurred faces"
        assert f"  {first[:8]}  bad by " in place.run("triage").stdout
        assert statuses(place)[first] == "bad"


def test_runs_that_are_left_out_are_named_with_the_reason_and_how_they_come_back(place, tmp_path):
    client = MlflowClient(place.uri)
    good, doubtful = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    client.set_tag(doubtful, "fer.alignment", "warn: assignment")
    alone = export(place, tmp_path, "c", benchmark="others:test", split="train")
    client.set_tag(alone, "fer.alignment", "warn: assignment")
    expected = [
        "left out: 1 run; `triage --keep RUN` puts a run back, --even-bad true shows all",
        f"  {doubtful[:8]}  warn  {client.get_run(doubtful).info.run_name}: alignment: assignment",
    ]
    result = place.run("triage")
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert on_boards(result) == [good[:8]]
    at = lines.index(expected[0])
    assert lines[at + 1] == expected[1].strip()
    (empty,) = (at for at, line in enumerate(lines) if line.startswith("leaderboard of others:test · "))
    assert lines[empty].endswith(": no good run")
    assert lines[empty + 2].startswith(f"{alone[:8]}  warn  ")
    (run,) = place.runs("triage")
    assert f"- {doubtful[:8]}  warn  " in artifact(run, "leaderboard.md").read_text()
    shown = place.run("triage", "--even-bad", "true")
    assert "left out" not in shown.stdout
    (row,) = (line for line in shown.stdout.splitlines() if line.endswith(doubtful[:8]))
    assert " warn " in row
    assert "others:test" not in place.run("triage", "--benchmark", "faces:test").stdout
    place.run("triage", "--keep", doubtful)
    assert set(on_boards(place.run("triage"))) == {good[:8], doubtful[:8]}


def test_what_is_shown_does_not_change_what_is_tagged(place, tmp_path):
    client = MlflowClient(place.uri)
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    proud = export(place, tmp_path, "c", LOGITS * 2)
    client.log_metric(proud, "macro_f1", 0.999)  # a lie, and first in a table of all runs
    export(place, tmp_path, "other", benchmark="others (1):test", split="train")
    place.run("triage")
    before = tags_of(place)
    note = client.get_experiment("0").tags["mlflow.note.content"]
    assert "others (1):test" in note
    for more in (
        ("--even-bad", "true"),
        ("--top", "1"),
        ("--across", "true"),
        ("--classes", "Fear"),
        ("--benchmark", "faces:test"),
    ):
        result = place.run("triage", *more)
        assert "tags changed on 0 runs" in result.stdout
        assert tags_of(place) == before
        if more[0] == "--even-bad":
            assert on_boards(result)[0] == proud[:8]
        if more[0] == "--benchmark":
            assert set(on_boards(result)) == {a[:8], b[:8]}
            assert client.get_experiment("0").tags["mlflow.note.content"] == note
    assert len(on_boards(place.run("triage", "--benchmark", "others (1):test"))) == 1


def test_two_things_of_one_name_are_warned_of_and_shown_apart(place, tmp_path):
    a = export(place, tmp_path, "a")
    b = export(place, tmp_path, "b", sources=["web"] * 120)
    result = place.run("triage", "--even-bad", "true")
    digests = {run: MlflowClient(place.uri).get_run(run).data.tags["fer.selection_sha256"] for run in (a, b)}
    found = tags_of(place)
    for run, other in ((a, b), (b, a)):
        assert found[run]["triage.status"] == "warn"
        message = f"name clash: faces:test is {digests[run][:12]} here and {digests[other][:12]} in other runs"
        assert found[run]["triage.reasons"] == message
        assert found[run]["triage.benchmark"] == f"faces:test ({digests[run][:8]})"
        assert f"leaderboard of faces:test ({digests[run][:8]}) · 120 rows" in result.stdout
    by_name = place.run("triage", "--even-bad", "true", "--benchmark", "faces:test")
    assert len(on_boards(by_name)) == 2
    for name in (digests[a][:6], digests[a], f"faces:test ({digests[a][:8]})"):
        assert on_boards(place.run("triage", "--even-bad", "true", "--benchmark", name)) == short(a)


def test_a_newer_run_of_the_same_configuration_supersedes_the_older(place, tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS)
    old, new = publish(place, bundle), publish(place, bundle)
    output = place.run("triage")
    assert statuses(place) == {old: "superseded", new: "good"}
    assert tags_of(place)[old]["triage.reasons"] == f"superseded: run {new} has the same configuration and is newer"
    assert on_boards(output) == [new[:8]]
    assert set(on_boards(place.run("triage", "--even-bad", "true"))) == {old[:8], new[:8]}
    place.run("triage", "--bad", new)
    assert on_boards(place.run("triage")) == [old[:8]]
    assert statuses(place) == {old: "good", new: "bad"}


@pytest.mark.server
def test_a_dead_run_is_ended_on_request(place, tmp_path, monkeypatch):
    export(place, tmp_path, "a")
    client = MlflowClient(place.uri)
    long_ago = int((time.time() - 7200) * 1000)
    dead = client.create_run("0", start_time=long_ago, tags={"fer.kind": "export"}).info.run_id
    now = json.dumps({"host": "h", "pid": 1, "at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())})
    alive, back = (
        client.create_run("0", start_time=long_ago, tags={"fer.kind": "train"}).info.run_id for _ in range(2)
    )
    client.set_tag(alive, "fer.heartbeat", now)
    place.run("triage", "--stale-after", "3h", "--reap", "true")
    assert client.get_run(dead).info.status == "RUNNING"
    assert statuses(place)[dead] == "good"
    place.run("triage", "--stale-after", "90m")
    assert (statuses(place)[dead], statuses(place)[alive]) == ("bad", "good")
    assert client.get_run(dead).info.status == "RUNNING"
    assert "tags changed on 0 runs" in place.run("triage").stdout
    judge = module.rules.judge

    def judge_slowly(*arguments):
        client.set_tag(back, "fer.heartbeat", now)  # a sign of life while bundles are read
        return judge(*arguments)

    monkeypatch.setattr(module.rules, "judge", judge_slowly)
    output = place.run("triage", "--reap", "true").stdout
    assert f"ended dead run {dead}" in output
    assert back not in output
    assert [client.get_run(run).info.status for run in (dead, alive, back)] == ["KILLED", "RUNNING", "RUNNING"]
    monkeypatch.undo()
    place.run("triage")
    assert tags_of(place)[dead]["triage.reasons"] == "ended badly: KILLED"
    assert statuses(place)[back] == "good"


def test_a_run_whose_command_never_started_is_ended_as_failed_with_the_reason(place, tmp_path, monkeypatch):
    export(place, tmp_path, "a")
    client = MlflowClient(place.uri)
    tags = {"mlflow.project.entryPoint": "export", "mlflow.source.name": str(PROJECT)}
    long_ago = int((time.time() - 7200) * 1000)
    dead, started = (client.create_run("0", long_ago, tags, "bold-shark-12").info.run_id for _ in range(2))
    foreign = client.create_run("0", long_ago, tags | {"mlflow.source.name": "/another"}, "calm-owl-3").info.run_id
    output = place.run("triage", "--reap", "true", "--dry-run", "true").stdout
    assert f"would end dead run {dead} (bold-shark-12) as FAILED" in output
    assert client.get_run(dead).info.status == "RUNNING"
    judge = module.rules.judge

    def judge_slowly(*arguments):
        client.set_tag(started, "fer.kind", "export")  # its command started while bundles are read
        return judge(*arguments)

    monkeypatch.setattr(module.rules, "judge", judge_slowly)
    output = place.run("triage", "--reap", "true").stdout
    assert f"ended dead run {dead} (bold-shark-12) as FAILED" in output
    assert output.count("ended dead run") == 1
    assert [client.get_run(run).info.status for run in (started, foreign)] == ["RUNNING", "RUNNING"]
    run = client.get_run(dead)
    assert run.info.status == "FAILED"
    assert run.info.run_name.startswith("export: the command never started: `mlflow run` refused a parameter")
    assert run.data.tags["fer.error"] == NEVER_STARTED
    assert run.data.tags["fer.kind"] == "export"
    monkeypatch.undo()
    place.run("triage")
    assert tags_of(place)[dead]["triage.reasons"].startswith("ended badly: FAILED: the command never started")


# --- many runs, many triages -------------------------------------------------------------------------------------


def many_runs(place, count: int) -> list[str]:
    """Make runs of ours in a store's tables, every third of them failed."""
    ids = [f"{number:032x}" for number in range(count)]
    connection = sqlite3.connect(place.store / "mlflow.db")
    with connection:
        for number, run_id in enumerate(ids):
            connection.execute(
                "INSERT INTO runs (run_uuid, name, user_id, source_type, status, start_time, end_time,"
                " lifecycle_stage, experiment_id, artifact_uri)"
                " VALUES (?, 'toy', 'ann', 'LOCAL', ?, 1000, 2000, 'active', 0, ?)",
                (run_id, "FINISHED" if number % 3 else "FAILED", str(place.folder)),
            )
            connection.execute("INSERT INTO tags VALUES ('fer.kind', 'evaluate', ?)", (run_id,))
    connection.close()
    return ids


def expected_of_many(ids: list[str]) -> dict[str, dict[str, str]]:
    bad = {"triage.status": "bad", "triage.written": "bad", "triage.reasons": "ended badly: FAILED"}
    good = {"triage.status": "good", "triage.written": "good"}
    return {run_id: good if at % 3 else bad for at, run_id in enumerate(ids)}


KILLED = """
import os, signal
from mlflow import MlflowClient
write, done = MlflowClient.log_batch, []
def write_or_die(self, run_id, *arguments, **more):
    if len(done) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, run_id, *arguments, **more)
    if "triage.status" in [tag.key for tag in more.get("tags", ())]:
        done.append(run_id)
MlflowClient.log_batch = write_or_die
from fer_mlflow.cli import main
main(["triage"])
"""


@pytest.mark.slow
@pytest.mark.server
def test_a_killed_triage_is_completed_by_the_next_and_two_at_once_agree(place):
    ids = many_runs(place, 60)
    other = Workplace(place.folder.parent / "other-machine", place.uri)
    other.folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED], env=place.env, cwd=place.folder, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(tags_of(place)) == 20
    pair = [each.start("triage") for each in (place, other)]
    for each in pair:
        out, err = each.communicate(timeout=120)
        assert each.returncode == 0, out + err
    assert tags_of(place) == expected_of_many(ids)
    for each in (place, other):
        assert "tags changed on 0 runs" in each.run("triage").stdout
    assert len(place.runs("triage")) == 4


@pytest.mark.server
def test_what_a_killed_triage_changed_is_seen_by_another_machine(place, tmp_path, monkeypatch):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    other = Workplace(tmp_path / "other-machine", place.uri)
    other.folder.mkdir()
    for each in (place, other):
        each.run("triage")
    (place.stored(b) / "classorder.json").unlink()

    class KilledError(BaseException):
        """Ends a triage where a kill -9 would."""

    inner = module.store.write_tags

    def write_and_die(*arguments, **more):
        inner(*arguments, **more)
        raise KilledError

    monkeypatch.setattr(module.store, "write_tags", write_and_die)
    with pytest.raises((KilledError, AssertionError)):
        place.run("triage", "--deep", "true")
    monkeypatch.undo()
    assert statuses(place) == {a: "good", b: "bad"}
    for each in (other, place):
        result = each.run("triage")
        assert on_boards(result) == [a[:8]]
        assert statuses(place) == {a: "good", b: "bad"}


def test_what_another_machine_wrote_is_seen(place, tmp_path):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    place.run("triage")
    other = Workplace(tmp_path / "other-machine", place.uri)
    other.folder.mkdir()
    (place.stored(b) / "classorder.json").unlink()
    other.run("triage", "--deep", "true")
    assert statuses(place) == {a: "good", b: "bad"}
    other.run("triage", "--keep", b)
    assert set(on_boards(place.run("triage"))) == {a[:8], b[:8]}
    other.run("triage", "--clear", "true")
    assert tags_of(place) == {}
    place.run("triage", "--deep", "true")
    assert statuses(place) == {a: "good", b: "bad"}
    assert on_boards(other.run("triage")) == [a[:8]]


def test_a_run_that_is_gone_for_good_leaves_the_boards(place, tmp_path):
    a, b = export(place, tmp_path, "a", LOGITS + 2 * HELP), export(place, tmp_path, "b")
    assert on_boards(place.run("triage")) == short(a, b)
    connection = sqlite3.connect(place.store / "mlflow.db")
    with connection:  # as `mlflow gc` does after the run was deleted
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (a,))
    connection.close()
    c = export(place, tmp_path, "c", LOGITS + 6 * HELP)
    assert on_boards(place.run("triage")) == short(c, b)


@pytest.mark.server
def test_a_deleted_run_leaves_the_boards_and_a_restored_one_comes_back(place, tmp_path, monkeypatch):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    client = MlflowClient(place.uri)
    assert set(on_boards(place.run("triage"))) == {a[:8], b[:8]}
    client.delete_run(b)
    assert on_boards(place.run("triage")) == [a[:8]]
    client.restore_run(b)
    assert set(on_boards(place.run("triage"))) == {a[:8], b[:8]}
    experiment = client.create_experiment("other", artifact_location=str(tmp_path / "other"))
    elsewhere = client.create_run(experiment, tags={"fer.kind": "export"}).info.run_id
    client.set_terminated(elsewhere, "FAILED")
    assert "1 bad" in place.run("triage").stdout
    assert statuses(place)[elsewhere] == "bad"
    client.delete_experiment(experiment)
    assert "0 bad" in place.run("triage").stdout
    client.delete_experiment("0")
    assert "no run of this package" in error_line(place.run("triage", status=2))
    client.restore_experiment(experiment)
    line = error_line(place.run("triage", status=1))  # MLflow has nowhere to put the triage run
    assert "experiment" in line
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    assert "1 bad" in place.run("triage").stdout


# --- what is shown -----------------------------------------------------------------------------------------------


def test_boards_are_chosen_cut_and_ranked_as_asked(place, tmp_path):
    a, b = export(place, tmp_path, "a"), export(place, tmp_path, "b", LOGITS * 0.5)
    other = export(place, tmp_path, "c", benchmark="others:test", split="train")
    output = place.run("triage", "--benchmark", "faces:test", "--classes", "Disgust, Fear,", "--top", "1")
    assert "others:test" not in output.stdout
    assert "f1/Disgust  f1/Fear  run" in output.stdout
    assert "… and 1 more" in output.stdout
    assert len(on_boards(output)) == 1
    client = MlflowClient(place.uri)
    digest = client.get_run(other).data.tags["fer.selection_sha256"]
    assert on_boards(place.run("triage", "--benchmark", digest[:10])) == [other[:8]]
    for metric in ("nll", "macro_f1", "f1/Sad"):
        values = {run_id: client.get_run(run_id).data.metrics[metric] for run_id in (a, b)}
        best = sorted(values, key=values.get, reverse=metric != "nll")
        shown = on_boards(place.run("triage", "--benchmark", "faces:test", "--metric", metric, "--top", "all"))
        if values[a] != values[b]:
            assert shown == short(*best)
    place.run("triage", "--metric", "f1/Sad")  # descriptions have the mark of another metric
    assert "tags changed on 0 runs" in place.run("triage", "--metric", "f1/Sad").stdout
    output = place.run("triage", "--across", "true").stdout
    assert "configurations across 2 benchmarks, macro_f1 (rank)" in output
    assert "  recommended: a=1, mean rank" in output
    assert "(tried on 1 of 2 benchmarks only)" in output


@pytest.mark.server
def test_the_ui_is_furnished_and_a_persons_note_is_left_alone(place, tmp_path):
    run_id = export(place, tmp_path, "a")
    client = MlflowClient(place.uri)
    result = place.run("triage", "--metric", "accuracy")
    tags = client.get_experiment("0").tags
    selection = place.bundle(client.get_run(run_id)).selection_sha256
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.leaderboard-{selection[:12]}"])["state"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`accuracy`", False)
    assert tags["mlflow.experiment.primaryMetric.name"] == "accuracy"
    assert tags["mlflow.note.content"].startswith("best on test · faces: a=1, accuracy 0.")
    assert f"| [{run_id[:8]}](#/experiments/0/runs/{run_id}) |" in tags["mlflow.note.content"]
    (run,) = place.runs("triage")
    assert run.info.run_name == "triage · 1 runs"
    assert run.data.params == run.data.params | {"metric": "accuracy", "stale_after": "1h", "deep": "auto"}
    is_server = place.uri.startswith("http")
    shown_by = place.uri if is_server else f"mlflow ui --backend-store-uri {place.uri}, then http://127.0.0.1:5000"
    assert result.stdout.splitlines()[-1] == (
        f"ui  {shown_by}/#/experiments/0/runs?workflowType=machine_learning"
        f"&viewStateShareKey=leaderboard-{selection[:12]}"
    )
    client.set_experiment_tag("0", "mlflow.note.content", "mine")
    place.run("triage", "--metric", "nll", "--name", "my triage")
    tags = client.get_experiment("0").tags
    assert tags["mlflow.note.content"] == "mine"
    assert tags["mlflow.experiment.primaryMetric.name"] == "nll"
    assert place.runs("triage")[0].info.run_name == "my triage"


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "nothing"], "--benchmark nothing: no run has it; there are faces:test ("),
        (["--benchmark", "faces"], "--benchmark faces: no run has it"),
        (["--metric", "f7"], "--metric f7: no run has it; they have accuracy, balanced_accuracy, brier, ece, f1/Angry"),
        (["--reason", "x"], "--reason explains --bad RUN_ID or --keep RUN_ID"),
        (["--bad", "abcd", "--keep", "abcd"], "--bad and --keep do one thing each"),
        (["--bad", "abcd", "--clear", "true"], "--bad and --clear do one thing each"),
        (["--bad", "ffff0000"], "no such run"),
        (["--keep", "x'; DROP"], "a run id is 4 to 32 digits"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(unchanged, arguments, message):
    before = content_of(unchanged)
    assert message in error_line(unchanged.run("triage", *arguments, status=2))
    assert content_of(unchanged) == before


@pytest.mark.server
def test_an_empty_store_says_so(place):
    MlflowClient(place.uri).create_run("0")  # of another tool
    for more in ((), ("--clear", "true"), ("--benchmark", "x")):
        assert "no run of this package yet" in error_line(place.run("triage", *more, status=2))


def test_a_server_that_is_away_is_named_without_its_password_and_how_long_it_was_tried(tmp_path):
    away = Workplace(tmp_path, "http://ann:secret@127.0.0.1:9")
    for more in ((), ("--bad", "abcd1234"), ("--dry-run", "true")):
        line = error_line(away.run("triage", *more, status=1))
        assert line.startswith("tracking server http://***@127.0.0.1:9: ")
        assert "secret" not in line
        assert "; tried for " in line


@pytest.mark.server
def test_a_store_that_goes_away_in_the_middle_is_one_line(place, tmp_path, monkeypatch):
    export(place, tmp_path, "a")
    client = MlflowClient(place.uri)
    client.create_run("0", start_time=1, tags={"fer.kind": "export"})

    def away(*_, **__):
        raise ConnectionError("http://ann:secret@host went away")

    for name in ("set_terminated", "log_batch", "list_artifacts"):
        monkeypatch.setattr(MlflowClient, name, away)
        output = place.run("triage", "--reap", "true", "--deep", "true", status=1).stderr
        assert output.startswith("fer-mlflow: tracking server ")
        assert "http://***@host went away" in output
        assert output.count("\n") == 1
        monkeypatch.undo()
    place.run("triage")
    assert sorted(statuses(place).values()) == ["bad", "good"]


def test_tags_of_no_interest_are_left_as_they_are(place, tmp_path):
    run_id = export(place, tmp_path, "a")
    client = MlflowClient(place.uri)
    client.log_batch(run_id, tags=[RunTag("triage.note", "mine"), RunTag("my.status", "x")])
    place.run("triage")
    place.run("triage", "--clear", "true")
    tags = client.get_run(run_id).data.tags
    assert (tags["triage.note"], tags["my.status"]) == ("mine", "x")
