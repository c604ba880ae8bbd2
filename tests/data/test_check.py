"""Every fault that is put into a manifest is found, with the rows it is in, and a sound one is left in peace."""

import unicodedata

import cv2
import numpy as np
import pytest
import toys
from trees import put

from fer_mlflow.data.check import ERROR, NOTE, WARNING, run_checks
from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.published import compare_support
from fer_mlflow.data.scan import scan_images


@pytest.fixture
def check(tmp_path):
    """Check a manifest of rows (path, number of its image or None, label, split, source)."""

    def check(rows, name="m.csv", **options):
        lines = ["path,label,split,source"]
        for path, number, *others in rows:
            if number is not None:
                put(tmp_path / path, number)
            lines.append(",".join([path, *others]))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return run_checks(tmp_path / name, FER7, **options)

    return check


def found(result) -> dict[str, tuple]:
    """Return finding -> (level, text, examples); each name once."""
    assert len({finding.name for finding in result.findings}) == len(result.findings)
    return {finding.name: (finding.level, finding.text, finding.examples) for finding in result.findings}


SOUND = [
    ("a/1.jpg", 1, "Happy", "train", "web"),
    ("a/2.jpg", 2, "Sad", "train", "web"),
    ("a/3.jpg", 3, "Happy", "test", "lab"),
]


def test_a_sound_manifest_has_no_findings_and_a_table(check):
    result = check(SOUND, near=4)
    assert result.findings == ()
    assert result.counts.to_dict("index") == {
        ("lab", "Happy"): {"test": 1, "train": 0},
        ("web", "Happy"): {"test": 0, "train": 1},
        ("web", "Sad"): {"test": 0, "train": 1},
    }
    assert result.scan.sides.tolist() == [[40, 41], [40, 42], [40, 40]]
    assert (result.refused, result.supports) == (0, ())


def test_all_that_export_refuses_is_found_at_once_and_the_rest_is_checked(check, tmp_path):
    (tmp_path / "elsewhere.jpg").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "out.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    put(root / "1.jpg", 1)
    put(root / "2.jpg", 1)
    lines = [
        "1.jpg,Happy",
        "2.jpg,Happy",
        "1.jpg,Sad",
        "../elsewhere.jpg,Sad",
        "gone.jpg,Sad",
        "2.jpg,Bored",
        "out.jpg,",
    ]
    (root / "m.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    result = run_checks(root / "m.csv", FER7)
    texts = [finding.text.partition("m.csv: ")[2] for finding in result.findings if finding.name == "refused"]
    assert [text.partition(";")[0] for text in texts] == [
        f'1 x path that is empty or leaves the root {root}: row 4 "../elsewhere.jpg"',
        '1 x label that is not one of Angry, Disgust, Fear, Happy, Sad, Surprise, Neutral: row 6 "Bored"',
        '1 x duplicate path: row 3 "1.jpg"',
        f'1 x link that leads out of the root {root}: row 7 "out.jpg"',
        f'1 x file that is not under {root}: row 5 "gone.jpg"',
    ]
    assert all(finding.level == ERROR for finding in result.findings if finding.name == "refused")
    assert result.refused == 5
    assert result.benchmark.paths.tolist() == ["1.jpg", "2.jpg"]
    assert [finding.name for finding in result.findings][5:] == ["repeated", "no split", "no source"]


def test_rows_that_are_left_out_by_a_lenient_reader_leave_the_others_as_they_are(tmp_path):
    put(tmp_path / "2.jpg", 1)
    (tmp_path / "m.csv").write_text("path,label\n1.jpg,Happy\n./2.jpg,4\n2.jpg,Sad\n")
    refused = []
    benchmark = read_benchmark(tmp_path / "m.csv", FER7, on_refused=lambda error, rows: refused.append(rows))
    assert (benchmark.paths.tolist(), benchmark.labels.tolist(), refused) == (["2.jpg"], [4], [1, 1])
    assert benchmark.frame["label"].tolist() == ["Sad"]


def test_images_that_cannot_be_decoded_are_tiny_or_of_one_colour(check, tmp_path):
    put(tmp_path / "whole.jpg", 1)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-20])
    (tmp_path / "text.jpg").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "tiny.png"), toys.face(2)[:19, :30])
    cv2.imwrite(str(tmp_path / "edge.png"), toys.face(3)[:20, :20])
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 40, 3), 77, np.uint8))
    almost = np.full((40, 40, 3), 77, np.uint8)
    almost[20, 20] = 78
    cv2.imwrite(str(tmp_path / "almost.png"), almost)
    names = ["whole.jpg", "cut.jpg", "text.jpg", "tiny.png", "edge.png", "grey.png", "almost.png"]
    rows = [(name, None, "Happy", "test", "web") for name in names]
    assert found(check(rows)) == {
        "unreadable": (
            ERROR,
            "2 images cannot be decoded; export stops at them",
            ("cut.jpg: truncated JPEG", "text.jpg: not an image that OpenCV can decode"),
        ),
        "tiny": (WARNING, "1 images have a side under 20 pixels", ("tiny.png: 30x19",)),
        "constant": (WARNING, "1 images are of one colour", ("grey.png",)),
    }
    assert found(check(rows, decode=False)) == {}


