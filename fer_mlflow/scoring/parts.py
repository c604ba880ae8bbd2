"""Parts of a benchmark that a published number may be of: splits, sources, and unions of sources."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_MOST_SOURCES = 6  # of which every union is looked at; of more only one, all but one, and all


@dataclass(frozen=True)
class Part:
    """A part of a benchmark's labelled rows.

    Attributes
    ----------
    name : for people
    groups : (G,) bool, the groups of rows in it
    rows : how many those are
    """

    name: str
    groups: np.ndarray
    rows: int


def parts_of(splits: np.ndarray, sources: np.ndarray) -> tuple[list[Part], np.ndarray]:
    """Return the parts of a benchmark that scores may be of, and each row's group.

    They are all rows, each split, each source and unions of sources, over all rows and within each split; parts with
    the same rows are there once.

    Parameters
    ----------
    splits, sources : (N,) text of the labelled rows
    """
    pairs = sorted(set(zip(splits.tolist(), sources.tolist(), strict=True)))
    at = {pair: number for number, pair in enumerate(pairs)}
    groups = np.array([at[pair] for pair in zip(splits.tolist(), sources.tolist(), strict=True)], dtype=np.int64)
    counts = np.bincount(groups, minlength=len(pairs))
    found: dict[bytes, Part] = {}
    for split in (None, *sorted({pair[0] for pair in pairs})):
        for union in _unions(sorted({pair[1] for pair in pairs})):
            chosen = np.array([split in (None, pair[0]) and (union is None or pair[1] in union) for pair in pairs])
            words = ["all rows"] if split is None else [f"split {split or '(empty)'}"]
            words += [f"source {' + '.join(each or '(empty)' for each in union)}"] if union else []
            name = ", ".join(words[1:] if split is None and union else words)
            if chosen.any():
                found.setdefault(chosen.tobytes(), Part(name, chosen, int(counts[chosen].sum())))
    return list(found.values()), groups


def _unions(sources: list[str]) -> Iterator[tuple[str, ...] | None]:
    """Yield sets of sources, small ones first; None stands for all."""
    yield None
    S = len(sources)
    sizes = range(1, S) if S <= _MOST_SOURCES else sorted({1, S - 1})
    for size in sizes:
        yield from combinations(sources, size)
