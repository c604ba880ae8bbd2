"""Evidence on bundles: read once, kept by the digest of a sound bundle, and a problem where it does not verify."""

import json
import shutil

import numpy as np
import pytest
from mlflow import MlflowClient
from scipy.special import log_softmax
from toys import CLASSES, draw_logits, expected_metrics, publish, write_bundle

from fer_mlflow.errors import TrackingError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.tracking.records import EvidenceStore, record_of

LOGITS, LABELS = draw_logits(40, seed=5)
LABELS[[3, 17]] = -1
FILES = (
    *("softlabels.npz", "softlabels_index.jsonl", "classorder.json", "alignmentreport.json"),
    *("ensemble_metrics.json", "hash_manifest.json"),
)


@pytest.fixture(scope="module")
def published(place, tmp_path_factory) -> str:
    """Return a run with a sound bundle, two rows of which have no label."""
    return publish(place, write_bundle(tmp_path_factory.mktemp("bundle") / "b", LOGITS, LABELS))


@pytest.fixture
def client(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    return MlflowClient(place.uri)


@pytest.fixture
def stored(client, place, published, tmp_path_factory):
    """Give the folder of the run's bundle in the store; afterwards it and the run's tag are as they were."""
    folder = place.folder / f"mlruns/0/{published}/artifacts/softlabels"
    kept = tmp_path_factory.mktemp("kept") / "softlabels"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    client.set_tag(published, "fer.bundle_sha256", sha256_of_file(folder / "hash_manifest.json"))


def rewrite_report(client, run_id: str, folder, report) -> None:
    """Change a bundle's report, and its hashes and the run's tag so that it verifies."""
    (folder / "alignmentreport.json").write_text(json.dumps(report))
    hashes = json.loads((folder / "hash_manifest.json").read_text())
    hashes["files"]["alignmentreport.json"] = sha256_of_file(folder / "alignmentreport.json")
    (folder / "hash_manifest.json").write_text(json.dumps(hashes))
    client.set_tag(run_id, "fer.bundle_sha256", sha256_of_file(folder / "hash_manifest.json"))


def run_of(client, run_id: str, **tags):
    run = record_of(client.get_run(run_id))
    return type(run)(**vars(run) | {"tags": run.tags | tags})


def read(client, run_id: str, cache, **tags):
    return EvidenceStore(client, cache).read(run_of(client, run_id, **tags))


def test_the_evidence_on_a_sound_bundle_is_what_its_logits_give(client, published, tmp_path):
    found = read(client, published, tmp_path)
    known = LABELS >= 0
    assert (found.problem, found.is_missing, found.classes) == ("", False, CLASSES)
    assert (found.rows, found.selected_rows) == (40, 40)
    np.testing.assert_array_equal(found.labels, LABELS[known])
    np.testing.assert_array_equal(found.predictions, LOGITS[known].argmax(axis=1))
    losses = -log_softmax(LOGITS[known].astype(float), axis=1)[np.arange(38), LABELS[known]]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-6)
    assert (found.labels.dtype, found.predictions.dtype, found.losses.dtype) == (np.int16, np.int16, np.float32)
    for name, value in expected_metrics(LOGITS[known], LABELS[known]).items():
        if name in found.metrics:
            assert found.metrics[name] == pytest.approx(value, abs=1e-9), name
    assert {"accuracy", "macro_f1", "nll", "ece", "brier", "f1/Fear"} <= found.metrics.keys()


def test_it_is_kept_and_the_server_is_not_needed_again(client, published, tmp_path):
    first = read(client, published, tmp_path)
    run = run_of(client, published)
    again = EvidenceStore(None, tmp_path).load(run)
    for name in ("labels", "predictions", "losses"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.metrics, again.classes, again.rows, again.problem) == (first.metrics, CLASSES, 40, "")
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["evidence"]  # of the bundle itself nothing stays
    assert EvidenceStore(None, tmp_path / "another").load(run) is None


