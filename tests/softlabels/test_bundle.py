"""A bundle comes back as it was written, byte for byte the same each time, or it does not come back at all."""

import hashlib
import io
import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from fer_mlflow.errors import BundleError
from fer_mlflow.softlabels.bundle import SoftLabels

ARRAYS, INDEX, CLASSES = "softlabels.npz", "softlabels_index.jsonl", "classorder.json"
REPORT, METRICS, HASHES = "alignmentreport.json", "ensemble_metrics.json", "hash_manifest.json"
NAMES = ("Happy", "Sad", "Neutral")
INDEX_FRAME = pd.DataFrame(
    {
        "row": [0, 1, 3, 4],  # 2 could not be decoded
        "path": ["a.jpg", 'Ö/"b", c.jpg', "画.jpg", "d\u2028e\n.jpg"],
        "label": ["Sad", "", "Happy", "Neutral"],
        "split": "test",
        "source": ["web", "", "lab", "lab"],
        "image_sha256": [character * 64 for character in "0af9"],
    }
)
LOGITS = np.array([[0.5, 1, -2], [1e-8, 3, 0], [-7.25, 1000, -1000], [2, 0.1, 0]], np.float32)
PARTS = {
    "logits": LOGITS,
    "index": INDEX_FRAME,
    "classes": NAMES,
    "report": {"benchmark": {"name": "faces:test"}, "checks": [1.5, None, "ä"]},
    "metrics": {"accuracy": 2 / 3, "f1/Happy": 1.0},
    "manifest_sha256": "ab" * 32,
    "checkpoints": {"RN18": "12" * 32, "B3": "34" * 32},
}


