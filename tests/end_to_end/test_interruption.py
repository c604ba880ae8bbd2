"""Kill it in the middle and see: nothing that was finished is lost, and the bytes come out the same."""

import shutil
import signal
import time

import pytest
from conftest import new_workplace

pytestmark = pytest.mark.slow
SLOWLY = ("--batch-size", "6", "--workers", "1", "--device", "cpu")


def command(manifest, teachers, *more):
    return ["export", "--manifest", manifest, "--teachers", teachers, "--weights", "A=0.5,B=0.5", *SLOWLY, *more]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(many_faces, toy_teachers, migrated_store, tmp_path_factory):
    """Return the files of an export that nothing disturbed."""
    workplace = new_workplace(tmp_path_factory.mktemp("undisturbed"), migrated_store)
    workplace.run(*command(many_faces, toy_teachers, "--out", "out"))
    return content(workplace.folder / "out")


def wait_for_shards(process, workplace, count):
    """Wait until so many shards of each teacher are on disk."""
    deadline = time.monotonic() + 120
    while len(list((workplace.folder / "cache").glob("logits/*/*.npz"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_killed_export_resumes_to_the_same_bytes(workplace, many_faces, toy_teachers, undisturbed, number):
    process = workplace.start(*command(many_faces, toy_teachers))
    wait_for_shards(process, workplace, 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    (killed,) = workplace.runs("export")
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert killed.info.status == "RUNNING"  # nothing could end it: its heartbeat tells
        assert "fer.heartbeat" in killed.data.tags
    else:
        assert process.returncode == 128 + number
        assert killed.info.status == "KILLED"
        assert f"stopped by {number.name}" in stderr
    assert not workplace.runs("teacher")
    result = workplace.run(*command(many_faces, toy_teachers, "--out", "out"))
    assert "kept from an earlier run" in result.stderr
    assert content(workplace.folder / "out") == undisturbed


def test_two_exports_of_the_same_thing_share_the_work(workplace, many_faces, toy_teachers, undisturbed):
    first = workplace.start(*command(many_faces, toy_teachers, "--out", "one"))
    wait_for_shards(first, workplace, 1)
    second = workplace.run(*command(many_faces, toy_teachers, "--out", "two"))
    texts = [first.communicate(timeout=200), (second.stdout, second.stderr)]
    assert first.returncode == 0, texts
    assert content(workplace.folder / "one") == content(workplace.folder / "two") == undisturbed
    assert len(workplace.runs("teacher")) == 2
    assert all("forward passes" in stderr for _, stderr in texts)  # the second one took shards of its own
    assert sum("reused from" in stdout for stdout, _ in texts) == 1


def test_a_server_gives_the_same_bundle(workplace, server, many_faces, toy_teachers, undisturbed):
    workplace.uri = server.uri
    result = workplace.run(*command(many_faces, toy_teachers, "--out", "out"))
    (run,) = workplace.runs("export")
    assert f"  bundle   runs:/{run.info.run_id}/softlabels" in result.stdout
    assert f"  ui       {server.uri}/#/experiments/0/runs/{run.info.run_id}" in result.stdout
    assert workplace.bundle(run).sha256 == run.data.tags["fer.bundle_sha256"]
    assert content(workplace.folder / "out") == undisturbed
    again = workplace.run(*command(many_faces, toy_teachers))
    assert again.stdout.count("reused from") == 2


def test_a_server_that_goes_away_costs_only_the_upload(workplace, server, many_faces, toy_teachers, undisturbed):
    workplace.uri = server.uri
    process = workplace.start(*command(many_faces, toy_teachers))
    wait_for_shards(process, workplace, 2)
    server.stop()
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 1, stdout + stderr
    message = stderr.splitlines()[-1]
    assert message.startswith(f"fer-mlflow: tracking server {server.uri}: ")
    assert "run the same command again to upload it, nothing is computed twice" in message
    (kept,) = (folder for folder in (workplace.folder / "cache/bundles").glob("*/softlabels") if str(folder) in message)
    assert content(kept) == undisturbed
    server.start()
    result = workplace.run(*command(many_faces, toy_teachers, "--out", "out"))
    assert "predicting" not in result.stderr
    assert content(workplace.folder / "out") == undisturbed
    newest = workplace.runs("export")[0]
    assert workplace.bundle(newest).sha256 == newest.data.tags["fer.bundle_sha256"]


def test_a_full_disk_is_said_and_what_is_finished_is_kept(workplace, many_faces, toy_teachers, undisturbed, tmp_path):
    process = workplace.start(*command(many_faces, toy_teachers))
    wait_for_shards(process, workplace, 2)
    folders = list((workplace.folder / "cache/logits").iterdir())
    kept = {folder.name: len(list(folder.glob("*.npz"))) for folder in folders}
    shutil.move(workplace.folder / "cache/logits", tmp_path / "logits")
    (workplace.folder / "cache/logits").write_text("")  # a file where the folder was: writing must fail
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "finished shards are kept there: make room and run the same command again" in stderr
    (workplace.folder / "cache/logits").unlink()
    shutil.move(tmp_path / "logits", workplace.folder / "cache/logits")
    assert {f.name: len(list(f.glob("*.npz"))) for f in (workplace.folder / "cache/logits").iterdir()} == kept
    workplace.run(*command(many_faces, toy_teachers, "--out", "out"))
    assert content(workplace.folder / "out") == undisturbed
