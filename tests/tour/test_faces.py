import json

import cv2
import numpy as np
import pandas as pd
import pytest

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import ManifestError
from fer_mlflow.tour.faces import FACES_A_PERSON, SIZE, SOURCES, contact_sheet, draw_face, write_faces


@pytest.fixture(scope="module")
def faces():
    return [draw_face(3, index) for index in range(400)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("drawn") / "faces", 60, seed=3)


def test_a_face_depends_on_seed_and_index_alone(faces):
    again, other = draw_face(3, 17), draw_face(4, 17)
    np.testing.assert_array_equal(again.image, faces[17].image)
    assert (again.label, again.source, again.split) == (faces[17].label, faces[17].source, faces[17].split)
    assert (other.image != again.image).any()


def test_images_are_colour_squares(faces):
    assert {(face.image.shape, face.image.dtype.name) for face in faces} == {((SIZE, SIZE, 3), "uint8")}
    assert min(face.image.std() for face in faces) > 1


def test_disgust_and_fear_are_rare_and_every_class_is_in_every_source(faces):
    counts = pd.crosstab([face.label for face in faces], [face.source for face in faces])
    assert sorted(counts.index) == sorted(FER7.names)
    assert (counts > 0).all(axis=None)
    share = counts.sum(axis=1) / len(faces)
    assert share["Disgust"] < 0.1
    assert share["Fear"] < 0.1
    assert share["Happy"] > 0.17


def test_a_person_is_in_one_split_and_one_source(faces):
    people = pd.DataFrame({"person": [f.person for f in faces], "split": [f.split for f in faces]})
    people["source"] = [face.source for face in faces]
    assert people["person"].value_counts().unique().tolist() == [FACES_A_PERSON]
    assert people.groupby("person")[["split", "source"]].nunique().max().tolist() == [1, 1]
    assert set(people["split"]) == {"train", "val", "test"}


def test_the_archive_lacks_contrast_and_colour(faces):
    def mean(source, measure):
        return np.mean([measure(face.image) for face in faces if face.source == source])

    assert mean("archive", np.std) < 0.6 * mean("studio", np.std)

    def colour(image):
        return np.ptp(image.astype(float).mean(axis=(0, 1)))

    assert mean("archive", colour) < 0.3 * mean("street", colour)


def test_clahe_changes_the_archive_most(faces):
    from fer_mlflow.data.images import apply_clahe
    from fer_mlflow.data.preprocessing import Clahe

    gain = {
        source: np.mean([apply_clahe(f.image, Clahe()).std() / f.image.std() for f in faces if f.source == source])
        for source in SOURCES
    }
    assert gain["archive"] > 1.3 * gain["studio"]


def test_the_manifest_can_be_exported(written):
    frame = pd.read_csv(written)
    assert list(frame.columns) == ["path", "label", "split", "source", "identity"]
    benchmark = read_benchmark(written, FER7)  # verifies every path
    assert len(benchmark) == 60
    image = cv2.imread(str(written.parent / frame["path"][0]))
    assert image.shape == (SIZE, SIZE, 3)
    assert np.abs(image.astype(int) - draw_face(3, 0).image).mean() < 6  # JPEG


def test_a_complete_folder_is_left_alone(written):
    before = {path: path.stat().st_mtime_ns for path in written.parent.rglob("*")}
    counted = []
    assert write_faces(written.parent, 60, 3, on_face=counted.append) == written
    assert counted == []
    assert {path: path.stat().st_mtime_ns for path in written.parent.rglob("*")} == before


def test_an_interrupted_folder_is_completed(tmp_path, written):
    def stop(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_faces(tmp_path / "faces", 60, 3, on_face=stop)
    assert not (tmp_path / "faces/manifest.csv").exists()
    manifest = write_faces(tmp_path / "faces", 60, 3)
    assert manifest.read_bytes() == written.read_bytes()
    for path in pd.read_csv(manifest)["path"]:
        assert (manifest.parent / path).read_bytes() == (written.parent / path).read_bytes()


@pytest.mark.parametrize(("count", "seed"), [(61, 3), (60, 4)])
def test_a_folder_of_other_faces_is_not_touched(written, count, seed):
    with pytest.raises(ManifestError, match=r"holds drawn faces .* choose another folder"):
        write_faces(written.parent, count, seed)
    assert json.loads((written.parent / "drawn.json").read_text()) == {"count": 60, "seed": 3, "version": 2}


def test_the_sheet_shows_every_kind(faces):
    sheet = contact_sheet(faces, each=2)
    assert sheet.shape == (20 + 7 * SIZE, 80 + 3 * 2 * SIZE, 3)
    first_happy = next(face.image for face in faces if face.label == "Happy" and face.source == "street")
    row, column = 20 + 3 * SIZE, 80 + 2 * SIZE
    np.testing.assert_array_equal(sheet[row : row + SIZE, column : column + SIZE], first_happy)