def write(folder: Path, **changes) -> SoftLabels:
    return SoftLabels.of(**(PARTS | changes)).write(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def selection(index: pd.DataFrame) -> str:
    """Return the selection digest, computed without the package."""
    rows = index[["path", "label", "split", "source"]].values.tolist()
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def assert_holds(bundle: SoftLabels, parts: dict) -> None:
    assert bundle.logits.dtype == parts["logits"].dtype
    assert bundle.logits.tobytes() == parts["logits"].tobytes()
    assert bundle.index.to_dict("list") == parts["index"].to_dict("list")
    assert bundle.index["row"].dtype == np.int64
    for name in ("classes", "report", "metrics", "manifest_sha256", "checkpoints"):
        assert getattr(bundle, name) == parts[name]
    assert bundle.selection_sha256 == selection(parts["index"])
    positions = [parts["classes"].index(label) if label else -1 for label in parts["index"]["label"]]
    assert (bundle.labels.tolist(), bundle.labels.dtype) == (positions, np.int64)
    assert len(bundle) == len(parts["logits"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_bundle_comes_back_as_it_was_written(tmp_path, dtype):
    written = write(tmp_path / "out", logits=LOGITS.astype(dtype))
    for bundle in (written, SoftLabels.open(tmp_path / "out"), SoftLabels.open(str(tmp_path / "out"))):
        assert_holds(bundle, PARTS | {"logits": LOGITS.astype(dtype)})
        assert bundle.folder == tmp_path / "out"
        assert bundle.sha256 == hashlib.sha256((tmp_path / "out" / HASHES).read_bytes()).hexdigest()


@st.composite
def parts_of_bundles(draw):
    N, C = draw(st.integers(0, 6)), draw(st.integers(2, 5))
    width = draw(st.sampled_from([16, 32]))
    classes = tuple(draw(st.lists(st.text(min_size=1), min_size=C, max_size=C, unique=True)))
    text = st.lists(st.text(), min_size=N, max_size=N)
    index = {"row": sorted(draw(st.lists(st.integers(0, 10**12), min_size=N, max_size=N, unique=True)))}
    index["path"] = draw(text)
    index["label"] = draw(st.lists(st.sampled_from((*classes, "")), min_size=N, max_size=N))
    index |= {"split": draw(text), "source": draw(text)}
    index["image_sha256"] = draw(st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=N, max_size=N))
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    logits = draw(arrays.arrays(f"float{width}", (N, C), elements=floats))
    types = {"row": "int64"} | dict.fromkeys(list(index)[1:], "str")
    return PARTS | {"logits": logits, "classes": classes, "index": pd.DataFrame(index).astype(types)}


@settings(max_examples=40, deadline=None)
@given(parts_of_bundles())
def test_any_bundle_comes_back_as_it_was_written(parts):
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(SoftLabels.of(**parts).write(Path(folder) / "out"), parts)


def test_many_rows_come_back(tmp_path):
    N = 8195  # the index is read and written in parts
    index = pd.DataFrame(
        {"row": range(N), "path": [f"{n}.jpg" for n in range(N)], "label": [NAMES[n % 3] for n in range(N)]}
    )
    index = index.assign(split="", source="", image_sha256=[f"{n:064x}" for n in range(N)])
    parts = PARTS | {"logits": np.random.default_rng(0).normal(size=(N, 3)).astype(np.float16), "index": index}
    assert_holds(SoftLabels.of(**parts).write(tmp_path / "out"), parts)


def test_the_files_are_plain_and_say_what_the_format_says(tmp_path):
    write(tmp_path / "out")
    files = contents(tmp_path / "out")
    assert set(files) == {ARRAYS, INDEX, CLASSES, REPORT, METRICS, HASHES}
    lines = [json.loads(line) for line in files[INDEX].decode().split("\n")[:-1]]
    assert [list(line) for line in lines] == [["row", "path", "label", "split", "source", "image_sha256"]] * 4
    assert [line["label"] for line in lines] == ["Sad", None, "Happy", "Neutral"]
    assert json.loads(files[CLASSES]) == list(NAMES)
    assert json.loads(files[HASHES]) == {
        "format": "fer-softlabels/2",
        "manifest_sha256": "ab" * 32,
        "selection_sha256": selection(INDEX_FRAME),
        "checkpoints": PARTS["checkpoints"],
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in files if name != HASHES},
    }


def test_the_same_content_gives_the_same_bytes_and_other_content_another_digest(tmp_path):
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with zipfile.ZipFile(tmp_path / "one" / ARRAYS) as archive:  # nor will it differ at another time
        assert [entry.date_time for entry in archive.infolist()] == [(1980, 1, 1, 0, 0, 0)]
    assert first.sha256 == second.sha256
    changes = [{"logits": LOGITS + 1}, {"report": {}}, {"metrics": {}}, {"manifest_sha256": "cd" * 32}]
    changes += [{"index": INDEX_FRAME.assign(source="x")}, {"checkpoints": {"RN18": "12" * 32}}]
    assert len({first.sha256, *(write(tmp_path / "three", **change).sha256 for change in changes)}) == 7


def test_soft_labels_in_memory_are_those_on_disk(tmp_path):
    in_memory = SoftLabels.of(**PARTS)
    assert_holds(in_memory, PARTS)
    assert in_memory.folder is None
    assert in_memory.sha256 == in_memory.write(tmp_path / "out").sha256
    assert repr(in_memory) == "<SoftLabels 4 rows, 3 classes, float32, in memory>"
    assert "\n" not in repr(SoftLabels.open(tmp_path / "out"))
    assert in_memory.image_sha256.shape == (4, 32)
    assert [digest.tobytes().hex() for digest in in_memory.image_sha256] == INDEX_FRAME["image_sha256"].tolist()


def test_metrics_are_taken_from_the_logits_where_they_are_not_given():
    metrics = SoftLabels.of(**{name: part for name, part in PARTS.items() if name != "metrics"}).metrics
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert SoftLabels.of(**(PARTS | {"index": INDEX_FRAME.assign(label=""), "metrics": None})).metrics == {}


def test_further_columns_come_back_and_are_not_in_the_selection(tmp_path):
    index = INDEX_FRAME.assign(group=["p1", "", "p2", "p1"], age="adult")
    bundle = write(tmp_path / "out", index=index)
    assert bundle.index.to_dict("list") == index.to_dict("list")
    assert bundle.selection_sha256 == selection(INDEX_FRAME)
    assert SoftLabels.open(tmp_path / "out").index["group"].tolist() == ["p1", "", "p2", "p1"]


def test_the_environment_is_kept_and_in_no_digest(tmp_path):
    first, second = (write(tmp_path / name, environment={"device": name}) for name in ("cpu", "cuda"))
    assert (first.environment, first.sha256) == ({"device": "cpu"}, second.sha256)
    assert SoftLabels.of(**PARTS).sha256 == first.sha256
    hashed = set(contents(tmp_path / "cpu")) - {"environment.json"}
    assert all((tmp_path / "cpu" / name).read_bytes() == (tmp_path / "cuda" / name).read_bytes() for name in hashed)
    for text in ("", "[]", "{"):
        (tmp_path / "cpu/environment.json").write_text(text)
        assert SoftLabels.open(tmp_path / "cpu").environment == {}


def test_without_labels_there_are_no_metrics(tmp_path):
    bundle = write(tmp_path / "out", metrics={}, index=INDEX_FRAME.assign(label=""))
    assert (bundle.metrics, bundle.labels.tolist()) == ({}, [-1] * 4)
    assert METRICS not in contents(tmp_path / "out")


def test_a_bundle_replaces_the_old_one_whole(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / "stray").write_bytes(b"")
    write(tmp_path / "out", metrics={})
    assert set(contents(tmp_path)) == {f"out/{name}" for name in (ARRAYS, INDEX, CLASSES, REPORT, HASHES)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.where(LOGITS == 0.5, np.nan, LOGITS)}, f"{ARRAYS}: 1 rows are not finite, row 0 first"),
        ({"logits": LOGITS.astype(np.float64)}, f"{ARRAYS}: logits are float64 (4, 3), {CLASSES} calls for (rows, 3)"),
        ({"logits": LOGITS[:3]}, f"{INDEX}: 4 rows, {ARRAYS} has 3"),
        ({"classes": NAMES[:2]}, f"{ARRAYS}: logits are float32 (4, 3), {CLASSES} calls for (rows, 2)"),
        ({"index": INDEX_FRAME[::-1]}, f"{INDEX}: rows are not in ascending order"),
        ({"index": INDEX_FRAME.assign(label="happy")}, f"{INDEX}: label 'happy' is not in {CLASSES}"),
        ({"manifest_sha256": ""}, f"{HASHES}: a value is not a SHA-256"),
        ({"checkpoints": {}}, f"{HASHES}: names no checkpoints"),
        ({"metrics": {"ece": float("nan")}}, "JSON"),
    ],
)
def test_parts_that_make_no_bundle_are_refused_and_the_old_one_stays(tmp_path, change, message):
    write(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises((BundleError, ValueError)) as caught:
        SoftLabels.of(**(PARTS | change)).write(tmp_path / "out")
    assert message in str(caught.value)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def folder(tmp_path):
    """A sound bundle to be spoilt."""
    write(tmp_path / "out")
    return tmp_path / "out"


def assert_refused(folder: Path, name: str, message: str = "") -> None:
    """The bundle is refused in one line that names the folder, the file and what to do."""
    with pytest.raises(BundleError) as caught:
        SoftLabels.open(folder)
    text = str(caught.value)
    assert text.startswith(f"bundle {folder}: {name}: ")
    assert text.endswith("; export or fetch the bundle again")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("name", [ARRAYS, INDEX, CLASSES, REPORT, METRICS])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_changed_byte_in_any_file_is_found(folder, name, where):
    data = bytearray((folder / name).read_bytes())
    data[round(where * (len(data) - 1))] ^= 1
    (folder / name).write_bytes(data)
    assert_refused(folder, name, f"{HASHES} says ")


def test_a_changed_byte_in_the_descriptor_is_found_or_gives_the_bundle_another_digest(folder):
    before, data = SoftLabels.open(folder).sha256, (folder / HASHES).read_bytes()
    for position in range(0, len(data), 3):
        (folder / HASHES).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            assert SoftLabels.open(folder).sha256 != before
        except BundleError as error:
            assert str(folder) in str(error)  # noqa: PT017  (either outcome is right)


@pytest.mark.parametrize("name", [ARRAYS, INDEX, CLASSES, REPORT, METRICS, HASHES])
@pytest.mark.parametrize("instead", ["nothing", "a folder", "an empty file"])
def test_a_file_that_is_not_there_is_named(folder, name, instead):
    (folder / name).unlink()
    if instead == "a folder":
        (folder / name).mkdir()
    elif instead == "an empty file":
        (folder / name).touch()
    expected = {"nothing": "No such file or directory", "a folder": "Is a directory", "an empty file": ""}
    assert_refused(folder, name, expected[instead])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"none: no such folder; give the folder that holds hash_manifest\.json"):
        SoftLabels.open(tmp_path / "none")


