"""`fer-mlflow calibrate`, driven as a user does, against a real store."""

import cv2
import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
from mlflow import MlflowClient
from scipy.special import log_softmax, softmax
from toys import (
    CLASSES,
    artifact,
    count_runs,
    draw_logits,
    error_line,
    expected_metrics,
    publish,
    publish_ensemble,
    teacher,
    write_bundle,
)

from fer_mlflow.calibration import stratified_folds

pytestmark = pytest.mark.usefixtures("coarse_figures")
TEACHERS = ("A", "B")
WEIGHTS = {"A": 0.25, "B": 0.75}
KNOWN = 290  # rows with a label; ten have none


def draw_teachers(rows: int, seed: int):
    """Return two teachers' logits, the first three times too sure of itself, and labels that both know about."""
    fused, labels = draw_logits(rows, temperature=1.0, seed=seed)
    noise = np.random.default_rng(seed + 100).normal(0, 1, fused.shape)
    return {"A": (3 * (fused + noise)).astype(np.float32), "B": (fused - noise).astype(np.float32)}, labels


def publish_split(place, folder, split: str, rows: int, seed: int, **parts):
    logits, labels = draw_teachers(rows, seed)
    labels[::30] = -1
    paths = [f"images/{split}{row:04d}.jpg" for row in range(rows)]
    run_id, bundle = publish_ensemble(
        place, folder / split, logits, labels, WEIGHTS, split=split, paths=paths, benchmark=f"faces:{split}", **parts
    )
    return run_id, bundle, logits


@pytest.fixture(scope="module")
def test_split(place, tmp_path_factory):
    """Return an export run on the test split, its bundle, and its teachers' logits."""
    return publish_split(place, tmp_path_factory.mktemp("bundles"), "test", 300, 1)


@pytest.fixture(scope="module")
def val_split(place, tmp_path_factory):
    """Return the same ensemble's export run on another split."""
    return publish_split(place, tmp_path_factory.mktemp("bundles"), "val", 240, 2)


def best_temperature(logits, labels) -> float:
    """Return the temperature of least NLL by bounded search over log T, without the package."""

    def nll(log_t):
        return -log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean()

    return float(
        np.exp(scipy.optimize.minimize_scalar(nll, bounds=(-5, 8), method="bounded", options={"xatol": 1e-12}).x)
    )


def best_coefficients(stack, labels) -> np.ndarray:
    """Return the coefficients of least NLL by another optimiser."""

    def nll(a):
        return -log_softmax(np.einsum("k,knc->nc", a, stack), axis=1)[np.arange(len(labels)), labels].mean()

    start, bounds = np.full(len(stack), 0.5), [(0, None)] * len(stack)
    return scipy.optimize.minimize(
        nll, start, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    ).x


def calibrate(place, *arguments):
    """Return the run that a calibration made, and what was printed."""
    result = place.run("calibrate", *arguments)
    return place.runs("calibrate")[0], result


