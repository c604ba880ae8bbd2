"""`fer-mlflow sweep`, driven as a user does, against a real store."""

import re
import signal
import time

import numpy as np
import pandas as pd
import pytest
from conftest import Place, new_workplace
from toys import artifact, count_runs, draw_logits, error_line, expected_metrics, publish, repeated_params, write_bundle

from fer_mlflow.scoring.fusion import fuse
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.settings.texts import format_weights

pytestmark = pytest.mark.usefixtures("coarse_figures")
ROWS = 140


def publish_teachers(place, folder, teachers, labels, **parts) -> list[str]:
    """Log each teacher's logits as the run that `export` would leave, and return the runs."""
    return [
        publish(place, write_bundle(folder / name, logits, labels, weights={name: 1.0}, **parts), "teacher")
        for name, logits in teachers.items()
    ]


def named(word: str, rows: int) -> list[str]:
    """Return paths that no other benchmark has."""
    return [f"{word}{row:04d}.jpg" for row in range(rows)]


def make_teachers(rows: int = ROWS, seed: int = 0, names: str = "ABC"):
    """Return labels, and logits of teachers that are right for different reasons."""
    logits, labels = draw_logits(rows, seed=seed)
    rng = np.random.default_rng(seed + 100)
    return {name: (logits + rng.normal(0, 2, logits.shape)).astype(np.float32) for name in names}, labels


@pytest.fixture(scope="module")
def stored(place, tmp_path_factory):
    """Return benchmark -> teachers' logits and labels, of two benchmarks with stored teacher runs."""
    found = {}
    for number, split in enumerate(("val", "test")):
        teachers, labels = make_teachers(seed=number)
        paths = [f"images/{split}{row:04d}.jpg" for row in range(ROWS)]
        folder = tmp_path_factory.mktemp(split)
        publish_teachers(place, folder, teachers, labels, split=split, benchmark=f"faces:{split}", paths=paths)
        found[f"faces:{split}"] = (teachers, labels)
    return found


@pytest.fixture(scope="module")
def swept(place, stored):
    """Return the run of a sweep, and what was printed."""
    result = place.run("sweep", "--benchmark", "faces:val,faces:test", "--step", "0.2", "--log-top", "3")
    return place.runs("sweep")[0], result.stdout


def configurations_of(run) -> pd.DataFrame:
    return pd.read_parquet(artifact(run, "tables/sweep.parquet"))


def test_every_configuration_is_scored_as_evaluate_scores_it(swept, stored):
    table = configurations_of(swept[0])
    assert len(table) == 2 * 2 * 21
    assert table.groupby(["benchmark", "space"]).size().tolist() == [21] * 4
    for _, row in table.sample(12, random_state=0).iterrows():
        teachers, labels = stored[row["benchmark"]]
        logits = fuse(teachers, {name: row[f"w/{name}"] for name in teachers}, row["space"]).astype(np.float32)
        expected = expected_metrics(logits, labels)
        for name in metric_names(("Fear",)):
            assert row[name] == pytest.approx(expected[name], abs=1e-9), name
    again = pd.read_csv(artifact(swept[0], "tables/sweep.csv"))
    assert np.allclose(again["macro_f1"], table["macro_f1"], atol=1e-12)