def rehash(folder: Path, **changes) -> None:
    """Make the descriptor fit the files as they are now, so that only deeper checks can find what is wrong."""
    hashes = json.loads((folder / HASHES).read_text())
    hashes["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in hashes["files"]}
    (folder / HASHES).write_text(json.dumps(hashes | changes))


def npz(**named) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npz(logits=np.where(LOGITS == 0, np.nan, LOGITS)), "2 rows are not finite, row 1 first"),
        (npz(logits=np.where(LOGITS == 1000, np.inf, LOGITS)), "1 rows are not finite, row 2 first"),
        (npz(logits=LOGITS.astype(np.float64)), "logits are float64 (4, 3)"),
        (npz(logits=LOGITS.astype(np.int64)), "logits are int64 (4, 3)"),
        (npz(logits=LOGITS[:, :2]), "logits are float32 (4, 2)"),
        (npz(logits=LOGITS[0]), "logits are float32 (3,)"),
        (npz(logits=LOGITS.astype(object)), "no array of logits (Object arrays cannot be loaded"),
        (npz(probs=LOGITS), "no array of logits"),
        (pickle.dumps(LOGITS), "no array of logits"),
        (npy(LOGITS), "no array of logits"),
        (b"PK\x03\x04 no zip", "no array of logits"),
        (b"", "no array of logits"),
    ],
)
def test_arrays_that_are_not_logits_are_refused_though_their_hash_is_right(folder, data, message):
    (folder / ARRAYS).write_bytes(data)
    rehash(folder)
    assert_refused(folder, ARRAYS, message)


