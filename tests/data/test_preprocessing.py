"""A preprocessing has one canonical text, which is its key, and one short name."""

import pytest
from hypothesis import given, settings, strategies as st

from fer_mlflow.data import images
from fer_mlflow.data.preprocessing import CHOICES, Clahe, Preprocessing
from fer_mlflow.errors import ContractError

channels = st.none() | st.tuples(*[st.floats(0.001, 1)] * 3)
preprocessings = st.builds(
    Preprocessing,
    img_size=st.none() | st.integers(1, 4096),
    mean=channels,
    std=channels,
    clahe=st.none() | st.builds(Clahe, st.floats(0.01, 100), st.integers(1, 64)),
)


@pytest.mark.parametrize(
    ("preprocessing", "name", "key"),
    [
        (Preprocessing(), "", ""),
        (Preprocessing(img_size=224, mean=(0.5, 0.5, 0.5)), "", "img_size=224 mean=0.5,0.5,0.5"),
        (Preprocessing(clahe=Clahe()), "clahe", "clahe=2.0/8"),
        (Preprocessing(clahe=Clahe(3, 4), img_size=96), "clahe 3/4", "clahe=3.0/4 img_size=96"),
    ],
)
def test_names_and_keys_have_what_is_not_a_default(preprocessing, name, key):
    assert (preprocessing.name, preprocessing.key) == (name, key)


@settings(deadline=None)
@given(preprocessings, preprocessings)
def test_different_preprocessings_have_different_keys(one, other):
    assert (one.key == other.key) == (one == other)


@settings(deadline=None)
@given(preprocessings)
def test_the_report_is_read_back(preprocessing):
    assert Preprocessing.parse(preprocessing.as_json()) == preprocessing
    assert Preprocessing.parse(images.describe_preprocessing(preprocessing)) == preprocessing


def test_pixels_do_not_depend_on_mean_and_std():
    a, b = Preprocessing(96, (0.5,) * 3, (0.25,) * 3), Preprocessing(96, (0.1,) * 3, None)
    assert a.pixel_key == b.pixel_key == "img_size=96"
    assert a.pixel_key != Preprocessing(96, clahe=Clahe()).pixel_key


def test_every_rule_of_resizing_can_be_carried_out():
    assert set(images.RESIZES) == set(CHOICES["resize"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "unknown key colour; known are img_size, mean"),
        ({"resize": "stretch"}, "resize 'stretch' is not one of squash"),
        ({"clahe": 3}, "clahe 3 is not a clip limit and a number of tiles"),
        ({"clahe": {"clip": 0, "tile": 8}}, "clip must be above 0"),
        ({"std": [0, 1, 1]}, "not above 0"),
    ],
)
def test_what_is_no_preprocessing_is_refused(fields, message):
    with pytest.raises(ContractError, match=message):
        Preprocessing.parse(fields)


@pytest.mark.parametrize(("clip", "tile"), [(0, 8), (-1.0, 8), (float("nan"), 8), (2.0, 0), (2.0, -8)])
def test_clahe_settings_that_equalise_nothing_are_refused(clip, tile):
    with pytest.raises(ContractError, match="clip must be above 0 and tiles at least 1"):
        Clahe(clip, tile)
