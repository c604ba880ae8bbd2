"""A manifest gives exactly the rows it names, or says which of them cannot be trusted."""

import hashlib
import json
import os
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import HEADERS, read_benchmark, read_column
from fer_mlflow.errors import ManifestError

ROWS = "path,label,split,source\nimages/a.jpg,Happy,test,web\nimages/b.jpg,Sad,train,lab\nimages/c.jpg,Fear,test,lab\n"


@pytest.fixture
def read(tmp_path):
    """Write a manifest (text or bytes) and read it; a name in `files` becomes a file under the root."""

    def read(content=ROWS, files="abc", classes=FER7, **options):
        for name in (f"images/{name}.jpg" if len(name) == 1 else name for name in files):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        manifest = tmp_path / "faces.csv"
        manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_benchmark(manifest, classes, **options)

    return read


def refusal(read, *arguments, **options) -> str:
    """Return the message that a manifest is refused with; it is one line and names the manifest."""
    with pytest.raises(ManifestError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digest(*rows) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def test_rows_come_back_in_order_with_columns_and_labels(read, tmp_path):
    benchmark = read()
    assert benchmark.frame.columns.tolist() == ["path", "label", "split", "source"]
    assert benchmark.frame.values.tolist() == [line.split(",") for line in ROWS.splitlines()[1:]]
    assert (benchmark.labels.tolist(), benchmark.labels.dtype) == ([3, 4, 2], np.int64)
    assert (len(benchmark), benchmark.name, benchmark.root, benchmark.classes) == (3, "faces", tmp_path, FER7)
    assert benchmark.manifest_path == tmp_path / "faces.csv"
    assert benchmark.manifest_sha256 == hashlib.sha256(ROWS.encode()).hexdigest()


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + ROWS.encode(), ROWS.replace("\n", "\r\n"), ROWS.rstrip("\n")])
def test_a_byte_order_mark_crlf_and_a_missing_last_newline_change_nothing(read, content):
    assert read(content).selection_sha256 == read(ROWS).selection_sha256


def test_quoted_commas_and_quotes_and_non_ascii_paths(read):
    names = ["images/Ö, ü.jpg", 'images/the "face".jpg', "画像/笑顔.jpg"]
    lines = ['"{}",Happy'.format(name.replace('"', '""')) for name in names]
    assert read("path,label\n" + "\n".join(lines), files=names).paths.tolist() == names


@pytest.mark.parametrize(("part", "alias"), [(part, alias) for part, known in HEADERS.items() for alias in known])
def test_every_header_alias_in_any_case_and_with_blanks(read, part, alias):
    content = ROWS.replace(part, f" {alias.title()} ", 1)
    assert read(content).selection_sha256 == read(ROWS).selection_sha256


def test_the_first_known_header_counts_and_the_rest_passes_through_as_text(read):
    frame = read("image,age,path,class,label\nx,007,images/a.jpg,other,sad\ny,NA,images/b.jpg,,\n").frame
    assert frame.columns.tolist() == ["path", "label", "split", "source", "image", "age", "class"]
    assert frame.values.tolist() == [
        ["images/a.jpg", "Sad", "", "", "x", "007", "other"],
        ["images/b.jpg", "", "", "", "y", "NA", ""],
    ]


def test_of_two_headers_that_differ_in_case_the_first_counts(read):
    assert read("Path,path\nimages/a.jpg,images/b.jpg\n").paths.tolist() == ["images/a.jpg"]


def test_a_split_selects_rows_and_a_limit_the_first_of_them(read):
    assert read(split="test").paths.tolist() == ["images/a.jpg", "images/c.jpg"]
    assert read(split="test").frame.index.tolist() == [0, 1]
    limited = read(split="test", limit=2)
    assert (limited.paths.tolist(), limited.name) == (["images/a.jpg", "images/c.jpg"], "faces:test:first2")
    assert read(split="test", limit=1).labels.tolist() == [3]
    assert read(limit=2).name == "faces:first2"
    assert len(read(limit=99)) == 3


def test_only_the_selected_rows_must_be_sound(read):
    content = ROWS + "images/none.jpg,Bored,other,\n"
    assert len(read(content, split="test")) == 2
    assert len(read(content, limit=3)) == 3


@pytest.mark.parametrize("label", ["Sad", "sad", " SADNESS ", "4", "4.0"])
def test_labels_by_name_alias_and_index_are_one_class(read, label):
    benchmark = read(f"path,label\nimages/a.jpg,{label}\n")
    assert (benchmark.labels.tolist(), benchmark.frame["label"].tolist()) == ([4], ["Sad"])


