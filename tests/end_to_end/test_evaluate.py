"""`fer-mlflow evaluate`, driven as a user does, against a real store."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import toys
from conftest import Workplace
from mlflow import MlflowClient
from scipy.special import softmax
from toys import (
    CLASSES,
    artifact,
    binned_gap,
    count_runs,
    draw_logits,
    error_line,
    expected_metrics,
    publish,
    write_bundle,
)

pytestmark = pytest.mark.usefixtures("coarse_figures")
AGES = ("child", "adult", "")
PLACES = ("in/door", "Straße (x)", "..")
ROWS, UNLABELLED = 64, (5, 20, 41)


def write_manifest(folder: Path, faces: Path) -> Path:
    """Write a manifest with further columns, rows without a label, and a train split that nobody could use."""
    shutil.copytree(faces.parent / "images", folder / "images")
    lines = ["path,label,split,source,age,place,note,fold"]
    for n in range(ROWS):
        label = "" if n in UNLABELLED else CLASSES[n % 7]
        source = "web" if n % 3 else "lab"
        lines.append(f"images/f{n:04d}.jpg,{label},test,{source},{AGES[n % 3]},{PLACES[n % 3]},note {n},{n % 2}")
    lines += [
        "../outside.jpg,Happy,train,web,adult,x,y,0",
        "images/f0001.jpg,Happy,train,web,adult,Straße (x),note 1,2",
    ]
    path = folder / "faces.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def ensemble_options(place, toy_faces, toy_teachers) -> list:
    """Return options of an ensemble whose manifest is named relative to the workplace, through a folder with blanks."""
    write_manifest(place.folder / "my faces", toy_faces)
    return [
        *("--manifest", "my faces/faces.csv", "--split", "test", "--teachers", toy_teachers),
        *("--weights", "B=0.4,A=0.6", "--space", "prob", "--clahe", "true"),
    ]


@pytest.fixture(scope="module")
def exported(place, ensemble_options):
    """Return the export run of an ensemble of toy teachers, some rows of which have no label."""
    place.run("export", *ensemble_options)
    return place.runs("export")[0]


@pytest.fixture(scope="module")
def evaluated(place, exported):
    """Return the run that evaluated it, and what was printed."""
    result = place.run("evaluate", "--run", exported.info.run_id[:8], "--by", " source, age,place,split")
    return place.runs("evaluate")[0], result


@pytest.fixture(scope="module")
def bundle(place, exported):
    return place.bundle(exported)


def evaluate(place, *arguments):
    """Return the run that an evaluation made."""
    place.run("evaluate", *arguments)
    return place.runs("evaluate")[0]


def kept(place) -> list[Path]:
    """Return the files of the cache, but locks."""
    return [path for path in (place.folder / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def own_metrics(run) -> dict[str, float]:
    """Return a run's metrics but those of slices, intervals and the simulated null."""
    return {
        name: value
        for name, value in run.data.metrics.items()
        if not name.startswith(("ci95/", "slices/")) and name != "ece_null_p95"
    }


def test_every_metric_is_what_other_tools_compute_from_the_bundle(evaluated, bundle):
    run, _ = evaluated
    known = bundle.labels >= 0
    assert known.sum() == ROWS - len(UNLABELLED)
    assert own_metrics(run) == pytest.approx(expected_metrics(bundle.logits[known], bundle.labels[known]), abs=1e-9)


def test_intervals_are_around_the_values_and_as_wide_as_a_row_wise_bootstrap(evaluated, bundle):
    metrics = evaluated[0].data.metrics
    names = ("accuracy", "macro_f1", "balanced_accuracy")
    named = {name: f"ci95/{name}" for name in names} | {f"f1/{name}": f"ci95/f1 {name}" for name in CLASSES}
    assert {name for name in metrics if name.startswith("ci95/")} == {
        f"{key}_{end}" for key in named.values() for end in ("low", "high")
    }
    for name, key in named.items():
        assert metrics[f"{key}_low"] <= metrics[name] <= metrics[f"{key}_high"]
    known = bundle.labels >= 0
    correct = (bundle.logits.argmax(axis=1) == bundle.labels)[known]
    rng = np.random.default_rng(5)
    means = correct[rng.integers(0, len(correct), (20_000, len(correct)))].mean(axis=1)
    ends = [metrics[f"ci95/accuracy_{end}"] for end in ("low", "high")]
    assert ends == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.017)  # one row