def part(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics under a prefix, but the simulated null."""
    return {
        name.removeprefix(prefix).replace("f1 ", "f1/"): value
        for name, value in metrics.items()
        if name.startswith(prefix) and name != f"{prefix}ece_null_p95"
    }


def labelled(bundle):
    known = bundle.labels >= 0
    return bundle.logits[known].astype(np.float64), bundle.labels[known]


def crossfitted(fit, logits, labels, k=5, seed=0):
    """Return logits, each fold's calibrated by what was fitted on the others, a loop."""
    folds = stratified_folds(labels, k, np.random.default_rng(seed))
    result = np.empty(logits.shape[-2:])
    for fold in range(k):
        result[folds == fold] = fit(logits[..., folds != fold, :], labels[folds != fold])(logits[..., folds == fold, :])
    return result


def by_temperature(logits, labels):
    temperature = best_temperature(logits, labels)
    return lambda rows: rows / temperature


@pytest.fixture(scope="module")
def calibrated(place, test_split):
    return calibrate(place, "--run", test_split[0][:9])


def test_the_temperature_is_scipys(calibrated, test_split):
    metrics = calibrated[0].data.metrics
    assert metrics["temperature"] == pytest.approx(best_temperature(*labelled(test_split[1])), rel=1e-6)
    assert 0.02 < metrics["temperature_se"] / metrics["temperature"] < 0.2


def test_what_is_after_was_fitted_on_other_rows(calibrated, test_split):
    logits, labels = labelled(test_split[1])
    metrics = calibrated[0].data.metrics
    assert len(labels) == KNOWN
    assert part(metrics, "before/") == pytest.approx(expected_metrics(logits, labels), abs=1e-9)
    after = crossfitted(by_temperature, logits, labels)
    assert part(metrics, "after/") == pytest.approx(expected_metrics(after, labels), abs=1e-6)
    in_sample = expected_metrics(logits / metrics["temperature"], labels)
    assert abs(metrics["after/nll"] - in_sample["nll"]) > 1e-5  # the two can be told apart here


def test_accuracy_stays_and_nll_falls(calibrated):
    metrics = calibrated[0].data.metrics
    assert all(metrics[f"after/{name}"] == metrics[f"before/{name}"] for name in ("accuracy", "macro_f1"))
    assert metrics["after/nll"] < metrics["before/nll"]


def test_each_source_has_a_temperature_of_its_own(calibrated, test_split):
    logits, labels = labelled(test_split[1])
    metrics = calibrated[0].data.metrics
    sources = test_split[1].index["source"][test_split[1].labels >= 0].to_numpy()
    after = crossfitted(by_temperature, logits, labels)
    for source in ("lab", "web"):
        rows = sources == source
        assert metrics[f"slices/source {source} rows"] == rows.sum()
        own = best_temperature(logits[rows], labels[rows])
        assert metrics[f"slices/source {source} temperature"] == pytest.approx(own, rel=1e-6)
        for when, values in (("before", logits), ("after", after)):
            expected = expected_metrics(values[rows], labels[rows])
            for name in ("nll", "ece"):
                assert metrics[f"slices/source {source} {when} {name}"] == pytest.approx(expected[name], abs=1e-6)
        assert metrics[f"slices/source {source} temperature_se"] > 0


def test_tags_params_figure_and_print(calibrated, test_split, place):
    run, result = calibrated
    run_id, bundle, _ = test_split
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert {
        key: tags[key] for key in tags if key.startswith(("fer.temperature", "fer.calib", "fer.s", "fer.k", "fer.b"))
    } == {
        "fer.kind": "calibrate",
        "fer.temperature_status": "ok",
        "fer.temperature_explanation": "the likelihood has one maximum, and this is it",
        "fer.calibration_protocol": "cross-fitted: fitted on 4 of 5 folds, measured on the other",
        "fer.calibration_in_sample": "false",
        "fer.source_run": run_id,
        "fer.source_bundle_sha256": bundle.sha256,
        "fer.selection_sha256": bundle.selection_sha256,
        "fer.benchmark": "faces:test",
    }
    params = run.data.params
    assert {key: params[key] for key in ("run", "crossfit", "seed", "method", "ensemble", "w/B", "space")} == {
        "run": run_id[:9],
        "crossfit": "5",
        "seed": "0",
        "method": "temperature",
        "ensemble": "A=0.25,B=0.75",
        "w/B": "0.75",
        "space": "logit",
    }
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("faces:test", bundle.selection_sha256[:32])
    assert {entry.path for entry in MlflowClient(place.uri).list_artifacts(run.info.run_id)} == {"reliability.png"}
    metrics, lines = run.data.metrics, result.stdout.splitlines()
    assert lines[0] == "logit · A 0.25 · B 0.75  on  faces:test, 290 labelled rows"
    assert f"  T       {metrics['temperature']:.4f} ± {metrics['temperature_se']:.4f} (standard error)" in lines
    assert f"  nll               {metrics['before/nll']:8.4f}  {metrics['after/nll']:8.4f}" in lines
    assert f"  run      {run.info.run_id}" in lines


def test_the_reliability_diagram_has_two_panels(calibrated, place, test_split):
    place.run("evaluate", "--run", test_split[0])
    one = cv2.imread(str(artifact(place.runs("evaluate")[0], "reliability.png")))
    two = cv2.imread(str(artifact(calibrated[0], "reliability.png")))
    assert two.shape[1] / two.shape[0] > 1.5 * one.shape[1] / one.shape[0]


def test_another_seed_and_number_of_folds_deal_rows_anew(place, test_split):
    logits, labels = labelled(test_split[1])
    run, _ = calibrate(place, "--run", test_split[0], "--crossfit", "3", "--seed", "7", "--by", "none")
    after = crossfitted(by_temperature, logits, labels, k=3, seed=7)
    assert part(run.data.metrics, "after/") == pytest.approx(expected_metrics(after, labels), abs=1e-6)
    assert run.data.tags["fer.calibration_protocol"] == "cross-fitted: fitted on 2 of 3 folds, measured on the other"
    assert not [name for name in run.data.metrics if name.startswith("slices/")]


def test_fitting_on_another_split(place, test_split, val_split):
    run, result = calibrate(place, "--run", test_split[0], "--fit-run", val_split[0][:10])
    logits, labels = labelled(test_split[1])
    temperature = best_temperature(*labelled(val_split[1]))
    assert run.data.metrics["temperature"] == pytest.approx(temperature, rel=1e-6)
    after = expected_metrics(logits / temperature, labels)
    assert part(run.data.metrics, "after/") == pytest.approx(after, abs=1e-6)
    assert run.data.tags["fer.calibration_protocol"] == "fitted on faces:val, measured here"
    assert run.data.tags["fer.calibration_in_sample"] == "false"
    assert "images are in both" not in result.stderr


def test_a_folder_may_be_fitted_on_and_shared_images_are_said(place, test_split, val_split, tmp_path):
    _, bundle, _ = val_split
    images = [*test_split[1].index["path"][:8], *bundle.index["path"][8:]]
    parts = {"split": "val", "benchmark": "faces:val", "paths": bundle.index["path"].tolist(), "weights": WEIGHTS}
    write_bundle(tmp_path / "val", bundle.logits, bundle.labels, images=images, **parts)
    run, result = calibrate(place, "--run", test_split[0], "--fit-run", tmp_path / "val")
    assert run.data.metrics["temperature"] == pytest.approx(best_temperature(*labelled(bundle)), rel=1e-6)
    assert (  # of the eight rows one has no label, so nothing was fitted on it
        "warning: --fit-run: 7 images are in both benchmarks, so what is measured is partly in-sample" in result.stderr
    )


def test_in_sample_is_possible_and_said(place, test_split):
    run, result = calibrate(place, "--run", test_split[0], "--in-sample", "true")
    logits, labels = labelled(test_split[1])
    after = expected_metrics(logits / best_temperature(logits, labels), labels)
    assert part(run.data.metrics, "after/") == pytest.approx(after, abs=1e-6)
    assert run.data.tags["fer.calibration_in_sample"] == "true"
    assert "temperature, fitted and measured on the same rows" in result.stdout


@pytest.mark.parametrize("method", ["bias-corrected", "vector"])
def test_more_parameters_are_the_maximum_of_the_likelihood(place, test_split, method):
    run, _ = calibrate(place, "--run", test_split[0], "--method", method)
    logits, labels = labelled(test_split[1])
    log_probs = log_softmax(logits, axis=1)

    def fit(x, y):
        x = log_softmax(x, axis=1)
        n = 1 if method == "bias-corrected" else 7

        def nll(p):
            log_p = log_softmax(x * p[:n] + p[n:], axis=1)
            error = (np.exp(log_p) - np.eye(7)[y]) / len(y)
            slope = (error * x).sum(axis=0)
            gradient = np.concatenate([[slope.sum()] if n == 1 else slope, error.sum(axis=0)])
            return -log_p[np.arange(len(y)), y].mean(), gradient

        start = np.r_[np.ones(n), np.zeros(7)]
        options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 2000}
        found = scipy.optimize.minimize(nll, start, jac=True, method="L-BFGS-B", options=options).x
        return lambda rows: log_softmax(rows, axis=1) * found[:n] + found[n:]

    metrics = run.data.metrics
    if method == "bias-corrected":
        scale = np.full(7, 1 / metrics["temperature"])
    else:
        assert "temperature" not in metrics  # there is no one temperature
        scale = np.array([metrics[f"fit/scale {name}"] for name in CLASSES])
    bias = np.array([metrics[f"fit/bias {name}"] for name in CLASSES])
    assert bias.mean() == pytest.approx(0, abs=1e-9)
    mine, theirs = log_softmax(log_probs * scale + bias, axis=1), log_softmax(fit(logits, labels)(logits), axis=1)
    np.testing.assert_allclose(mine, theirs, atol=2e-4)
    after = expected_metrics(crossfitted(fit, logits, labels), labels)
    for name in ("nll", "brier", "accuracy"):
        assert metrics[f"after/{name}"] == pytest.approx(after[name], abs=1e-4)