@pytest.mark.parametrize(
    "content", ["path\nimages/a.jpg\n", "path,label\nimages/a.jpg,\n", "path,label\nimages/a.jpg,  \n"]
)
def test_rows_without_a_label(read, content):
    benchmark = read(content)
    assert (benchmark.labels.tolist(), benchmark.frame.values.tolist()) == ([-1], [["images/a.jpg", "", "", ""]])


def test_another_class_order_and_a_data_sets_own_codes(read):
    codes = ClassOrder.of(("Happy", "Angry"), {"Happy": ["4"], "Angry": ["6", "cross"]})
    benchmark = read("path,label\nimages/a.jpg,6\nimages/b.jpg,4.0\nimages/c.jpg,CROSS\n", classes=codes)
    assert benchmark.labels.tolist() == [1, 0, 1]
    assert '1 x label that is not one of Happy, Angry: row 1 "0"' in refusal(
        read, "path,label\nimages/a.jpg,0\n", classes=codes
    )


def test_another_root(read, tmp_path):
    content = "path\nx/a.jpg\n"
    assert read(content, files=["other/x/a.jpg"], root=tmp_path / "other").paths.tolist() == ["x/a.jpg"]
    assert "no is not a folder; give the folder" in refusal(read, root=tmp_path / "no")


def test_files_beside_the_manifest_are_found(read):
    assert read("path\na.jpg\n", files=["a.jpg"]).paths.tolist() == ["a.jpg"]


def test_unknown_labels_are_refused_with_the_first_ten_rows_of_the_file_and_the_count(read):
    rows = "".join(f"images/{n}.jpg,label{n},test\nimages/x{n}.jpg,Happy,train\n" for n in range(12))
    message = refusal(read, f"path,label,split\n{rows}", split="test")
    assert "12 x label that is not one of Angry, Disgust, Fear, Happy, Sad, Surprise, Neutral: row 1 " in message
    assert 'row 1 "label0", row 3 "label1", ' in message
    assert 'row 19 "label9" and 2 more; map it with --classes' in message
    assert "label10" not in message


def test_an_empty_selection_names_the_splits_there_are(read):
    assert 'faces.csv: no row has split "val"; its splits are test (2), train (1)' in refusal(read, split="val")
    assert 'no row has split "test"; its splits are (empty) (1)' in refusal(read, "path\nimages/a.jpg\n", split="test")
    assert "faces.csv: no rows below the header" in refusal(read, "path,label\n")


@pytest.mark.parametrize(
    "again", ["images/a.jpg", "./images/a.jpg", "images//a.jpg", "images/x/../a.jpg", "{root}/images/a.jpg"]
)
def test_duplicate_paths_are_refused_however_they_are_written(read, tmp_path, again):
    message = refusal(read, f"path\nimages/a.jpg\nimages/b.jpg\n{again.format(root=tmp_path)}\n")
    assert '1 x duplicate path: row 3 "images/a.jpg"; keep one row for each image' in message


@pytest.mark.parametrize(
    "path",
    ["../a.jpg", "images/../../a.jpg", "/etc/hostname", "{root}/../a.jpg", "{root}x/a.jpg", ".", "images/..", '""'],
)
def test_paths_that_leave_the_root_are_refused_with_and_without_verification(read, tmp_path, path):
    path = path.format(root=tmp_path)
    for verify in (True, False):
        message = refusal(read, f"path\nimages/a.jpg\n{path}\n", verify_paths=verify)
        shown = path.strip('"')
        assert f'1 x path that is empty or leaves the root {tmp_path}: row 2 "{shown}"; correct the paths' in message


@pytest.mark.parametrize("path", ["{root}/images/a.jpg", "./images/a.jpg", "images/./a.jpg", "images/../images/a.jpg"])
def test_paths_inside_are_made_relative(read, tmp_path, path):
    assert read(f"path\n{path.format(root=tmp_path)}\n").paths.tolist() == ["images/a.jpg"]


def test_names_of_dots_are_names(read):
    names = ["images/...", "images/..a.jpg", "images/.hidden", "images/a..jpg"]
    assert read("path\n" + "\n".join(names), files=names).paths.tolist() == names


@pytest.fixture
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.jpg").write_bytes(b"secret")
    return folder


