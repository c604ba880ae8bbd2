"""Builders give, row by row, what a person would write by hand from the label files."""

import os

import cv2
import numpy as np
import pytest
import toys
from trees import (
    CONTEMPT_TOO,
    FERPLUS_HEADER,
    RAFDB_LIST,
    affectnet_sets,
    ckplus,
    expw,
    fer2013_csv,
    pixels,
    put,
    rafdb,
)

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.datasets import build
from fer_mlflow.errors import ContractError, ManifestError

EIGHT = ClassOrder.of(CONTEMPT_TOO)
RAFDB_ROWS = [
    ["train_00001_aligned.jpg", "Sad", "train", "rafdb"],
    ["train_00002_aligned.jpg", "Happy", "train", "rafdb"],
    ["train_00003_aligned.jpg", "Surprise", "train", "rafdb"],
    ["test_0001_aligned.jpg", "Neutral", "test", "rafdb"],
    ["test_0002_aligned.jpg", "Disgust", "test", "rafdb"],
    ["test_0003_aligned.jpg", "Angry", "test", "rafdb"],
    ["test_0004_aligned.jpg", "Fear", "test", "rafdb"],
]


@pytest.fixture
def make(tmp_path):
    """Build a data set that lies in tmp_path/data, with images written to tmp_path/images."""

    def make(dataset, folder=None, classes=FER7, **options):
        return build(dataset, folder or tmp_path / "data", classes, tmp_path / "images", **options)

    return make


def rows(built) -> list[list[str]]:
    return built.frame.values.tolist()


def refusal(make, *arguments, **options) -> str:
    """Return the one-line message that a data set is refused with."""
    with pytest.raises(ManifestError) as caught:
        make(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files_below(folder) -> list[str]:
    return sorted(os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file())


# --- RAF-DB ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["Image/aligned", "Image/aligned/aligned"])
@pytest.mark.parametrize("above", ["", "basic", "RAF-DB/basic"])
def test_rafdb_however_it_is_nested(make, tmp_path, images, above):
    rafdb(tmp_path / "data" / above, images)
    built = make("rafdb")
    assert rows(built) == RAFDB_ROWS
    assert built.folder == tmp_path / "data" / above / images
    assert built.counts.loc["test"].loc["Angry"].tolist() == [1, 1, 0]
    assert (built.missing, built.skipped, built.unlisted) == ((), {}, 0)


def test_rafdb_without_the_suffix_and_with_files_that_no_label_names(make, tmp_path):
    root = rafdb(tmp_path / "data", suffix="")
    put(root / "Image/aligned/test_9999.jpg", 50)
    built = make("rafdb")
    assert [row[0] for row in rows(built)] == [line.split()[0] for line in RAFDB_LIST.splitlines()]
    assert built.unlisted == 1


def test_rafdb_with_missing_images_says_what_was_tried_and_where_similar_files_lie(make, tmp_path):
    root = rafdb(tmp_path / "data")
    (root / "Image/original").mkdir()
    for name in ("train_00002", "test_0004"):
        (root / f"Image/aligned/{name}_aligned.jpg").rename(root / f"Image/original/{name}.jpg")
    message = refusal(make, "rafdb")
    assert "2 of 7 images are missing, first tried" in message
    assert f"{root}/Image/aligned/train_00002_aligned.jpg, {root}/Image/aligned/test_0004_aligned.jpg" in message
    assert f"similar files lie in {root}/Image/original (2, such as " in message
    assert "--allow-missing true" in message
    built = make("rafdb", allow_missing=True)
    assert rows(built) == [row for row in RAFDB_ROWS if row[0][:-12] not in ("train_00002", "test_0004")]
    assert built.counts.loc["train"].loc["Happy"].tolist() == [1, 0, 1]
    assert built.counts["missing"].sum() == 2
    assert built.counts["expected"].sum() == 7


def test_one_percent_may_be_missing_without_a_word(make, tmp_path):
    names = [f"train_{number:05d}" for number in range(1, 101)]
    rafdb(tmp_path / "data", lines="\n".join(f"{name}.jpg 4" for name in names))
    for name in names[1:]:
        put(tmp_path / f"data/Image/aligned/{name}_aligned.jpg")
    (tmp_path / "data/Image/aligned/train_00001_aligned.jpg").unlink()
    built = make("rafdb")
    assert len(built.frame) == 99
    assert built.counts["missing"].tolist() == [1]
    (tmp_path / "data/Image/aligned/train_00002_aligned.jpg").unlink()
    assert "2 of 100 images are missing" in refusal(make, "rafdb")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (RAFDB_LIST[:-2], 'line 7: found "test_0004.jpg"; a line is'),
        (RAFDB_LIST[:-9], 'line 7: found "test_0"; a line is'),
        (RAFDB_LIST.replace("jpg 3", "jpg 8"), 'line 5: label "8" is not a code from 1 to 7'),
        (RAFDB_LIST.replace("jpg 3", "jpg 0"), 'line 5: label "0" is not a code from 1 to 7'),
        (RAFDB_LIST.replace("jpg 3", "jpg x"), 'line 5: label "x" is not a code from 1 to 7'),
        ("\n", "no label in it"),
    ],
)
def test_rafdb_with_a_bad_list_names_the_line(make, tmp_path, lines, expected):
    rafdb(tmp_path / "data", lines=lines)
    message = refusal(make, "rafdb")
    assert "list_patition_label.txt" in message
    assert expected in message