def test_temperatures_of_each_teacher_in_logit_space_are_one_convex_fit(place, test_split, val_split):
    run_id, bundle, teachers = test_split
    run, result = calibrate(place, "--run", run_id, "--per-teacher", "true")
    stack = np.stack([teachers[name].astype(np.float64) for name in TEACHERS])[:, bundle.labels >= 0]
    _, labels = labelled(bundle)
    coefficients = best_coefficients(stack, labels)
    metrics = run.data.metrics
    assert [metrics[f"fit/coefficient {name}"] for name in TEACHERS] == pytest.approx(coefficients, rel=1e-4)
    assert metrics["temperature"] == pytest.approx(1 / coefficients.sum(), rel=1e-4)
    each = {name: WEIGHTS[name] / a for name, a in zip(TEACHERS, coefficients, strict=True)}
    assert [metrics[f"fit/teacher_temperature {name}"] for name in TEACHERS] == pytest.approx(
        list(each.values()), rel=1e-4
    )

    def fit(x, y):
        a = best_coefficients(x, y)
        return lambda rows: np.einsum("k,knc->nc", a, rows)

    after = crossfitted(fit, stack, labels)
    assert metrics["after/nll"] == pytest.approx(expected_metrics(after, labels)["nll"], abs=1e-6)
    assert part(metrics, "before/") == pytest.approx(expected_metrics(*labelled(bundle)), abs=1e-9)
    assert f"teacher temperature A {each['A']:.4f}, B {each['B']:.4f}" in result.stdout
    other, _ = calibrate(place, "--run", run_id, "--per-teacher", "true", "--fit-run", val_split[0])
    theirs = np.stack([val_split[2][name].astype(np.float64) for name in TEACHERS])[:, val_split[1].labels >= 0]
    coefficients = best_coefficients(theirs, labelled(val_split[1])[1])
    assert [other.data.metrics[f"fit/coefficient {name}"] for name in TEACHERS] == pytest.approx(coefficients, rel=1e-4)