def test_the_null_is_the_ece_of_labels_drawn_from_the_probabilities(evaluated, bundle):
    probs = softmax(bundle.logits[bundle.labels >= 0].astype(float), axis=1)
    confidence = probs.max(axis=1)
    rng = np.random.default_rng(11)
    draws = [
        binned_gap(confidence, rng.random(len(confidence)) < confidence, np.linspace(0, 1, 16)) for _ in range(2000)
    ]
    assert evaluated[0].data.metrics["ece_null_p95"] == pytest.approx(np.quantile(draws, 0.95), rel=0.05)


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("source", {"lab": "lab", "web": "web"}),
        ("age", {"child": "child", "adult": "adult", "": "none"}),  # of the manifest alone
        ("place", {"in/door": "in_door", "Straße (x)": "Straße _x_", "..": "_"}),
    ],
)
def test_slices_are_scored_on_their_own(evaluated, bundle, place, column, names):
    run, result = evaluated
    table = pd.read_csv(place.folder / "my faces/faces.csv", keep_default_na=False).iloc[:ROWS]
    metrics = {name: value for name, value in run.data.metrics.items() if name.startswith(f"slices/{column} ")}
    expected = {}
    shown = {tuple(line.split()) for line in result.stdout.splitlines()}
    for value, key in names.items():
        rows = (table[column] == value).to_numpy() & (bundle.labels >= 0)
        scores = expected_metrics(bundle.logits[rows], bundle.labels[rows])
        scores = {name: score for name, score in scores.items() if name not in ("ece_adaptive", "ece_classwise")}
        scores_by_key = {"rows": rows.sum(), **{name.replace("/", " "): score for name, score in scores.items()}}
        expected |= {f"slices/{column} {key} {name}": score for name, score in scores_by_key.items()}
        numbers = [f"{scores[name]:.4f}" for name in ("accuracy", "macro_f1", "nll", "ece")]
        assert (*(value or "(empty)").split(), f"{rows.sum()}", *numbers) in shown
    assert metrics == pytest.approx(expected, abs=1e-9)


def test_a_column_with_one_value_makes_no_slices(evaluated):
    run, result = evaluated
    assert not [name for name in run.data.metrics if name.startswith("slices/split")]
    assert "split " not in result.stdout