@pytest.mark.parametrize(
    ("dataset", "looked_for"),
    [
        ("rafdb", "EmoLabel/list_patition_label.txt"),
        ("affectnet", "train_set/annotations"),
        ("fer2013", "fer2013.csv or icml_face_data.csv or train"),
        ("ferplus", "fer2013new.csv"),
        ("expw", "label.lst"),
        ("ckplus", "Emotion"),
        ("folder", "folders named after Angry, Disgust"),
    ],
)
def test_a_wrong_folder_says_what_was_looked_for_and_what_is_there(make, tmp_path, dataset, looked_for):
    put(tmp_path / "data" / "holiday.jpg")
    message = refusal(make, dataset)
    assert str(tmp_path / "data") in message
    assert looked_for in message
    assert ("holiday.jpg" in message) or dataset == "folder"
    assert "is not a folder" in refusal(make, dataset, tmp_path / "nowhere")


def test_a_folder_with_the_data_set_twice_is_refused(make, tmp_path):
    rafdb(tmp_path / "data/a")
    rafdb(tmp_path / "data/b")
    assert "holds RAF-DB more than once" in refusal(make, "rafdb")


# --- AffectNet ---------------------------------------------------------------------------------------------------


def test_affectnet_sets_with_labels_as_text_and_as_integers(make, tmp_path):
    labels = {
        "train_set/0": np.array("0"),
        "train_set/12": np.array(1),
        "train_set/3": np.array([6]),
        "train_set/4": np.array("7"),
        "train_set/5": np.array("8"),
        "val_set/0": np.array("3"),
        "val_set/1": np.array(4),
    }
    affectnet_sets(tmp_path / "data", labels)
    put(tmp_path / "data/val_set/images/99.jpg")
    seven = [
        ["train_set/images/0.jpg", "Neutral", "train", "affectnet"],
        ["train_set/images/12.jpg", "Happy", "train", "affectnet"],
        ["train_set/images/3.jpg", "Angry", "train", "affectnet"],
        ["val_set/images/0.jpg", "Surprise", "val", "affectnet"],
        ["val_set/images/1.jpg", "Fear", "val", "affectnet"],
    ]
    built = make("affectnet")
    assert rows(built) == seven
    assert built.skipped == {"of class Contempt, which is not among the classes": 1, "of no expression": 1}
    assert built.unlisted == 1
    contempt = ["train_set/images/4.jpg", "Contempt", "train", "affectnet"]
    assert rows(make("affectnet", classes=EIGHT)) == [*seven[:3], contempt, *seven[3:]]