def test_temperatures_of_each_teacher_in_probability_space(place, tmp_path):
    run_id, bundle, teachers = publish_split(place, tmp_path, "prob", 300, 5, space="prob")
    run, _ = calibrate(place, "--run", run_id, "--per-teacher", "true", "--in-sample", "true", "--export", "true")
    known, metrics = bundle.labels >= 0, run.data.metrics
    _, labels = labelled(bundle)
    each = {name: best_temperature(teachers[name][known], labels) for name in TEACHERS}
    assert [metrics[f"fit/teacher_temperature {name}"] for name in TEACHERS] == pytest.approx(
        list(each.values()), rel=1e-6
    )
    pool = np.log(sum(WEIGHTS[name] * softmax(teachers[name] / np.float64(each[name]), axis=1) for name in TEACHERS))
    assert metrics["temperature"] == pytest.approx(best_temperature(pool[known], labels), rel=1e-5)
    after = expected_metrics(pool[known] / metrics["temperature"], labels)
    assert part(metrics, "after/") == pytest.approx(after, abs=1e-6)
    exported = place.bundle(place.runs("export")[0])
    assert exported.report["calibration"]["method"] == "temperature per teacher"
    np.testing.assert_allclose(exported.logits, pool / metrics["temperature"], atol=1e-5)


