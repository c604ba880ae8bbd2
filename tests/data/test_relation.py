"""Two manifests are compared by their rows, and by their images where paths differ."""

import pytest
from trees import put

from fer_mlflow.data.check import relate
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.scan import scan_images

A = [("1.jpg", 1, "Happy", "train"), ("2.jpg", 2, "Sad", "train"), ("3.jpg", 3, "Fear", "test")]


@pytest.fixture
def compare(tmp_path):
    """Compare two manifests of rows (path, number of its image, label, split)."""

    def read(name, rows):
        for path, number, *_ in rows:
            put(tmp_path / name / path, number)
        lines = [f"{path},{label},{split}" for path, _, label, split in rows]
        (tmp_path / name / "m.csv").write_text("path,label,split\n" + "\n".join(lines))
        return read_benchmark(tmp_path / name / "m.csv", FER7)

    def compare(here, there, images=True):
        own, other = read("here", here), read("there", there)
        hashes = [scan_images(b.root, b.paths, decode=False).sha256 if images else None for b in (own, other)]
        return relate(own, other, *hashes)

    return compare


@pytest.mark.parametrize(
    ("here", "there", "verdict", "only"),
    [
        (A, A, "same", (0, 0)),
        (A, A[::-1], "permuted", (0, 0)),
        (A[1:], A, "subset", (0, 1)),
        (A, A[:1], "superset", (2, 0)),
        (A[:2], A[1:], "different", (1, 1)),
    ],
)
def test_the_verdict_goes_by_rows(compare, here, there, verdict, only):
    relation = compare(here, there, images=False)
    assert (relation.verdict, (relation.only_here, relation.only_there)) == (verdict, only)
    assert (relation.shared, relation.shared_images) == (None, None)


def test_where_two_manifests_differ_is_described(compare):
    there = [("1.jpg", 1, "Sad", "train"), ("2.jpg", 2, "Sad", "test"), ("4.jpg", 4, "Fear", "test")]
    relation = compare(A, there)
    assert relation.verdict == "different"
    assert relation.changed == {"label": 1, "split": 1}
    assert relation.examples == (
        '1.jpg: label "Happy" here, "Sad" there',
        '2.jpg: split "train" here, "test" there',
        "3.jpg: only here",
        "4.jpg: only there",
    )
    assert (relation.other_labels, relation.shared_images) == (1, 2)
    assert relation.other_label_examples == ('1.jpg "Happy" here, 1.jpg "Sad" there',)


def test_images_under_other_paths_are_counted_by_split(compare):
    there = [
        ("x/a.jpg", 1, "Happy", "test"),
        ("x/b.jpg", 3, "Fear", "test"),
        ("x/b2.jpg", 3, "Fear", "test"),
        ("x/c.jpg", 9, "Sad", ""),
    ]
    relation = compare(A, there)
    assert relation.verdict == "different"
    assert (relation.images_here, relation.images_there, relation.shared_images) == (3, 3, 2)
    assert relation.shared.to_dict() == {"test": {"test": 1, "train": 1}}
    assert relation.other_labels == 0


def test_nothing_in_common(compare):
    relation = compare(A, [("9.jpg", 9, "Sad", "test")])
    assert (relation.shared_images, relation.shared.empty) == (0, True)