def test_duplicates_are_leaks_contradictions_or_repetitions(check):
    rows = [
        ("1.jpg", 1, "Happy", "train", "web"),
        ("1test.jpg", 1, "Happy", "test", "web"),
        ("2.jpg", 2, "Happy", "train", "web"),
        ("2sad.jpg", 2, "Sad", "train", "web"),
        ("3.jpg", 3, "Sad", "test", "web"),
        ("3again.jpg", 3, "Sad", "test", "web"),
        ("4.jpg", 4, "Sad", "test", "web"),
    ]
    assert found(check(rows)) == {
        "leak": (
            WARNING,
            "1 x an image in two splits (same bytes)",
            ("1.jpg (train, Happy) = 1test.jpg (test, Happy)",),
        ),
        "contradiction": (
            WARNING,
            "1 x an image with two labels (same bytes)",
            ("2.jpg (train, Happy) = 2sad.jpg (train, Sad)",),
        ),
        "repeated": (
            WARNING,
            "1 x an image more than once (same bytes)",
            ("3.jpg (test, Sad) = 3again.jpg (test, Sad)",),
        ),
    }


def test_a_copy_without_split_or_label_is_neither_a_leak_nor_a_contradiction(check):
    rows = [("1.jpg", 1, "Happy", "train", "web"), ("2.jpg", 1, "", "", "web")]
    assert found(check(rows)).keys() == {"repeated", "no label", "no split"}


def test_near_duplicates_across_splits_are_found_when_they_are_asked_for(check, tmp_path):
    cv2.imwrite(str(tmp_path / "1small.jpg"), cv2.resize(toys.face(1), (32, 32), interpolation=cv2.INTER_AREA))
    rows = [*SOUND, ("1small.jpg", None, "Happy", "test", "web")]
    assert found(check(rows)) == {}
    level, text, examples = found(check(rows, near=4))["leak"]
    assert (level, text) == (WARNING, "1 x a pair of near-duplicates in two splits (at most 4 of 64 bits apart)")
    assert examples == ("a/1.jpg (train, Happy) = 1small.jpg (test, Happy)",)


def test_files_with_the_same_bytes_are_no_near_duplicates_and_equal_hashes_are_paired_once_each(check, tmp_path):
    for name, quality in (("q1.png", 0), ("q2.png", 9)):  # the same pixels in other bytes
        cv2.imwrite(str(tmp_path / name), toys.face(9), [cv2.IMWRITE_PNG_COMPRESSION, quality])
    (tmp_path / "q3.png").write_bytes((tmp_path / "q1.png").read_bytes())
    rows = [(name, None, "Happy", "test", "web") for name in ("q1.png", "q2.png", "q3.png")]
    result = check(rows, near=4)
    texts = [finding.text for finding in result.findings]
    assert texts == [
        "1 x an image more than once (same bytes)",
        "1 x a pair of near-duplicates more than once (at most 4 of 64 bits apart)",
    ]


def test_paths_that_differ_only_in_case_or_unicode_form(check):
    composed = unicodedata.normalize("NFC", "é.jpg")
    rows = [
        ("A/1.jpg", 1, "Happy", "test", "web"),
        ("a/1.JPG", 2, "Happy", "test", "web"),
        (composed, 3, "Happy", "test", "web"),
        (unicodedata.normalize("NFD", composed), 4, "Happy", "test", "web"),
    ]
    level, text, examples = found(check(rows))["path clash"]
    assert level == WARNING
    assert text.startswith("4 paths differ from another only in case or Unicode form")
    assert examples[0] == "A/1.jpg = a/1.JPG"


def test_rows_without_label_split_or_source_are_noted(check):
    result = found(check([*SOUND, ("4.jpg", 4, "", "", "")]))
    assert {name: (level, text) for name, (level, text, _) in result.items()} == {
        "no label": (NOTE, "1 of 4 rows have no label"),
        "no split": (NOTE, "1 of 4 rows have no split"),
        "no source": (NOTE, "1 of 4 rows have no source"),
    }


# --- published counts --------------------------------------------------------------------------------------------

# RAF-DB's test split in the canonical order, written by hand from its readme.
RAFDB_TEST = dict(zip(toys.CLASSES, (162, 160, 74, 1185, 478, 329, 680), strict=True))
FER_FOLDER_TEST = dict(zip(toys.CLASSES, (958, 111, 1024, 1774, 1247, 831, 1233), strict=True))


def support(counts, dataset="rafdb", split="test", classes=FER7):
    return compare_support(dataset, dataset, split, counts, classes)