@pytest.fixture(scope="module")
def exported(place, test_split):
    """Return a calibration that was exported: its run, and the export's."""
    run, result = calibrate(place, "--run", test_split[0], "--export", "true")
    return run, place.runs("export")[0], result


def test_the_calibrated_bundle_holds_divided_logits_and_says_how(exported, test_split, place):
    run, export, result = exported
    _, source, _ = test_split
    bundle = place.bundle(export)  # which verifies it
    temperature = run.data.metrics["temperature"]
    assert bundle.logits.dtype == np.float32
    np.testing.assert_array_equal(bundle.logits, (source.logits.astype(np.float64) / temperature).astype(np.float32))
    assert bundle.index.to_dict("list") == source.index.to_dict("list")
    assert (bundle.classes, bundle.checkpoints) == (source.classes, source.checkpoints)
    assert bundle.manifest_sha256 == source.manifest_sha256
    assert bundle.report["calibration"] == {
        "method": "temperature",
        "temperature": temperature,
        "temperature_se": run.data.metrics["temperature_se"],
        "fitted_on": {"name": "faces:test", "selection_sha256": source.selection_sha256, "rows": KNOWN, "classes": 7},
        "in_sample": True,
        "source_bundle_sha256": source.sha256,
    }
    assert {key: value for key, value in bundle.report.items() if key != "calibration"} == dict(source.report)
    assert bundle.metrics == pytest.approx(
        {k: v for k, v in expected_metrics(*labelled(bundle)).items() if k not in ("ece_adaptive", "ece_classwise")}
    )
    assert bundle.metrics["accuracy"] == source.metrics["accuracy"]
    assert bundle.metrics["macro_f1"] == source.metrics["macro_f1"]
    assert f"  export   {export.info.run_id}" in result.stdout.splitlines()


def test_the_export_is_a_run_like_others(exported, test_split, place):
    _, export, _ = exported
    tags = export.data.tags
    assert (export.info.status, tags["fer.kind"], tags["fer.source_run"]) == ("FINISHED", "export", test_split[0])
    assert tags["fer.calibration_in_sample"] == "true"
    assert tags["fer.selection_sha256"] == test_split[1].selection_sha256
    assert export.info.run_name == "logit · calibrated (temperature) · A 0.25 · B 0.75 · test · faces"
    assert {key: export.data.params[key] for key in ("ensemble", "w/A", "space", "clahe", "rows")} == {
        "ensemble": "A=0.25,B=0.75",
        "w/A": "0.25",
        "space": "logit",
        "clahe": "false",
        "rows": "300",
    }
    assert not [path for path in (place.folder / "cache").rglob("*") if path.is_file()]  # nothing is left behind


def test_the_export_is_evaluated_inspected_compared_and_ranked(exported, test_split, place):
    from fer_mlflow.workflows.leaderboards import read_leaderboard

    _, export, _ = exported
    place.run("evaluate", "--run", export.info.run_id)
    run = place.runs("evaluate")[0]
    assert {name: run.data.metrics[name] for name in export.data.metrics} == export.data.metrics
    assert run.info.run_name == "evaluate · logit · calibrated (temperature) · A 0.25 · B 0.75 · test · faces"
    result = place.run("inspect", "--run", export.info.run_id)
    temperature = place.bundle(export).report["calibration"]["temperature"]
    assert f"the logits are calibrated with T = {temperature:.4g}, which is in them already" in result.stdout
    result = place.run("compare", test_split[0], export.info.run_id)
    assert f"  ≠ {'calibration':<24}none" in result.stdout
    assert f"    {'':<24}temperature, T = {temperature:.4g}, fitted on faces:test" in result.stdout
    entries = read_leaderboard(MlflowClient(place.uri), test_split[1].selection_sha256, "macro_f1")
    ranked = dict(zip(entries["run_id"], entries["macro_f1"], strict=True))
    assert ranked[export.info.run_id] == ranked[test_split[0]]


