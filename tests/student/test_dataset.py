"""SoftLabelDataset: the right logits beside the right image, nothing copied, nothing that was edited."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from toys import logits_of, write_soft_labels

from fer_mlflow import SoftLabelDataset
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import BundleError, ContractError, FerError, ImageError


def to_tensor(image):
    return torch.from_numpy(np.asarray(image.resize((8, 8))).copy())


def write_into(worker_batch):
    """Write into the logits of a worker: whoever shares the memory sees it."""
    torch.utils.data.get_worker_info().dataset.logits[0, 0] = 1234.0
    return 0


def test_rows_are_joined_by_path_whatever_the_order(split_faces, tmp_path, train_part, train_bundle):
    lines = split_faces.read_text().splitlines()
    split_faces.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    dataset = SoftLabelDataset(split_faces, train_bundle)
    reversed_part = read_benchmark(split_faces, FER7, split="train")
    assert len(dataset) == len(train_part) == len(reversed_part)
    assert reversed_part.paths[0] != train_part.paths[0]
    expected = 0.7 * logits_of(reversed_part, "A") + 0.3 * logits_of(reversed_part, "B")
    for row in (0, 7, len(dataset) - 1):
        image, label, logits = dataset[row]
        np.testing.assert_allclose(logits.numpy(), expected[row], rtol=1e-6)
        assert label == reversed_part.labels[row]
        on_disk = cv2.imread(str(split_faces.parent / reversed_part.paths[row]))
        np.testing.assert_array_equal(np.asarray(image)[..., ::-1], on_disk)
    assert dataset.classes == train_bundle.classes


def test_a_split_of_a_bundle_of_all_rows(split_faces, tmp_path):
    whole = write_soft_labels(tmp_path / "whole", read_benchmark(split_faces, FER7))
    part = read_benchmark(split_faces, FER7, split="val")
    dataset = SoftLabelDataset(split_faces, whole.folder, split="val")
    assert len(dataset) == len(part)
    np.testing.assert_allclose(dataset.logits, 0.7 * logits_of(part, "A") + 0.3 * logits_of(part, "B"), atol=1e-6)
    assert len(SoftLabelDataset(split_faces, whole)) == 84


def test_float16_stays_as_it_is_stored(split_faces, tmp_path, train_part):
    half = write_soft_labels(tmp_path / "half", train_part, dtype="float16")
    logits = SoftLabelDataset(split_faces, half)[3][2]
    assert logits.dtype == torch.float16
    np.testing.assert_array_equal(logits.numpy(), half.logits[3])


def edit(split_faces, old, new):
    text = split_faces.read_text()
    assert old in text
    split_faces.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "images/f0001.jpg,Disgust,train,web",
            "images/f0001.jpg,Happy,train,web",
            '1 of 54 rows are not what they were when the soft labels were exported: row 1 "images/f0001.jpg" '
            '(label "Happy", then "Disgust"); export again',
        ),
        (
            "images/f0005.jpg,Surprise,train,web",
            "images/f0005.jpg,Surprise,val,web",
            '(split "val", then "train")',
        ),
        (",train,web", ",train,www", '(source "www", then "web") and 8 more; export again'),
        ("images/f0001.jpg,Disgust,train,web\n", "", '1 rows that the soft labels are of are gone, "images/f0001.jpg"'),
    ],
)
def test_a_manifest_edited_after_the_export_is_refused(split_faces, train_bundle, old, new, message):
    edit(split_faces, old, new)
    with pytest.raises(BundleError) as caught:
        SoftLabelDataset(split_faces, train_bundle)
    assert message in str(caught.value)


def test_only_the_first_rows_that_differ_are_named(split_faces, train_bundle):
    edit(split_faces, ",train,web", ",train,www")
    with pytest.raises(BundleError) as caught:
        SoftLabelDataset(split_faces, train_bundle)
    assert str(caught.value).count("images/") == 10
    assert "18 of 54 rows are not what they were" in str(caught.value)


def test_rows_without_soft_labels_are_refused_or_left_out(split_faces, train_bundle):
    edit(split_faces, "images/f0003.jpg,Happy,val,web", "images/f0003.jpg,Happy,train,web")
    with pytest.raises(BundleError, match=r'1 of 55 rows have no soft labels: row 3 "images/f0003.jpg"; export them'):
        SoftLabelDataset(split_faces, train_bundle)
    dataset = SoftLabelDataset(split_faces, train_bundle, missing="skip")
    assert (len(dataset), dataset.left_out) == (len(train_bundle), 1)
    np.testing.assert_array_equal(dataset.logits, train_bundle.logits)
    with pytest.raises(ContractError, match="missing 'ce' is neither fail nor skip"):
        SoftLabelDataset(split_faces, train_bundle, missing="ce")
    with pytest.raises(BundleError, match="these soft labels are of other images"):
        SoftLabelDataset(split_faces, train_bundle, split="test", missing="skip")


def test_images_that_changed_are_refused(split_faces, train_bundle):
    cv2.imwrite(str(split_faces.parent / "images/f0001.jpg"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(
        BundleError, match=r'1 of 54 images are not the ones that the teachers decoded: row 1 "images/f0001'
    ):
        SoftLabelDataset(split_faces, train_bundle)
    assert SoftLabelDataset(split_faces, train_bundle, verify_images=False)[0][0].size == (9, 9)


def test_other_classes_are_refused(split_faces, train_bundle, tmp_path):
    (tmp_path / "other.yaml").write_text("[Sad, Angry, Disgust, Fear, Happy, Surprise, Neutral]")
    with pytest.raises(FerError, match=r"soft labels are of the classes Angry, .*, manifest .* has Sad, "):
        SoftLabelDataset(split_faces, train_bundle, classes=tmp_path / "other.yaml")


def test_an_image_that_went_bad_is_named(split_faces, train_bundle):
    dataset = SoftLabelDataset(split_faces, train_bundle, to_tensor)
    (split_faces.parent / "images/f0001.jpg").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r'row 1 "images/f0001.jpg": not an image'):
        dataset[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_the_logits(split_faces, train_bundle, context):
    dataset = SoftLabelDataset(split_faces, train_bundle, to_tensor, verify_images=False)
    loader = DataLoader(dataset, 16, num_workers=1, collate_fn=write_into, multiprocessing_context=context)
    assert dataset.logits[0, 0] != 1234.0
    assert len(list(loader)) == 4
    assert dataset.logits[0, 0] == 1234.0


def test_workers_give_the_rows_in_order_with_the_usual_collate(split_faces, train_bundle):
    dataset = SoftLabelDataset(split_faces, train_bundle, to_tensor)
    batches = list(DataLoader(dataset, 10, num_workers=2))
    np.testing.assert_array_equal(torch.cat([logits for _, _, logits in batches]), train_bundle.logits)
    np.testing.assert_array_equal(torch.cat([labels for _, labels, _ in batches]), train_bundle.labels)
    assert batches[0][0].shape == (10, 8, 8, 3)


def test_it_can_be_pickled(split_faces, train_bundle):
    dataset = SoftLabelDataset(split_faces, train_bundle, to_tensor)
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (our own)
    assert len(again) == len(dataset)
    torch.testing.assert_close(again[4][2], dataset[4][2])
    torch.testing.assert_close(again[4][0], dataset[4][0])