def test_affectnet_sets_with_nested_folders_png_and_a_missing_image(make, tmp_path):
    root = affectnet_sets(tmp_path / "data", {"val_set/1": np.array("1"), "val_set/2": np.array("2")})
    (root / "val_set/images").rename(root / "val_set/inner")
    (root / "val_set/images").mkdir()
    (root / "val_set/inner").rename(root / "val_set/images/images")
    (root / "val_set/images/images/1.jpg").rename(root / "val_set/images/images/1.png")
    (root / "val_set/images/images/2.jpg").unlink()
    assert f"first tried {root}/val_set/images/images/2.jpg" in refusal(make, "affectnet")
    built = make("affectnet", allow_missing=True)
    assert rows(built) == [["val_set/images/images/1.png", "Happy", "val", "affectnet"]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array("11"), 'label "11" is not a code from 0 to 10'),
        (np.array("-1"), 'label "-1" is not a code'),
        (np.array([1, 2]), "found 2 values"),
        (np.array(1.5), 'label "1.5" is not a code'),
    ],
)
def test_affectnet_labels_that_are_none_name_their_file(make, tmp_path, value, expected):
    affectnet_sets(tmp_path / "data", {"train_set/7": value})
    message = refusal(make, "affectnet")
    assert f"{tmp_path}/data/train_set/annotations/7_exp.npy" in message
    assert expected in message


def test_affectnet_npy_files_with_pickles_or_cut_short_are_refused(make, tmp_path):
    root = affectnet_sets(tmp_path / "data", {"train_set/7": np.array("1")})
    np.save(root / "train_set/annotations/7_exp.npy", np.array({"a": 1}), allow_pickle=True)
    assert "not a .npy file of one label" in refusal(make, "affectnet")
    (root / "train_set/annotations/7_exp.npy").write_bytes(b"\x93NUMPY\x01")
    assert "not a .npy file of one label" in refusal(make, "affectnet")


AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)


@pytest.mark.parametrize("lists", ["", "Manually_Annotated_file_lists"])
@pytest.mark.parametrize("images", ["Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images"])
def test_affectnet_csv(make, tmp_path, lists, images):
    root = tmp_path / "data"
    (root / lists).mkdir(parents=True, exist_ok=True)
    line = "{},1,1,9,9,1;2,{},0.1,0.2"
    training = [("103/a.jpg", 5), ("103/b.jpg", 7), ("104/c.JPG", 2), ("104/none.jpg", 10)]
    validation = [("99/d.jpg", 6)]
    for name, part in (("training.csv", training), ("validation.csv", validation)):
        text = "\n".join([AFFECTNET_HEADER, *(line.format(*entry) for entry in part)])
        (root / lists / name).write_text(text)
    for path, _ in (*training, *validation):
        put(root / images / path)
    built = make("affectnet")
    assert rows(built) == [
        ["103/a.jpg", "Disgust", "train", "affectnet"],
        ["104/c.JPG", "Sad", "train", "affectnet"],
        ["99/d.jpg", "Angry", "val", "affectnet"],
    ]
    assert built.folder == root / images
    assert built.skipped == {"of class Contempt, which is not among the classes": 1, "of no expression": 1}