def test_figures_are_images_at_the_artifact_root_under_fixed_names(place, evaluated):
    run, result = evaluated
    files = {entry.path for entry in MlflowClient(place.uri).list_artifacts(run.info.run_id)}
    assert files == {"reliability.png", "confusion_matrix.png", "class_scores.png", "mistakes.png", "tables"}
    for name in files - {"tables"}:
        assert artifact(run, name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        image = cv2.imread(str(artifact(run, name)))
        assert min(image.shape[:2]) > 200
        assert image.std() > 5
    assert "  figures  reliability.png, confusion_matrix.png, class_scores.png, mistakes.png" in result.stdout


def test_the_table_has_every_row_with_each_teachers_prediction(place, evaluated, bundle):
    table = pd.read_parquet(artifact(evaluated[0], "tables/predictions.parquet"))
    assert table[["row", "path", "label", "split", "source"]].to_dict("list") == bundle.index[
        ["row", "path", "label", "split", "source"]
    ].to_dict("list")
    probs = softmax(bundle.logits.astype(float), axis=1)
    names = np.array(CLASSES)
    assert table["prediction"].tolist() == names[probs.argmax(axis=1)].tolist()
    np.testing.assert_allclose(table["confidence"], probs.max(axis=1), atol=1e-12)
    for n in range(ROWS):
        if n in UNLABELLED:
            assert table["correct"].isna()[n]
            assert np.isnan(table["loss"][n])
        else:
            assert table["correct"][n] == (table["prediction"][n] == table["label"][n])
            assert table["loss"][n] == pytest.approx(-np.log(probs[n, CLASSES.index(table["label"][n])]))
    for run in place.runs("teacher"):
        own = place.bundle(run).logits.argmax(axis=1)
        assert table[f"teacher/{run.data.params['ensemble'][0]}"].tolist() == names[own].tolist()
    assert [name for name in table if name.startswith("teacher/")] == ["teacher/A", "teacher/B"]


def test_the_run_has_the_ensembles_params_and_the_options_as_typed(evaluated, exported):
    run, _ = evaluated
    mine, theirs = run.data.params, exported.data.params
    same = ("ensemble", "space", "dtype", "clahe", "precision", "w/A", "w/B")
    same += ("calibration", "benchmark", "rows", "manifest", "split", "teachers")
    assert {key: mine[key] for key in same} == {key: theirs[key] for key in same}
    assert (mine["run"], mine["by"], mine["temperature"]) == (exported.info.run_id[:8], "source,age,place,split", "1")
    assert "limit" not in mine  # what was not typed and is not known is not claimed


def test_the_run_is_found_beside_the_others_on_its_benchmark(evaluated, exported, bundle):
    run, _ = evaluated
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "evaluate · prob · clahe · A 0.6 · B 0.4 · test · faces"
    assert {key: tags[key] for key in ("fer.kind", "fer.source_run", "fer.benchmark", "fer.selection_sha256")} == {
        "fer.kind": "evaluate",
        "fer.source_run": exported.info.run_id,
        "fer.benchmark": "faces:test",
        "fer.selection_sha256": bundle.selection_sha256,
    }
    assert tags["fer.source_bundle_sha256"] == bundle.sha256 == exported.data.tags["fer.bundle_sha256"]
    assert "fer.bundle_sha256" not in tags  # it has none: nobody may take it for an export
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("faces:test", bundle.selection_sha256[:32])


def test_what_is_printed_is_what_is_stored(evaluated, place):
    run, result = evaluated
    metrics, lines = run.data.metrics, result.stdout.splitlines()
    assert lines[0] == "prob · clahe · A 0.6 · B 0.4  on  faces:test, 61 labelled rows"
    low, high = (metrics[f"ci95/macro_f1_{end}"] for end in ("low", "high"))
    assert f"  macro_f1            {metrics['macro_f1']:.4f}  [{low:.4f}, {high:.4f}]" in lines
    null = f"a calibrated model stays below {metrics['ece_null_p95']:.4f} in 95 of 100 benchmarks"
    assert f"  ece                 {metrics['ece']:.4f}  {null}" in lines
    assert f"  run      {run.info.run_id}" in lines
    assert f"  rows     {artifact(run, 'tables/predictions.parquet')}" in lines
    assert lines[-1] == f"  ui       mlflow ui --backend-store-uri {place.uri}"
    assert result.stderr == "warning: 3 rows have no label and are left out\n"


def test_it_needs_no_more_than_is_logged_and_leaves_nothing_behind(evaluated, place):
    assert kept(place) == []


def test_a_temperature_evaluates_divided_logits(place, tmp_path):
    logits, labels = draw_logits(210, seed=3)
    write_bundle(tmp_path / "z", logits, labels)
    write_bundle(tmp_path / "half", logits / 2, labels)  # exact in binary
    hot = evaluate(place, "--bundle", tmp_path / "z", "--temperature", "2")
    half = evaluate(place, "--bundle", tmp_path / "half")
    assert hot.data.metrics == half.data.metrics
    assert hot.data.metrics["nll"] == pytest.approx(expected_metrics(logits / 2, labels)["nll"], abs=1e-9)
    assert hot.data.params["temperature"] == "2"
    assert hot.info.run_name == "evaluate · logit · A 0.5 · B 0.5 · T 2 · test · faces"
    tables = [pd.read_parquet(artifact(run, "tables/predictions.parquet")) for run in (hot, half)]
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[0]) == ["row", "path", "label", "split", "source", "prediction", "confidence", "correct", "loss"]


