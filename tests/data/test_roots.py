"""Images in an object store are read as those of a folder are, or the message says why they are not."""

import hashlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import toys
from fsspec.implementations.memory import MemoryFileSystem

from fer_mlflow.data import roots
from fer_mlflow.data.check import run_checks
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.images import image_readers, read_image_bytes
from fer_mlflow.data.manifest import read_benchmark, rebase_paths
from fer_mlflow.data.scan import hash_images, scan_images
from fer_mlflow.errors import ContractError, ImageError, JobError, ManifestError


@pytest.fixture(params=["memory", "s3"])
def stored(request, toy_faces):
    """Return the URL of a folder with the toy faces and an image that is broken; both are local files too."""
    if request.param == "s3":
        request.getfixturevalue("object_store")
    return toys.store_folder(toy_faces.parent, f"{request.param}://faces-{request.param}/a folder")


@pytest.fixture
def unwaiting(monkeypatch):
    monkeypatch.setattr(roots, "_WAITS_S", (0, 0))


def fail(monkeypatch, *errors):
    """Have the store in memory raise each error in turn before it reads a file; return what it was requested for."""
    requests, remaining, read = [], list(errors), MemoryFileSystem.cat_file

    def cat_file(self, path, *arguments, **more):
        requests.append(path)
        if remaining:
            raise remaining.pop(0)
        return read(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return requests


def test_roots_are_parsed(tmp_path):
    assert roots.parse_root(f"file://{tmp_path}/") == tmp_path
    assert roots.parse_root(tmp_path) == roots.parse_root(f"{tmp_path}") == tmp_path
    assert roots.parse_root("gs://bucket/a/b//") == "gs://bucket/a/b"
    with pytest.raises(ContractError, match=r"^root http://x/y: images are read from a folder or from file://, s3://"):
        roots.parse_root("http://x/y")


def test_a_benchmark_has_the_same_rows_and_images_as_in_a_folder(stored, toy_faces):
    local, remote = (read_benchmark(toy_faces, FER7, root=root) for root in (None, stored + "/"))
    assert remote.root == stored
    assert remote.selection_sha256 == local.selection_sha256
    paths = [*local.paths, "images/none.jpg", "none/x.jpg", "../x.jpg"]
    for options in ({}, {"decode": False}, {"perceptual": True}):
        own, theirs = (scan_images(root, paths, **options) for root in (local.root, stored))
        assert (own.sha256 == theirs.sha256).all()
        assert (own.sides == theirs.sides).all()
        assert (own.hashes == theirs.hashes).all()
        assert {row: why.split(str(root))[0] for root in (local.root,) for row, why in own.problems.items()} == {
            row: why.split(stored)[0] for row, why in theirs.problems.items()
        }


def test_a_check_finds_what_it_finds_in_a_folder(stored, toy_faces, tmp_path):
    manifest = tmp_path / "faces.csv"
    manifest.write_text(toy_faces.read_text() + "images/none.jpg,Happy,test,web\nimages/f0001.jpg,Sad,test,web\n")
    own, theirs = (run_checks(manifest, FER7, root=root, near=4) for root in (toy_faces.parent, stored))
    assert own.refused == theirs.refused == 2
    texts = [
        [finding.text.replace(root, "") for finding in each.findings]
        for each, root in ((own, str(toy_faces.parent)), (theirs, stored))
    ]
    assert texts[0] == texts[1]
    assert "1 x file that is not under" in " ".join(texts[0])


@pytest.mark.parametrize("path", ["../x.jpg", "images/../../x.jpg", "/faces/x.jpg", "s3://other/x.jpg", ""])
def test_paths_stay_under_their_root(path, tmp_path):
    toys.store_files("memory://faces", {"x.jpg": b"1", "below/images/x.jpg": b"2"})
    with pytest.raises(ImageError, match=r"^leads out of memory://faces/below$"):
        read_image_bytes("memory://faces/below", path)
    (tmp_path / "m.csv").write_text(f'path,label\n"{path}",Happy\n')
    with pytest.raises(ManifestError, match="path that is empty or leaves the root memory://faces/below"):
        read_benchmark(tmp_path / "m.csv", FER7, root="memory://faces/below")


def test_whole_urls_under_the_root_are_its_paths(tmp_path):
    toys.store_files("memory://faces/below", {"images/x.jpg": b"1"})
    (tmp_path / "m.csv").write_text("path\nmemory://faces/below/images/x.jpg\n")
    assert read_benchmark(tmp_path / "m.csv", FER7, root="memory://faces/below/").paths.tolist() == ["images/x.jpg"]


def test_new_manifests_start_from_urls_too():
    paths = np.array(["a.jpg"], object)
    assert rebase_paths("s3://b/faces", "s3://b/faces/raf/", paths).tolist() == ["raf/a.jpg"]
    assert rebase_paths("s3://b/faces/", "s3://b/faces", paths).tolist() == ["a.jpg"]
    for root, folder in (("/data", "s3://b/faces"), ("s3://b/faces", "s3://b/faces2"), ("s3://b/x", "gs://b/x")):
        with pytest.raises(ManifestError, match=f"^images lie in {folder}, outside of {root}, .*give --root {folder} "):
            rebase_paths(root, folder, paths)


def test_a_store_that_fails_twice_is_tried_again(monkeypatch, unwaiting):
    toys.store_files("memory://faces", {"x.jpg": b"bytes"})
    requests = fail(monkeypatch, OSError("SlowDown"), TimeoutError())
    assert read_image_bytes("memory://faces", "x.jpg") == b"bytes"
    assert requests == ["/faces/x.jpg"] * 3


def test_a_file_that_is_not_there_is_asked_for_once_and_no_access_is_not_tried_again(monkeypatch, unwaiting):
    requests = fail(monkeypatch)
    with pytest.raises(ImageError, match=r"^No such file or directory$"):
        read_image_bytes("memory://faces", "none.jpg")
    assert len(requests) == 1
    requests = fail(monkeypatch, PermissionError("expired token"))
    with pytest.raises(JobError, match=r"^memory://faces/x.jpg: the store did not give it \(expired token\); run the"):
        read_image_bytes("memory://faces", "x.jpg")
    assert len(requests) == 1


def test_a_store_that_goes_on_failing_is_no_unreadable_image(monkeypatch, unwaiting):
    fail(monkeypatch, *[OSError("no route")] * 1000)
    for read in (scan_images, hash_images):
        with pytest.raises(JobError, match=r"^memory://faces/[ab].jpg: the store did not give it \(no route\)"):
            read("memory://faces", ["a.jpg", "b.jpg"])


@pytest.mark.parametrize("read", [hash_images, lambda *given: [each() for each in image_readers(*given)]])
def test_images_are_read_at_the_same_time(monkeypatch, read):
    count = 2 * roots.AT_ONCE * roots.AT_ONCE  # a scan's threads take as many rows as there are threads
    toys.store_files("memory://faces", {f"{number}.jpg": b"%d" % number for number in range(count)})
    meeting, cat_file = threading.Barrier(roots.AT_ONCE), MemoryFileSystem.cat_file

    def wait_for_others(self, path, *arguments, **more):
        meeting.wait(timeout=60)
        return cat_file(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", wait_for_others)
    digests = [hashlib.sha256(b"%d" % number).digest() for number in range(count)]
    found = read("memory://faces", [f"{number}.jpg" for number in range(count)])
    assert [
        each.tobytes() if isinstance(each, np.ndarray) else hashlib.sha256(each).digest() for each in found
    ] == digests


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    (tmp_path / "m.csv").write_text("path\nx.jpg\n")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ContractError, match=r"^root gs://b/x: .*: pip install 'fer-mlflow\[gs\]'$"):
        read_benchmark(tmp_path / "m.csv", FER7, root="gs://b/x", verify_paths=False)


def test_local_images_need_no_fsspec(toy_faces):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("fsspec", "s3fs")))
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.scan import scan_images
for root in (None, "file://{toy_faces.parent}"):
    benchmark = read_benchmark({str(toy_faces)!r}, FER7, root=root)
    assert not scan_images(benchmark.root, benchmark.paths).problems
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
