"""Splits: shares per label and source, groups whole, the same for the same seed."""

import numpy as np
import pandas as pd
import pytest

from fer_mlflow.data.merge_split import split_rows
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.settings.texts import parse_shares

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def faces(rows: int, people: int = 60) -> pd.DataFrame:
    """Return rows with unbalanced labels and sources."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "path": [f"{number}.jpg" for number in range(rows)],
            "label": rng.choice(["Happy", "Sad", "Fear", ""], rows, p=[0.6, 0.3, 0.07, 0.03]),
            "source": rng.choice(["web", "lab"], rows, p=[0.8, 0.2]),
            "identity": rng.integers(0, people, rows).astype(str),
        }
    )


def test_each_stratum_has_its_shares_within_two_rows_and_all_rows_exactly():
    frame = faces(1000)
    splits = split_rows(frame, SHARES, seed=3)
    counts = pd.crosstab([frame["label"], frame["source"]], splits)
    sizes = counts.sum(axis=1)
    for split, share in SHARES.items():
        assert (abs(counts[split] - share * sizes) < 2).all()
        assert counts[split].sum() == pytest.approx(share * 1000, abs=1)


def test_strata_of_one_row_do_not_all_go_to_the_largest_split():
    frame = pd.DataFrame(
        {"path": [f"{n}.jpg" for n in range(10)], "label": "Sad", "source": [f"s{n}" for n in range(10)]}
    )
    values, counts = np.unique(split_rows(frame, SHARES, 0), return_counts=True)
    assert dict(zip(values, counts.tolist(), strict=True)) == {"train": 7, "val": 2, "test": 1}


def test_the_seed_decides_and_the_order_of_rows_does_not():
    frame = faces(300)
    first = split_rows(frame, SHARES, seed=1)
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    assert (first == split_rows(frame, SHARES, seed=1)).all()
    assert (first != split_rows(frame, SHARES, seed=2)).mean() > 0.2
    shuffled = frame.sample(frac=1, random_state=0)
    again = pd.Series(split_rows(shuffled, SHARES, seed=1), shuffled.index).sort_index()
    assert (again == first).all()
    grouped = split_rows(frame, SHARES, 1, "identity")
    again = pd.Series(split_rows(shuffled, SHARES, 1, "identity"), shuffled.index).sort_index()
    assert (again == grouped).all()
    assert (grouped != split_rows(frame, SHARES, 2, "identity")).any()


def test_a_known_split_stays_what_it_is():
    frame = faces(8, people=4)
    assert split_rows(frame, {"a": 0.5, "b": 0.5}, 0).tolist() == list("bbabaaab")
    assert split_rows(frame, {"a": 0.5, "b": 0.5}, 0, "identity").tolist() == list("bababaaa")


def test_no_group_is_in_two_splits_and_shares_are_near():
    frame = faces(2000, people=150)
    splits = split_rows(frame, SHARES, 0, group="identity")
    assert (pd.Series(splits).groupby(frame["identity"]).nunique() == 1).all()
    counts = pd.crosstab(frame["label"], splits)
    sizes = counts.sum(axis=1)
    for split, share in SHARES.items():
        assert counts[split].sum() == pytest.approx(share * 2000, rel=0.03)
        assert counts[split]["Happy"] == pytest.approx(share * sizes["Happy"], rel=0.06)


def test_rows_without_a_group_are_groups_of_their_own():
    frame = faces(200, people=5)
    frame.loc[frame.index % 2 == 0, "identity"] = ""
    splits = pd.Series(split_rows(frame, SHARES, 0, "identity"))
    own = frame["identity"] == ""
    assert (splits[~own].groupby(frame["identity"][~own]).nunique() == 1).all()
    assert splits[own].nunique() == 3


def test_every_split_gets_a_group_even_if_one_is_as_large_as_all_others():
    frame = faces(100)
    frame["identity"] = ["big"] * 98 + ["b", "c"]
    assert set(split_rows(frame, SHARES, 0, "identity")) == set(SHARES)


def test_large_groups_go_first_so_that_small_ones_even_out_what_is_left():
    frame = faces(100)
    frame["label"] = frame["source"] = "x"
    frame["identity"] = [f"p{number}" for number in range(50)] + ["big"] * 50
    splits = pd.Series(split_rows(frame, {"a": 0.5, "b": 0.5}, 0, "identity"))
    assert splits.value_counts().to_dict() == {"a": 50, "b": 50}


def test_groups_that_are_not_there_or_too_few_are_refused():
    with pytest.raises(ManifestError, match="no column person for --group; there are path, label, source, identity"):
        split_rows(faces(10), SHARES, 0, "person")
    with pytest.raises(ManifestError, match="column identity has 2 values, too few for 3 splits"):
        split_rows(faces(100, people=2), SHARES, 0, "identity")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train=0.8,test=0.1", "shares sum to 0.9, not to 1"),
        ("train=0.8,train=0.2", '"train=0.2" is not NAME=share with a new name'),
        ("train", '"train" is not NAME=share'),
        ("train=1.5,test=-0.5", '"train=1.5" is not'),
        ("train=nan,test=1", '"train=nan" is not'),
        ("=1", '"=1" is not'),
    ],
)
def test_shares_that_are_none_are_refused(text, expected):
    with pytest.raises(ContractError) as caught:
        parse_shares(text)
    assert expected in str(caught.value)