def test_a_calibrated_export_is_not_fitted_on_for_what_is_not(exported, val_split, place):
    _, export, _ = exported
    line = error_line(place.run("calibrate", "--run", val_split[0], "--fit-run", export.info.run_id, status=2))
    assert "it is another ensemble (calibration temperature, T = " in line
    assert "fitted on faces:test for none); fit on a run of the same one" in line


def test_a_calibrated_export_fitted_elsewhere_is_not_in_sample(place, test_split, val_split):
    run, _ = calibrate(place, "--run", test_split[0], "--fit-run", val_split[0], "--export", "true", "--name", "mine")
    export = place.runs("export")[0]
    calibration = place.bundle(export).report["calibration"]
    assert calibration["in_sample"] is False
    assert calibration["fitted_on"]["selection_sha256"] == val_split[1].selection_sha256
    assert export.data.tags["fer.calibration_in_sample"] == "false"
    assert run.info.run_name == "mine"
    after = {name: run.data.metrics[f"after/{name}"] for name in ("nll", "ece", "brier")}
    assert {name: export.data.metrics[name] for name in after} == pytest.approx(after, abs=1e-6)


def test_a_float16_bundle_stays_one(place, tmp_path):
    logits, labels = draw_logits(200, seed=8)
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float16)
    write_bundle(tmp_path / "b", shifted, labels)
    run, _ = calibrate(place, "--bundle", tmp_path / "b", "--export", "true")
    bundle = place.bundle(place.runs("export")[0])
    assert bundle.logits.dtype == np.float16
    np.testing.assert_array_equal(bundle.logits.argmax(axis=1), shifted.argmax(axis=1))
    expected = shifted.astype(np.float64) / best_temperature(shifted, labels)
    np.testing.assert_allclose(bundle.logits, expected, rtol=2e-3, atol=1e-6)
    assert "fer.source_run" not in place.runs("export")[0].data.tags
    assert run.data.metrics["after/accuracy"] == sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1))


def degenerate(name: str):
    logits, labels = draw_logits(120, seed=6)
    return {
        "separable": (4 * np.eye(7, dtype=np.float32)[labels], labels),
        "constant": (np.full_like(logits, 2.5), labels),
        "wrong": (-logits, labels),
        "one label": (logits, np.full(120, 3)),
    }[name]


@pytest.mark.parametrize(
    ("name", "method", "status"),
    [
        ("separable", "temperature", "separable"),
        ("separable", "vector", "separable"),
        ("constant", "temperature", "no_positive_optimum"),
        ("constant", "bias-corrected", "no_positive_optimum"),
        ("wrong", "temperature", "no_positive_optimum"),
        ("one label", "bias-corrected", "separable"),
    ],
)
def test_where_there_is_no_best_temperature_the_run_says_so(place, tmp_path, name, method, status):
    logits, labels = degenerate(name)
    write_bundle(tmp_path / "b", logits, labels)
    run, result = calibrate(place, "--bundle", tmp_path / "b", "--method", method)
    assert (run.info.status, run.data.tags["fer.temperature_status"]) == ("FINISHED", status)
    assert f"  status  {status}: {run.data.tags['fer.temperature_explanation']}" in result.stdout
    metrics = run.data.metrics
    assert np.isfinite(list(metrics.values())).all()
    assert not [key for key in metrics if key.startswith(("after/", "temperature", "fit/")) or " after " in key]
    expected = expected_metrics(logits, labels)
    assert metrics["before/nll"] == pytest.approx(expected["nll"], abs=1e-9)
    assert MlflowClient(place.uri).list_artifacts(run.info.run_id) == []
    assert ("all rows have one label" in result.stdout) == (name == "one label")
    line = error_line(
        place.run("calibrate", "--bundle", tmp_path / "b", "--method", method, "--export", "true", status=1)
    )
    assert line.startswith("--export: there is nothing to export, ")
    assert line.endswith(f"({status})")


