"""A bundle's rows are compared with a manifest's one by one, rows that were left out too."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import align, reordered

CLASSES = ("Happy", "Sad")
ROWS = [("a.jpg", "Happy"), ("b.jpg", "Sad"), ("c.jpg", ""), ("d.jpg", "Sad"), ("e.jpg", "Happy")]
LEFT_OUT = 2  # c.jpg could not be decoded


def digest(path):
    return hashlib.sha256(path.encode()).hexdigest()


@pytest.fixture
def bundle(tmp_path):
    kept = [(row, *each) for row, each in enumerate(ROWS) if row != LEFT_OUT]
    index = pd.DataFrame(
        {
            "row": [row for row, _, _ in kept],
            "path": [path for _, path, _ in kept],
            "label": [label for _, _, label in kept],
            "split": "test",
            "source": "web",
            "image_sha256": [digest(path) for _, path, _ in kept],
        }
    )
    return SoftLabels.of(
        logits=np.array([[0, 1], [2, 3], [4, 5], [6, 7]], np.float32),
        index=index,
        classes=CLASSES,
        report={"benchmark": {"name": "x"}, "unreadable": [{"row": LEFT_OUT, "path": "c.jpg", "reason": "empty"}]},
        manifest_sha256="ab" * 32,
        checkpoints={"A": "12" * 32},
    ).write(tmp_path / "bundle")


@pytest.fixture
def manifest(tmp_path):
    """Return a function that reads rows as a manifest, in a folder with an image for each."""

    def read(rows, classes=CLASSES, source="web"):
        for path, _ in rows:
            (tmp_path / path).write_text(path)
        lines = ["path,label,split,source", *(f"{path},{label},test,{source}" for path, label in rows)]
        (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
        return read_benchmark(tmp_path / "mine.csv", ClassOrder.of(classes))

    return read


def test_the_same_rows_are_aligned(bundle, manifest):
    found = align(bundle, manifest(ROWS))
    assert found.positions.tolist() == [0, 1, -1, 2, 3]
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert (found.moved.tolist(), found.first_moved, found.other_fields) == ([], "", 0)
    assert found.missing.endswith('1 of 5 rows have no soft labels: row 3 "c.jpg"')
    assert align(bundle, manifest(ROWS, source="lab")).other_fields == 4


def test_another_order_is_counted_and_its_first_row_named(bundle, manifest):
    found = align(bundle, manifest([ROWS[i] for i in (0, 3, 2, 1, 4)]))
    assert (found.positions.tolist(), found.moved.tolist()) == ([0, 2, -1, 1, 3], [1, 3])
    assert found.first_moved == 'row 2 "d.jpg" is row 4 in the soft labels'
    # A row without logits that stands elsewhere moves every row behind it.
    found = align(bundle, manifest([ROWS[i] for i in (2, 0, 1, 3, 4)]))
    assert (found.moved.tolist(), found.first_moved) == ([0, 1, 2], 'row 1 "c.jpg" is row 3 in the soft labels')


def test_classes_in_another_order_are_the_same_labels(bundle, manifest):
    assert align(bundle, manifest(ROWS, ("Sad", "Neutral", "Happy"))).moved.tolist() == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[1:], 'has 4 rows, the soft labels 5: 1 rows are only in the soft labels ("a.jpg")'),
        ([*ROWS, ("f.jpg", "")], '1 rows are only in the manifest (row 6 "f.jpg")'),
        ([row for row in ROWS if row[0] != "c.jpg"], '1 rows are only in the soft labels ("c.jpg")'),
        (
            [("a.jpg", "Sad"), *ROWS[1:]],
            'not what they were when the soft labels were exported: row 1 "a.jpg" (label "Sad", then "Happy");',
        ),
        (
            [("a.jpg", ""), *ROWS[1:]],
            '1 of 5 rows are not what they were when the soft labels were exported: row 1 "a.jpg" (label "", then "H',
        ),
        (
            [(f"x{i:02d}.jpg", "") for i in range(12)],
            'row 10 "x09.jpg" and 2 more); 5 rows are only in the soft labels ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e',
        ),
    ],
)
def test_other_rows_are_refused(bundle, manifest, rows, message):
    with pytest.raises(BundleError) as caught:
        align(bundle, manifest(rows))
    assert message in str(caught.value)


def test_classes_that_the_manifest_does_not_have_are_refused(bundle, manifest):
    with pytest.raises(
        ContractError, match=r"of the classes Happy, Sad, .* has Happy, Fear; give the soft labels' with --c"
    ):
        align(bundle, manifest([("a.jpg", "Happy")], ("Happy", "Fear")))


def test_reordered_rows_keep_their_logits_and_follow_the_manifest(bundle, manifest, tmp_path):
    benchmark = manifest([ROWS[i] for i in (4, 2, 0, 3, 1)], source="lab")
    alignment = align(bundle, benchmark)
    made = reordered(alignment).write(tmp_path / "made")
    assert made.index["path"].tolist() == ["e.jpg", "a.jpg", "d.jpg", "b.jpg"]
    assert made.index["row"].tolist() == [0, 2, 3, 4]
    assert made.logits.tolist() == [[6, 7], [0, 1], [4, 5], [2, 3]]
    assert made.index["image_sha256"].tolist() == [digest(path) for path in made.index["path"]]
    assert set(made.index["source"]) == {"lab"}
    assert made.report["unreadable"] == [{"row": 1, "path": "c.jpg", "reason": "empty"}]
    assert made.report["benchmark"]["selected_sha256"] == benchmark.selection_sha256
    assert made.report["reordered"] == {"source_bundle_sha256": bundle.sha256, "moved_rows": 4}
    assert made.manifest_sha256 == benchmark.manifest_sha256
    assert made.metrics["accuracy"] == 0.5  # Sad for all: d and b are right
    assert align(made, benchmark).moved.tolist() == []


def test_images_that_are_not_the_ones_of_the_bundle_are_found(bundle, manifest, tmp_path):
    benchmark = manifest(ROWS)
    alignment = align(bundle, benchmark)
    alignment.check_images()
    (tmp_path / "b.jpg").write_text("B")
    (tmp_path / "e.jpg").unlink()
    assert alignment.other_images(np.array([0, 1, 4])) == {1: "other bytes", 4: "cannot be read"}
    with pytest.raises(BundleError, match=r'2 of 4 images are .*: row 2 "b.jpg" \(other bytes\), row 5 "e.jpg" \(cann'):
        alignment.check_images()
    prefixes = np.array([list(bytes.fromhex(digest(path))[:8]) for path, _ in ROWS if path != "c.jpg"], np.uint8)
    alignment.check_images(prefixes)
    assert alignment.other_images(np.array([3]), prefixes[:1]) == {3: "other bytes"}