def test_float16_and_extreme_and_tied_and_absent_classes(place, tmp_path):
    logits, labels = draw_logits(90, seed=4, classes=5)
    labels = np.where(labels == 3, 1, labels)  # no row of the fourth class
    logits = np.where(np.arange(90)[:, None] % 2, logits, logits * 3000).astype(np.float16)
    assert np.abs(logits).max() > 1e4
    logits[7] = 0  # a tie goes to the first column
    write_bundle(tmp_path / "b", logits, labels, classes=CLASSES[:5])
    run = evaluate(place, "--bundle", tmp_path / "b")
    found, expected = own_metrics(run), expected_metrics(logits, labels, CLASSES[:5])
    del found["ece_adaptive"], expected["ece_adaptive"]  # ties, which the loop here tears apart
    assert found == pytest.approx(expected, abs=1e-9)
    assert "f1/Happy" not in run.data.metrics
    assert run.data.params["dtype"] == "float16"


@pytest.mark.parametrize("rows", [1, 2])
def test_one_and_two_rows(place, tmp_path, rows):
    logits, labels = draw_logits(rows)
    write_bundle(tmp_path / "b", logits, labels)
    run = evaluate(place, "--bundle", tmp_path / "b")
    assert own_metrics(run) == pytest.approx(expected_metrics(logits, labels), abs=1e-9)


def test_names_of_classes_and_values_may_hold_anything(place, tmp_path):
    logits, labels = draw_logits(80, classes=3)
    classes = ("Ärger!", "Freude (laut)", "快乐")
    sources = ["x" * 400, "y" * 400, "高兴", "生气"]
    write_bundle(tmp_path / "b", logits, labels, classes=classes, sources=[sources[n % 4] for n in range(80)])
    metrics = evaluate(place, "--bundle", tmp_path / "b").data.metrics
    f1 = sklearn.metrics.f1_score(labels, logits.argmax(axis=1), average=None)
    assert [metrics[f"f1/{name}"] for name in ("Ärger_", "Freude _laut_", "快乐")] == pytest.approx(f1)
    assert metrics["slices/source 高兴 rows"] == metrics["slices/source 生气 rows"] == 20
    long = {name for name in metrics if name.startswith("slices/source xxx")}
    assert {name.split(" ", 2)[2] for name in long} >= {"rows", "accuracy", "f1 快乐"}
    assert max(map(len, metrics)) <= 250


def test_values_whose_metrics_would_have_one_name_are_refused(place, tmp_path):
    logits, labels = draw_logits(40)
    write_bundle(tmp_path / "b", logits, labels, sources=["web!", "web?"] * 20)
    for command in ("evaluate", "calibrate"):
        line = error_line(place.run(command, "--bundle", tmp_path / "b", status=2))
        assert line == "--by source: metrics of 'web!' and 'web?' would have one name; rename one"


def test_the_ensemble_itself_gives_the_same_numbers_and_exports_nothing(place, ensemble_options, evaluated):
    before = {kind: len(place.runs(kind)) for kind in ("export", "teacher")}
    run = evaluate(place, *ensemble_options, "--by", "source,age,place,split")
    assert {kind: len(place.runs(kind)) for kind in ("export", "teacher")} == before == {"export": 1, "teacher": 2}
    reference, _ = evaluated
    assert run.data.metrics == reference.data.metrics
    tables = [pd.read_parquet(artifact(each, "tables/predictions.parquet")) for each in (run, reference)]
    pd.testing.assert_frame_equal(*tables)
    assert "fer.source_run" not in run.data.tags
    for key in ("fer.benchmark", "fer.selection_sha256", "fer.source_bundle_sha256"):
        assert run.data.tags[key] == reference.data.tags[key]
    derived = [key for key in reference.data.params if key.startswith(("ensemble", "w/", "benchmark", "rows"))]
    assert {key: run.data.params[key] for key in derived} == {key: reference.data.params[key] for key in derived}
    assert (run.data.params["ensemble"], run.data.params["clahe"]) == ("A=0.6,B=0.4", "true")
    assert run.info.run_name == "evaluate · prob · clahe · A 0.6 · B 0.4 · test · faces"
    assert artifact(run, "mistakes.png").exists()
    assert kept(place) == []