def test_one_label_with_an_optimum_has_a_temperature_and_a_caveat(place, tmp_path):
    logits, _ = draw_logits(100, seed=2)
    logits[:, 3] += 3
    write_bundle(tmp_path / "b", logits, np.full(100, 3))
    run, result = calibrate(place, "--bundle", tmp_path / "b")
    assert run.data.metrics["temperature"] == pytest.approx(best_temperature(logits, np.full(100, 3)), rel=1e-6)
    assert "all rows have one label, so this fits the confidence in that class alone" in result.stdout


def test_a_fold_without_an_optimum_leaves_no_after(place, tmp_path):
    labels = np.arange(40) % 7
    logits = 3 * np.eye(7, dtype=np.float32)[labels]
    logits[0] = np.roll(logits[0], 1)  # the only mistake: the folds that do not see it are separable
    write_bundle(tmp_path / "b", logits, labels)
    run, _ = calibrate(place, "--bundle", tmp_path / "b", "--by", "none")
    assert run.data.tags["fer.temperature_status"] == "separable"
    assert not [key for key in run.data.metrics if key.startswith(("after/", "temperature"))]
    run, _ = calibrate(place, "--bundle", tmp_path / "b", "--by", "none", "--in-sample", "true")
    assert run.data.metrics["temperature"] == pytest.approx(best_temperature(logits, labels), rel=1e-6)


def test_the_ensemble_itself_is_calibrated_per_teacher_and_only_its_calibration_exported(
    place, toy_faces, toy_teachers, tmp_path
):
    options = ["--manifest", toy_faces, "--teachers", toy_teachers, "--weights", "A=0.5,C=0.5", "--limit", "35"]
    run, _ = calibrate(place, *options, "--per-teacher", "true", "--in-sample", "true")
    teachers = {run.data.params["ensemble"][0]: run for run in place.runs("teacher") if run.data.params["rows"] == "35"}
    assert set(teachers) == {"A", "C"}
    stack = np.stack([place.bundle(teachers[name]).logits.astype(np.float64) for name in "AC"])
    labels = place.bundle(teachers["A"]).labels
    coefficients = best_coefficients(stack, labels)
    assert coefficients[0] > 1e-3 > coefficients[1]  # C adds nothing to A
    found = [run.data.metrics[f"fit/coefficient {name}"] for name in "AC"]
    assert found == pytest.approx(coefficients, rel=1e-2, abs=1e-6)
    assert "fit/teacher_temperature A" in run.data.metrics
    assert "fit/teacher_temperature C" not in run.data.metrics  # it would be infinite
    assert not [each for each in place.runs("export") if each.data.params["rows"] == "35"]
    assert not [path for path in (place.folder / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


# Bad input: one clear line each.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per-teacher", "true", "--method", "vector"], "--per-teacher true fits temperatures; it does not go with"),
        (["--fit-run", "VAL", "--in-sample", "true"], "--fit-run fits on other rows and --in-sample true on the same"),
        (["--crossfit", "none"], "no rows to fit on: give --crossfit K, --fit-run RUN or --in-sample true"),
        (["--fit-run", "TEST"], "--fit-run: it has the same rows; name a run on another split, or use --crossfit 5"),
        (["--fit-run", "ffffffff"], "has no such run"),
        (["--fit-run", "no/folder"], "run 'no/folder': a run id is 4 to 32 digits"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_run_is_opened(place, test_split, val_split, options, message):
    options = [{"VAL": val_split[0], "TEST": test_split[0]}.get(word, word) for word in options]
    before = count_runs(place)
    assert message in error_line(place.run("calibrate", "--run", test_split[0], *options, status=2))
    assert count_runs(place) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "--fit-run: it is another ensemble (weights A=0.25,B=0.75 for C=1, other checkpoints); fit on a run of the",
        ),
        (
            ["--clahe", "true", "--clahe-clip", "3"],
            "weights A=0.25,B=0.75 for C=1, clahe false for true, clahe_clip none for 3.0, clahe_tile none",
        ),
        (["--by", "mood"], "no column mood; there are path, label, split, source"),
    ],
)
def test_an_ensemble_is_checked_before_its_teachers_are_asked(
    place, toy_faces, toy_teachers, val_split, options, message
):
    before = count_runs(place)
    fit = [] if "--by" in options else ["--fit-run", val_split[0]]
    ensemble = ["--manifest", toy_faces, "--teachers", toy_teachers, "--weights", "C=1", "--limit", "20"]
    assert message in error_line(place.run("calibrate", *ensemble, *fit, *options, status=2))
    assert count_runs(place) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"A": 0.5, "B": 0.5}}, "it is another ensemble (weights A=0.5,B=0.5 for A=0.25,B=0.75); fit on"),
        ({"space": "prob"}, "it is another ensemble (space prob for logit)"),
        (
            {"classes": CLASSES[::-1]},
            "its classes are Neutral, Surprise, Sad, Happy, Fear, Disgust, Angry, not Angry, ",
        ),
        (
            {"clahe": {"clip": 2.0, "tile": 8, "pattern_sha256": "0" * 64}},
            "it is another ensemble (clahe true for false)",
        ),
        ({"weights": {"A": 0.25, "X": 0.75}}, "other checkpoints)"),
        ({"dtype": np.float16}, "it is another ensemble (dtype float16 for float32)"),
        ({"labels": -1}, "no row has a label"),
        ({"img_size": 48}, "it is another ensemble (A's img_size 48 for 32"),
    ],
)
def test_what_is_fitted_on_must_be_the_same_ensemble(place, test_split, tmp_path, changes, message):
    logits, labels = draw_logits(50, seed=12)
    changes = {"weights": WEIGHTS} | changes
    if "labels" in changes:
        labels[:] = changes.pop("labels")
    if "img_size" in changes:
        changes["teachers"] = dict.fromkeys("AB", teacher(changes.pop("img_size")))
    write_bundle(tmp_path / "b", logits.astype(changes.pop("dtype", np.float32)), labels, split="val", **changes)
    before = count_runs(place)
    assert message in error_line(place.run("calibrate", "--run", test_split[0], "--fit-run", tmp_path / "b", status=2))
    assert count_runs(place) == before


