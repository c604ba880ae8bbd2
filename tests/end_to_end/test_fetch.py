"""`fetch` and `fetch_soft_labels`, driven as a user does, with a local store and with a real server."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from mlflow import MlflowClient
from toys import CLASSES

import fer_mlflow
from fer_mlflow import SoftLabels, fetch_soft_labels
from fer_mlflow.errors import BundleError, ContractError, RunError
from fer_mlflow.tracking import bundles


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def faces(toy_faces, tmp_path_factory):
    """Return a manifest that no other module's tests export, so that its name is this one's benchmark."""
    folder = tmp_path_factory.mktemp("fetched_faces")
    shutil.copytree(toy_faces.parent / "images", folder / "images")
    return shutil.copyfile(toy_faces, folder / "fetched.csv")


@pytest.fixture(scope="module")
def runs(place, faces, toy_teachers):
    """Return the ids of two exports and two teachers, by their ensemble and space."""
    base = ["export", "--manifest", faces, "--teachers", toy_teachers]
    place.run(*base, "--weights", "A=0.5,B=0.5")
    place.run(*base, "--weights", "A=0.5,B=0.5", "--space", "prob", "--dtype", "float16")
    found = (run for run in place.runs() if run.data.tags.get("fer.benchmark") == "fetched")
    return {f"{run.data.params['ensemble']} {run.data.params['space']}": run.info.run_id for run in found}


@pytest.fixture
def logit(runs):
    return runs["A=0.5,B=0.5 logit"]


@pytest.fixture
def own_rows(faces, tmp_path):
    """Return a function that writes a manifest of the same images, its lines changed, beside a copy of them."""
    shutil.copytree(faces.parent, tmp_path / "own")

    def write(change):
        header, *lines = faces.read_text().splitlines()
        path = tmp_path / "own" / "mine.csv"
        path.write_text("\n".join([header, *change(lines)]) + "\n")
        return path

    return write


@pytest.fixture
def spoil(place):
    """Return a function that changes a file of a run's bundle in the store; it is as it was after the test."""
    kept = {}

    def change(run_id, name, edit):
        path = place.stored(run_id) / name
        kept.setdefault(path, path.read_bytes())
        data = edit(kept[path])
        path.unlink() if data is None else path.write_bytes(data)

    yield change
    for path, data in kept.items():
        path.write_bytes(data)


def flipped(data):
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


@pytest.mark.server
def test_a_run_is_fetched_and_its_folder_is_the_last_line(place, runs, logit, faces, tmp_path):
    before = len(place.runs())
    options = ["--manifest", faces, "--check-images", "true"]
    result = place.run_installed("fetch", "--run", logit[:10], "--out", tmp_path / "new/out", *options)
    folder = tmp_path / "new/out"
    assert result.stdout.splitlines() == [
        "logit · A 0.5 · B 0.5  on  fetched, 70 rows",
        "",
        f"  run       {logit}",
        f"  bundle    {SoftLabels.open(folder).sha256[:12]}…: every file has its hash, and the run is tagged with it",
        f"  manifest  {faces}: the same 70 rows with the same labels in the same order",
        f"  images    under {faces.parent}: the ones that the teachers decoded",
        "  folder    fetched",
        "",
        str(folder),
    ]
    assert content(folder) == content(place.stored(logit))
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert len(place.runs()) == before  # a fetch changes nothing in the store


@pytest.mark.server
def test_the_best_run_is_fetched_into_a_folder_named_after_it(place, runs):
    metrics = {run_id: MlflowClient(place.uri).get_run(run_id).data.metrics["nll"] for run_id in runs.values()}
    best = min(metrics, key=metrics.get)
    result = place.run("fetch", "--best", "nll", "--benchmark", "fetched")
    assert f"  chosen    nll {metrics[best]:.4f}, best of {len(runs)} on fetched\n" in result.stdout
    assert result.stdout.splitlines()[-1] == str(place.folder / f"softlabels-{best[:8]}")
    where = ["--where", 'params.space = "prob"']
    result = place.run("fetch", "--best", "nll", "--benchmark", "fetched", *where, "--out", "prob")
    assert f"  run       {runs['A=0.5,B=0.5 prob']}\n" in result.stdout
    assert SoftLabels.open(place.folder / "prob").logits.dtype == np.float16