def test_evaluate_of_an_exported_winner_gives_the_same_numbers(place, stored, toy_faces, toy_teachers):
    ensemble = ("--manifest", toy_faces, "--teachers", toy_teachers)
    place.run("sweep", *ensemble, "--step", "0.25", "--log-top", "1", "--export-top", "1", "--clahe", "both")
    run = place.runs("sweep")[0]
    table = configurations_of(run)
    assert sorted(set(table["preprocessing"])) == ["", "clahe"]
    assert len(table) == 2 * 2 * 15
    children = [each for each in place.runs() if each.data.tags.get("mlflow.parentRunId") == run.info.run_id]
    assert sorted(each.data.tags["fer.kind"] for each in children if each.data.tags["fer.kind"] != "teacher") == [
        "evaluate",
        "export",
    ]
    exported = next(each for each in children if each.data.tags["fer.kind"] == "export")
    assert run.info.run_name == "sweep · macro_f1 · logit and prob · A, B, C · manifest"
    assert exported.info.run_name.endswith(" · manifest")
    assert [(each.info.run_name, repeated_params(each)) for each in children if repeated_params(each)] == []
    place.run("evaluate", "--run", exported.info.run_id)
    evaluated = place.runs("evaluate")[0].data
    nested = next(each for each in children if each.data.tags["fer.kind"] == "evaluate").data
    best = table.sort_values(["macro_f1", "nll"], ascending=[False, True]).iloc[0]
    for name in ("accuracy", "macro_f1", "nll", "brier", "ece", "p99_max_prob", "ece_adaptive", "ci95/macro_f1_low"):
        assert nested.metrics[name] == pytest.approx(evaluated.metrics[name], abs=1e-9), name
        if name in best:
            assert best[name] == pytest.approx(evaluated.metrics[name], abs=1e-9), name
    assert nested.params["ensemble"] == exported.data.params["ensemble"]
    assert nested.params["clahe"] == exported.data.params["clahe"]
    # A second sweep finds the export, and does not predict or export again.
    before = count_runs(place)["FINISHED"]
    place.run("sweep", *ensemble, "--step", "0.25", "--log-top", "0", "--export-top", "1", "--clahe", "both")
    assert count_runs(place)["FINISHED"] == before + 1


def test_the_run_has_table_figures_and_nested_runs(place, swept):
    run, printed = swept
    files = {path.name for path in artifact(run, "").rglob("*") if path.is_file()}
    assert files == {"sweep.parquet", "sweep.csv", "weights.png", "pareto.png"}
    table = configurations_of(run)
    own = table[table["benchmark"] == "faces:val"]
    assert table[table["benchmark"] != "faces:val"]["plateau"].isna().all()
    best = own.sort_values(["macro_f1", "nll"], ascending=[False, True]).iloc[0]
    assert bool(best["plateau"])
    front = own[own["front"].astype(bool)]
    for _, row in own.iterrows():
        better = (front["macro_f1"] >= row["macro_f1"]) & (front["ece"] <= row["ece"])
        strictly = (front["macro_f1"] > row["macro_f1"]) | (front["ece"] < row["ece"])
        assert bool(row["front"]) != (better & strictly).any()
    nested = [each for each in place.runs("evaluate") if each.data.tags.get("mlflow.parentRunId") == run.info.run_id]
    ranked = sorted(nested, key=lambda each: int(each.data.tags["fer.sweep_rank"]))
    scores = [each.data.metrics["macro_f1"] for each in ranked]
    assert scores == pytest.approx(own["macro_f1"].nlargest(3).tolist(), abs=1e-12)
    other = table[table["benchmark"] == "faces:test"]
    assert (
        ranked[0].data.metrics["elsewhere/faces:test accuracy"] == other["accuracy"].iloc[own.index.get_loc(best.name)]
    )
    assert f"{int(own['plateau'].sum())} of 42 are within one paired standard error" in printed
    assert run.data.metrics["plateau"] == own["plateau"].sum()