@pytest.mark.parametrize("rows", [0, 3, 5])
def test_another_number_of_logits_than_rows_is_refused(folder, rows):
    (folder / ARRAYS).write_bytes(npz(logits=np.zeros((rows, 3), np.float32)))
    rehash(folder)
    assert_refused(folder, INDEX, f"4 rows, {ARRAYS} has {rows}")


def swapped(records, *names):
    """Exchange the first and the third record's values, of some fields or of all."""
    for name in names or records[0]:
        records[0][name], records[2][name] = records[2][name], records[0][name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: swapped(r), "rows are not in ascending order"),
        (lambda r: swapped(r, "row"), "rows are not in ascending order"),
        (lambda r: r[1].update(row=0), "rows are not in ascending order"),
        (lambda r: r[0].update(row=-1), "rows are not in ascending order"),
        (lambda r: swapped(r, "path", "label", "split", "source", "image_sha256"), "names another selection"),
        (lambda r: swapped(r, "label"), "names another selection"),
        (lambda r: r[1].update(label="Sad"), "names another selection"),
        (lambda r: r[3].update(source=""), "names another selection"),
        (lambda r: r.pop(), f"3 rows, {ARRAYS} has 4"),
        (lambda r: r[3].update(label="Bored"), f"label 'Bored' is not in {CLASSES}"),
        (lambda r: r[3].update(image_sha256="F" * 64), "an image_sha256 is not 64 hex digits"),
        (lambda r: r[3].update(image_sha256=""), "an image_sha256 is not 64 hex digits"),
        (lambda r: r[3].pop("source"), "not one JSON object with the same fields"),
        (lambda r: r[3].update(path=None), "path is "),
        (lambda r: r[3].update(path=7), "path is "),
        (lambda r: r[3].update(label=0), "label is "),
        (lambda r: r[3].update(row="4"), "row is "),
        (lambda r: r[3].update(row=4.0), "row is "),
        (lambda r: r[3].update(row=True), "row is "),
        (lambda r: r[3].update(row=2**70), ""),
        (lambda r: r[3].update(path="\ud800"), ""),
    ],
)
def test_an_index_of_other_rows_is_refused_though_its_hash_is_right(folder, change, message):
    records = [json.loads(line) for line in (folder / INDEX).read_bytes().splitlines()]
    change(records)
    (folder / INDEX).write_text("".join(json.dumps(record) + "\n" for record in records))
    rehash(folder)
    assert_refused(folder, INDEX, message)