def test_affectnet_csv_with_a_label_out_of_range_or_without_its_column(make, tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/training.csv"
    path.write_text("subDirectory_filePath,expression\n1/a.jpg,1\n1/b.jpg,11\n")
    assert f'{path} line 3: label "11" is not a code from 0 to 10' in refusal(make, "affectnet")
    path.write_text("subDirectory_filePath,face_x\n1/a.jpg,1\n")
    assert f"{path}: no column expression" in refusal(make, "affectnet")


# --- FER2013 -----------------------------------------------------------------------------------------------------

FER_ROWS = [(0, "Training"), (3, "Training"), (6, "PublicTest"), (1, "PrivateTest")]
FER_EXPECTED = [
    ["train/fer0000000.png", "Angry", "train", "fer2013"],
    ["train/fer0000001.png", "Happy", "train", "fer2013"],
    ["val/fer0000002.png", "Neutral", "val", "fer2013"],
    ["test/fer0000003.png", "Disgust", "test", "fer2013"],
]


@pytest.mark.parametrize(
    ("name", "header"),
    [("fer2013.csv", "emotion,pixels,Usage"), ("icml_face_data.csv", "emotion, Usage, pixels")],
)
def test_fer2013_csv_writes_its_pixels_as_png(make, tmp_path, name, header):
    fer2013_csv(tmp_path / "data/fer2013" / name, FER_ROWS, header)
    built = make("fer2013")
    assert rows(built) == FER_EXPECTED
    assert built.folder == tmp_path / "images"
    assert files_below(tmp_path / "images") == sorted(row[0] for row in FER_EXPECTED)
    for number, row in enumerate(FER_EXPECTED):
        written = cv2.imread(str(tmp_path / "images" / row[0]), cv2.IMREAD_UNCHANGED)
        assert written.shape == (48, 48)
        np.testing.assert_array_equal(written, pixels(number))


def test_fer2013_images_are_mended_and_otherwise_left_alone(make, tmp_path):
    fer2013_csv(tmp_path / "data/fer2013.csv", FER_ROWS)
    make("fer2013")
    kept, broken = tmp_path / "images/train/fer0000000.png", tmp_path / "images/val/fer0000002.png"
    whole, before = broken.read_bytes(), kept.stat()
    broken.write_bytes(whole[:100])
    make("fer2013")
    assert broken.read_bytes() == whole
    after = kept.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(files_below(tmp_path / "images")) == 4


@pytest.mark.parametrize(
    ("find", "put_in", "expected"),
    [
        ("\n3,", "\n7,", 'line 3: label "7" is not a code from 0 to 6'),
        ("PublicTest", "Public", 'line 4: Usage "Public" is not one of Training'),
        ("emotion,", "label,", "no column emotion"),
    ],
)
def test_fer2013_csv_with_a_bad_row_names_file_and_line(make, tmp_path, find, put_in, expected):
    path = fer2013_csv(tmp_path / "data/fer2013.csv", FER_ROWS)
    path.write_text(path.read_text().replace(find, put_in, 1))
    message = refusal(make, "fer2013")
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.rpartition(" ")[0], "found 2,303 pixel values"),
        (lambda text: text + " 7", "found 2,305 pixel values"),
        (lambda text: "256" + text[text.index(" ") :], "up to 256"),
        (lambda text: "x" + text[text.index(" ") :], '"x" in its pixels is no number'),
        (lambda text: "-1" + text[text.index(" ") :], '"-" in its pixels is no number'),
        (lambda text: "", "found 0 pixel values"),
    ],
)
def test_fer2013_pixels_of_the_wrong_length_or_value_are_refused(make, tmp_path, change, expected):
    path = fer2013_csv(tmp_path / "data/fer2013.csv", FER_ROWS)
    lines = path.read_text().splitlines()
    code, text, usage = lines[3].split(",")
    lines[3] = ",".join([code, change(text), usage])
    path.write_text("\n".join(lines))
    message = refusal(make, "fer2013")
    assert f"{path} line 4: " in message
    assert expected in message


def test_fer2013_csv_that_ends_in_the_middle_of_a_row_is_refused(make, tmp_path):
    path = fer2013_csv(tmp_path / "data/fer2013.csv", FER_ROWS)
    path.write_text(path.read_text()[:-5000])
    assert 'line 5: Usage "" is not one of' in refusal(make, "fer2013")


def test_fer2013_folders(make, tmp_path):
    for path in ("train/angry/b.jpg", "train/angry/a.jpg", "train/neutral/c.png", "test/happy/d.jpg"):
        put(tmp_path / "data" / path)
    assert rows(make("fer2013")) == [
        ["test/happy/d.jpg", "Happy", "test", "fer2013"],
        ["train/angry/a.jpg", "Angry", "train", "fer2013"],
        ["train/angry/b.jpg", "Angry", "train", "fer2013"],
        ["train/neutral/c.png", "Neutral", "train", "fer2013"],
    ]


# --- FER+ --------------------------------------------------------------------------------------------------------

FERPLUS = [
    "Training,fer0000000.png,4,0,0,1,5,0,0,0,0,0",  # anger, 0.5
    "Training,,0,0,0,0,0,0,0,0,0,10",  # removed
    "Training,fer0000001.png,0,10,0,0,0,0,0,0,0,0",  # happiness, 1
    "PublicTest,fer0000002.png,5,5,0,0,0,0,0,0,0,0",  # a tie
    "PublicTest,fer0000003.png,0,0,0,0,0,0,0,8,2,0",  # contempt, 0.8
    "PrivateTest,fer0000004.png,0,0,0,0,0,1,0,0,9,0",  # unknown
    "PrivateTest,fer0000005.png,0,0,3,1,1,1,1,1,1,1",  # surprise, 0.3
    "PrivateTest,fer0000006.png,0,0,0,0,0,3,7,0,0,0",  # fear, 0.7
    "PrivateTest,fer0000007.png,0,0,0,0,0,0,0,0,2,8",  # no face
]


