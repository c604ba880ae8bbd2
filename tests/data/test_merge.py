"""Merged manifests: paths that stay valid, each image once, contradictions refused, leakage reported."""

import pytest
import toys
from trees import put

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import read_benchmark, rebase_paths, write_manifest
from fer_mlflow.data.merge_split import ManifestInput, merge, parse_input
from fer_mlflow.errors import ContractError, ImageError, ManifestError

EIGHT = ClassOrder.of((*toys.CLASSES, "Contempt"))


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest with images: rows of (path, number of its image, label, split, source)."""

    def write(name, rows, extra=""):
        path = tmp_path / name
        lines = ["path,label,split,source" + (",age" if extra else "")]
        for image, number, *others in rows:
            put(path.parent / image, number)
            lines.append(",".join([image, *others, *([extra] if extra else [])]))
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_rows_come_in_the_order_of_the_inputs_and_their_paths_stay_valid(tmp_path, manifest):
    a = manifest("sets/a/A.csv", [("x/1.jpg", 1, "Happy", "train", ""), ("x/2.jpg", 2, "Sad", "test", "web")])
    b = manifest("sets/b.csv", [("y/3.jpg", 3, "Fear", "", "")], extra="30")
    merged = merge([ManifestInput(a), ManifestInput(b)], tmp_path)
    assert merged.frame.values.tolist() == [
        ["sets/a/x/1.jpg", "Happy", "train", "A", ""],
        ["sets/a/x/2.jpg", "Sad", "test", "web", ""],
        ["sets/y/3.jpg", "Fear", "", "b", "30"],
    ]
    assert merged.frame.columns.tolist() == ["path", "label", "split", "source", "age"]
    assert merged.rows == {str(a): 2, str(b): 1}
    assert merged.duplicates.empty
    write_manifest(merged.frame, tmp_path / "all.csv")
    assert len(read_benchmark(tmp_path / "all.csv", FER7)) == 3  # every path is a file under the manifest's folder


def test_a_source_that_is_given_replaces_all_others(manifest, tmp_path):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "", ""), ("2.jpg", 2, "Sad", "", "web")])
    b = manifest("b.csv", [("3.jpg", 3, "Happy", "", "lab")])
    assert merge([ManifestInput(a, source="mine"), ManifestInput(b)], tmp_path).frame["source"].tolist() == [
        "mine",
        "mine",
        "lab",
    ]


def test_inputs_name_their_split_after_a_colon(tmp_path, manifest):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "train", ""), ("2.jpg", 2, "Sad", "test", "")])
    b = manifest("b.csv", [("3.jpg", 3, "Happy", "val", "")])
    assert parse_input(f"{a}:test") == ManifestInput(a, "test")
    assert parse_input(str(a)) == ManifestInput(a)
    odd = tmp_path / "c.csv:test"
    odd.write_text("x")
    assert parse_input(str(odd)) == ManifestInput(odd)
    merged = merge([parse_input(f"{a}:test"), ManifestInput(b)], tmp_path)
    assert merged.frame["path"].tolist() == ["2.jpg", "3.jpg"]
    with pytest.raises(ManifestError, match='no row has split "tset"'):
        merge([parse_input(f"{a}:tset"), ManifestInput(b)], tmp_path)


def test_the_same_image_under_two_paths_is_kept_once_and_outside_of_training(tmp_path, manifest):
    a = manifest(
        "a.csv",
        [
            ("1.jpg", 1, "Happy", "train", "a"),  # again in b's test: leaks
            ("2.jpg", 2, "Sad", "train", "a"),  # again in a itself
            ("2again.jpg", 2, "Sad", "train", "a"),
            ("3.jpg", 3, "", "train", "a"),  # labelled in b
            ("4.jpg", 4, "Fear", "train", "a"),
        ],
    )
    b = manifest("b.csv", [("b1.jpg", 1, "Happy", "test", "b"), ("b3.jpg", 3, "Angry", "train", "b")])
    merged = merge([ManifestInput(a), ManifestInput(b)], tmp_path)
    assert merged.frame[["path", "label", "split"]].values.tolist() == [
        ["2.jpg", "Sad", "train"],
        ["4.jpg", "Fear", "train"],
        ["b1.jpg", "Happy", "test"],
        ["b3.jpg", "Angry", "train"],
    ]
    assert merged.duplicates.values.tolist() == [
        ["b1.jpg", "1.jpg", "test", "train", str(b), str(a)],
        ["2.jpg", "2again.jpg", "train", "train", str(a), str(a)],
        ["b3.jpg", "3.jpg", "train", "train", str(b), str(a)],
    ]
    assert merged.leaked["dropped"].tolist() == ["1.jpg"]


def test_one_file_that_two_inputs_name_is_kept_once(tmp_path, manifest):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "", "")])
    b = manifest("b.csv", [("1.jpg", 1, "Happy", "", ""), ("2.jpg", 2, "Sad", "", "")])
    assert merge([ManifestInput(a), ManifestInput(b)], tmp_path).frame["path"].tolist() == ["1.jpg", "2.jpg"]


def test_an_image_with_two_labels_is_refused_with_both_paths(tmp_path, manifest):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "train", "")])
    b = manifest("b.csv", [("b1.jpg", 1, "Sad", "train", "")])
    with pytest.raises(ManifestError) as caught:
        merge([ManifestInput(a), ManifestInput(b)], tmp_path)
    labels = f'"Happy" for 1.jpg ({a}) and "Sad" for b1.jpg ({b})'
    assert str(caught.value) == f"1 images have two labels: {labels}; correct or remove one of the rows"


def test_inputs_with_different_class_sets_are_refused_unless_the_set_is_given(tmp_path, manifest):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "train", "")])
    b = manifest("b.csv", [("2.jpg", 2, "Contempt", "train", ""), ("3.jpg", 3, "Happy", "train", "")])
    with pytest.raises(ManifestError) as caught:
        merge([ManifestInput(a), ManifestInput(b)], tmp_path)
    assert f"{b} has rows labelled Contempt, which {a} has no class for" in str(caught.value)
    merged = merge([ManifestInput(a), ManifestInput(b)], tmp_path, EIGHT)
    assert merged.frame["label"].tolist() == ["Happy", "Contempt", "Happy"]
    assert merged.lacking == {str(a): ("Contempt",)}


def test_two_inputs_of_other_classes_than_the_usual_need_classes(tmp_path, manifest):
    a = manifest("a.csv", [("1.jpg", 1, "Contempt", "", "")])
    b = manifest("b.csv", [("2.jpg", 2, "Contempt", "", "")])
    with pytest.raises(ManifestError, match="label that is not one of Angry"):
        merge([ManifestInput(a), ManifestInput(b)], tmp_path)


def test_inputs_outside_of_the_root_are_refused_with_a_root_that_works(tmp_path, manifest):
    a = manifest("one/a.csv", [("1.jpg", 1, "Happy", "", "")])
    b = manifest("two/b.csv", [("2.jpg", 2, "Sad", "", "")])
    with pytest.raises(ManifestError) as caught:
        merge([ManifestInput(a), ManifestInput(b)], tmp_path / "one")
    assert f"give --root {tmp_path} here and in every command" in str(caught.value)
    assert merge([ManifestInput(a), ManifestInput(b)], tmp_path).frame["path"].tolist() == ["one/1.jpg", "two/2.jpg"]


def test_an_input_may_have_a_root_of_its_own(tmp_path, manifest):
    a = manifest("one/a.csv", [("1.jpg", 1, "Happy", "", "")])
    b = manifest("two/b.csv", [("2.jpg", 2, "Sad", "", "")])
    moved = tmp_path / "lists" / "a.csv"
    moved.parent.mkdir()
    a.rename(moved)
    merged = merge([ManifestInput(moved, root=tmp_path / "one"), ManifestInput(b)], tmp_path)
    assert merged.frame["path"].tolist() == ["one/1.jpg", "two/2.jpg"]


def test_an_image_that_cannot_be_read_is_named(tmp_path, manifest, monkeypatch):
    a = manifest("a.csv", [("1.jpg", 1, "Happy", "", "")])
    b = manifest("b.csv", [("2.jpg", 2, "Sad", "", "")])

    def refuse(root, path):
        raise ImageError("Permission denied")

    monkeypatch.setattr("fer_mlflow.data.scan.read_image_bytes", refuse)
    with pytest.raises(ImageError, match=r"1 images cannot be read, first .*1\.jpg: Permission denied"):
        merge([ManifestInput(a), ManifestInput(b)], tmp_path)


def test_one_input_is_no_merge(manifest, tmp_path):
    with pytest.raises(ContractError, match="two or more"):
        merge([ManifestInput(manifest("a.csv", [("1.jpg", 1, "Happy", "", "")]))], tmp_path)


def test_links_in_the_root_stay_in_the_paths(tmp_path):
    import pandas as pd

    (tmp_path / "far").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/near").symlink_to(tmp_path / "far")
    paths = pd.Series(["1.jpg"])
    assert rebase_paths(tmp_path / "root", tmp_path / "root/near", paths).tolist() == ["near/1.jpg"]
    assert rebase_paths(tmp_path, tmp_path, paths).tolist() == ["1.jpg"]
    with pytest.raises(ManifestError, match="outside of"):
        rebase_paths(tmp_path / "root", tmp_path, paths)
