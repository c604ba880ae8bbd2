"""What is on disk is whole, is used again, and is not trusted further than it can be checked."""

import errno
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.images import Unreadable
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import ImageError, JobError
from fer_mlflow.progress import no_progress
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers import forward
from fer_mlflow.teachers.shards import ShardStore, compute_logits, held_keys
from fer_mlflow.teachers.spec import PredictedLogits, read_teachers

SHARD = PredictedLogits(
    rows=np.array([0, 2]),
    logits=np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
    image_sha256=np.arange(64, dtype=np.uint8).reshape(2, 32),
    unreadable=(Unreadable(1, "b.jpg", "empty file", "0" * 64),),
    teacher={"arch": "x"},
    environments=({"device": "cpu"},),
)


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path, "key")


def test_a_shard_comes_back_as_it_was(store):
    store.write(0, 3, SHARD)
    back = store.read(0, 3)
    for name in ("rows", "logits", "image_sha256"):
        np.testing.assert_array_equal(getattr(back, name), getattr(SHARD, name))
    assert (back.unreadable, back.teacher, back.environments) == (SHARD.unreadable, SHARD.teacher, SHARD.environments)


def test_a_shard_that_is_not_there_is_none(store):
    assert store.read(0, 3) is None


def test_a_shard_with_any_byte_changed_or_cut_off_is_not_used(store):
    store.write(0, 3, SHARD)
    path = store.path(0, 3)
    data = path.read_bytes()
    reference = store.read(0, 3)
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        found = store.read(0, 3)  # what the zip format does not check (times, names) may still be whole
        assert found is None or np.array_equal(found.logits, reference.logits)
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert store.read(0, 3) is None


def test_a_shard_of_other_rows_is_not_used(store):
    store.write(0, 3, SHARD)
    store.path(0, 3).rename(store.path(3, 6))
    assert store.read(3, 6) is None


def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch):
    store.write(0, 3, SHARD)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(JobError, match="the disk is full; finished shards are kept there: make room"):
        store.write(3, 6, SHARD)
    assert [path.name for path in store.folder.iterdir()] == [store.path(0, 3).name]


def test_a_key_is_held_by_one_at_a_time_whatever_order_keys_are_named_in(tmp_path):
    entered, waited = threading.Event(), threading.Event()

    def other():
        with held_keys(tmp_path, ["b", "a"], on_wait=waited.set):
            entered.set()

    with held_keys(tmp_path, ["a", "b"], on_wait=lambda: pytest.fail("waited")):
        thread = threading.Thread(target=other)
        thread.start()
        assert waited.wait(10)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


@pytest.fixture
def predict(tmp_path, toy_faces, toy_teachers):
    """Return a function that computes logits over small shards, counting what is really computed."""
    import shutil

    shutil.copytree(toy_faces.parent, tmp_path / "faces")
    computed = []

    def run(names="AB", on_bad_image="fail", **options):
        benchmark = read_benchmark(tmp_path / "faces/manifest.csv", FER7)
        specs = read_teachers(toy_teachers, list(names))
        computed.clear()

        def counter(description, total, done=0):
            computed.append((total - done, description.removeprefix("predicting with ").split(", ")))
            return no_progress(description, total, done)

        return compute_logits(
            benchmark,
            specs,
            {name: f"s.{name}" for name in names},
            ForwardSettings(workers=0, device="cpu", on_bad_image=on_bad_image),
            tmp_path / "cache",
            shard_rows=20,
            progress=counter,
            image_sha256=lambda: hash_images(benchmark.root, benchmark.paths),
            **options,
        )

    run.computed, run.folder = computed, tmp_path
    return run


def test_what_is_kept_is_not_computed_again(predict):
    first = predict()
    assert predict.computed == [(70, ["A", "B"])]
    second = predict()
    assert predict.computed == []
    for name in "AB":
        np.testing.assert_array_equal(first[name].logits, second[name].logits)
        assert first[name].teacher == second[name].teacher


def test_only_missing_shards_and_teachers_are_computed(predict):
    whole = predict("AB")
    ShardStore(predict.folder / "cache", "s.A").path(20, 40).unlink()
    again = predict("ABC")
    assert predict.computed == [(70, ["A", "C"])]  # every range lacks C, one lacks A as well
    np.testing.assert_array_equal(again["A"].logits, whole["A"].logits)
    assert again["C"].logits.shape == (70, 7)


def test_no_checkpoint_is_loaded_where_every_shard_is_kept(predict, monkeypatch):
    predict("A")
    monkeypatch.setattr("fer_mlflow.teachers.checkpoint.load_teacher", lambda *_: pytest.fail("loaded"))
    predict("A")


def test_a_changed_image_is_predicted_again_with_its_shard_alone(predict):
    before = predict("A")
    image = predict.folder / "faces/images/f0025.jpg"
    image.write_bytes((predict.folder / "faces/images/f0001.jpg").read_bytes())
    warnings = []
    after = predict("A", warn=warnings.append)
    assert predict.computed == [(20, ["A"])]
    assert warnings == ["rows 21-40: images changed since A predicted them; predicting again"]
    moved = np.flatnonzero((before["A"].logits != after["A"].logits).any(axis=1))
    assert 25 in moved
    np.testing.assert_allclose(after["A"].logits[25], before["A"].logits[1], atol=1e-4)