@pytest.fixture
def ferplus(tmp_path):
    """Write FER+ beside FER2013's CSV."""

    def write(lines=FERPLUS, with_pixels=True):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data/fer2013new.csv").write_text("\n".join([FERPLUS_HEADER, *lines]) + "\n")
        if with_pixels:
            fer2013_csv(tmp_path / "data/fer2013.csv", [(0, line.split(",")[0]) for line in FERPLUS])

    return write


def test_ferplus_takes_the_majority_and_the_pixels_of_the_same_row(make, tmp_path, ferplus):
    ferplus()
    built = make("ferplus")
    assert built.frame.columns.tolist() == ["path", "label", "split", "source", "agreement"]
    assert rows(built) == [
        ["FER2013Train/fer0000000.png", "Angry", "train", "ferplus", "0.5"],
        ["FER2013Train/fer0000001.png", "Happy", "train", "ferplus", "1"],
        ["FER2013Test/fer0000005.png", "Surprise", "test", "ferplus", "0.3"],
        ["FER2013Test/fer0000006.png", "Fear", "test", "ferplus", "0.7"],
    ]
    assert built.skipped == {
        "removed by FER+ (no image name)": 1,
        "with as many votes for another class": 1,
        "voted unknown": 1,
        "voted NF": 1,
        "of class contempt, which is not among the classes": 1,
    }
    # fer0000001.png is the third row of both files: names skip removed rows, so they do not tell the row
    for row, name in ((0, "FER2013Train/fer0000000.png"), (2, "FER2013Train/fer0000001.png")):
        written = cv2.imread(str(tmp_path / "images" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, pixels(row))
    assert len(files_below(tmp_path / "images")) == 4


def test_ferplus_with_a_least_agreement_and_contempt(make, ferplus):
    ferplus()
    built = make("ferplus", classes=EIGHT, min_agreement=0.7)
    assert [(row[0][-11:], row[1], row[4]) for row in rows(built)] == [
        ("0000001.png", "Happy", "1"),
        ("0000003.png", "Contempt", "0.8"),
        ("0000006.png", "Fear", "0.7"),
    ]
    assert built.skipped["with agreement below 0.7"] == 2


def test_ferplus_with_the_images_that_its_own_tool_writes(make, tmp_path, ferplus):
    ferplus(with_pixels=False)
    for name in ("FER2013Train/fer0000000", "FER2013Train/fer0000001", "FER2013Test/fer0000005"):
        put(tmp_path / f"data/images/{name}.png")
    assert "1 of 4 images are missing" in refusal(make, "ferplus")
    built = make("ferplus", allow_missing=True)
    assert [row[0] for row in rows(built)] == [
        "FER2013Train/fer0000000.png",
        "FER2013Train/fer0000001.png",
        "FER2013Test/fer0000005.png",
    ]
    assert built.folder == tmp_path / "data/images"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (FERPLUS[:-1], "has 8 rows and"),
        ([FERPLUS[3], *FERPLUS[1:3], FERPLUS[0], *FERPLUS[4:]], 'line 2: Usage "PublicTest", but "Training"'),
        ([*FERPLUS[:-1], "PrivateTest,fer0000007.png,0,0,0"], 'line 10: votes "0,0,0,,,,,,," are not counts'),
        ([*FERPLUS[:-1], FERPLUS[-1].replace("2,8", "2,x")], "line 10: votes"),
    ],
)
def test_ferplus_files_that_do_not_fit_together_are_refused(make, ferplus, lines, expected):
    ferplus(lines)
    assert expected in refusal(make, "ferplus")


def test_a_least_agreement_is_for_ferplus_alone(make, tmp_path):
    rafdb(tmp_path / "data")
    with pytest.raises(ContractError, match="rafdb has no votes"):
        make("rafdb", min_agreement=0.5)


# --- ExpW --------------------------------------------------------------------------------------------------------


def photo(number: int) -> np.ndarray:
    return cv2.resize(toys.face(number), (120, 100))  # 100 rows, 120 columns


EXPW_LINES = [
    "angry_1.jpg 0 10 20 70 60 34.1 0",  # rows 10 to 60, columns 20 to 70
    "angry_1.jpg 1 5 80 118 55 20.0 3",
    "two words.jpg 0 -3 90 140 50 12.5 6",  # leaves the photograph at the top and on the right
]


