"""Parts of a benchmark: all rows, splits, sources and their unions, each set of rows once."""

from itertools import combinations

import numpy as np
import pytest

from fer_mlflow.search.reproduction import find_subsets


def text(*values) -> np.ndarray:
    return np.array(values, dtype=object)


def rows_of(parts, groups) -> dict[str, tuple[int, ...]]:
    """Return the name of each part and the rows that are in it."""
    return {part.name: tuple(np.flatnonzero(part.groups[groups]).tolist()) for part in parts}


def test_splits_sources_and_unions_of_sources_are_named():
    parts, groups = find_subsets(text("val", "val", "test", "test"), text("web", "lab", "web", "film"))
    assert rows_of(parts, groups) == {
        "all rows": (0, 1, 2, 3),
        "source film": (3,),
        "source lab": (1,),
        "source web": (0, 2),
        "source film + lab": (1, 3),
        "source film + web": (0, 2, 3),
        "source lab + web": (0, 1, 2),
        "split test": (2, 3),
        "split test, source web": (2,),
        "split val": (0, 1),
        "split val, source web": (0,),
    }
    assert parts[0].name == "all rows"
    assert all(part.rows == len(rows) for part, rows in zip(parts, rows_of(parts, groups).values(), strict=True))


def test_one_split_and_one_source_are_one_part():
    parts, groups = find_subsets(text("test", "test"), text("", ""))
    assert rows_of(parts, groups) == {"all rows": (0, 1)}


def test_rows_without_a_source_are_a_part_too():
    parts, groups = find_subsets(text("", "", ""), text("web", "", "web"))
    assert rows_of(parts, groups) == {"all rows": (0, 1, 2), "source (empty)": (1,), "source web": (0, 2)}


@pytest.mark.parametrize(("sources", "expected"), [(5, 2**5 - 1), (6, 2**6 - 1), (7, 1 + 7 + 7), (40, 1 + 40 + 40)])
def test_of_many_sources_only_one_and_all_but_one_are_looked_at(sources, expected):
    names = text(*(f"s{k:02d}" for k in range(sources)))
    parts, _ = find_subsets(text(*["test"] * sources), names)
    assert len(parts) == expected


def test_no_two_parts_have_the_same_rows():
    rng = np.random.default_rng(0)
    parts, groups = find_subsets(
        rng.choice(["a", "b"], 50).astype(object), rng.choice(["x", "y", "z"], 50).astype(object)
    )
    rows = list(rows_of(parts, groups).values())
    assert all(a != b for a, b in combinations(rows, 2))