def test_unreadable_rows_stop_the_run_and_kept_shards_stay(predict):
    (predict.folder / "faces/images/f0050.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r'1 images cannot be decoded: row 51 "images/f0050.jpg" \(empty file\)'):
        predict("A")
    assert len(list((predict.folder / "cache/logits/s.A").glob("*.npz"))) == 2
    found = predict("A", on_bad_image="skip")["A"]
    assert [bad.row for bad in found.unreadable] == [50]
    with pytest.raises(ImageError, match="row 51"):
        predict("A")


def test_an_interruption_between_shards_loses_none_of_them(predict, monkeypatch):
    whole = predict("A")["A"]
    ShardStore(predict.folder / "cache", "s.A").clear()
    real, calls = forward._compute_shard, []

    def stop_at_third(*arguments):
        calls.append(arguments[:2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(forward, "_compute_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict("A")
    monkeypatch.setattr(forward, "_compute_shard", real)
    resumed = predict("A")["A"]
    assert predict.computed == [(30, ["A"])]
    np.testing.assert_array_equal(resumed.logits, whole.logits)
    assert resumed.teacher == whole.teacher


def test_the_environment_of_every_session_is_kept(predict, monkeypatch):
    predict("A")
    ShardStore(predict.folder / "cache", "s.A").path(20, 40).unlink()
    monkeypatch.setattr(forward.torch, "__version__", "9.9.9")
    environments = predict("A")["A"].environments
    assert [session["versions"]["torch"] for session in environments][1:] == ["9.9.9"]


CLAIMING = """
import sys, torch
from pathlib import Path
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers.shards import compute_logits
from fer_mlflow.teachers.spec import read_teachers
folder, teachers, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
benchmark = read_benchmark(folder / "many.csv", FER7)
specs = read_teachers(teachers, ["A", "B"])
settings = ForwardSettings(workers=1, device="cpu", on_bad_image="skip")
print("ready", flush=True)
sys.stdin.readline()
keys, found = {name: f"s.{name}" for name in specs}, {}
while len(found) < 2:  # a process that dies leaves its shards to the next attempt
    found = compute_logits(benchmark, specs, keys, settings, folder / sys.argv[4], shard_rows=128)
import numpy as np
np.savez(folder / sys.argv[5], **{name: each.logits for name, each in found.items()})
print(len(found["A"].unreadable), flush=True)
"""


@pytest.fixture
def many_faces(tmp_path, toy_faces):
    """1,300 rows of the toy faces, a few of them unreadable."""
    images = sorted((toy_faces.parent / "images").iterdir())
    (tmp_path / "images").mkdir()
    lines = ["path,label"]
    for row in range(1300):
        path = tmp_path / f"images/{row:04d}{images[0].suffix}"
        path.write_bytes(b"" if row in (7, 640, 1299) else images[row % len(images)].read_bytes())
        lines.append(f"images/{path.name},Happy")
    (tmp_path / "many.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def start(folder, teachers, threads, cache, out):
    command = [sys.executable, "-c", CLAIMING, str(folder), str(teachers), str(threads), cache, out]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(processes):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


@pytest.mark.slow
def test_processes_that_share_the_shards_give_the_bytes_of_one_process(many_faces, toy_teachers):
    alone = start(many_faces, toy_teachers, 2, "one", "one.npz")
    two = [start(many_faces, toy_teachers, 1, "two", f"two{number}.npz") for number in range(2)]
    go([alone])
    assert alone.communicate()[0] == "3\n"
    go(two)
    assert [process.communicate()[0] for process in two] == ["3\n", "3\n"]
    for name in ("one", "two0", "two1"):
        with np.load(many_faces / f"{name}.npz") as arrays, np.load(many_faces / "one.npz") as expected:
            for teacher in "AB":
                assert arrays[teacher].shape == (1297, 7)
                assert arrays[teacher].tobytes() == expected[teacher].tobytes()
    assert len(list((many_faces / "two/logits/s.A").glob("*.npz"))) == 11


@pytest.mark.slow
def test_the_shards_of_a_process_that_was_killed_are_computed_by_the_other(many_faces, toy_teachers):
    first, second = (start(many_faces, toy_teachers, 1, "cache", f"{name}.npz") for name in ("first", "second"))
    go([first])
    folder = many_faces / "cache/logits/s.A"
    while not list(folder.glob("*.npz")):
        time.sleep(0.01)
    go([second])
    time.sleep(0.3)
    first.kill()
    first.communicate()
    assert second.communicate()[0] == "3\n"
    with np.load(many_faces / "second.npz") as arrays:
        assert arrays["A"].shape == (1297, 7)


@contextmanager
def claimed_elsewhere(store, span, end):
    """Hold the claim on a shard in another thread; after 0.3 s `end` is called and the claim is given up."""
    held = threading.Event()

    def hold():
        with store.claim(*span):
            held.set()
            time.sleep(0.3)
            end()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    yield
    thread.join()


def test_a_claimed_shard_is_awaited_and_not_computed_twice(predict, monkeypatch):
    whole, store = predict("A"), ShardStore(predict.folder / "cache", "s.A")
    kept = store.path(20, 40).read_bytes()
    store.remove(20, 40)
    monkeypatch.setattr(forward, "_compute_shard", lambda *_: pytest.fail("computed"))
    with claimed_elsewhere(store, (20, 40), lambda: store.path(20, 40).write_bytes(kept)):
        np.testing.assert_array_equal(predict("A")["A"].logits, whole["A"].logits)


def test_a_claim_that_was_given_up_leaves_the_teacher_to_the_callers_next_attempt(predict):
    predict("A")
    store = ShardStore(predict.folder / "cache", "s.A")
    store.remove(20, 40)
    with claimed_elsewhere(store, (20, 40), lambda: None):
        assert predict("A") == {}
    assert predict("A")["A"].logits.shape == (70, 7)