def test_teachers_that_cannot_be_had_are_named(place, test_split, tmp_path):
    write_bundle(tmp_path / "b", test_split[1].logits, test_split[1].labels)
    line = error_line(place.run("calibrate", "--bundle", tmp_path / "b", "--per-teacher", "true", status=2))
    assert line == (
        "--per-teacher true needs each teacher's logits, and those of A, B cannot be had from this source; name an "
        "export run whose teacher runs are there, or the ensemble by --manifest, --teachers, --weights"
    )
    assert place.runs("calibrate")[0].info.status == "FAILED"


def test_fewer_rows_than_folds_are_refused(place, tmp_path):
    logits, labels = draw_logits(4)
    write_bundle(tmp_path / "b", logits, labels)
    line = error_line(place.run("calibrate", "--bundle", tmp_path / "b", status=2))
    assert line == "4 labelled rows make no 5 folds; use 2 folds to as many as rows"


def test_a_single_teachers_calibrated_bundle_is_not_taken_for_its_teachers_answers(place, tmp_path):
    logits, labels = draw_logits(150, seed=13)
    run_id = publish(place, write_bundle(tmp_path / "b", logits, labels, weights={"A": 1.0}), "teacher")
    calibrate(place, "--run", run_id, "--method", "vector", "--export", "true")
    export = place.runs("export")[0]
    line = error_line(place.run("calibrate", "--run", export.info.run_id, "--per-teacher", "true", status=2))
    assert "those of A cannot be had from this source" in line
    run, _ = calibrate(place, "--run", run_id, "--per-teacher", "true", "--in-sample", "true")
    assert run.data.metrics["temperature"] == pytest.approx(best_temperature(logits, labels), rel=1e-6)


def test_no_run_is_left_open(place, calibrated):
    assert set(count_runs(place)) <= {"FINISHED", "FAILED"}
