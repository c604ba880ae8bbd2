"""Logged models: one for each teacher, student and bundle, bound to benchmarks, and links from run to run."""

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from toys import draw_logits, publish, publish_ensemble, write_bundle

import fer_mlflow
from fer_mlflow.workflows.leaderboards import BOARD

CLAHE = {"clip": 2.0, "tile": 8, "pattern_sha256": "0" * 64}


@pytest.fixture
def store(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    monkeypatch.setenv("FER_MLFLOW_CACHE", str(workplace.folder / "cache"))
    monkeypatch.chdir(workplace.folder)
    return MlflowClient(workplace.uri)


def models(**conditions) -> list:
    return mlflow.search_logged_models(experiment_ids=["0"], output_format="list", **conditions)


def benchmark(tmp_path, workplace, split: str, seed: int) -> None:
    """Publish three teachers, one with CLAHE too, a student and an ensemble on the rows of a split."""
    logits, labels = draw_logits(300, seed=seed)
    noise = np.random.default_rng(seed)

    def bundle(name: str, spread: float, clahe=None):
        own = (logits + noise.normal(0, spread, logits.shape)).astype(np.float32)
        folder = tmp_path / split / f"{name}{bool(clahe)}"
        paths = [f"{split}/{row}.jpg" for row in range(300)]
        return write_bundle(
            folder, own, labels, weights={name: 1.0}, split=split, benchmark=f"faces:{split}", paths=paths, clahe=clahe
        )

    runs = {}
    for name, spread in (("A", 2.0), ("B", 4.0), ("C", 3.0)):
        runs[f"fer.teacher_run/{name}"] = publish(workplace, bundle(name, spread), "teacher")
    publish(workplace, bundle("A", 5.0, CLAHE), "teacher")
    publish(workplace, bundle("S", 2.5), "student")
    whole = bundle("E", 1.0)
    publish(workplace, whole)


@pytest.mark.parametrize("metric", ["macro_f1", "nll"])
def test_a_search_by_dataset_orders_teachers_and_students_as_the_leaderboard_does(store, workplace, tmp_path, metric):
    for seed, split in enumerate(("test", "val")):
        benchmark(tmp_path, workplace, split, seed)
    board = fer_mlflow.triage(metric=metric).leaderboard
    board = board[board["kind"].isin(["teacher", "student"])]
    assert len(board) == 10
    for selection, expected in board.groupby(BOARD):
        dataset = {"dataset_name": expected["benchmark"].iloc[0], "dataset_digest": selection[:32]}
        order = {"field_name": f"metrics.{metric}", "ascending": metric == "nll", **dataset}
        found = models(datasets=[dataset], order_by=[order])
        names = [f"{row.ensemble.partition('=')[0]} {row.clahe}".strip() for row in expected.itertuples()]
        assert [each.name.replace(" · ", " ") for each in found] == names
        numbers = [
            next(m.value for m in each.metrics if (m.key, m.dataset_digest) == (metric, selection[:32]))
            for each in found
        ]
        np.testing.assert_array_equal(numbers, expected[metric])
    # One model for both benchmarks, another for the same checkpoint with CLAHE.
    kinds = [each.model_type for each in models()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"teacher": 5, "student": 1, "softlabels": 2}


def teacher(tmp_path, number: int, seed: int = 0):
    logits, labels = draw_logits(30, seed=seed)
    return write_bundle(tmp_path / f"b{number}", logits, labels, weights={"A": 1.0})


def test_a_teacher_that_is_scored_again_is_the_same_model(store, workplace, tmp_path):
    for number in range(2):
        publish(workplace, teacher(tmp_path, number), "teacher")
    (model,) = models()
    assert (model.name, model.model_type, model.status) == ("A", "teacher", "READY")
    assert model.params["preprocessing"] == "img_size=32 mean=0.5,0.5,0.5 std=0.25,0.25,0.25"
    assert model.tags["fer.checkpoint_sha256"] == model.params["checkpoint_sha256"]
    for run in workplace.runs("teacher"):
        assert [each.model_id for each in store.get_run(run.info.run_id).inputs.model_inputs] == [model.model_id]


def test_a_deleted_model_is_made_again_and_gets_the_scores_of_its_run(store, workplace, tmp_path):
    logits, labels = draw_logits(30)
    run_id, bundle = publish_ensemble(
        workplace, tmp_path / "one", {"A": logits, "B": -logits}, labels, {"A": 0.5, "B": 0.5}
    )
    before = {each.name: each for each in models()}
    store.delete_logged_model(before["A"].model_id)
    tags = {key: text for key, text in store.get_run(run_id).data.tags.items() if key.startswith("fer.teacher_run/")}
    publish(workplace, bundle, **tags)
    after = {each.name: each for each in models()}
    assert after["B"].model_id == before["B"].model_id
    assert after["A"].model_id != before["A"].model_id
    scores = {(m.key, m.dataset_digest): m.value for m in after["A"].metrics}
    assert (
        scores["macro_f1", bundle.selection_sha256[:32]]
        == store.get_run(tags["fer.teacher_run/A"]).data.metrics["macro_f1"]
    )
    inputs = store.get_run(tags["fer.teacher_run/A"]).inputs.model_inputs
    assert after["A"].model_id in [each.model_id for each in inputs]


def test_a_model_that_was_left_pending_is_finished(store, workplace, tmp_path):
    publish(workplace, teacher(tmp_path, 0), "teacher")
    (model,) = models()
    store.finalize_logged_model(model.model_id, "PENDING")
    publish(workplace, teacher(tmp_path, 1), "teacher")
    (model,) = models()
    assert model.status == "READY"


def test_soft_labels_are_an_output_and_then_an_input(store, workplace, tmp_path):
    logits, labels = draw_logits(60)
    run_id, bundle = publish_ensemble(workplace, tmp_path, {"A": logits, "B": -logits}, labels, {"A": 0.75, "B": 0.25})
    export = store.get_run(run_id)
    (made,) = (store.get_logged_model(each.model_id) for each in export.outputs.model_outputs)
    assert (made.name, made.model_type) == ("logit · A 0,75 · B 0,25 · test · faces", "softlabels")
    assert (made.tags["fer.bundle_sha256"], made.source_run_id, made.metrics) == (bundle.sha256, run_id, None)
    read = [store.get_logged_model(each.model_id) for each in export.inputs.model_inputs]
    assert sorted(each.name for each in read) == ["A", "B"]
    fer_mlflow.evaluate(run=run_id, log_images=False)
    fer_mlflow.inspect(bundle=str(bundle.folder))
    fer_mlflow.calibrate(run=run_id, export=True, by=())
    calibrated, _ = workplace.runs("export")
    fer_mlflow.compare(run_a=run_id, run_b=calibrated.info.run_id)
    for kind in ("evaluate", "inspect", "calibrate", "compare"):
        (run,) = workplace.runs(kind)
        inputs = [each.model_id for each in store.get_run(run.info.run_id).inputs.model_inputs]
        assert made.model_id in inputs
        assert len(inputs) == (2 if kind == "compare" else 1)
    inputs = store.get_run(calibrated.info.run_id).inputs.model_inputs
    assert [each.model_id for each in inputs] == [made.model_id]
    # A teacher's own soft labels are the teacher's.
    teacher_run = export.data.tags["fer.teacher_run/A"]
    fer_mlflow.inspect(run=teacher_run)
    (model,) = store.get_run(workplace.runs("inspect")[0].info.run_id).inputs.model_inputs
    assert store.get_logged_model(model.model_id).name == "A"
