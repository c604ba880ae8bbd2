"""The manifest workflows called from Python: the same files and findings as the command line, as values."""

import pytest
import toys
from trees import put, rafdb

import fer_mlflow
from fer_mlflow.errors import ContractError, ManifestError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_manifest_is_built_split_merged_and_checked(folder):
    rafdb(folder / "RAF-DB")
    built = fer_mlflow.build_manifest(dataset="rafdb", folder=folder / "RAF-DB", out="a.csv")
    assert (built.path.name, len(built.frame), str(built.root)) == ("a.csv", 7, ".")
    assert repr(built) == "ManifestResult(path='a.csv', rows=7)"
    split = fer_mlflow.split_manifest(manifest="a.csv", out="b.csv", splits={"train": 0.5, "test": 0.5}, seed=1)
    assert set(split.frame["split"]) == {"train", "test"}
    put(folder / "more/1.jpg", 77)
    (folder / "more.csv").write_text("path,label,split\nmore/1.jpg,Sad,test\n")
    merged = fer_mlflow.merge_manifests(inputs=["b.csv", folder / "more.csv"], source=["", "web"], out="c.csv")
    assert merged.frame["source"].tolist() == ["rafdb"] * 7 + ["web"]
    check = fer_mlflow.check_manifest(manifest="c.csv", against="b.csv")
    assert (check.errors, check.relation.verdict, check.relation.shared_images) == (0, "superset", 7)
    assert repr(check) == f"CheckManifestResult(name='c.csv', errors=0, warnings={check.warnings})"
    assert len(check.check.benchmark) == 8


def test_findings_are_values_and_only_what_is_no_manifest_raises(folder):
    (folder / "bad.csv").write_text("path,label\ngone.jpg,Sad\n")
    check = fer_mlflow.check_manifest(manifest="bad.csv")
    assert (check.errors, [finding.name for finding in check.check.findings]) == (1, ["refused"])
    with pytest.raises(ManifestError, match="No such file"):
        fer_mlflow.check_manifest(manifest="none.csv")
    with pytest.raises(ContractError, match='dataset: "web" is not one of rafdb'):
        fer_mlflow.check_manifest(manifest="bad.csv", dataset="web")


def test_settings_name_the_field_that_is_wrong():
    with pytest.raises(ContractError, match=r"^dataset: 'raf' is not one of rafdb, affectnet"):
        fer_mlflow.build_manifest(dataset="raf", folder=".", out="a.csv")
    with pytest.raises(ContractError, match=r"^splits: shares sum to 0.9, not to 1"):
        fer_mlflow.split_manifest(manifest="a.csv", out="b.csv", splits="train=0.8,val=0.1")
    with pytest.raises(ContractError, match="--source: found 3 for 2 inputs"):
        fer_mlflow.merge_manifests(inputs=["a.csv", "b.csv"], source=["1", "2", "3"], out="c.csv")


def test_a_builder_is_a_module_and_a_word(folder, monkeypatch):
    """A planted builder is found by its name; nothing else in the package knows it."""
    import sys
    import types

    import pandas as pd

    from fer_mlflow import datasets
    from fer_mlflow.data.classes import FER7

    def list_rows(request):
        return datasets.Listing(pd.DataFrame({"path": ["1.jpg"], "label": "Sad", "split": ""}), request.folder)

    planted = types.ModuleType("fer_mlflow.datasets.planted")
    planted.list_rows = list_rows
    monkeypatch.setitem(sys.modules, planted.__name__, planted)
    put(folder / "set/1.jpg", 1)
    built = datasets.build("planted", folder / "set", FER7, folder / "images", root=folder)
    assert built.frame.to_dict("records") == [{"path": "set/1.jpg", "label": "Sad", "split": "", "source": "planted"}]


def test_manifests_of_images_in_a_store_are_merged_and_split(folder):
    rows = {"raf": "a.jpg,Sad,train\nb.jpg,Happy,train\n", "web": "c.jpg,Happy,test\n"}
    toys.store_files("memory://merged", {"raf/a.jpg": b"1", "raf/b.jpg": b"2", "web/c.jpg": b"2"})
    for name, text in rows.items():
        (folder / f"{name}.csv").write_text("path,label,split\n" + text)
    given = {"inputs": ["raf.csv", "web.csv"], "from_root": ["memory://merged/raf", "memory://merged/web"]}
    with pytest.raises(
        ManifestError, match=f"^images lie in memory://merged/raf, outside of {folder}, .*--root memory:"
    ):
        fer_mlflow.merge_manifests(**given, out="all.csv")
    merged = fer_mlflow.merge_manifests(**given, out="all.csv", root="memory://merged/")
    assert merged.root == "memory://merged"
    assert merged.frame["path"].tolist() == ["raf/a.jpg", "web/c.jpg"]
    assert "root      memory://merged: give it as --root" in merged.report[-1].lines[-1]
    split = fer_mlflow.split_manifest(
        manifest="all.csv", from_root=merged.root, root="memory://", out="halves.csv", splits={"x": 0.5, "y": 0.5}
    )
    assert split.frame["path"].tolist() == ["merged/raf/a.jpg", "merged/web/c.jpg"]
    check = fer_mlflow.check_manifest(
        manifest="halves.csv", root="memory://", against="raf.csv", against_root=given["from_root"][0]
    )
    assert check.relation.shared_images == 2
