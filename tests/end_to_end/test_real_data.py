"""Real faces and real teachers give the figures that were measured for them independently."""

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

ORDER = ("RN18", "L0", "CNXT")


@pytest.fixture
def export(workplace, real_data):
    def run(weights, *more):
        options = ["--manifest", real_data / "faces/manifest.csv", "--teachers", real_data / "teachers/teachers.yaml"]
        return workplace.run("export", *options, "--split", "test", "--weights", weights, *more)

    return run


def test_published_figures_of_the_test_split(workplace, export):
    export("RN18=0.3,L0=0.5,CNXT=0.2")
    (ensemble,) = workplace.runs("export")
    assert ensemble.data.metrics["accuracy"] == pytest.approx(0.469, abs=5e-4)
    assert ensemble.data.metrics["macro_f1"] == pytest.approx(0.408, abs=5e-4)
    teachers = {run.data.params["ensemble"]: run.data.metrics["accuracy"] for run in workplace.runs("teacher")}
    assert teachers == pytest.approx({"RN18=1": 0.433, "L0=1": 0.468, "CNXT=1": 0.392}, abs=5e-4)
    assert ensemble.data.tags["fer.alignment"] == "pass"


def test_published_figures_with_clahe(workplace, export):
    export("RN18=0.3,L0=0.5,CNXT=0.2", "--clahe", "true")
    (ensemble,) = workplace.runs("export")
    assert ensemble.data.metrics["accuracy"] == pytest.approx(0.422, abs=5e-4)
    assert ensemble.data.metrics["macro_f1"] == pytest.approx(0.346, abs=6e-4)  # 0.34549


def plain_model(name, folder):
    """Build and load a teacher with timm alone."""
    if name == "CNXT":
        model, state = timm.create_model("convnext_atto", num_classes=7), load_file(folder / "CNXT.safetensors")
        size = 64
    else:
        content = torch.load(folder / f"{name}.pt", weights_only=True)
        model, state, size = timm.create_model(content["arch"], num_classes=7), content["model"], content["img_size"]
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval(), size


@pytest.mark.parametrize("clahe", [False, True])
def test_logits_are_those_of_a_plain_loop_over_real_faces(workplace, export, real_data, clahe):
    export("RN18=0.4,L0=0.4,CNXT=0.2", "--limit", "60", "--clahe", str(clahe).lower())
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    bundles = {run.data.params["ensemble"].split("=")[0]: workplace.bundle(run) for run in workplace.runs("teacher")}
    for name in ORDER:
        model, size = plain_model(name, real_data / "teachers")
        for path, logits in zip(bundles[name].index["path"], bundles[name].logits, strict=True):
            image = cv2.imread(str(real_data / "faces" / path))
            if clahe:
                lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
                lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0].copy())
                image = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
            shrinks = min(image.shape[:2]) > size
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            pixels = (cv2.cvtColor(image, cv2.COLOR_BGR2RGB) / np.float32(255) - mean) / std
            with torch.no_grad():
                expected = model(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_an_ensemble_is_evaluated_calibrated_and_compared_on_real_faces(workplace, export, real_data):
    """Values were seen in the first whole version; accuracy and macro-F1 are the published ones of the test split."""
    for split in ("val", "test"):
        export("RN18=0.3,L0=0.5,CNXT=0.2", "--split", split)
    test, val = (run.info.run_id for run in workplace.runs("export"))
    workplace.run("evaluate", "--run", test)
    metrics = workplace.runs("evaluate")[0].data.metrics
    expected = {
        "accuracy": 0.4694,
        "macro_f1": 0.4076,
        "nll": 1.8937,
        "ece": 0.0692,
        "ece_adaptive": 0.0740,
        "ece_null_p95": 0.0585,
        "ci95/macro_f1_low": 0.3700,
        "ci95/macro_f1_high": 0.4433,
        "slices/source c1 accuracy": 0.6595,
        "slices/source c3 accuracy": 0.1654,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1.5e-3)
    workplace.run("calibrate", "--run", test, "--fit-run", val)
    run = workplace.runs("calibrate")[0]
    expected = {
        "temperature": 0.8135,
        "before/ece": 0.0692,
        "after/ece": 0.0597,
        "slices/source c1 temperature": 0.6784,
    }
    assert {name: run.data.metrics[name] for name in expected} == pytest.approx(expected, abs=3e-3)
    assert run.data.metrics["after/nll"] > run.data.metrics["before/nll"]  # the splits are of other sources
    assert "slices/source c3 temperature" not in run.data.metrics  # worse than chance there
    alone = next(run.info.run_id for run in workplace.runs("teacher") if run.data.params["ensemble"] == "L0=1")
    workplace.run("compare", test, alone)
    run = workplace.runs("compare")[0]
    assert run.data.tags["fer.verdict"] == "comparable: the same 735 labelled rows"
    assert run.data.metrics["changed_rows"] == pytest.approx(119, abs=2)
    assert run.data.metrics["difference/macro_f1 p"] > 0.8
    not_shared = workplace.run("compare", test, val, status=3)
    assert "not comparable because the benchmarks share 0 labelled images; 30 are needed" in not_shared.stdout


def test_real_soft_labels_are_fetched_and_their_teachers_say_the_same_again(workplace, export, real_data):
    export("RN18=0.4,L0=0.4,CNXT=0.2", "--limit", "60", "--clahe", "true")
    rows = ["--manifest", real_data / "faces/manifest.csv", "--split", "test", "--limit", "60"]
    best = ["--best", "accuracy", "--benchmark", "manifest:test:first60", "--where", "params.ensemble LIKE '%,%'"]
    workplace.run("fetch", *best, *rows, "--check-images", "true", "--out", "fetched")
    teachers = ["--teachers", real_data / "teachers/teachers.yaml"]
    result = workplace.run("verify", "fetched", *rows, "--recompute", "20", *teachers)
    assert "logits again                 20 rows predicted again" in result.stdout
