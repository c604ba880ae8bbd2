"""Runs are found by their ids, and a bundle comes back from the store verified or not at all."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Workplace, new_workplace
from mlflow import MlflowClient
from toys import draw_logits, publish, write_bundle

from fer_mlflow.errors import BundleError, JobError, RunError
from fer_mlflow.tracking import bundles, store
from fer_mlflow.tracking.bundles import (
    bundle_digest,
    derived_params,
    download_files,
    fetch_bundle,
    read_run,
)
from fer_mlflow.tracking.runs import TrackedRun, metric_key

IDS = ["abcd1111" + "0" * 24, "abcd2222" + "0" * 24, "dead0000" + "0" * 24, "12345678" + "0" * 24]


def rename_run(place, old: str, new: str) -> None:
    """Give a run the id that a test needs; MLflow draws them at random."""
    connection = sqlite3.connect(place.folder / "mlflow.db")
    with connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if "run_uuid" in columns:
                connection.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (new, old))
    connection.close()


@pytest.fixture(scope="module")
def place(migrated_store, tmp_path_factory) -> Workplace:
    """Return a workplace whose runs have the ids above; the third is deleted."""
    place = new_workplace(tmp_path_factory.mktemp("bundles") / "workplace", migrated_store)
    client = MlflowClient(place.uri)
    for run_id in IDS:
        rename_run(place, client.create_run("0").info.run_id, run_id)
    client.delete_run(IDS[2])
    return place


@pytest.fixture
def client(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    return MlflowClient(place.uri)


@pytest.mark.parametrize("name", ["abcd1", "abcd1111", IDS[0]])
def test_a_run_is_found_by_its_id_or_the_first_digits(client, name):
    assert read_run(client, name).info.run_id == IDS[0]


def test_runs_of_every_experiment_are_found(client, place):
    client.create_experiment("elsewhere", artifact_location=str(place.folder / "elsewhere"))
    experiment = client.get_experiment_by_name("elsewhere").experiment_id
    run_id = client.create_run(experiment).info.run_id
    assert read_run(client, run_id[:10]).info.run_id == run_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abcd", f"run abcd: several runs begin so ({IDS[1]}, {IDS[0]}); give more digits"),
        ("dead", f"run {IDS[2]} was deleted; bring it back with `mlflow runs restore`, or name another"),
        ("ffff", "has no such run; look at MLFLOW_TRACKING_URI"),
        ("abc", "run 'abc': a run id is 4 to 32 digits of 0-9a-f; copy it from a command's output or the UI"),
        ("ABCD1111", "a run id is 4 to 32 digits of 0-9a-f"),
        ("abcd1111\n", "a run id is 4 to 32 digits of 0-9a-f"),
        ("____", "a run id is 4 to 32 digits of 0-9a-f"),
        ("%%%%", "a run id is 4 to 32 digits of 0-9a-f"),
        ("", "a run id is 4 to 32 digits of 0-9a-f"),
    ],
)
def test_a_run_that_is_not_one_is_refused(client, name, expected):
    with pytest.raises(RunError) as caught:
        read_run(client, name)
    message = str(caught.value)
    assert "\n" not in message
    if "several" in expected:
        assert sorted(message) == sorted(expected)  # in any order
    else:
        assert expected in message


def test_the_store_that_was_searched_is_named_without_its_password(place, monkeypatch):
    client = MlflowClient(place.uri)
    monkeypatch.setattr(bundles, "get_tracking_uri", lambda: "https://ann:secret@host:5000")
    with pytest.raises(RunError) as caught:
        read_run(client, "ffff")
    assert str(caught.value) == "run ffff: https://***@host:5000 has no such run; look at MLFLOW_TRACKING_URI"


@pytest.fixture(scope="module")
def published(place, tmp_path_factory):
    logits, labels = draw_logits(20)
    clahe = {"clip": 2.0, "tile": 8, "pattern_sha256": "0" * 64}
    bundle = write_bundle(
        tmp_path_factory.mktemp("bundle") / "b", logits, labels, weights={"B": 0.3, "A": 0.7}, clahe=clahe
    )
    return publish(place, bundle), bundle


def test_a_bundle_comes_back_and_nothing_of_it_stays(client, published, tmp_path):
    run_id, bundle = published
    fetched = fetch_bundle(read_run(client, run_id), tmp_path / "cache")
    assert fetched.sha256 == bundle.sha256
    np.testing.assert_array_equal(fetched.logits, bundle.logits)
    assert list((tmp_path / "cache").iterdir()) == []


def test_derived_params_follow_from_the_bundle(published):
    derived = derived_params(published[1])
    assert {key: derived[key] for key in derived if key != "calibration"} == {
        "ensemble": "A=0.7,B=0.3",
        "space": "logit",
        "dtype": "float32",
        "clahe": "true",
        "precision": "fp32",
        "w/A": 0.7,
        "w/B": 0.3,
        "benchmark": "faces:test",
        "rows": 20,
    }


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, f"run {IDS[3]} (foreign, RUNNING) has no soft labels; name an export or a teacher run"),
        ({"fer.kind": "train"}, f"run {IDS[3]} (train, RUNNING) has no soft labels; name an export or a teacher run"),
        (
            {"fer.kind": "evaluate", "fer.source_run": "77"},
            f"run {IDS[3]} (evaluate, RUNNING) has no soft labels; they are in run 77",
        ),
    ],
)
def test_a_run_without_a_bundle_says_where_it_is(client, tmp_path, tags, message):
    for key, value in tags.items():
        client.set_tag(IDS[3], key, value)
    with pytest.raises(RunError) as caught:
        fetch_bundle(read_run(client, IDS[3]), tmp_path)
    assert str(caught.value) == message


def test_a_bundle_that_does_not_verify_is_named_by_its_run(client, place, tmp_path):
    logits, labels = draw_logits(20, seed=1)
    run_id = publish(place, write_bundle(tmp_path / "b", logits, labels))
    folder = place.folder / f"mlruns/0/{run_id}/artifacts/softlabels"
    index = (folder / "softlabels_index.jsonl").read_text()
    (folder / "softlabels_index.jsonl").write_text(index.replace("f0001", "f0099"))
    with pytest.raises(BundleError) as caught:
        fetch_bundle(read_run(client, run_id), tmp_path / "cache")
    assert str(caught.value).startswith(f"run {run_id}: its bundle is broken: softlabels_index.jsonl: SHA-256 is ")
    (folder / "softlabels_index.jsonl").write_text(index)
    client.set_tag(run_id, "fer.bundle_sha256", "0" * 64)
    with pytest.raises(BundleError, match=f"run {run_id}: its bundle .* is not the one that it is tagged with"):
        fetch_bundle(read_run(client, run_id), tmp_path / "cache")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(BundleError, match=r"hash_manifest\.json: No such file"):
        fetch_bundle(read_run(client, run_id), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_results_are_found_by_kind_and_params_newest_first(client, place):
    made = []
    for name in ("one", "one", "two"):
        run = client.create_run("0")
        client.log_param(run.info.run_id, "run", name)
        client.set_tag(run.info.run_id, "fer.kind", "inspect")
        client.set_terminated(run.info.run_id)
        made.append(run.info.run_id)
    found = [run.info.run_id for run in store.search_finished(client, "inspect", "params.run = 'one'")]
    assert set(found) == set(made[:2])
    assert store.search_finished(client, "evaluate", "params.run = 'one'") == []


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("slices", "source", "web", "accuracy"), "slices/source web accuracy"),
        (("source", "a/b", "f1"), "source/a_b f1"),
        (("source", "..", "f1"), "source/_ f1"),
        (("source", "", "f1"), "source/_ f1"),
        (("source", " x. ", "f1"), "source/x f1"),
        (("source", "über 60 %", "f1"), "source/über 60 _ f1"),
        (("source", "x" * 300, "accuracy"), f"source/{'x' * 234} accuracy"),
        (("y" * 200, "x" * 200, "f1"), f"{'y' * 46}/{'x' * 200} f1"),
    ],
)
def test_a_metric_key_is_one_that_mlflow_takes(client, parts, key):
    assert metric_key(*parts) == key
    assert len(key) <= 250
    assert metric_key(*key.split("/")) == key
    TrackedRun(client, IDS[0], "0").log(metrics={key: 0.5})
    assert client.get_run(IDS[0]).data.metrics[key] == 0.5


# --- what a server offers is not trusted: neither its names, nor its sizes, nor its tags ---------------------------

NAMES = {
    "softlabels.npz",
    "softlabels_index.jsonl",
    "classorder.json",
    "alignmentreport.json",
    "ensemble_metrics.json",
    "hash_manifest.json",
}


class Store:
    """The artifacts of a server that offers these files: path -> (the size that it lists, the bytes that it sends)."""

    def __init__(self, files):
        self.files, self.requested = files, []

    def list_artifacts(self, uri):
        assert uri == "store:/run/softlabels"
        return [SimpleNamespace(path=name, file_size=size, is_dir=False) for name, (size, _) in self.files.items()]

    def download_artifacts(self, uri, dst_path):
        path = uri.removeprefix("store:/run/")
        self.requested.append(path)
        target = Path(dst_path) / Path(path).name
        target.write_bytes(b" " * self.files[path][1])
        return str(target)


def run_with(**tags):
    info = SimpleNamespace(run_id="ab" * 16, status="FINISHED", artifact_uri="store:/run")
    return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags))


@pytest.fixture
def offer(monkeypatch):
    """Return a function that makes a store offer files, and gives it."""

    def offered(files):
        monkeypatch.setattr(bundles, "artifacts", store := Store(files))
        return store

    return offered


def test_only_the_names_of_a_bundle_are_requested(offer, tmp_path):
    wanted = {f"softlabels/{name}": (3, 3) for name in NAMES}
    foreign = ("softlabels/../../evil", "/etc/passwd", "softlabels/more.txt", "softlabels/sub/softlabels.npz", "x")
    store = offer(wanted | {name: (3, 3) for name in foreign})
    (tmp_path / "into").mkdir()
    assert set(download_files(run_with(), tmp_path / "into")) == NAMES
    assert set(store.requested) == set(wanted)
    assert {path.name for path in (tmp_path / "into").iterdir()} == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


@pytest.mark.parametrize(("listed", "sent", "requested"), [(65 << 20, 3, 0), (3, 65 << 20, 1), (None, 65 << 20, 1)])
def test_a_file_larger_than_any_bundles_is_refused_whatever_size_is_listed(offer, tmp_path, listed, sent, requested):
    store = offer({"softlabels/classorder.json": (listed, sent)})
    with pytest.raises(BundleError, match=r"softlabels/classorder\.json has 68,157,440 bytes, more than any bundle's"):
        download_files(run_with(), tmp_path)
    assert len(store.requested) == requested


def test_a_disk_without_room_is_reported_before_anything_is_downloaded(offer, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    store = offer({"softlabels/softlabels.npz": (3 << 20, 3)})
    with pytest.raises(JobError, match="3 MiB are to be downloaded, 1 are free"):
        download_files(run_with(), tmp_path)
    assert store.requested == []


@pytest.mark.parametrize("tag", ["../../x", "", "AB" * 32, "ab" * 33])
def test_a_tag_that_is_no_digest_names_no_folder(tag):
    with pytest.raises(RunError, match=r"its tag fer\.bundle_sha256 is not 64 hex digits"):
        bundle_digest(run_with(**{"fer.bundle_sha256": tag}))
