"""What the label codes of each data set mean, who says so, and how many images of each class it published."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelCodes:
    """The label codes of one data set.

    Attributes
    ----------
    first : the integer that means the first of `names`; the others follow
    names : classes in the order of their codes, in the data set's own words
    stated_in : where the data set says what its codes mean
    not_faces : the codes after those of `names`, which stand for no expression
    counts : split (or another part that was published) -> images of each of `names`
    counted_in : where the counts are from
    also_called : other spellings of the data set's name, in lower case
    """

    first: int
    names: tuple[str, ...]
    stated_in: str
    not_faces: tuple[str, ...] = ()
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counted_in: str = ""
    also_called: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        """The highest code that is in use."""
        return self.first + len(self.names) + len(self.not_faces) - 1

    def name_of(self, code: int) -> str | None:
        """Return the class that a code means, None for one of `not_faces`.

        >>> CODES["rafdb"].name_of(3), CODES["affectnet"].name_of(3), CODES["affectnet"].name_of(10)
        ('Disgust', 'Surprise', None)
        """
        return self.names[code - self.first] if code - self.first < len(self.names) else None

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Return the published parts and the sums of two or more splits: `train`, `val`, `val + test`, …"""
        parts = dict(self.counts)
        splits = [split for split in SPLITS if split in parts]
        for size in range(2, len(splits) + 1):
            for chosen in combinations(splits, size):
                parts[" + ".join(chosen)] = tuple(map(sum, zip(*(self.counts[split] for split in chosen), strict=True)))
        return parts


CODES: Mapping[str, LabelCodes] = {
    "rafdb": LabelCodes(
        first=1,
        names=("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"),
        stated_in="the readme of RAF-DB's basic set, which comes with EmoLabel/list_patition_label.txt",
        counts={
            "train": (1290, 281, 717, 4772, 1982, 705, 2524),
            "test": (329, 74, 160, 1185, 478, 162, 680),
        },
        counted_in="EmoLabel/list_patition_label.txt: 12,271 lines of train, 3,068 of test",
        also_called=("raf-db", "raf", "raf-db basic"),
    ),
    "affectnet": LabelCodes(
        first=0,
        names=("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
        stated_in="the readme of AffectNet's manually annotated set (column expression, files *_exp.npy)",
        not_faces=("None", "Uncertain", "No-Face"),
        counts={
            "train": (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
            "val": (500, 500, 500, 500, 500, 500, 500, 500),
        },
        counted_in="Mollahosseini, Hasani & Mahoor 2017, table 3, less 500 of each class for validation",
        also_called=("affectnet-7", "affectnet-8", "affectnet7", "affectnet8"),
    ),
    "fer2013": LabelCodes(
        first=0,
        names=("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"),
        stated_in="the data page of Kaggle's challenge in facial expression recognition, 2013 (column emotion)",
        counts={
            "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
            "val": (467, 56, 496, 895, 653, 415, 607),
            "test": (491, 55, 528, 879, 594, 416, 626),
        },
        counted_in="fer2013.csv: 28,709 rows of Training, 3,589 of PublicTest (val), 3,589 of PrivateTest (test)",
        also_called=("fer-2013", "fer", "fer13"),
    ),
    "ferplus": LabelCodes(
        first=0,
        names=("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
        stated_in="the header of fer2013new.csv: the order of the columns of votes",
        not_faces=("unknown", "NF"),
        also_called=("fer+", "fer-plus"),
    ),
    "expw": LabelCodes(
        first=0,
        names=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        stated_in="the readme that comes with ExpW's label.lst",
        counts={"all": (3671, 3995, 1088, 30537, 10559, 7060, 34883)},
        counted_in="label.lst: 91,793 lines",
        also_called=("expw-f",),
    ),
    "ckplus": LabelCodes(
        first=0,
        names=("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"),
        stated_in="the readme of the emotion labels of CK+ (files *_emotion.txt)",
        counts={
            "peak frames": (0, 45, 18, 59, 25, 69, 28, 83),
            "last three frames": (0, 135, 54, 177, 75, 207, 84, 249),
        },
        counted_in="Lucey et al. 2010: 327 labelled sequences",
        also_called=("ck+", "ck+48", "ck"),
    ),
}


def dataset_called(name: str) -> str | None:
    """Return the data set that a source or a file is named after, None for no known one.

    >>> dataset_called("RAF-DB"), dataset_called("fer2013_clean"), dataset_called("web")
    ('rafdb', 'fer2013', None)
    """
    word = name.strip().casefold().replace("_", "-")
    for dataset, codes in CODES.items():
        if word in (dataset, *codes.also_called):
            return dataset
    for dataset in CODES:
        if word.startswith(f"{dataset}-"):
            return dataset
    return None