def test_what_the_choice_is_worth_is_measured_on_other_rows(place, stored, swept):
    run, printed = swept
    assert run.data.tags["fer.selection_in_sample"] == "false"
    assert "cross-fitted: chosen on 4 folds of 5, measured on the other" in printed
    place.run("sweep", "--benchmark", "faces:val,faces:test", "--fit-split", "val", "--report-split", "test")
    held = place.runs("sweep")[0]
    teachers, labels = stored["faces:val"]
    table = configurations_of(held)
    own = table[table["benchmark"] == "faces:val"].sort_values(["macro_f1", "nll"], ascending=[False, True]).iloc[0]
    weights = {name: own[f"w/{name}"] for name in teachers}
    assert held.data.params["chosen"] == format_weights({name: w for name, w in weights.items() if w})
    teachers, labels = stored["faces:test"]
    logits = fuse(teachers, weights, own["space"]).astype(np.float32)
    equal = fuse(teachers, dict.fromkeys("ABC", 1 / 3), own["space"]).astype(np.float32)
    scores = expected_metrics(logits, labels), expected_metrics(equal, labels)
    metrics = held.data.metrics
    assert metrics["macro_f1"] == pytest.approx(scores[0]["macro_f1"], abs=1e-9)
    assert metrics["difference/equal_weights"] == pytest.approx(scores[0]["macro_f1"] - scores[1]["macro_f1"], abs=1e-9)
    assert 0 < metrics["difference/equal_weights_p"] <= 1
    assert held.data.tags["fer.benchmark"] == "faces:test"
    printed = place.run("sweep", "--benchmark", "faces:val", "--in-sample", "true", "--log-top", "0").stdout
    assert place.runs("sweep")[0].data.tags["fer.selection_in_sample"] == "true"
    assert "chosen and measured on the same rows" in printed


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "nll"])
def test_optimised_weights_are_at_least_as_good_as_the_grid_where_they_were_fitted(place, stored, metric):
    options = ("--benchmark", "faces:val", "--in-sample", "true", "--log-top", "0", "--metric", metric)
    place.run("sweep", *options, "--optimize", metric)
    run = place.runs("sweep")[0]
    table = configurations_of(run)
    best = table[metric].min() if metric == "nll" else table[metric].max()
    found = run.data.metrics[metric]
    assert found <= best + 1e-9 if metric == "nll" else found >= best - 0.02  # greedy has no guarantee
    if metric == "nll":
        assert float(run.data.params["chosen/temperature"]) > 0


def test_a_teacher_of_noise_gets_no_weight_and_the_difference_from_equal_weights_is_significant(place, tmp_path):
    teachers, labels = make_teachers(400, seed=7, names="AB")
    rng = np.random.default_rng(3)
    teachers["N"] = rng.normal(0, 6, (400, 7)).astype(np.float32)
    publish_teachers(place, tmp_path, teachers, labels, benchmark="noisy:test", paths=named("n", 400))
    printed = place.run(
        "sweep", "--benchmark", "noisy:test", "--optimize", "nll", "--space", "logit", "--log-top", "0"
    ).stdout
    run = place.runs("sweep")[0]
    assert float(run.data.params.get("w/N", 0)) < 0.02
    assert run.data.metrics["difference/equal_weights"] < 0
    assert run.data.metrics["difference/equal_weights_p"] < 0.001
    assert "significantly better than equal weights" in printed