@pytest.mark.parametrize("images", ["image/origin", "origin", "data/image/origin/origin"])
def test_expw_crops_boxes_of_top_left_right_bottom(make, tmp_path, images):
    expw(
        tmp_path / "data",
        EXPW_LINES,
        {"angry_1.jpg": photo(1), "two words.jpg": photo(2), "more.jpg": photo(3)},
        images,
    )
    built = make("expw")
    assert built.frame.columns.tolist() == ["path", "label", "split", "source", "photo", "confidence"]
    assert rows(built) == [
        ["angry_1_0.png", "Angry", "", "expw", "angry_1.jpg", "34.1"],
        ["angry_1_1.png", "Happy", "", "expw", "angry_1.jpg", "20.0"],
        ["two words_0.png", "Neutral", "", "expw", "two words.jpg", "12.5"],
    ]
    assert built.unlisted == 1
    crops = {
        "angry_1_0.png": photo(1)[10:60, 20:70],
        "angry_1_1.png": photo(1)[5:55, 80:118],
        "two words_0.png": photo(2)[0:50, 90:120],
    }
    assert files_below(tmp_path / "images") == sorted(crops)
    for name, crop in crops.items():
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "images" / name)), crop)


def test_expw_faces_with_one_id_missing_photographs_and_boxes_outside(make, tmp_path):
    lines = [
        EXPW_LINES[0],
        "angry_1.jpg 0 0 0 50 50 1.0 4",
        "angry_1.jpg 7 200 10 40 240 1.0 4",
        "gone.jpg 0 0 0 50 50 1.0 4",
        "broken.jpg 0 0 0 50 50 1.0 4",
    ]
    root = expw(tmp_path / "data", lines, {"angry_1.jpg": photo(1)})
    (root / "image/origin/broken.jpg").write_bytes(b"no image")
    assert f"first tried {root}/image/origin/gone.jpg" in refusal(make, "expw")
    assert not (tmp_path / "images").exists()
    built = make("expw", allow_missing=True)
    assert [row[:2] for row in rows(built)] == [["angry_1_0.png", "Angry"], ["angry_1_0_1.png", "Sad"]]
    assert built.skipped == {
        "whose photograph cannot be decoded": 1,
        "whose box lies outside its photograph": 1,
    }
    assert built.counts.loc[""].loc["Sad"].tolist() == [4, 1, 1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.jpg 0 10 20 70 60 34.1", "a line is image face_id top left right bottom confidence label"),
        ("a.jpg 0 10 20 70 6x 34.1 0", "a line is image face_id"),
        ("a.jpg 0 60 20 70 10 34.1 0", "box top 60, left 20, right 70, bottom 10 holds no pixel"),
        ("a.jpg 0 10 20 70 60 34.1 7", 'label "7" is not a code from 0 to 6'),
    ],
)
def test_expw_with_a_bad_line_names_it(make, tmp_path, line, expected):
    expw(tmp_path / "data", [EXPW_LINES[0], line], {"angry_1.jpg": photo(1)})
    message = refusal(make, "expw")
    assert f"{tmp_path}/data/label/label.lst line 2: " in message
    assert expected in message


# --- CK+ ---------------------------------------------------------------------------------------------------------

CK_LABELS = {
    "S005/001/S005_001_00000003_emotion.txt": "   3.0000000e+00\n",
    "S010/002/S010_002_00000002_emotion.txt": "   7.0000000e+00\n",
    "S010/004/S010_004_00000004_emotion.txt": "   2.0000000e+00\n",
}
CK_FRAMES = {"S005/001": 3, "S010/002": 2, "S010/004": 4, "S011/001": 2}


@pytest.mark.parametrize("images", ["cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images"])
def test_ckplus_takes_the_last_frame_of_each_labelled_sequence(make, tmp_path, images):
    ckplus(tmp_path / "data/CK+", CK_LABELS, CK_FRAMES, images)
    built = make("ckplus")
    assert built.frame.columns.tolist() == ["path", "label", "split", "source", "identity"]
    seven = [
        ["S005/001/S005_001_00000003.png", "Disgust", "", "ckplus", "S005"],
        ["S010/002/S010_002_00000002.png", "Surprise", "", "ckplus", "S010"],
    ]
    assert rows(built) == seven
    assert built.skipped == {
        "of class contempt, which is not among the classes": 1,
        "sequences without a label file": 1,
    }
    contempt = ["S010/004/S010_004_00000004.png", "Contempt", "", "ckplus", "S010"]
    assert rows(make("ckplus", classes=EIGHT)) == [*seven, contempt]