def test_an_ensemble_of_a_new_teacher_asks_it_and_keeps_its_run(place, ensemble_options, exported):
    options = [*ensemble_options, "--weights", "A=0.5,C=0.5", "--limit", "12"]
    result = place.run("evaluate", *options)
    assert "predicting with A, C: 12 rows" in result.stderr  # another selection than the exported one
    made = [run for run in place.runs("teacher") if run.data.params["rows"] == "12"]
    assert {run.data.params["ensemble"] for run in made} == {"A=1", "C=1"}
    assert {run.info.status for run in made} == {"FINISHED"}
    assert len(place.runs("export")) == 1
    result = place.run("inspect", *options)  # and every command finds it
    assert "predicting" not in result.stderr
    assert kept(place) == []


@pytest.fixture
def moved_faces(place, exported):
    """Take the faces away for a test, and bring them back."""
    here, away = place.folder / "my faces", place.folder / "other faces"
    here.rename(away)
    yield away
    if here.exists():
        shutil.rmtree(here)
    away.rename(here)


def test_a_column_of_a_manifest_that_moved_is_refused_until_it_is_named(place, exported, moved_faces):
    run_id = exported.info.run_id
    line = error_line(place.run("evaluate", "--run", run_id, "--by", "age", status=2))
    assert line == (
        "column age: the bundle has split, source and label, and its manifest is not here; name it by --manifest"
    )
    run = evaluate(place, "--run", run_id, "--by", "age", "--manifest", "other faces/faces.csv")
    assert run.data.metrics["slices/age child rows"] == 22
    assert artifact(run, "mistakes.png").exists()
    assert run.data.params["manifest"] == "other faces/faces.csv"
    shutil.copytree(moved_faces, place.folder / "my faces")
    with (place.folder / "my faces/faces.csv").open("a") as file:
        file.write("images/f0069.jpg,Happy,val,web,adult,x,y,1\n")
    line = error_line(place.run("evaluate", "--run", run_id, "--by", "age", status=2))
    assert line == f"column age: {Path('my faces/faces.csv')} has changed since the soft labels were exported"


def test_from_another_folder_a_relative_manifest_is_missed_only_where_it_is_needed(
    place, exported, evaluated, tmp_path
):
    elsewhere = Workplace(tmp_path, place.uri)
    run = evaluate(elsewhere, "--run", exported.info.run_id)  # no sheet, no failure
    files = {entry.path for entry in MlflowClient(place.uri).list_artifacts(run.info.run_id)}
    assert files == {"reliability.png", "confusion_matrix.png", "class_scores.png", "tables"}
    again = {name: value for name, value in run.data.metrics.items() if not name.startswith("slices/source ")}
    assert again.items() < evaluated[0].data.metrics.items()  # the same digits, resampled ones too
    line = error_line(elsewhere.run("evaluate", "--run", exported.info.run_id, "--by", "age", status=2))
    assert "its manifest is not here; name it by --manifest" in line
    there = os.path.relpath(place.folder / "my faces/faces.csv", tmp_path)
    run = evaluate(elsewhere, "--run", exported.info.run_id, "--by", "age", "--manifest", there)
    assert run.data.metrics["slices/age child rows"] == 22


def test_the_contact_sheet_shows_the_most_confident_mistakes_first_and_no_changed_image(place, tmp_path, monkeypatch):
    from fer_mlflow.files import sha256_of_file
    from fer_mlflow.workflows import evaluate as module

    manifest = toys.write_faces(tmp_path / "faces", 40)
    logits, labels = draw_logits(40, seed=9)
    labels[:3] = -1
    bundle = write_bundle(tmp_path / "b", logits, labels)
    hashes = [sha256_of_file(tmp_path / "faces" / path) for path in bundle.index["path"]]
    bundle = type(bundle).of(
        logits=logits,
        index=bundle.index.assign(image_sha256=hashes),
        classes=CLASSES,
        report=bundle.report,
        manifest_sha256=sha256_of_file(manifest),
        checkpoints=bundle.checkpoints,
    )
    bundle.write(tmp_path / "b")
    shown, draw = [], module.figures.draw_mistakes
    monkeypatch.setattr(module.figures, "draw_mistakes", lambda *parts: shown.append(parts) or draw(*parts))
    monkeypatch.setattr(module, "MOST_MISTAKES", 12)
    probs = softmax(logits.astype(float), axis=1)
    wrong = [n for n in range(3, 40) if logits[n].argmax() != labels[n]]
    order = sorted(wrong, key=lambda n: -probs[n].max())[:12]
    files = [tmp_path / f"faces/images/f{n:04d}.jpg" for n in range(40)]
    pictures = [cv2.imread(str(path))[:, :, ::-1] for path in files]
    result = place.run("evaluate", "--bundle", tmp_path / "b", "--manifest", manifest)
    assert "mistakes are not under" not in result.stderr
    shutil.copyfile(files[order[1]], files[order[0]])
    files[order[3]].unlink()
    result = place.run("evaluate", "--bundle", tmp_path / "b", "--root", tmp_path / "faces")
    message = f"2 of the 12 most confident mistakes are not under {tmp_path / 'faces'} any more, or changed"
    assert message in result.stderr
    for (images, captions), rows in zip(shown, [order, [order[1], order[2], *order[4:]]], strict=True):
        assert captions == [
            f"label {CLASSES[labels[n]]}\npredicted {CLASSES[logits[n].argmax()]} {probs[n].max():.2f}" for n in rows
        ]
        for n, image in zip(rows, images, strict=True):
            np.testing.assert_array_equal(image, pictures[n])