def test_a_list_of_weights_is_scored_as_it_stands(place, stored, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# tried by hand\nA=0.4, B=0.6\n\nC=1\n")
    place.run("sweep", "--benchmark", "faces:val", "--weights-list", path, "--space", "prob", "--log-top", "0")
    table = configurations_of(place.runs("sweep")[0])
    assert table[["w/A", "w/B", "w/C"]].to_numpy().tolist() == [[0.4, 0.6, 0.0], [0.0, 0.0, 1.0]]


def test_the_same_seed_gives_the_same_sweep(place, stored):
    tables, chosen = [], []
    for _ in range(2):
        place.run("sweep", "--benchmark", "faces:test", "--step", "0.5", "--log-top", "0", "--seed", "4")
        run = place.runs("sweep")[0]
        tables.append(configurations_of(run))
        chosen.append({k: v for k, v in run.data.metrics.items()})
    pd.testing.assert_frame_equal(*tables)
    assert chosen[0] == chosen[1]


def test_a_choice_by_a_metric_without_a_paired_test_says_its_value_alone(place, stored):
    place.run("sweep", "--benchmark", "faces:val,faces:test", "--metric", "brier", "--step", "0.5")
    run = place.runs("sweep")[0]
    verdict = run.data.tags["mlflow.note.content"].splitlines()[0]
    assert run.info.status == "FINISHED"
    assert re.search(rf": brier \*\*{run.data.metrics['brier']:.4f}\*\* *$", verdict), verdict


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "nothing:here"], "benchmark nothing:here: sqlite"),
        (["--benchmark", "faces:val", "--members", "A,X"], "--members: no teacher X on faces:val; there are A, B, C"),
        (["--benchmark", "faces:val", "--step", "0.3"], "1 is not a whole number of steps; 0.333333 or 0.25 would fit"),
        (["--benchmark", "faces:val", "--step", "0.001"], "1,003,002 configurations, and at most 20,000"),
        (["--benchmark", "faces:val", "--step", "0.001"], "--step 0.01 would fit"),
        (["--benchmark", "faces:val", "--metric", "ece"], "metric 'ece': configurations are ranked by one of accuracy"),
        (
            ["--benchmark", "faces:val", "--optimize", "ece"],
            "--optimize 'ece': it is one of accuracy, macro_f1, balan",
        ),
        (["--benchmark", "faces:val", "--fit-split", "val"], "--fit-split and --report-split go together"),
        (["--benchmark", "faces:val", "--pareto", "nll"], "--pareto nll: name two of"),
        (["--benchmark", "faces:val", "--export-top", "1"], "--export-top needs the images"),
        (["--benchmark", "faces:val", "--manifest", "x.csv"], "--manifest: no effect with --benchmark"),
        (["--benchmark", "faces:val", "--crossfit", "none"], "no rows to choose on"),
        (["--benchmark", "faces:val", "--clahe", "true"], "are without CLAHE only"),
        (["--manifest", "x.csv"], "--teachers missing"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(place, stored, options, message):
    before = count_runs(place)
    assert message in error_line(place.run("sweep", *options, status=2))
    assert count_runs(place) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=0.5,B=0.4\n", "line 1: weights: shares sum to 0.9"),
        ("# only a comment\n", "no line with weights"),
        ("A=1\nX=1\n", "line 2: no teacher X; there are A, B, C"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_line(place, stored, tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    assert message in error_line(place.run("sweep", "--benchmark", "faces:val", "--weights-list", path, status=2))


def test_teachers_that_are_not_on_every_benchmark_are_named(place, stored, tmp_path):
    teachers, labels = make_teachers(seed=9, names="AB")
    publish_teachers(place, tmp_path, teachers, labels, benchmark="other:test", paths=named("o", ROWS))
    line = error_line(place.run("sweep", "--benchmark", "faces:val,other:test", status=2))
    assert "teachers on different benchmarks: faces:val has A, B, C; other:test has A, B" in line
    place.run("sweep", "--benchmark", "faces:val,other:test", "--members", "A,B", "--log-top", "0")


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_over_what_it_had(migrated_store, tmp_path):
    own = new_workplace(tmp_path / "killed", migrated_store)
    teachers, labels = make_teachers(4000, seed=1)
    publish_teachers(own, tmp_path, teachers, labels, benchmark="large:test")
    options = ("sweep", "--benchmark", "large:test", "--step", "0.02", "--log-top", "0", "--space", "logit")
    process = own.start(*options)
    kept = own.folder / "cache" / "sweeps"
    deadline = time.monotonic() + 120
    while len(list(kept.glob("*/*.npz"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert [run.info.status for run in own.runs("sweep")] == ["KILLED"]
    there = {path: path.stat().st_mtime_ns for path in kept.glob("*/*.npz")}
    assert there
    assert not [path for path in kept.rglob("*") if path.name.endswith(".part")]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        from fer_mlflow.workflows import configurations

        real = configurations.count_rows
        patch.setattr(configurations, "count_rows", lambda *a, **k: seen.append(1) or real(*a, **k))
        own.run(*options)
    chunks = -(-1326 // 128)
    assert len(seen) == chunks - len(there)
    assert not list(kept.glob("*"))
    assert len(configurations_of(own.runs("sweep")[0])) == 1326


def test_sweep_works_against_a_server(shared_server, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    own = Place(folder, shared_server.uri, shared_server.folder)
    teachers, labels = make_teachers(60, seed=5)
    publish_teachers(own, tmp_path, teachers, labels, benchmark="served:sweep", paths=named("s", 60))
    printed = own.run("sweep", "--benchmark", "served:sweep", "--step", "0.5", "--log-top", "1").stdout
    assert f"{shared_server.uri}/#/experiments/0/runs/" in printed