def test_ckplus_with_a_label_out_of_range_or_a_missing_sequence(make, tmp_path):
    labels = {**CK_LABELS, "S011/001/S011_001_00000002_emotion.txt": "   8.0000000e+00\n"}
    root = ckplus(tmp_path / "data", labels, CK_FRAMES)
    bad = root / "Emotion/S011/001/S011_001_00000002_emotion.txt"
    assert f'{bad} line 1: label "8.0000000e+00" is not a code from 0 to 7' in refusal(make, "ckplus")
    bad.write_text("5.0")
    for path in (root / "cohn-kanade-images/S011/001").iterdir():
        path.unlink()
    assert f"first tried {root}/cohn-kanade-images/S011/001/S011_001_00000002.png" in refusal(make, "ckplus")
    bad.write_text("")
    assert f"{bad}: no label in it" in refusal(make, "ckplus")


def test_ckplus_folders(make, tmp_path):
    for path in ("anger/S010_004_00000017.png", "contempt/S138_008_00000007.png", "happy/S011_006_00000011.png"):
        put(tmp_path / "data/CK+48" / path)
    built = make("ckplus")
    assert rows(built) == [
        ["anger/S010_004_00000017.png", "Angry", "", "ckplus", "S010"],
        ["happy/S011_006_00000011.png", "Happy", "", "ckplus", "S011"],
    ]
    assert built.skipped == {"of class contempt, which is not among the classes": 1}
    assert len(make("ckplus", classes=EIGHT).frame) == 3


# --- folders -----------------------------------------------------------------------------------------------------


def test_folders_without_splits_and_wrapped_in_others(make, tmp_path):
    for path in ("Happiness/sub/b.jpg", "Happiness/a.PNG", "sad/c.webp.jpg"):
        put(tmp_path / "data/mine" / path)
    (tmp_path / "data/mine/sad/notes.txt").write_text("x")
    (tmp_path / "data/mine/sad/.hidden.jpg").write_text("x")
    built = make("folder")
    assert rows(built) == [
        ["Happiness/a.PNG", "Happy", "", "data"],
        ["Happiness/sub/b.jpg", "Happy", "", "data"],
        ["sad/c.webp.jpg", "Sad", "", "data"],
    ]
    assert (built.unlisted, built.folder) == (1, tmp_path / "data/mine")


def test_folders_with_splits_above_them(make, tmp_path):
    for path in ("Train/fear/a.jpg", "valid/fear/b.jpg", "test/joy/c.jpg", "test/contempt/d.jpg"):
        put(tmp_path / "data" / path)
    built = make("folder", source="web")
    assert rows(built) == [
        ["Train/fear/a.jpg", "Fear", "train", "web"],
        ["test/joy/c.jpg", "Happy", "test", "web"],
        ["valid/fear/b.jpg", "Fear", "val", "web"],
    ]
    assert built.skipped == {"of class contempt, which is not among the classes": 1}


def test_folders_named_by_numbers_need_a_class_file(make, tmp_path):
    for path in ("train/4/a.jpg", "train/5/b.jpg"):
        put(tmp_path / "data" / path)
    message = refusal(make, "folder")
    assert f'{tmp_path}/data/train: folder "4" is named by a number' in message
    assert "--classes" in message
    classes = ClassOrder.of(("Happy", "Sad"), {"Happy": ["4"], "Sad": ["5"]})
    assert [row[1] for row in rows(make("folder", classes=classes))] == ["Happy", "Sad"]


def test_a_folder_that_is_no_class_is_refused(make, tmp_path):
    for path in ("happy/a.jpg", "bored/b.jpg"):
        put(tmp_path / "data" / path)
    assert 'folder "bored" is neither a class' in refusal(make, "folder")


def test_nothing_left_is_refused_with_the_reasons(make, tmp_path):
    affectnet_sets(tmp_path / "data", {"train_set/1": np.array("7"), "train_set/2": np.array("9")})
    assert "no row is left (1 of class Contempt" in refusal(make, "affectnet")
