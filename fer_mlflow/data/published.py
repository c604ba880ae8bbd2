"""Label codes of published data sets: what each code means, where that is stated, and the rows of each class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.errors import ManifestError

CLOSE = 0.02  # share of the published rows by which a count may differ in all and still be that data set's
_BETTER = 4.0  # a permutation that is not exact must come so many times closer to be believed

SPLITS = ("train", "val", "test")
# The words for splits in folder names and usages -> the split.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "publictest"), "val"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}


@dataclass(frozen=True)
class LabelCodes:
    """The label codes of one data set."""

    names: tuple[str, ...]  # classes in the order of their codes, in the data set's own words
    stated_in: str  # where the data set states what its codes mean
    first: int = 0  # the integer that means the first of `names`; the others follow
    not_faces: tuple[str, ...] = ()  # the codes after those of `names`, which stand for no expression
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # published subset -> images of each of `names`
    counted_in: str = ""  # where the counts are from
    also_called: tuple[str, ...] = ()  # other spellings of the data set's name, in lower case

    @cached_property
    def meanings(self) -> dict[int, str | None]:
        """The class that each code means, None for one of `not_faces`."""
        return dict(enumerate((*self.names, *(None for _ in self.not_faces)), self.first))

    def parse(self, text: str, where: str) -> str | None:
        """Return the class that a code means, None for no expression; an integer may be written as a float.

        Raises ManifestError, which begins with `where`: it is no integer, or none of the codes.

        >>> CODES["rafdb"].parse("3", "line 1"), CODES["affectnet"].parse("3.0", ""), CODES["affectnet"].parse("10", "")
        ('Disgust', 'Surprise', None)
        """
        try:
            return self.meanings[float(text)]  # type: ignore[index]  # 3.0 is the same key as 3
        except (ValueError, KeyError) as error:
            known = f"a code from {self.first} to {max(self.meanings)} ({', '.join(self.names)})"
            raise ManifestError(f'{where}: label "{text}" is not {known}') from error

    def subsets(self) -> dict[str, tuple[int, ...]]:
        """Return the published subsets and the sums of two or more splits: `train`, `val`, `val + test`, …"""
        subsets = dict(self.counts)
        splits = [split for split in SPLITS if split in subsets]
        for size in range(2, len(splits) + 1):
            for chosen in combinations(splits, size):
                counts = zip(*(self.counts[split] for split in chosen), strict=True)
                subsets[" + ".join(chosen)] = tuple(map(sum, counts))
        return subsets


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
        names=("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
        stated_in="the header of fer2013new.csv: the order of the columns of votes",
        not_faces=("unknown", "NF"),
        also_called=("fer+", "fer-plus"),
    ),
    "expw": LabelCodes(
        names=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        stated_in="the readme that comes with ExpW's label.lst",
        counts={"all": (3671, 3995, 1088, 30537, 10559, 7060, 34883)},
        counted_in="label.lst: 91,793 lines",
        also_called=("expw-f",),
    ),
    "ckplus": LabelCodes(
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
    exact = (dataset for dataset, codes in CODES.items() if word in (dataset, *codes.also_called))
    return next(exact, next((dataset for dataset in CODES if word.startswith(f"{dataset}-")), None))


@dataclass(frozen=True)
class Support:
    """The rows per class of one source and split, and the published subset that they were compared with."""

    dataset: str
    source: str
    split: str
    subset: str  # such as `train` or `val + test`
    observed: Mapping[str, int]  # class -> rows
    published: Mapping[str, int]
    verdict: str  # equal, close (within 2 % in all), permuted, or different
    exchanged: Mapping[str, str]  # where permuted: class as labelled -> class whose published count it has


def compare_support(
    dataset: str, source: str, split: str, observed: Mapping[str, int], classes: ClassOrder
) -> Support | None:
    """Compare rows per class with a data set's published counts; None where it published none.

    The subset of the manifest's own split is taken, unless only another subset (or sum of splits) fits in some
    class order.
    """
    here = np.array([observed.get(name, 0) for name in classes.names], np.int64)
    fits = {}
    for name, published in CODES[dataset].subsets().items():
        there = _in_order(dataset, published, classes)
        order = linear_sum_assignment(np.abs(here[:, None] - there[None, :]))[1]  # each class's closest count
        total = max(int(there.sum()), 1)  # how far counts are apart is a share of the published rows
        permuted, plain = (float(np.abs(here - each).sum() / total) for each in (there[order], there))
        fits[name] = permuted, plain, there, order
    if not fits:
        return None
    own = SPLIT_WORDS.get(split.casefold(), split.casefold())
    best = min(fits, key=lambda name: fits[name][:2])
    subset = own if own in fits and (fits[own][0] <= CLOSE or fits[best][0] > CLOSE) else best
    permuted, plain, there, order = fits[subset]
    verdict, exchanged = "close" if plain <= CLOSE else "different", {}
    if plain == 0:
        verdict = "equal"
    elif permuted == 0 or (plain > CLOSE >= permuted and permuted * _BETTER <= plain):
        verdict = "permuted"
        exchanged = {classes.names[i]: classes.names[j] for i, j in enumerate(order) if i != j and here[i] != there[i]}
    here_by_class, there_by_class = (dict(zip(classes.names, n.tolist(), strict=True)) for n in (here, there))
    return Support(dataset, source, split, subset, here_by_class, there_by_class, verdict, exchanged)


def _in_order(dataset: str, counts: tuple[int, ...], classes: ClassOrder) -> np.ndarray:
    """Return (C,) int64 published counts in the class order; classes that it has not are left out."""
    ordered = np.zeros(len(classes), np.int64)
    for name, count in zip(CODES[dataset].names, counts, strict=True):
        if (position := classes.index_of(name)) is not None:
            ordered[position] += count
    return ordered