def test_another_bundle_of_a_run_is_another_thing(client, published, tmp_path):
    read(client, published, tmp_path)
    assert EvidenceStore(client, tmp_path).load(run_of(client, published, **{"fer.bundle_sha256": "0" * 64})) is None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_broken_file_of_the_cache_counts_as_none(client, published, tmp_path, damage):
    read(client, published, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    if damage is None:  # of an older version
        np.savez(file, meta=np.array(json.dumps({"verdict": "fine", "classes": []})))
    else:
        file.write_bytes(damage)
    store = EvidenceStore(client, tmp_path)
    assert store.load(run_of(client, published)) is None
    assert store.read(run_of(client, published)).problem == ""
    assert EvidenceStore(None, tmp_path).load(run_of(client, published)).rows == 40


def test_rows_without_labels_have_no_metrics(client, place, tmp_path):
    run_id = publish(place, write_bundle(tmp_path / "b", LOGITS, np.full(40, -1)))
    for found in (read(client, run_id, tmp_path), EvidenceStore(None, tmp_path).load(run_of(client, run_id))):
        assert (found.problem, dict(found.metrics), len(found.labels), found.rows) == ("", {}, 0, 40)


def test_rows_that_were_left_out_are_counted(client, published, stored, tmp_path):
    report = json.loads((stored / "alignmentreport.json").read_text())
    report["benchmark"]["selected_rows"] = 43
    rewrite_report(client, published, stored, report)
    found = read(client, published, tmp_path)
    assert (found.problem, found.rows, found.selected_rows) == ("", 40, 43)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_missing(client, published, stored, tmp_path, name):
    (stored / name).unlink()
    found = read(client, published, tmp_path)
    if name == "ensemble_metrics.json":  # a bundle without labels has none; that this one should, its hashes say
        assert not found.is_missing
        assert found.problem.startswith("its bundle is broken: ensemble_metrics.json: No such file")
    else:
        assert (found.problem, found.is_missing) == (f"without {name}", True)
    assert len(found.labels) == 0
    assert EvidenceStore(None, tmp_path).load(run_of(client, published)) is None


def test_what_was_kept_of_a_sound_bundle_is_forgotten_once_it_is_broken(client, published, stored, tmp_path):
    run = run_of(client, published)
    read(client, published, tmp_path)
    assert EvidenceStore(None, tmp_path).load(run) is not None
    (stored / "classorder.json").unlink()
    assert read(client, published, tmp_path).is_missing
    assert EvidenceStore(None, tmp_path).load(run) is None


def test_several_files_that_are_gone_are_named_and_all_of_them_counted(client, published, stored, tmp_path):
    (stored / "classorder.json").unlink()
    (stored / "softlabels.npz").unlink()
    assert read(client, published, tmp_path).problem == "without classorder.json, softlabels.npz"
    shutil.rmtree(stored)
    found = read(client, published, tmp_path)
    assert (found.problem, found.is_missing) == ("no file of it is there", True)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_differs_is_found(client, published, stored, tmp_path, name):
    content = bytearray((stored / name).read_bytes())
    content[len(content) // 2] ^= 1
    (stored / name).write_bytes(bytes(content))
    found = read(client, published, tmp_path)
    assert not found.is_missing
    assert found.problem
    assert "\n" not in found.problem
    if name != "hash_manifest.json":
        assert found.problem.startswith(f"its bundle is broken: {name}: SHA-256 is ")


def test_another_bundle_that_is_sound_is_not_the_one_that_was_logged(client, published, stored, tmp_path):
    shutil.rmtree(stored)
    other = write_bundle(stored, LOGITS[:, ::-1].copy(), LABELS)
    found = read(client, published, tmp_path)
    assert found.problem.startswith(f"its bundle {other.sha256[:12]}… is not the one that it is tagged with")
    assert sha256_of_file(stored / "hash_manifest.json") == other.sha256


def test_a_folder_among_the_files_is_no_file(client, published, stored, tmp_path):
    (stored / "classorder.json").unlink()
    (stored / "classorder.json").mkdir()
    (stored / "classorder.json" / "x").write_text("x")
    assert read(client, published, tmp_path).problem


@pytest.mark.parametrize(
    "digest", ["", "abc", "../../../../../x", "/etc/passwd", "a/b/c/d", "AB" * 32, "\n", "x" * 300]
)
def test_a_tag_that_is_no_digest_is_a_broken_bundle_and_leads_nowhere(client, published, stored, tmp_path, digest):
    cache = tmp_path / "a/b/c/d/e/cache"
    client.set_tag(published, "fer.bundle_sha256", digest)
    found = read(client, published, cache)
    assert "64 hex digits" in found.problem
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("report", [{}, {"benchmark": 7}, {"benchmark": {"selected_rows": "many"}}])
def test_a_report_of_another_make_is_a_broken_bundle(client, published, stored, tmp_path, report):
    rewrite_report(client, published, stored, report)
    found = read(client, published, tmp_path)
    assert found.problem == "alignmentreport.json does not give the number of rows of the benchmark"


def test_a_server_that_is_away_is_no_verdict(client, published, tmp_path, monkeypatch):
    run = run_of(client, published)

    class Away:
        def list_artifacts(self, *_):
            raise ConnectionError("no route")

    store = EvidenceStore(Away(), tmp_path)
    with pytest.raises(TrackingError, match=rf"listing softlabels/ of run {published} failed \(no route"):
        store.read(run)
    assert store.load(run) is None
    assert not list(tmp_path.rglob("*.npz"))