def test_the_same_again_is_verified_and_left_alone_and_a_damaged_copy_is_replaced(place, logit, tmp_path):
    out = tmp_path / "out"
    arguments = ["fetch", "--run", logit, "--out", out]
    place.run(*arguments)
    whole, inode = content(out), out.stat().st_ino
    (out / "notes.txt").write_text("mine")  # does not keep the bundle from being one
    assert "  folder    was there already, verified again\n" in place.run(*arguments).stdout
    assert out.stat().st_ino == inode
    (out / "notes.txt").unlink()
    for name, data in (("softlabels.npz", flipped(whole["softlabels.npz"])), ("classorder.json", None)):
        (out / name).unlink() if data is None else (out / name).write_bytes(data)
        result = place.run(*arguments)
        assert f"warning: --out {out}: the copy there is damaged; it is fetched again" in result.stderr
        assert content(out) == whole
    (out / "notes.txt").write_text("mine")
    (out / "softlabels.npz").unlink()
    assert "holds other things; name a new folder" in place.run(*arguments, status=2).stderr
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_other_things_is_refused(place, runs, logit, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    place.run("fetch", "--run", runs["A=1 logit"], "--out", tmp_path / "other")
    before = content(tmp_path / "other")
    for name in ("file", "other"):
        result = place.run("fetch", "--run", logit, "--out", tmp_path / name, status=2)
        assert f"--out {tmp_path / name} holds other things; name a new folder" in result.stderr
    assert content(tmp_path / "other") == before
    place.run("fetch", "--run", logit, "--out", tmp_path / "empty")
    assert content(tmp_path / "empty") == content(place.stored(logit))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("softlabels.npz", flipped, "is broken: softlabels.npz: SHA-256 is "),
        ("softlabels_index.jsonl", lambda data: data[: len(data) // 2], "is broken: softlabels_index.jsonl: SHA-256"),
        ("alignmentreport.json", lambda _: None, "is broken: alignmentreport.json: No such file"),
        ("hash_manifest.json", lambda _: None, "is broken: hash_manifest.json: No such file"),
        ("hash_manifest.json", lambda data: data + b"\n", "is not the one that it is tagged with"),
        ("hash_manifest.json", lambda _: b" " * (65 << 20), "68,157,440 bytes, more than any bundle's"),
    ],
)
def test_what_is_broken_in_the_store_is_not_fetched(place, logit, spoil, tmp_path, name, edit, message):
    spoil(logit, name, edit)
    result = place.run("fetch", "--run", logit, "--out", tmp_path / "out", status=2)
    assert result.stderr.startswith(f"fer-mlflow: run {logit}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_fetch_that_is_killed_leaves_nothing_under_the_final_name(place, logit, tmp_path, number):
    code = (
        "import os, sys, mlflow\n"
        "from fer_mlflow.cli import main\n"
        "real, files = mlflow.artifacts.download_artifacts, []\n"
        "def download(*arguments, **named):\n"
        "    files.append(1)\n"
        f"    if len(files) == 4: os.kill(os.getpid(), {int(number)})\n"
        "    return real(*arguments, **named)\n"
        "mlflow.artifacts.download_artifacts = download\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "fetch", "--run", logit, "--out", tmp_path / "out"]
    process = subprocess.run(command, env=place.env, cwd=place.folder, capture_output=True, text=True)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    left = [path.name for path in tmp_path.iterdir()]
    if number == signal.SIGKILL:
        assert [name.startswith(".out.") and name.endswith(".part") for name in left] == [True]
    else:
        assert left == []
    place.run("fetch", "--run", logit, "--out", tmp_path / "out")
    assert content(tmp_path / "out") == content(place.stored(logit))


def test_the_best_on_one_split_is_fetched_for_another(workplace, split_faces, toy_teachers):
    manifest = split_faces
    base = ["export", "--manifest", manifest, "--teachers", toy_teachers]
    for split, weights in (("test", "A=0.5,B=0.5"), ("test", "A=0.2,B=0.8"), ("train", "A=0.5,B=0.5")):
        workplace.run(*base, "--split", split, "--weights", weights)
    exports = {(run.data.params["split"], run.data.params["ensemble"]): run for run in workplace.runs("export")}
    best = ["fetch", "--best", "nll", "--benchmark", "manifest:test", "--for-split", "train"]
    equal = ["--where", "params.ensemble = 'A=0.5,B=0.5'"]
    result = workplace.run(*best, *equal, "--manifest", manifest, "--out", "train")
    wanted = exports["train", "A=0.5,B=0.5"].info.run_id
    assert f"  run       {wanted}\n" in result.stdout
    assert "; its configuration on manifest:train\n" in result.stdout
    assert set(SoftLabels.open(workplace.folder / "train").index["split"]) == {"train"}
    other = ["--where", "params.ensemble = 'A=0.2,B=0.8'"]
    refused = workplace.run(*best, *other, "--out", "none", status=2)
    assert "no run has its soft labels of manifest:train, of the same manifest; export them with" in refused.stderr
    assert "--weights A=0.2,B=0.8 --space logit --split train" in refused.stderr
    manifest.write_text(manifest.read_text() + "\n")
    workplace.run(*base, "--split", "test", "--weights", "A=0.5,B=0.5", "--space", "prob")
    refused = workplace.run(*best, "--where", 'params.space = "prob"', "--out", "none", status=2)
    assert "no run has its soft labels of manifest:train" in refused.stderr
    assert not (workplace.folder / "none").exists()


def test_a_bad_run_is_fetched_only_on_request(place, runs, tmp_path):
    client, run_id = MlflowClient(place.uri), runs["B=1 logit"]
    client.set_tag(run_id, "triage.status", "bad")
    client.set_tag(run_id, "triage.reasons", "two columns\nexchanged")
    try:
        refused = place.run("fetch", "--run", run_id, "--out", tmp_path / "out", status=2)
        assert f"run {run_id}: triage called it bad (two columns exchanged); take it all" in refused.stderr
        where = ["--where", "params.ensemble = 'B=1'"]
        refused = place.run("fetch", "--best", "nll", "--benchmark", "fetched", *where, status=2)
        assert "benchmark fetched: none of its 3 runs fulfils params.ensemble = 'B=1'" in refused.stderr
        result = place.run("fetch", "--run", run_id, "--even-bad", "true", "--out", tmp_path / "out")
        assert f"warning: run {run_id}: triage called it bad (two columns" in result.stderr
    finally:
        for key in ("triage.status", "triage.reasons"):
            client.delete_tag(run_id, key)


def test_another_order_is_refused_then_rewritten(place, logit, own_rows, tmp_path):
    manifest = own_rows(lambda lines: [lines[1], lines[0], *lines[2:]])
    arguments = ["fetch", "--run", logit, "--out", tmp_path / "out", "--manifest", manifest]
    result = place.run(*arguments, status=2)
    assert (
        f"manifest {manifest}: the soft labels have its 70 rows in another order (2 stand elsewhere; "
        'row 1 "images/f0001.jpg" is row 2 in the soft labels); rewrite them to the manifest\'s with --reorder true'
    ) in result.stderr
    assert not (tmp_path / "out").exists()
    result = place.run(*arguments, "--reorder", "true", "--check-images", "true")
    original, reordered = SoftLabels.open(place.stored(logit)), SoftLabels.open(tmp_path / "out")
    order = [1, 0, *range(2, 70)]
    np.testing.assert_array_equal(reordered.logits, original.logits[order])
    assert reordered.index["row"].tolist() == list(range(70))
    for column in ("path", "label", "image_sha256"):
        assert reordered.index[column].tolist() == original.index[column].iloc[order].tolist()
    assert reordered.report["reordered"] == {"source_bundle_sha256": original.sha256, "moved_rows": 2}
    assert dict(reordered.metrics) == pytest.approx(dict(original.metrics))
    assert f"; rewritten from the run's {original.sha256[:12]}…\n" in result.stdout
    assert "the same 70 rows with the same labels; 2 stood elsewhere and were moved to its order" in result.stdout
    assert "  folder    fetched and reordered\n" in result.stdout
    inode = (tmp_path / "out").stat().st_ino
    assert "was there already, verified again" in place.run(*arguments, "--reorder", "true").stdout
    assert (tmp_path / "out").stat().st_ino == inode
    verified = place.run("verify", tmp_path / "out", "--manifest", manifest)
    assert "\nverifies (" in verified.stdout
    assert "holds other things" in place.run("fetch", "--run", logit, "--out", tmp_path / "out", status=2).stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "own"] == ["out"]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (
            lambda lines: [line.replace("f0003.jpg,Happy", "f0003.jpg,Sad") for line in lines],
            ["--reorder", "true"],
            '1 of 70 rows are not what they were when the soft labels were exported: row 4 "images/f0003.jpg" (label "',
        ),
        (
            lambda lines: lines[:-1],
            [],
            'has 69 rows, the soft labels 70: 1 rows are only in the soft labels ("images/f0069.jpg"); ',
        ),
        (
            lambda lines: [*lines[:68], lines[68].replace("f0068", "g"), *lines[69:]],
            ["--reorder", "true"],
            '1 rows are only in the manifest (row 69 "images/g.jpg"); 1 rows are only in the soft labels ("images/f00',
        ),
        (lambda lines: [line.replace("test", "val") for line in lines], ["--split", "test"], 'no row has split "test"'),
    ],
)
def test_a_manifest_of_other_rows_is_refused(place, logit, own_rows, tmp_path, change, more, message):
    options = ["--manifest", own_rows(change), *more]
    result = place.run("fetch", "--run", logit, "--out", tmp_path / "out", *options, status=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_images_that_changed_are_named(place, logit, own_rows, tmp_path):
    manifest = own_rows(lambda lines: [line.replace(",lab", ",elsewhere") for line in lines])
    (manifest.parent / "images/f0004.jpg").write_bytes(b"other")
    (manifest.parent / "images/f0009.jpg").unlink()
    arguments = ["fetch", "--run", logit, "--out", tmp_path / "out", "--manifest", manifest]
    result = place.run(*arguments, "--check-images", "true", status=2)
    assert (
        ': 2 of 70 images are not the ones that the teachers decoded: row 5 "images/f0004.jpg" (other bytes), '
        'row 10 "images/f0009.jpg" (cannot be read); '
    ) in result.stderr
    assert not (tmp_path / "out").exists()
    result = place.run(*arguments)  # the images are not looked at, and need not be here
    assert f"warning: 35 rows have another split or source in {manifest}" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name one run: --run RUN_ID, or --best METRIC --benchmark NAME"),
        (["--run", "abcd", "--best", "nll", "--benchmark", "b"], "name one run"),
        (["--best", "nll"], "--best nll needs --benchmark"),
        (["--run", "abcd", "--benchmark", "b"], "--benchmark goes with --best"),
        (["--run", "abcd", "--where", "x"], "--where goes with --best"),
        (["--run", "abcd", "--for-split", "train"], "--for-split goes with --best"),
        (["--run", "abcd", "--reorder", "true"], "--reorder goes with a manifest; give --manifest CSV too"),
        (["--run", "abcd", "--check-images", "true"], "--check-images goes with a manifest"),
        (["--run", "abcd", "--split", "test"], "--split goes with a manifest"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_store_is_opened(workplace, options, message):
    workplace.uri = "http://127.0.0.1:9"
    assert message in workplace.run("fetch", *options, status=2).stderr


@pytest.mark.parametrize("arguments", [("fetch", "--run", "abcdef"), ("verify", "abcdef")])
def test_a_server_that_cannot_be_reached_is_named_without_its_password(workplace, arguments):
    workplace.uri = "http://ann:secret@127.0.0.1:9"
    result = workplace.run(*arguments, status=1)
    assert result.stderr.startswith("fer-mlflow: tracking server http://***@127.0.0.1:9: opening the store failed (")
    assert result.stderr.rstrip().endswith(" s)")
    assert "; tried for " in result.stderr
    assert "secret" not in result.stderr
    assert list((workplace.folder).glob("softlabels*")) == []


def test_under_mlflow_run_the_run_that_is_open_is_joined(place, logit):
    _, found = place.run_joined("fetch", "--run", logit, "--out", "joined")
    assert (found.info.status, found.data.tags["fer.kind"]) == ("FINISHED", "fetch")
    assert found.data.tags["fer.source_run"] == logit
    assert found.data.params["out"] == "joined"
    assert "fer.bundle_sha256" not in found.data.tags  # it is no source of soft labels itself


@pytest.fixture
def at_place(place, monkeypatch, tmp_path):
    """The consumer's environment: a tracking URI and a cache of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    monkeypatch.setenv("FER_MLFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_workflow_gives_the_soft_labels_and_the_run_that_has_them(at_place, place, runs, logit, tmp_path):
    before = len(place.runs())
    result = fer_mlflow.fetch(best="nll", benchmark="fetched", where="params.ensemble = 'A=0.5,B=0.5'", out="mine")
    assert result.source_run in (logit, runs["A=0.5,B=0.5 prob"])
    assert (result.run_id, result.how, result.proofs) == ("", "fetched", {})
    assert result.soft_labels.folder == tmp_path / "mine"
    assert result.soft_labels.sha256 == result.source_sha256 == SoftLabels.open(place.stored(result.source_run)).sha256
    assert len(place.runs()) == before
    with pytest.raises(ContractError, match="mine holds other things; name a new folder"):
        fer_mlflow.fetch(run=runs["A=1 logit"], out="mine")


@pytest.mark.server
def test_fetch_soft_labels_takes_an_id_a_uri_or_the_best(at_place, place, runs, logit):
    expected = SoftLabels.open(place.stored(logit))
    for source in (logit, logit[:9], f"runs:/{logit}/softlabels"):
        assert fetch_soft_labels(source).sha256 == expected.sha256
    found = fetch_soft_labels("best:macro_f1@fetched", where="params.dtype = 'float16'")
    assert found.sha256 == SoftLabels.open(place.stored(runs["A=0.5,B=0.5 prob"])).sha256
    with pytest.raises(RunError, match="has no run on it; there are"):
        fetch_soft_labels("best:macro_f1@nothing")


@pytest.mark.server
def test_fetch_soft_labels_downloads_once_and_again_what_is_damaged(at_place, logit, tmp_path, monkeypatch):
    bundle = fetch_soft_labels(logit)
    assert bundle.folder == tmp_path / "cache/downloads" / bundle.sha256
    real, calls = bundles.download_files, []
    monkeypatch.setattr(bundles, "download_files", lambda *a: (calls.append(1), real(*a))[1])
    assert (fetch_soft_labels(logit).sha256, calls) == (bundle.sha256, [])
    (bundle.folder / "softlabels.npz").write_bytes(flipped((bundle.folder / "softlabels.npz").read_bytes()))
    np.testing.assert_array_equal(fetch_soft_labels(logit).logits, bundle.logits)
    assert calls == [1]
    for path in bundle.folder.iterdir():
        path.unlink()
    assert (fetch_soft_labels(logit).sha256, calls) == (bundle.sha256, [1, 1])


def test_fetch_soft_labels_does_not_take_another_bundle_from_the_cache(at_place, runs, logit, tmp_path):
    expected = fetch_soft_labels(logit)
    other = fetch_soft_labels(runs["A=1 logit"])
    shutil.rmtree(expected.folder)
    shutil.copytree(other.folder, expected.folder)  # sound, but not this run's
    assert fetch_soft_labels(logit).sha256 == expected.sha256


@pytest.mark.server
def test_fetch_soft_labels_refuses_what_is_broken_in_the_store(at_place, logit, spoil, tmp_path):
    spoil(logit, "softlabels.npz", flipped)
    with pytest.raises(BundleError, match="is broken"):
        fetch_soft_labels(logit)
    assert [path.name for path in (tmp_path / "cache/downloads").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.server
def test_a_consumer_needs_the_package_and_the_uri_alone(place, logit, tmp_path):
    code = (
        "from fer_mlflow import fetch_soft_labels\n"
        "bundle = fetch_soft_labels('best:macro_f1@fetched', where=\"params.ensemble = 'A=0.5,B=0.5'\")\n"
        "print(bundle.logits.shape, list(bundle.classes) )"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env |= {
        "MLFLOW_TRACKING_URI": place.uri,
        "FER_MLFLOW_CACHE": str(tmp_path / "c"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    result = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (f"(70, 7) {json.dumps(list(CLASSES))}\n".replace('"', "'"), "")