def test_rows_in_another_order_are_refused_though_every_hash_and_the_selection_digest_are_right(folder):
    lines = (folder / INDEX).read_bytes().splitlines(keepends=True)
    (folder / INDEX).write_bytes(b"".join(lines[::-1]))
    rehash(folder, selection_sha256=selection(INDEX_FRAME[::-1]))
    assert_refused(folder, INDEX, "rows are not in ascending order")


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[]\n", b"null\n", b"{\n", b'{"row": "\xff"}\n', b"1,2\n"])
def test_an_index_line_that_is_no_row_is_refused(folder, line):
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes() + line)
    rehash(folder)
    assert_refused(folder, INDEX, "within 5 lines from line 1")


def test_two_rows_on_a_line_are_refused_though_they_are_the_right_ones(folder):
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes().replace(b"\n", b",", 1))
    rehash(folder)
    assert_refused(folder, INDEX, "a line is not one JSON object")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (CLASSES, '["Happy", "Sad", "Happy"]', "names a class twice"),
        (CLASSES, '["Happy", "Sad", "Joy"]', "label 'Neutral' is not in"),
        (CLASSES, '["Happy"]', "must be a list of two or more names"),
        (CLASSES, '["Happy", "Sad", ""]', "must be a list of two or more names"),
        (CLASSES, '["Happy", "Sad", 3]', "must be a list of two or more names"),
        (CLASSES, '{"Happy": 0, "Sad": 1}', "must be a list of two or more names"),
        (CLASSES, "[", "not JSON"),
        (REPORT, "[]", "holds a list where an object belongs"),
        (REPORT, "{", "not JSON"),
        (METRICS, "0.5", "holds a float where an object belongs"),
    ],
)
def test_other_files_that_are_not_what_they_should_be_are_refused_though_their_hash_is_right(
    folder, name, text, message
):
    (folder / name).write_text(text)
    rehash(folder)
    assert_refused(folder, INDEX if "Neutral" in message else name, message)


def test_columns_in_another_class_order_give_other_labels_and_another_digest(folder):
    before = SoftLabels.open(folder)
    (folder / CLASSES).write_text('["Sad", "Happy", "Neutral"]')
    assert_refused(folder, CLASSES)
    rehash(folder)
    after = SoftLabels.open(folder)
    assert (before.labels.tolist(), after.labels.tolist()) == ([1, -1, 0, 2], [0, -1, 1, 2])
    assert after.sha256 != before.sha256


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (
            lambda h: h.update(format="fer-softlabels/1"),
            HASHES,
            "format is 'fer-softlabels/1', this version reads fer-",
        ),
        (lambda h: h.pop("format"), HASHES, "format is None"),
        (lambda h: h.update(selection_sha256="0" * 64), INDEX, "another selection"),
        (lambda h: h.pop("selection_sha256"), HASHES, "not a SHA-256"),
        (lambda h: h.update(manifest_sha256="0" * 63), HASHES, "not a SHA-256"),
        (lambda h: h.update(manifest_sha256="AB" * 32), HASHES, "not a SHA-256"),
        (lambda h: h.update(manifest_sha256="ab" * 32 + "\n"), HASHES, "not a SHA-256"),
        (lambda h: h.update(checkpoints={}), HASHES, "names no checkpoints"),
        (lambda h: h.update(checkpoints=["RN18"]), HASHES, "names no checkpoints"),
        (lambda h: h["checkpoints"].update(RN18=None), HASHES, "not a SHA-256"),
        (lambda h: h["files"].update({"../x": "0" * 64}), HASHES, "must name the files softlabels.npz, "),
        (lambda h: h["files"].update({"/etc/passwd": "0" * 64}), HASHES, "must name the files"),
        (lambda h: h["files"].update({HASHES: "0" * 64}), HASHES, "must name the files"),
        (lambda h: h["files"].pop(INDEX), HASHES, "must name the files"),
        (lambda h: h["files"].update({INDEX: 7}), HASHES, "not a SHA-256"),
        (lambda h: h.update(files=[ARRAYS]), HASHES, "must name the files"),
    ],
)
def test_a_descriptor_that_is_wrong_is_refused(folder, change, name, message):
    (folder.parent / "x").write_bytes(b"")
    hashes = json.loads((folder / HASHES).read_text())
    change(hashes)
    (folder / HASHES).write_text(json.dumps(hashes))
    assert_refused(folder, name, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"fer-softlabels/2"'])
def test_a_descriptor_that_is_none_is_refused(folder, text):
    (folder / HASHES).write_text(text)
    assert_refused(folder, HASHES)
