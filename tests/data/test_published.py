"""The table of label codes says what the data sets say. Expected values are written by hand from their sources."""

import pytest

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.published import CODES, dataset_called
from fer_mlflow.settings.manifests import DATASETS

EIGHT = ClassOrder.of(("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral", "Contempt"))
# From each data set's own readme; None stands for what is no expression.
EXPECTED = {
    "rafdb": {1: "Surprise", 2: "Fear", 3: "Disgust", 4: "Happy", 5: "Sad", 6: "Angry", 7: "Neutral"},
    "affectnet": {
        0: "Neutral",
        1: "Happy",
        2: "Sad",
        3: "Surprise",
        4: "Fear",
        5: "Disgust",
        6: "Angry",
        7: "Contempt",
        8: None,
        9: None,
        10: None,
    },
    "fer2013": {0: "Angry", 1: "Disgust", 2: "Fear", 3: "Happy", 4: "Sad", 5: "Surprise", 6: "Neutral"},
    "ferplus": {
        0: "Neutral",
        1: "Happy",
        2: "Surprise",
        3: "Sad",
        4: "Angry",
        5: "Disgust",
        6: "Fear",
        7: "Contempt",
        8: None,
        9: None,
    },
    "expw": {0: "Angry", 1: "Disgust", 2: "Fear", 3: "Happy", 4: "Sad", 5: "Surprise", 6: "Neutral"},
    "ckplus": {
        0: "Neutral",
        1: "Angry",
        2: "Contempt",
        3: "Disgust",
        4: "Fear",
        5: "Happy",
        6: "Sad",
        7: "Surprise",
    },
}
# Rows of each published part, as papers and readmes give them.
TOTALS = {
    "rafdb": {"train": 12271, "test": 3068, "train + test": 15339},
    "affectnet": {"train": 287651, "val": 4000, "train + val": 291651},
    "fer2013": {
        "train": 28709,
        "val": 3589,
        "test": 3589,
        "train + val": 32298,
        "train + test": 32298,
        "val + test": 7178,
        "train + val + test": 35887,
    },
    "ferplus": {},
    "expw": {"all": 91793},
    "ckplus": {"peak frames": 327, "last three frames": 981},
}


def test_every_builder_but_folder_has_codes():
    assert set(CODES) == set(DATASETS) - {"folder"} == set(EXPECTED)


@pytest.mark.parametrize("dataset", EXPECTED)
def test_each_code_means_what_the_data_set_says(dataset):
    meanings = CODES[dataset].meanings.items()
    assert {code: name and EIGHT.names[EIGHT.index_of(name)] for code, name in meanings} == EXPECTED[dataset]


@pytest.mark.parametrize("dataset", EXPECTED)
def test_the_source_of_the_codes_and_of_the_counts_is_named(dataset):
    assert CODES[dataset].stated_in
    assert bool(CODES[dataset].counted_in) == bool(CODES[dataset].counts)


@pytest.mark.parametrize("dataset", TOTALS)
def test_published_counts_sum_to_the_published_totals(dataset):
    assert {part: sum(counts) for part, counts in CODES[dataset].subsets().items()} == TOTALS[dataset]
    assert all(len(counts) == len(CODES[dataset].names) for counts in CODES[dataset].counts.values())


def test_counts_that_tell_neighbouring_classes_apart():
    rafdb = dict(zip(CODES["rafdb"].names, CODES["rafdb"].counts["test"], strict=True))
    assert (rafdb["Surprise"], rafdb["Disgust"], rafdb["Anger"], rafdb["Happiness"]) == (329, 160, 162, 1185)
    fer = dict(zip(CODES["fer2013"].names, CODES["fer2013"].counts["test"], strict=True))
    assert (fer["Disgust"], fer["Happy"], fer["Neutral"]) == (55, 879, 626)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("rafdb", "rafdb"),
        ("RAF-DB", "rafdb"),
        ("raf_db", "rafdb"),
        ("AffectNet-7", "affectnet"),
        ("FER+", "ferplus"),
        ("fer2013", "fer2013"),
        ("CK+", "ckplus"),
        ("expw_test", "expw"),
        ("web", None),
        ("", None),
        ("raft", None),
    ],
)
def test_data_sets_are_known_by_their_usual_names(name, dataset):
    assert dataset_called(name) == dataset
