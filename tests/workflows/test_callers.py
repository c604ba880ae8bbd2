"""Workflows called from Python: they leave the caller's process, experiment and runs as they are."""

import os
import signal

import mlflow
import pytest
import toys

import fer_mlflow
from fer_mlflow.errors import ContractError
from fer_mlflow.tracking import runs as runs_module


@pytest.fixture
def called(workplace, monkeypatch):
    """Give a workplace whose store and cache this process uses, as a notebook would."""
    for name in ("MLFLOW_TRACKING_URI", "FER_MLFLOW_CACHE"):
        monkeypatch.setenv(name, workplace.env[name])
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")  # `set_experiment` sets it; monkeypatch takes it back
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    yield workplace
    while mlflow.active_run():
        mlflow.end_run()


@pytest.fixture
def bundle(tmp_path):
    logits, labels = toys.draw_logits(40)
    return toys.write_bundle(tmp_path / "b", logits, labels)


def test_the_result_has_the_run_the_numbers_and_a_short_repr(called, toy_faces, toy_teachers):
    result = fer_mlflow.export(manifest=toy_faces, teachers=toy_teachers, weights={"A": 0.4, "B": 0.6}, clahe=True)
    (run,) = called.runs("export")
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    assert result.metrics == pytest.approx(run.data.metrics)
    assert result.soft_labels.logits.shape == (70, 7)
    assert run.data.params["ensemble"] == "A=0.4,B=0.6"
    assert "\n" not in repr(result)
    assert len(repr(result)) < 400
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_search_is_a_function_of_python_values(called, toy_faces, toy_teachers):
    swept = fer_mlflow.sweep(
        manifest=toy_faces,
        teachers=toy_teachers,
        split=["test"],
        step=0.5,
        clahe=False,
        pareto=["accuracy", "nll"],
        log_top=1,
    )
    assert len(swept.configurations) == 12
    assert called.runs("sweep")[0].data.params["pareto"] == "accuracy,nll"
    assert swept.exported == {}
    scores = swept.table.iloc[4]
    found = fer_mlflow.reproduce(
        benchmark=["manifest:test"],
        clahe="false",
        step=0.5,
        accuracy=scores["accuracy"],
        f1={"Happy": scores["f1/Happy"]},
        nll=scores["nll"],
        tolerance=1e-6,
    )
    (match,) = found.search.matches
    assert match.configuration == 4
    assert found.table["w/A"].tolist() == [scores["w/A"]]
    assert "\n" not in repr(swept) + repr(found)


def test_errors_are_exceptions_that_name_the_field(called):
    with pytest.raises(ContractError, match=r"^weights: shares sum to 2, not to 1"):
        fer_mlflow.export(manifest="m.csv", teachers="t.yaml", weights={"A": 2.0})
    with pytest.raises(ContractError, match=r"^space: 'mean' is not one of logit, prob"):
        fer_mlflow.export(manifest="m.csv", teachers="t.yaml", weights="A=1", space="mean")
    with pytest.raises(TypeError, match="clahe_clp"):
        fer_mlflow.export(manifest="m.csv", teachers="t.yaml", weights="A=1", clahe_clp=3)
    assert called.runs() == []


def test_under_a_users_run_it_nests_and_that_run_goes_on(called, bundle):
    with mlflow.start_run(run_name="mine") as mine:
        result = fer_mlflow.evaluate(bundle=bundle.folder)
        assert mlflow.active_run().info.run_id == mine.info.run_id
        mlflow.log_metric("after", 1.0)
    client = mlflow.MlflowClient(called.uri)
    outer, inner = client.get_run(mine.info.run_id), client.get_run(result.run_id)
    assert inner.data.tags["mlflow.parentRunId"] == mine.info.run_id
    assert (outer.info.run_name, outer.info.status, outer.data.metrics) == ("mine", "FINISHED", {"after": 1.0})
    assert "fer.kind" not in outer.data.tags


def test_in_a_script_under_somebodys_mlflow_run_that_run_is_neither_renamed_nor_ended(called, bundle, monkeypatch):
    client = mlflow.MlflowClient(called.uri)
    outer = client.create_run("0", run_name="theirs")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    result = fer_mlflow.inspect(bundle=bundle.folder)
    after, inner = client.get_run(outer.info.run_id), client.get_run(result.run_id)
    assert (after.info.run_name, after.info.status) == ("theirs", "RUNNING")
    assert "fer.kind" not in after.data.tags
    assert (inner.info.status, inner.data.tags["mlflow.parentRunId"]) == ("FINISHED", outer.info.run_id)
    assert os.environ["MLFLOW_RUN_ID"] == outer.info.run_id


def test_the_processs_experiment_uri_and_handlers_stay(called, bundle):
    mlflow.set_experiment("mine")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = fer_mlflow.inspect(bundle=bundle.folder, experiment="other")
    assert mlflow.get_tracking_uri() == called.uri
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    client = mlflow.MlflowClient(called.uri)
    other = client.get_experiment(client.get_run(result.run_id).info.experiment_id)
    assert other.name == "other"
    with mlflow.start_run() as mine:
        assert client.get_experiment(mine.info.experiment_id).name == "mine"


def test_an_interruption_in_a_notebook_is_a_keyboard_interrupt(called, bundle, monkeypatch):
    def interrupt(self, name, frame):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs_module.TrackedRun, "log_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fer_mlflow.inspect(bundle=bundle.folder)
    (run,) = called.runs("inspect")
    assert run.info.status == "KILLED"
    assert mlflow.active_run() is None


def test_the_public_names_are_those_that_dir_shows():
    assert set(dir(fer_mlflow)) == set(fer_mlflow.__all__)
    assert all(getattr(fer_mlflow, name) is not None for name in fer_mlflow.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fer_mlflow.nothing  # noqa: B018