@pytest.mark.parametrize(
    ("option", "variable", "is_shown"),
    [([], "false", False), (["--log-images", "true"], "false", True), (["--log-images", "false"], "true", False)],
)
def test_pictures_of_faces_stay_out_of_the_store_on_request(place, bundle, monkeypatch, option, variable, is_shown):
    monkeypatch.setenv("FER_MLFLOW_LOG_IMAGES", variable)
    folder = ["--bundle", bundle.folder, "--manifest", "my faces/faces.csv"]
    run = evaluate(place, *folder, *option)
    assert artifact(run, "mistakes.png").exists() == is_shown
    assert artifact(run, "confusion_matrix.png").exists()


def test_a_word_for_the_pictures_that_means_nothing_is_refused(place, bundle, monkeypatch):
    monkeypatch.setenv("FER_MLFLOW_LOG_IMAGES", "no")
    result = place.run("evaluate", "--bundle", bundle.folder, status=2)
    assert error_line(result).endswith("FER_MLFLOW_LOG_IMAGES is 'no'; set it to true or false")


def test_no_mistake_makes_no_contact_sheet(place, tmp_path):
    labels = np.arange(20) % 7
    write_bundle(tmp_path / "b", 3 * np.eye(7, dtype=np.float32)[labels], labels)
    run = evaluate(place, "--bundle", tmp_path / "b", "--root", tmp_path)
    assert run.data.metrics["accuracy"] == 1
    assert not artifact(run, "mistakes.png").exists()


def test_a_teacher_run_is_an_ensemble_of_one(place, exported, evaluated):
    (teacher,) = (
        run for run in place.runs("teacher") if run.data.params["ensemble"] == "B=1" and run.data.params["rows"] == "64"
    )
    run = evaluate(place, "--run", teacher.info.run_id)
    assert {name: run.data.metrics[name] for name in teacher.data.metrics} == teacher.data.metrics
    table = pd.read_parquet(artifact(run, "tables/predictions.parquet"))
    assert (table["teacher/B"] == table["prediction"]).all()
    assert run.info.run_name == "evaluate · B · clahe · test · faces"


def test_teacher_runs_that_are_gone_or_of_other_rows_are_left_out_of_the_table(place, tmp_path):
    logits, labels = draw_logits(50, seed=6)
    teachers = {"A": logits, "B": logits[:, ::-1], "C": -logits}
    run_id, _ = toys.publish_ensemble(place, tmp_path, teachers, labels, {"A": 0.5, "B": 0.25, "C": 0.25})
    client = MlflowClient(place.uri)
    gone = client.get_run(run_id).data.tags["fer.teacher_run/B"]
    client.delete_run(gone)
    other = publish(place, write_bundle(tmp_path / "other", logits[:40], labels[:40], weights={"C": 1.0}), "teacher")
    client.set_tag(run_id, "fer.teacher_run/C", other)
    result = place.run("evaluate", "--run", run_id)
    assert f"warning: teacher B is left out: run {gone} was deleted" in result.stderr
    assert f"warning: teacher C is left out: run {other} has other rows or classes" in result.stderr
    table = pd.read_parquet(artifact(place.runs("evaluate")[0], "tables/predictions.parquet"))
    assert [name for name in table if name.startswith("teacher/")] == ["teacher/A"]


