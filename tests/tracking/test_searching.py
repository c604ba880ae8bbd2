"""Searches return every page, and Python's collector is paused only while MLflow makes thousands of objects."""

import gc

import pytest
from mlflow import MlflowClient

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking import store
from fer_mlflow.tracking.store import collector_paused, search_runs


class Away:
    """A client whose server is away."""

    def search_experiments(self, **_):
        self.was_on = gc.isenabled()
        raise ConnectionError("away")


def test_the_collector_is_as_it_was_after_a_search():
    client = Away()
    with pytest.raises(TrackingError, match="away"):
        search_runs(client)
    assert not client.was_on
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_all_pages_of_runs_and_experiments_are_read(workplace, monkeypatch):
    client = MlflowClient(workplace.uri)
    inner = client.search_experiments
    monkeypatch.setattr(store, "_PAGE", 2)
    monkeypatch.setattr(client, "search_experiments", lambda page_token: inner(max_results=2, page_token=page_token))
    experiments = [client.create_experiment(name, artifact_location="x") for name in "abc"]
    made = {client.create_run(each).info.run_id for each in [*experiments, *experiments]}
    assert {run.info.run_id for run in search_runs(client)} == made
    assert len(search_runs(client)) == 6