def test_published_counts_are_recognised():
    result = support(RAFDB_TEST)
    assert (result.verdict, result.subset, result.exchanged) == ("equal", "test", {})
    assert result.published == RAFDB_TEST


def test_the_folder_layout_of_fer2013_has_validation_and_test_as_test():
    result = support(FER_FOLDER_TEST, "fer2013")
    assert (result.verdict, result.subset) == ("equal", "val + test")


def test_exchanged_columns_are_named_even_when_their_counts_differ_by_two():
    counts = {**RAFDB_TEST, "Angry": 160, "Disgust": 162}
    result = support(counts)
    assert (result.verdict, result.exchanged) == ("permuted", {"Angry": "Disgust", "Disgust": "Angry"})


def test_a_class_order_that_was_read_as_another_is_named_though_rows_are_missing():
    affectnet_order = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Angry")
    counts = dict(zip(toys.CLASSES, (RAFDB_TEST[name] - 3 for name in affectnet_order), strict=True))
    result = support(counts)
    assert result.verdict == "permuted"
    assert (result.exchanged["Angry"], result.exchanged["Happy"]) == ("Neutral", "Surprise")


@pytest.mark.parametrize(
    ("change", "verdict"),
    [({"Happy": 1185 - 61}, "close"), ({"Happy": 1185 - 62}, "different"), ({"Happy": 0, "Neutral": 0}, "different")],
)
def test_up_to_two_percent_may_be_missing(change, verdict):
    assert support({**RAFDB_TEST, **change}).verdict == verdict


def test_equal_counts_are_no_permutation_and_contempt_is_left_out():
    counts = dict.fromkeys(toys.CLASSES, 500)
    assert support(counts, "affectnet", "val").verdict == "equal"
    eight = ClassOrder.of((*toys.CLASSES, "Contempt"))
    assert support({**counts, "Contempt": 500}, "affectnet", "val", eight).verdict == "equal"
    assert support(counts, "ferplus") is None


def test_a_permuted_class_order_is_an_error_and_other_counts_a_warning(tmp_path):
    counts = {**RAFDB_TEST, "Fear": RAFDB_TEST["Surprise"], "Surprise": RAFDB_TEST["Fear"]}
    names = [f"{label}{number}.jpg" for label, count in counts.items() for number in range(count)]
    put(tmp_path / "one.jpg", 1)
    for name in names:
        (tmp_path / name).hardlink_to(tmp_path / "one.jpg")
    labels = [label for label, count in counts.items() for _ in range(count)]
    lines = [f"{name},{label},test,RAF-DB" for name, label in zip(names, labels, strict=True)]
    path = tmp_path / "m.csv"
    path.write_text("path,label,split,source\n" + "\n".join(lines))
    (error,) = [f for f in run_checks(path, FER7, decode=False).findings if f.level == ERROR]
    assert error.name == "class order"
    assert error.text == (
        "RAF-DB, test: the rows per class are those of rafdb test in another class order: "
        "Fear has the count of Surprise, Surprise has the count of Fear"
    )
    path.write_text("path,label,split,source\n" + "\n".join(lines[100:]))
    findings = {f.name: f.level for f in run_checks(path, FER7, decode=False).findings}
    assert findings["support"] == WARNING
    path.write_text("path,label,split,source\n" + "\n".join(line.replace("RAF-DB", "web") for line in lines))
    assert run_checks(path, FER7, decode=False).supports == ()
    assert run_checks(path, FER7, decode=False, dataset="rafdb").supports[0].verdict == "permuted"


def test_a_manifest_without_sources_claims_what_its_name_says(check):
    rows = [("1.jpg", 1, "Happy", "test", "")]
    assert [each.dataset for each in check(rows, name="rafdb.csv").supports] == ["rafdb"]
    assert check(rows, name="mine.csv").supports == ()


# --- reading images on all cores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [True, False])
def test_images_come_back_in_order_with_their_hashes(tmp_path, decode):
    import hashlib

    paths = [f"{number:04d}.jpg" for number in range(600)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_bytes(str(number).encode())
    counted = []

    class Step:
        def __init__(self, what, total):
            self.total = total

        def __enter__(self):
            return counted.append

        def __exit__(self, *_):
            assert sum(counted) == self.total == 601

    scan = scan_images(tmp_path, [*paths, "gone.jpg"], decode=decode, progress=Step)
    expected = [hashlib.sha256(str(number).encode()).digest() for number in range(600)]
    assert scan.sha256.tolist() == [*expected, bytes(32)]
    assert (600 in scan.problems, len(scan.problems)) == (True, 601 if decode else 1)


def test_no_images_at_all(tmp_path):
    scan = scan_images(tmp_path, [], perceptual=True)
    assert (len(scan.sha256), scan.sides.shape, len(scan.hashes)) == (0, (0, 2), 0)
