"""One configuration has one name, one canonical text and one key, wherever it comes from."""

import string

import hypothesis
import pytest
from hypothesis import strategies as st
from toys import draw_logits, teacher, write_bundle

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.errors import ContractError
from fer_mlflow.softlabels.configuration import Calibration, Configuration

WEIGHTS = {"B": 0.4, "A": 0.6}
EQUALISED = {name: Preprocessing(clahe=Clahe(3.0, 4)) for name in "AB"}
FITTED = Calibration("temperature", 2.0471, "faces:val")


@pytest.mark.parametrize(
    ("given", "name", "canonical"),
    [
        ({}, "logit · A 0.6 · B 0.4", "A=0.6,B=0.4"),
        ({"weights": {"A": 1.0}}, "A", "A=1"),
        ({"weights": {"A": 1.0}, "precision": "bf16"}, "A · bf16", "A=1;precision=bf16"),
        (
            {"space": "prob", "dtype": "float16"},
            "prob · float16 · A 0.6 · B 0.4",
            "A=0.6,B=0.4;space=prob;dtype=float16",
        ),
        ({"preprocessing": EQUALISED}, "logit · clahe 3/4 · A 0.6 · B 0.4", "A=0.6,B=0.4;clahe=3.0/4"),
        (
            {"preprocessing": {"A": Preprocessing(clahe=Clahe())}},
            "logit · A clahe · A 0.6 · B 0.4",
            "A=0.6,B=0.4;A.clahe=2.0/8",
        ),
        (
            {"calibration": FITTED},
            "logit · calibrated (temperature) · A 0.6 · B 0.4",
            "A=0.6,B=0.4;calibration=temperature T=2.0471 on faces:val",
        ),
        (
            {"calibration": Calibration("vector", None, "a;b=c on d")},
            "logit · calibrated (vector) · A 0.6 · B 0.4",
            "A=0.6,B=0.4;calibration=vector on a;b=c on d",
        ),
    ],
)
def test_a_configuration_is_named_by_what_is_not_a_default(given, name, canonical):
    configuration = Configuration(**({"weights": WEIGHTS} | given))
    assert (configuration.name, configuration.canonical) == (name, canonical)
    assert Configuration.parse(canonical) == configuration


names = st.text(string.ascii_letters + string.digits + "._-", min_size=1).filter(lambda text: text[0].isalnum())
preprocessings = st.builds(Preprocessing, clahe=st.none() | st.builds(Clahe, st.floats(0.01, 100), st.integers(1, 64)))


@st.composite
def configurations(draw):
    teachers = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    parts = [draw(st.integers(1, 1000)) for _ in teachers]
    calibration = st.builds(
        Calibration, st.sampled_from(["temperature", "temperature per teacher"]), st.floats(0.01, 99), st.text()
    )
    return Configuration(
        {name: part / sum(parts) for name, part in zip(teachers, parts, strict=True)},
        draw(st.sampled_from(["logit", "prob"])),
        draw(st.sampled_from(["float32", "float16"])),
        draw(st.sampled_from(["fp32", "bf16"])),
        {name: draw(preprocessings) for name in teachers},
        draw(st.none() | calibration),
    )


@hypothesis.settings(deadline=None)
@hypothesis.given(configurations())
def test_every_canonical_text_is_read_back(configuration):
    assert Configuration.parse(configuration.canonical) == configuration


@pytest.mark.parametrize("text", ["", "A=0.5", "A=1;clahe=3", "A=1;colour=red", "A=1;calibration=vector"])
def test_texts_that_are_no_configuration_are_refused(text):
    with pytest.raises(ContractError):
        Configuration.parse(text)


def test_a_report_gives_the_configuration_back(tmp_path):
    logits, labels = draw_logits(9)
    clahe = {"clip": 3.0, "tile": 4, "pattern_sha256": "c" * 64}
    calibration = {"method": "temperature", "temperature": 2.0471, "fitted_on": {"name": "faces:val"}}
    found = write_bundle(
        tmp_path, logits, labels, weights=WEIGHTS, clahe=clahe, precision="bf16", calibration=calibration
    ).configuration
    assert found.name == "logit · clahe 3/4 · bf16 · calibrated (temperature) · A 0.6 · B 0.4"
    assert found.calibration == FITTED
    assert found.preprocessing["B"] == Preprocessing.parse(teacher(clahe=clahe)["preprocessing"])
    declared = Configuration(WEIGHTS, precision="bf16", preprocessing=EQUALISED, calibration=FITTED)
    assert declared.canonical == found.canonical  # a size that the checkpoint decides makes no other configuration
    assert declared.differences(found) == found.differences(declared) == []


def test_options_are_those_that_make_the_configuration():
    assert Configuration(WEIGHTS).options == {
        "weights": "A=0.6,B=0.4",
        "space": "logit",
        "dtype": "float32",
        "clahe": "false",
        "precision": "fp32",
    }
    options = Configuration(WEIGHTS, preprocessing=EQUALISED).options
    assert (options["clahe"], options["clahe_clip"], options["clahe_tile"]) == ("true", "3.0", "4")


def test_differences_are_named():
    a = Configuration(WEIGHTS, preprocessing={name: Preprocessing(img_size=32) for name in "AB"})
    b = Configuration(WEIGHTS, "prob", preprocessing={"A": Preprocessing(img_size=48), "B": Preprocessing(img_size=32)})
    assert a.differences(b) == ["space prob for logit", "A's img_size 48 for 32"]
    assert a.differences(Configuration(WEIGHTS)) == []
    assert Configuration(WEIGHTS).differences(Configuration(WEIGHTS, calibration=FITTED)) == [
        "calibration temperature, T = 2.047, fitted on faces:val for none"
    ]


def test_keys_are_golden():
    """These never change: a stored run would not be found any more."""
    teacher_keys = {"A": "s.aaaa", "B": "s.bbbb"}
    selection = "0123456789abcdef" * 4
    keys = [
        Configuration(WEIGHTS).key(selection, teacher_keys),
        Configuration(WEIGHTS, "prob").key(selection, teacher_keys),
        Configuration(WEIGHTS, dtype="float16").key(selection, teacher_keys),
    ]
    assert keys == [
        f"{selection[:32]}.03c31063ec40082a8b0109beee2149e0",
        f"{selection[:32]}.270d775806c466b67711091b55e26e09",
        f"{selection[:32]}.551156911e0566e5d1377be269fb3a47",
    ]
