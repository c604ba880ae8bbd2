"""Commands on images in an object store, whose results must be those on a folder with the same images."""

import re
import shutil
from pathlib import Path

import pytest
import toys
from fsspec.implementations.memory import MemoryFileSystem
from mlflow import MlflowClient

WEIGHTS = ("--weights", "A=0.6,B=0.4")


@pytest.fixture(scope="module")
def broken_faces(tmp_path_factory, toy_faces):
    """Return the manifest of the toy faces, one of which is cut short and one of which is no image."""
    shutil.copytree(toy_faces.parent, folder := tmp_path_factory.mktemp("broken") / "faces")
    whole = (folder / "images/f0003.jpg").read_bytes()
    (folder / "images/f0003.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "images/f0050.jpg").write_bytes(b"<html>")
    return folder / toy_faces.name


@pytest.fixture(scope="module")
def exported(local_place, broken_faces, toy_teachers):
    """Return what commands made of the images in a folder."""
    return run_all(local_place, broken_faces, toy_teachers)


def run_all(place, manifest, teachers, *more):
    """Export, evaluate and check; return the bundle's hash, the check's report and a run's figure of mistakes."""
    export = ("export", "--manifest", manifest, "--teachers", teachers, *WEIGHTS, "--on-bad-image", "skip")
    place.run(*export, *more)
    run = place.runs("export")[0]
    place.run("evaluate", "--run", run.info.run_id)
    figure = place.folder / "figures" / run.info.run_id
    figure.mkdir(parents=True)
    path = MlflowClient(place.uri).download_artifacts(place.runs("evaluate")[0].info.run_id, "mistakes.png", figure)
    check = place.run(
        "manifest", "check", manifest, *[each for each in more if "worker" not in each and each != "2"], status=2
    )
    return run.data.tags["fer.bundle_sha256"], check.output, Path(path).read_bytes()


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_export_evaluate_and_check_give_the_same_from_a_store(
    scheme, request, workplace, exported, broken_faces, toy_teachers, tmp_path
):
    if scheme == "s3":
        request.getfixturevalue("object_store")
    root = toys.store_folder(broken_faces.parent, f"{scheme}://broken-{scheme}/faces")
    elsewhere = tmp_path / "elsewhere" / broken_faces.name  # the manifest alone, without the images
    elsewhere.parent.mkdir()
    shutil.copy(broken_faces, elsewhere)
    bundle, check, mistakes = run_all(workplace, elsewhere, toy_teachers, "--root", root, "--workers", "2")
    assert bundle == exported[0]
    assert check.replace(str(elsewhere), "") == exported[1].replace(str(broken_faces), "")
    assert mistakes == exported[2]
    assert workplace.runs("export")[0].data.params["root"] == root


def test_evaluate_goes_on_without_the_mistakes_where_the_store_refuses(workplace, toy_faces, toy_teachers, monkeypatch):
    root = toys.store_folder(toy_faces.parent, "memory://refused")
    export = ("export", "--manifest", toy_faces, "--teachers", toy_teachers, *WEIGHTS, "--root", root)
    workplace.run(*export)
    run = workplace.runs("export")[0].info.run_id

    def cat_file(self, path):
        raise PermissionError("expired token")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    output = workplace.run("evaluate", "--run", run).output
    refused = r"memory://refused/\S+: the store did not give it \(expired token\); run the same command again"
    assert re.search(f"mistakes.png is left out: {refused}", output)
    message = workplace.run(*export, "--space", "prob", status=1).output
    assert re.search(f"fer-mlflow: {refused}", message)
