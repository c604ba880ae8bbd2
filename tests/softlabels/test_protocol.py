"""What sets two bundles apart is named, and rows are matched by what they show."""

import numpy as np
from hypothesis import given, settings, strategies as st
from toys import CLASSES, draw_logits, teacher, write_bundle

from fer_mlflow.softlabels.rows import FEWEST_SHARED, find_shared_rows

CLAHE = {"clip": 2.5, "tile": 8, "pattern_sha256": "0123456789ab" + "c" * 52}
CALIBRATION = {"method": "temperature", "temperature": 2.0471, "fitted_on": {"name": "faces:val"}}


def bundle_of(folder, labels=None, rows=60, **parts):
    logits, drawn = draw_logits(rows)
    return write_bundle(folder, logits, drawn if labels is None else labels, **parts)


def test_the_protocol_says_all_that_shaped_the_numbers(tmp_path):
    labels = np.arange(1500) % 7
    labels[:3] = -1
    bundle = bundle_of(
        tmp_path / "b",
        labels,
        1500,
        calibration=CALIBRATION,
        teachers={"A": teacher(224, CLAHE, "false"), "B": teacher(300, CLAHE, "true")},
    )
    assert bundle.protocol == {
        "benchmark": "faces:test",
        "selection": bundle.selection_sha256[:12],
        "rows": "1,500",
        "labelled rows": "1,497",
        "classes": "Angry, Disgust, Fear, Happy, Sad, Surprise, Neutral",
        "weights": "A=0.5,B=0.5",
        "space": "logit",
        "dtype": "float32",
        "calibration": "temperature, T = 2.047, fitted on faces:val",
        "clahe": "clip 2.5, 8 tiles, pattern 01234567",
        "decoding": "opencv-color-exif, squash, area-or-linear",
        "image size": "A 224, B 300",
        "precision": "fp32",
        "checkpoints": f"A {bundle.checkpoints['A'][:8]}, B {bundle.checkpoints['B'][:8]}",
        "trained on these images": "A false, B true",
        "ECE": "15 bins, (lo, hi]",
    }
    other = bundle_of(tmp_path / "o", teachers={"A": teacher(), "B": teacher(clahe=CLAHE)})
    assert other.protocol["clahe"] == "A none, B clip 2.5, 8 tiles, pattern 01234567"


def test_a_bundle_shares_every_labelled_row_with_itself(tmp_path):
    labels = np.arange(10) % 7
    labels[4] = -1
    bundle = bundle_of(tmp_path / "b", labels, 10)
    shared = find_shared_rows(bundle, bundle)
    assert shared.rows_a.tolist() == shared.rows_b.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert shared.columns_b.tolist() == list(range(7))
    assert (shared.is_comparable, shared.verdict) == (True, "comparable: the same 9 labelled rows")


def test_other_classes_share_nothing(tmp_path):
    a = bundle_of(tmp_path / "a")
    b = bundle_of(tmp_path / "b", classes=("Anger", *CLASSES[1:6], "Calm"))
    shared = find_shared_rows(a, b)
    assert (len(shared.rows_a), len(shared.rows_b), shared.columns_b, shared.is_comparable) == (0, 0, None, False)
    assert shared.verdict == (
        "not comparable because classes differ: only A has Angry, Neutral; only B has Anger, Calm"
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(31, 60), extra=st.integers(0, 5))
def test_rows_pair_up_by_image_and_columns_by_name(tmp_path_factory, seed, rows, extra):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("bundles")
    logits, labels = draw_logits(rows + extra, seed=seed)
    names = [f"{n}.jpg" for n in range(rows + extra)]
    order, columns = rng.permutation(rows + extra)[: rows + extra // 2], rng.permutation(7)
    a = write_bundle(folder / "a", logits[:rows], labels[:rows], paths=names[:rows])
    b = write_bundle(
        folder / "b",
        logits[order][:, columns],
        np.argsort(columns)[labels[order]],
        paths=[f"moved/{n}.jpg" for n in range(len(order))],
        images=[names[n] for n in order],
        classes=tuple(CLASSES[k] for k in columns),
    )
    shared = find_shared_rows(a, b)
    both = sorted(set(order.tolist()) & set(range(rows)))
    assert shared.rows_a.tolist() == both
    assert [names[order[n]] for n in shared.rows_b] == [names[n] for n in both]
    np.testing.assert_array_equal(b.logits[shared.rows_b][:, shared.columns_b], a.logits[shared.rows_a])
    assert shared.is_comparable == (len(both) >= FEWEST_SHARED)
    back = find_shared_rows(b, a)
    assert sorted(zip(back.rows_b.tolist(), back.rows_a.tolist(), strict=True)) == list(
        zip(shared.rows_a.tolist(), shared.rows_b.tolist(), strict=True)
    )


def test_copies_of_an_image_pair_up_by_their_labels(tmp_path):
    """FER2013 has images that are there twice, with two labels."""
    labels = np.arange(40) % 7
    images = [f"{n}.jpg" for n in range(40)]
    images[1] = images[0]  # Angry and Disgust
    images[9] = images[2]  # Fear twice
    a = bundle_of(tmp_path / "a", labels, 40, images=images)
    b = bundle_of(tmp_path / "b", labels[:0:-1], 39, images=images[:0:-1])  # without the first
    shared = find_shared_rows(a, b)
    assert shared.verdict == "comparable on the 39 shared rows (of 40 labelled rows of A and 39 of B)"
    assert shared.rows_a.tolist() == list(range(1, 40))
    assert labels[shared.rows_a].tolist() == labels[:0:-1][shared.rows_b].tolist()
    assert sorted(shared.rows_b.tolist()) == list(range(39))
    other = labels[:0:-1].copy()
    other[-1] = 5  # the only copy that is left is neither Angry nor Disgust there
    c = bundle_of(tmp_path / "c", other, 39, images=images[:0:-1])
    assert find_shared_rows(a, c).verdict == "not comparable because 1 of 39 shared images have other labels"


def test_unlabelled_rows_are_not_shared(tmp_path):
    labels = np.arange(80) % 7
    some, others = labels.copy(), labels.copy()
    some[:20], others[60:] = -1, -1
    a = bundle_of(tmp_path / "a", some, 80)
    b = bundle_of(tmp_path / "b", others, 80)
    shared = find_shared_rows(a, b)
    assert shared.rows_a.tolist() == shared.rows_b.tolist() == list(range(20, 60))
    assert shared.verdict == "comparable on the 40 shared rows (of 60 labelled rows of A and 60 of B)"


def test_the_same_names_with_other_images_are_other_rows(tmp_path):
    labels = np.arange(60) % 7
    a = bundle_of(tmp_path / "a", labels)
    b = bundle_of(tmp_path / "b", labels, images=[f"changed {n}" for n in range(60)])
    assert a.selection_sha256 == b.selection_sha256
    assert find_shared_rows(a, b).verdict == (
        "not comparable because the benchmarks share 0 labelled images; 30 are needed"
    )
