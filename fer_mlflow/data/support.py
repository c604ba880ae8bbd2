"""How many rows each class has, held against what the data set published: a permuted class order shows there."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.datasets.codes import CODES
from fer_mlflow.datasets.folder import SPLIT_WORDS

CLOSE = 0.02  # share of the published rows by which a count may differ in all and still be that data set's
_BETTER = 4.0  # a permutation that is not exact must come so many times closer to be believed


@dataclass(frozen=True)
class Support:
    """The rows per class of one source and split, and the published part that they were held against.

    Attributes
    ----------
    part : such as `train` or `val + test`
    observed, published : class -> rows
    verdict : equal, close (within 2 % in all), permuted, or different
    exchanged : class as labelled -> class whose published count it has, where the verdict is permuted
    """

    dataset: str
    source: str
    split: str
    part: str
    observed: Mapping[str, int]
    published: Mapping[str, int]
    verdict: str
    exchanged: Mapping[str, str]


def compare_support(
    dataset: str, source: str, split: str, observed: Mapping[str, int], classes: ClassOrder
) -> Support | None:
    """Hold rows per class against a data set's published counts; None where it published none.

    The part of the manifest's own split is taken, unless only another part (or sum of splits) fits in some class
    order.

    Parameters
    ----------
    observed : class -> rows
    """
    parts = {part: _in_order(dataset, counts, classes) for part, counts in CODES[dataset].parts().items()}
    if not parts:
        return None
    here = np.array([observed.get(name, 0) for name in classes.names], np.int64)
    own = SPLIT_WORDS.get(split.casefold(), split.casefold())
    fits = {part: _fit(here, counts) for part, counts in parts.items()}
    best = min(fits, key=lambda part: fits[part])
    part = own if own in fits and (fits[own][0] <= CLOSE or fits[best][0] > CLOSE) else best
    there, (permuted, plain) = parts[part], fits[part]
    verdict, exchanged = "different", {}
    if plain == 0:
        verdict = "equal"
    elif permuted == 0 or (plain > CLOSE >= permuted and permuted * _BETTER <= plain):
        verdict = "permuted"
        order = _best_order(here, there)
        exchanged = {classes.names[i]: classes.names[j] for i, j in enumerate(order) if i != j and here[i] != there[i]}
    elif plain <= CLOSE:
        verdict = "close"
    return Support(
        dataset,
        source,
        split,
        part,
        dict(zip(classes.names, here.tolist(), strict=True)),
        dict(zip(classes.names, there.tolist(), strict=True)),
        verdict,
        exchanged,
    )


def _in_order(dataset: str, counts: tuple[int, ...], classes: ClassOrder) -> np.ndarray:
    """Return (C,) int64 published counts in the class order; classes that it has not are left out."""
    ordered = np.zeros(len(classes), np.int64)
    for name, count in zip(CODES[dataset].names, counts, strict=True):
        if (position := classes.index_of(name)) is not None:
            ordered[position] += count
    return ordered


def _fit(here: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """Return how far counts are apart, in shares of the published rows: in the best class order, and as they are."""
    total = max(int(there.sum()), 1)
    best = there[_best_order(here, there)]
    return float(np.abs(here - best).sum() / total), float(np.abs(here - there).sum() / total)


def _best_order(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return for each class the one whose published count suits it best, when each is taken once."""
    return linear_sum_assignment(np.abs(here[:, None] - there[None, :]))[1]