# Bad input: one clear line each.


@pytest.fixture
def no_new_run(place):
    """Check that a refusal before the work starts opens no run."""
    before = count_runs(place)
    yield
    assert count_runs(place) == before


@pytest.fixture(scope="module")
def small(place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    logits, labels = draw_logits(30)
    write_bundle(folder / "b", logits, labels)
    write_bundle(folder / "unlabelled", logits, np.full(30, -1))
    return folder


@pytest.mark.usefixtures("no_new_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name one source of soft labels: --run RUN_ID, or --bundle FOLDER, or --manifest CSV with --teachers"),
        (["--manifest", "m.csv"], "(found none of them)"),
        (["--run", "abcd", "--bundle", "b"], "(found bundle, run)"),
        (["--bundle", "b", "--weights", "A=1"], "(found bundle, ensemble)"),
        (["--weights", "A=1"], "an ensemble needs --manifest and --teachers too"),
        (["--manifest", "m.csv", "--teachers", "t.yaml"], "an ensemble needs --weights too"),
        (["--run", "12345678"], "has no such run; look at MLFLOW_TRACKING_URI"),
        (
            ["--run", "abc"],
            "run 'abc': a run id is 4 to 32 digits of 0-9a-f; copy it from a command's output or the UI",
        ),
        (["--run", "%' OR 1=1 --"], "a run id is 4 to 32 digits"),
        (["--run", "0" * 33], "a run id is 4 to 32 digits"),
        (["--bundle", "none"], "bundle none: no such folder; give the folder that holds hash_manifest.json"),
        (
            ["--bundle", "b", "--space", "prob"],
            "--space: no effect with --bundle, whose soft labels are already fused; remove it",
        ),
        (["--run", "abcd", "--clahe-tile", "4", "--limit", "9"], "--limit, --clahe-tile: no effect with --run"),
    ],
)
def test_a_source_that_cannot_be_had_is_refused(place, options, message):
    assert message in error_line(place.run("evaluate", *options, status=2))


@pytest.mark.usefixtures("no_new_run")
@pytest.mark.parametrize("command", ["calibrate", "inspect"])
def test_all_commands_take_their_source_from_the_same_options(place, command):
    assert "(found none of them)" in error_line(place.run(command, status=2))
    assert "has no such run" in error_line(place.run(command, "--run", "12345678", status=2))
    line = error_line(place.run(command, "--bundle", "b", "--space", "prob", status=2))
    assert line == "--space: no effect with --bundle, whose soft labels are already fused; remove it"


@pytest.mark.usefixtures("no_new_run")
@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_soft_labels_without_labels_are_refused_before_any_work(place, small, toy_teachers, command, tmp_path):
    message = "no row has a label, so there is nothing to score; `inspect` needs none"
    line = error_line(place.run(command, "--bundle", small / "unlabelled", status=2))
    assert line == f"logit · A 0.5 · B 0.5  on  faces:test: {message}"
    manifest = toys.write_faces(tmp_path / "plain", 9, labelled=False)
    options = ["--manifest", manifest, "--teachers", toy_teachers, "--weights", "A=1"]
    assert error_line(place.run(command, *options, status=2)) == f"A  on  manifest: {message}"


@pytest.mark.usefixtures("no_new_run")
def test_runs_without_soft_labels_are_refused_and_the_right_one_is_named(place, evaluated, exported):
    run, _ = evaluated
    line = error_line(place.run("evaluate", "--run", run.info.run_id, status=2))
    assert line == (
        f"run {run.info.run_id} (evaluate, FINISHED) has no soft labels; they are in run {exported.info.run_id}"
    )
    client = MlflowClient(place.uri)
    client.set_tag(run.info.run_id, "fer.kind", "train")
    client.delete_tag(run.info.run_id, "fer.source_run")
    try:
        line = error_line(place.run("evaluate", "--run", run.info.run_id, status=2))
    finally:
        client.set_tag(run.info.run_id, "fer.kind", "evaluate")
        client.set_tag(run.info.run_id, "fer.source_run", exported.info.run_id)
    assert line == f"run {run.info.run_id} (train, FINISHED) has no soft labels; name an export or a teacher run"