def test_links_that_lead_out_are_refused(read, tmp_path, outside):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/link.jpg").symlink_to(outside / "secret.jpg")
    (tmp_path / "images/again.jpg").symlink_to("link.jpg")
    (tmp_path / "linked").symlink_to(outside)
    for path in ("images/link.jpg", "images/again.jpg", "linked/secret.jpg"):
        message = refusal(read, f"path\nimages/a.jpg\n{path}\n")
        assert f'1 x link that leads out of the root {tmp_path}: row 2 "{path}"; copy the files' in message
        assert len(read(f"path\n{path}\n", verify_paths=False)) == 1


def test_links_inside_the_root_and_a_root_that_is_a_link_are_fine(read, tmp_path, outside):
    read()
    (tmp_path / "images/link.jpg").symlink_to("a.jpg")
    (tmp_path / "linked").symlink_to("images")
    (outside / "root").symlink_to(tmp_path)
    content = "path\nimages/link.jpg\nlinked/b.jpg\nimages/c.jpg\n"
    assert len(read(content)) == 3
    assert len(read(content, root=outside / "root")) == 3


def test_missing_files_are_refused_with_the_first_ten_and_the_count(read, tmp_path):
    (tmp_path / "images/folder.jpg").mkdir(parents=True)
    (tmp_path / "images/broken.jpg").symlink_to("nothing.jpg")
    bad = ["images/folder.jpg", "images/broken.jpg", "nowhere/a.jpg", *(f"images/{n}.jpg" for n in range(9))]
    message = refusal(read, "path\nimages/a.jpg\n" + "\n".join(bad))
    assert f'12 x file that is not under {tmp_path}: row 2 "images/folder.jpg", row 3 "images/broken.jpg", ' in message
    assert 'row 11 "images/6.jpg" and 2 more; give the folder of the paths with --root' in message


def test_a_link_to_itself_hides_no_other_file(read, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/loop.jpg").symlink_to("loop.jpg")
    for name in "abcdefgh":
        assert len(read(f"path\nimages/{name}.jpg\n", files="abcdefgh")) == 1
    assert 'row 1 "images/loop.jpg"' in refusal(read, "path\nimages/loop.jpg\n")


@pytest.mark.parametrize("path", [b"images/a\0.jpg", b"im\0ages/a.jpg"])
def test_a_path_that_no_file_can_have_is_a_missing_file(read, path):
    assert "1 x file that is not under" in refusal(read, b"path\n" + path + b"\n")


def test_verification_lists_each_folder_once_and_can_be_switched_off(read, monkeypatch):
    names = [f"images/{folder}/{n}.jpg" for folder in "xyz" for n in range(20)]
    content = "path\n" + "\n".join(names[::-1])
    read(content, files=names)
    listed, scandir = Counter(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": listed.update([os.fspath(path)]) or scandir(path))
    benchmark = read(content, files=())
    assert sorted(listed.items()) == [(str(benchmark.root / "images" / folder), 1) for folder in "xyz"]
    listed.clear()
    assert len(read(content + "\nnowhere/at/all.jpg", files=(), verify_paths=False)) == 61
    assert not listed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\nGr\xfcn.jpg\n".encode("latin-1"), "faces.csv: byte 7 is not UTF-8; save the file as UTF-8"),
        (ROWS.encode("utf-16"), "is not UTF-8"),
        (b"", "faces.csv: not a CSV with a header line (No columns to parse from file)"),
        (
            "name,label\na.jpg,Happy\n",
            "found columns name, label; one of them must be named path or image or image_path",
        ),
        ("path,label\na.jpg,Happy\nb.jpg\n", "faces.csv row 2: fewer values than the header's 2; complete the row"),
        ("path,label\na.jpg,Happy,x\nb.jpg,Sad,y\n", "rows have more values than the 2 of the header; quote commas"),
        ("path,label\na.jpg,Happy\nb.jpg,Sad,y\n", "Expected 2 fields in line 3, saw 3"),
        ('path,label\n"a.jpg,Happy\n', "not a CSV with a header line"),
    ],
)
def test_what_is_no_table_of_paths_is_refused(read, content, message):
    assert message in refusal(read, content)


def test_a_manifest_that_is_not_there_or_is_a_folder(tmp_path):
    with pytest.raises(ManifestError, match=r"no\.csv: No such file or directory"):
        read_benchmark(tmp_path / "no.csv", FER7)
    with pytest.raises(ManifestError, match="Is a directory"):
        read_benchmark(tmp_path, FER7)


