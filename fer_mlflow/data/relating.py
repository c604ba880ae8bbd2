"""How two manifests stand to each other: row by row, and image by image."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.data.columns import HEADERS
from fer_mlflow.data.manifest import Benchmark

SAME, PERMUTED, SUBSET, SUPERSET, DIFFERENT = "same", "permuted", "subset", "superset", "different"
_SHOWN = 5


@dataclass(frozen=True)
class Relation:
    """How a manifest stands to another one.

    Attributes
    ----------
    verdict : by rows of path, label, split and source: same benchmark, the same rows permuted, a subset, a
        superset, or different
    only_here, only_there : rows that the other has not
    changed : column -> rows with the same path and another value
    examples : where they differ
    images_here, images_there : different images by content; None where they were not hashed
    shared : index split here, columns split there; images by content that both have
    other_labels : shared images whose labels differ
    other_label_examples : the first of them
    """

    verdict: str
    only_here: int
    only_there: int
    changed: dict[str, int]
    examples: tuple[str, ...]
    images_here: int | None = None
    images_there: int | None = None
    shared: pd.DataFrame | None = None
    other_labels: int = 0
    other_label_examples: tuple[str, ...] = ()

    @property
    def shared_images(self) -> int | None:
        """How many images both have, by content; None where they were not hashed."""
        return None if self.shared is None else int(self.shared.attrs["images"])


def relate(
    here: Benchmark, there: Benchmark, hashes_here: np.ndarray | None, hashes_there: np.ndarray | None
) -> Relation:
    """Compare two benchmarks by their rows, and by the content of their images where both were hashed.

    Parameters
    ----------
    hashes_here, hashes_there : (N,) and (M,) bytes objects, zeros where a file cannot be read
    """
    verdict, rows = _verdict(here, there)
    changed, examples = _changes(here.frame, there.frame)
    relation = Relation(verdict, rows[0], rows[1], changed, tuple(examples))
    if hashes_here is None or hashes_there is None:
        return relation
    return _with_images(relation, here.frame, there.frame, hashes_here, hashes_there)


def _verdict(here: Benchmark, there: Benchmark) -> tuple[str, tuple[int, int]]:
    """Return the verdict on rows, and how many rows only one of the two has."""
    if here.selection_sha256 == there.selection_sha256:
        return SAME, (0, 0)
    own, other = (set(zip(*(b.frame[name] for name in HEADERS), strict=True)) for b in (here, there))
    only = (len(own - other), len(other - own))
    if only == (0, 0):
        return PERMUTED, only
    return (SUBSET if not only[0] else SUPERSET if not only[1] else DIFFERENT), only


def _changes(here: pd.DataFrame, there: pd.DataFrame) -> tuple[dict[str, int], list[str]]:
    """Count the rows with one path and two values per column, and tell the first differences."""
    both = here[list(HEADERS)].merge(there[list(HEADERS)], on="path", suffixes=("", "_there"))
    changed, examples = {}, []
    for name in ("label", "split", "source"):
        differs = both[both[name] != both[f"{name}_there"]]
        if len(differs):
            changed[name] = len(differs)
            for row in differs.head(_SHOWN).to_dict("records"):
                examples.append(f'{row["path"]}: {name} "{row[name]}" here, "{row[f"{name}_there"]}" there')
    for own, other, where in ((here, there, "here"), (there, here, "there")):
        alone = own["path"][~own["path"].isin(other["path"])]
        examples += [f"{path}: only {where}" for path in alone.head(_SHOWN)]
    return changed, examples


def _with_images(
    relation: Relation, here: pd.DataFrame, there: pd.DataFrame, hashes_here: np.ndarray, hashes_there: np.ndarray
) -> Relation:
    """Return the relation with what the images' content tells."""
    own, other = _by_image(here, hashes_here), _by_image(there, hashes_there)
    both = own.merge(other, on="image", suffixes=("", "_there"))
    names = {"split": both["split"].to_numpy(), "split_there": both["split_there"].to_numpy()}
    pairs = pd.DataFrame({"image": both["image"].to_numpy(), **names}).drop_duplicates()
    shared = pd.crosstab(pairs["split"], pairs["split_there"])
    shared.attrs["images"] = both["image"].nunique()
    torn = both[(both["label"] != both["label_there"]) & (both["label"] != "") & (both["label_there"] != "")]
    return Relation(
        relation.verdict,
        relation.only_here,
        relation.only_there,
        relation.changed,
        relation.examples,
        own["image"].nunique(),
        other["image"].nunique(),
        shared,
        torn["image"].nunique(),
        tuple(_told(torn.head(_SHOWN).to_dict("records"))),
    )


def _by_image(frame: pd.DataFrame, hashes: np.ndarray) -> pd.DataFrame:
    """Return the rows that could be read, with their image's hash."""
    own = frame[["path", "label", "split"]].assign(image=hashes)
    return own[hashes != bytes(32)]


def _told(rows: Iterable[dict]) -> Iterable[str]:
    for row in rows:
        yield f'{row["path"]} "{row["label"]}" here, {row["path_there"]} "{row["label_there"]}" there'
