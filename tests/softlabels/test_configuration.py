"""One configuration has one name, one set of params and one key, wherever it comes from."""

import pytest
from toys import draw_logits, teacher, write_bundle

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.softlabels.configuration import Calibration, Configuration

WEIGHTS = {"B": 0.4, "A": 0.6}
EQUALISED = {name: Preprocessing(clahe=Clahe(3.0, 4)) for name in "AB"}
FITTED = Calibration("temperature", 2.0471, "faces:val")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "logit · A 0.6 · B 0.4"),
        ({"weights": {"A": 1.0}}, "A"),
        ({"weights": {"A": 1.0}, "precision": "bf16"}, "A · bf16"),
        ({"space": "prob", "dtype": "float16"}, "prob · float16 · A 0.6 · B 0.4"),
        ({"preprocessing": EQUALISED}, "logit · clahe 3/4 · A 0.6 · B 0.4"),
        ({"preprocessing": {"A": Preprocessing(clahe=Clahe())}}, "logit · A clahe · A 0.6 · B 0.4"),
        ({"calibration": FITTED}, "logit · calibrated (temperature) · A 0.6 · B 0.4"),
        ({"calibration": Calibration("vector")}, "logit · calibrated (vector) · A 0.6 · B 0.4"),
    ],
)
def test_a_configuration_is_named_by_what_is_not_a_default(given, name):
    assert Configuration(**({"weights": WEIGHTS} | given)).name == name


def test_the_names_of_runs_differ_where_configuration_or_benchmark_do():
    """In MLflow's table of runs the first 22 characters show."""
    calibrations = [None, FITTED, Calibration("vector"), Calibration("temperature per teacher")]
    configurations = [
        Configuration({"RN18": 0.35, "ConvNeXt": 0.65}, space, dtype, precision, how, calibration)
        for space in ("logit", "prob")
        for dtype in ("float32", "float16")
        for precision in ("fp32", "bf16")
        for how in ({}, {name: Preprocessing(clahe=Clahe()) for name in ("RN18", "ConvNeXt")})
        for calibration in calibrations
    ]
    names = {
        each.run_name(benchmark) for each in configurations for benchmark in ("m:train", "m:test", "m:test:first9")
    }
    assert len(names) == 3 * len(configurations) == 192
    plain = [each.run_name("m:test") for each in configurations if not each.calibration and each.dtype == "float32"]
    assert len({name[:22] for name in plain}) == len(plain)


def test_params_say_everything_once_and_leave_out_what_is_given_twice():
    given = {"manifest": "m.csv", "weights": "A=0.60,B=0.40", "clahe": "false", "clahe_clip": "2.0"}
    assert Configuration(WEIGHTS, "prob").params(given) == {
        "manifest": "m.csv",
        "ensemble": "A=0.6,B=0.4",
        "space": "prob",
        "dtype": "float32",
        "clahe": "false",
        "precision": "fp32",
        "w/A": 0.6,
        "w/B": 0.4,
        "calibration": "none",
    }


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
    # A size that the checkpoint decides makes no other configuration.
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