def test_deleted_runs_are_refused_by_id_and_by_prefix(place, small):
    from fer_mlflow import SoftLabels

    run_id = publish(place, SoftLabels.open(small / "b"))
    MlflowClient(place.uri).delete_run(run_id)
    for name in (run_id, run_id[:12]):
        line = error_line(place.run("evaluate", "--run", name, status=2))
        assert line == f"run {run_id} was deleted; bring it back with `mlflow runs restore`, or name another"


@pytest.mark.parametrize("damage", ["a byte", "a file", "all", "another bundle"])
def test_a_bundle_that_does_not_verify_is_refused(place, small, damage):
    from fer_mlflow import SoftLabels

    run_id = publish(place, SoftLabels.open(small / "b"))
    folder = place.folder / f"mlruns/0/{run_id}/artifacts/softlabels"
    if damage == "a byte":
        data = bytearray((folder / "softlabels.npz").read_bytes())
        data[-400] ^= 1
        (folder / "softlabels.npz").write_bytes(data)
    elif damage == "a file":
        (folder / "classorder.json").unlink()
    elif damage == "all":
        shutil.rmtree(folder)
    else:
        logits, labels = draw_logits(30, seed=1)
        shutil.rmtree(folder)
        write_bundle(folder, logits, labels)
    message = {
        "a byte": f"run {run_id}: its bundle is broken: softlabels.npz: SHA-256 is ",
        "a file": f"run {run_id}: its bundle is broken: classorder.json: No such file or directory; export it again",
        "all": f"run {run_id}: its bundle is broken: hash_manifest.json: No such file or directory; export it again",
        "another bundle": "is not the one that it is tagged with",
    }[damage]
    before = count_runs(place)
    for command in (["evaluate", "--run", run_id], ["compare", small / "b", run_id]):
        assert message in error_line(place.run(*command, status=2))
    assert count_runs(place) == before


@pytest.mark.usefixtures("no_new_run")
@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("note", "--by note: 61 different values; name a column of at most 50"),
        ("mood", "no column mood; there are path, label, split, source, age, place, note, fold"),
        ("fold", 'rows of the path "images/f0001.jpg" have different values of fold'),
    ],
)
def test_a_column_that_makes_no_slices_is_refused_before_any_work(place, exported, ensemble_options, by, message):
    line = error_line(place.run("evaluate", "--run", exported.info.run_id, "--by", f"source,{by}", status=2))
    assert message in line
    if by != "fold":  # in the rows that an ensemble is predicted on, a path is there once
        options = [*ensemble_options, "--weights", "C=1", "--by", f"source,{by}"]
        assert message in error_line(place.run("evaluate", *options, status=2))


def test_no_run_is_left_open(place, evaluated):
    assert set(count_runs(place)) == {"FINISHED"}


@pytest.mark.slow
def test_evaluation_through_a_server_that_keeps_artifacts(server, tmp_path):
    place = Workplace(tmp_path / "work", server.uri)
    place.folder.mkdir()
    logits, labels = draw_logits(60)
    bundle = write_bundle(tmp_path / "b", logits, labels, weights={"A": 1.0})
    run_id = publish(place, bundle, "teacher")
    result = place.run("evaluate", "--run", run_id[:10])
    (run,) = place.runs("evaluate")
    assert own_metrics(run) == pytest.approx(expected_metrics(logits, labels), abs=1e-9)
    client = MlflowClient(server.uri)
    fetched = client.download_artifacts(run.info.run_id, "tables/predictions.parquet", str(tmp_path))
    table = pd.read_parquet(fetched)
    assert table["teacher/A"].tolist() == [CLASSES[k] for k in logits.argmax(axis=1)]
    names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert names == {"reliability.png", "confusion_matrix.png", "class_scores.png", "tables"}
    assert f"  rows     runs:/{run.info.run_id}/tables/predictions.parquet" in result.stdout
    assert f"  ui       {server.uri}/#/experiments/0/runs/{run.info.run_id}" in result.stdout
