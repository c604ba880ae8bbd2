"""The relation of two manifests: row by row, and image by image."""

from dataclasses import dataclass, replace

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
    images_here, images_there, shared_images : different images by content; None where they were not hashed
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
    shared_images: int | None = None
    shared: pd.DataFrame | None = None
    other_labels: int = 0
    other_label_examples: tuple[str, ...] = ()


def relate(
    here: Benchmark, there: Benchmark, hashes_here: np.ndarray | None, hashes_there: np.ndarray | None
) -> Relation:
    """Compare two benchmarks by their rows, and by the content of their images where both were hashed.

    Parameters
    ----------
    hashes_here, hashes_there : (N,) and (M,) bytes objects, zeros where a file cannot be read
    """
    own, other = (set(zip(*(each.frame[name] for name in HEADERS), strict=True)) for each in (here, there))
    only_here, only_there = len(own - other), len(other - own)
    if here.selection_sha256 == there.selection_sha256:
        verdict = SAME
    elif only_here and only_there:
        verdict = DIFFERENT
    else:
        verdict = SUPERSET if only_here else SUBSET if only_there else PERMUTED
    changed, examples = _changes(here.frame, there.frame)
    relation = Relation(verdict, only_here, only_there, changed, tuple(examples))
    if hashes_here is None or hashes_there is None:
        return relation
    return _with_images(relation, _by_image(here.frame, hashes_here), _by_image(there.frame, hashes_there))


def _changes(here: pd.DataFrame, there: pd.DataFrame) -> tuple[dict[str, int], list[str]]:
    """Count the rows with one path and two values per column, and describe the first differences."""
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


def _by_image(frame: pd.DataFrame, hashes: np.ndarray) -> pd.DataFrame:
    """Return the rows that could be read, with their image's hash."""
    return frame[["path", "label", "split"]].assign(image=hashes)[hashes != bytes(32)]


def _with_images(relation: Relation, own: pd.DataFrame, other: pd.DataFrame) -> Relation:
    """Return the relation with what the images' content shows."""
    both = own.merge(other, on="image", suffixes=("", "_there"))
    pairs = both[["image", "split", "split_there"]].drop_duplicates()
    is_labelled = (both["label"] != "") & (both["label_there"] != "")
    relabelled = both[is_labelled & (both["label"] != both["label_there"])]
    return replace(
        relation,
        images_here=own["image"].nunique(),
        images_there=other["image"].nunique(),
        shared_images=both["image"].nunique(),
        shared=pd.crosstab(pairs["split"], pairs["split_there"]),
        other_labels=relabelled["image"].nunique(),
        other_label_examples=tuple(
            f'{row["path"]} "{row["label"]}" here, {row["path_there"]} "{row["label_there"]}" there'
            for row in relabelled.head(_SHOWN).to_dict("records")
        ),
    )