def test_the_selection_digest_is_the_hash_of_the_rows_as_json(read):
    rows = [["images/a.jpg", "Happy", "test", "web"], ["images/b.jpg", "Sad", "train", "lab"]]
    assert read(limit=2).selection_sha256 == digest(*rows)
    assert read('path\n"images/Ö ""x"".jpg"\n', verify_paths=False).selection_sha256 == digest(
        ['images/Ö "x".jpg', "", "", ""]
    )


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 8193])
def test_the_digest_of_many_rows_is_the_same_hash(read, count):
    rows = [[f"{n}.jpg", FER7.names[n % 7], "test", ""] for n in range(count)]
    content = "path,label,split\n" + "\n".join(",".join(row[:3]) for row in rows)
    assert read(content, verify_paths=False).selection_sha256 == digest(*rows)


@pytest.mark.parametrize(
    ("old", "new"), [("a.jpg", "d.jpg"), ("Happy", "Sad"), ("Happy", ""), ("web", "Web"), ("train", "test")]
)
def test_any_change_of_a_row_changes_the_digest(read, old, new):
    assert read(ROWS.replace(old, new), files="abcd").selection_sha256 != read(ROWS).selection_sha256


def test_order_changes_the_digest_and_moving_text_between_columns_does_too(read):
    header, *rows = ROWS.splitlines()
    assert read("\n".join([header, *rows[::-1]])).selection_sha256 != read().selection_sha256
    one, other = (f"path,split,source\nimages/a.jpg,{values}\n" for values in ("x,", ",x"))
    assert read(one).selection_sha256 != read(other).selection_sha256


def test_spelling_columns_root_and_line_ends_do_not_change_the_digest(read, tmp_path):
    rows = ["test,./images/a.jpg,web,1,HAPPINESS", "train,images/b.jpg,lab,2,4", "test,images/c.jpg,lab,3,fearful"]
    same = "\r\n".join(["usage,Image,dataset,id,emotion", *rows])
    expected = read().selection_sha256
    assert read(same).selection_sha256 == expected
    (tmp_path / "moved").symlink_to(tmp_path)
    assert read(root=tmp_path / "moved").selection_sha256 == expected


COLUMNS = "path,label,split,age\nimages/a.jpg,Happy,test,007\nimages/b.jpg,Sad,train,\nimages/c.jpg,Fear,test, NA \n"


def column(tmp_path, content=COLUMNS, name="age", paths=("images/c.jpg", "images/a.jpg")):
    manifest = tmp_path / "faces.csv"
    manifest.write_text(content)
    return read_column(manifest, name, tmp_path, pd.Series(list(paths))).tolist()


def column_refusal(*arguments, **named) -> str:
    with pytest.raises(ManifestError) as caught:
        column(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_column_comes_in_the_order_of_the_paths_as_it_is_written(tmp_path):
    assert column(tmp_path) == [" NA ", "007"]
    assert column(tmp_path, paths=["images/b.jpg"] * 2) == ["", ""]
    assert column(tmp_path, paths=[]) == []
    assert column(tmp_path, name="label") == ["Fear", "Happy"]


def test_a_column_is_found_by_paths_however_they_are_written(tmp_path):
    written = COLUMNS.replace("path,", "Image ,").replace("images/c", "./images//x/../c")
    assert column(tmp_path, written.replace("images/a", f"{tmp_path}/images/a")) == [" NA ", "007"]


def test_a_column_does_not_mind_rows_that_nobody_asks_for(tmp_path):
    others = "../outside.jpg,Happy,train,9\n,Happy,train,9\nimages/b.jpg,Sad,val,other\nimages/a.jpg,Happy,val,007\n"
    assert column(tmp_path, COLUMNS + others) == [" NA ", "007"]


def test_a_column_or_a_path_that_is_not_there_is_refused(tmp_path):
    assert column_refusal(tmp_path, name="mood").endswith(
        "faces.csv: no column mood; there are path, label, split, age"
    )
    assert 'faces.csv: no row has the path "images/d.jpg"' in column_refusal(
        tmp_path, paths=["images/a.jpg", "images/d.jpg"]
    )
    twice = COLUMNS + "images/a.jpg,Happy,val,8\n"
    assert 'rows of the path "images/a.jpg" have different values of age' in column_refusal(tmp_path, twice)
    with pytest.raises(ManifestError, match=r"none\.csv: No such file"):
        read_column(tmp_path / "none.csv", "age", tmp_path, pd.Series(["a.jpg"]))
