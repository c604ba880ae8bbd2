"""The store is opened safely, and neither logs nor messages give a password away."""

import gc
import subprocess
import sys

import mlflow
import pytest
from mlflow import MlflowClient

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking import store
from fer_mlflow.tracking.store import (
    collector_paused,
    connect,
    describe_way_to_ui,
    redact,
    search_runs,
    tracking_errors,
)

# Forked after the imports, which take longer than the rest, so that the four do meet.
FOUR_PROCESSES = """
import os
import mlflow.store.tracking.sqlalchemy_store
from fer_mlflow.tracking.runs import open_run
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        with open_run('export', 'r', 'together') as run:
            run.log({'a': 1})
        os._exit(0)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.slow
def test_four_processes_may_make_one_store_at_once(tmp_path, workplace):
    env = workplace.env | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/fresh.db"}
    result = subprocess.run(
        [sys.executable, "-c", FOUR_PROCESSES], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout) == (0, "[0, 0, 0, 0]\n"), result.stderr
    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("together")
    runs = client.search_runs([experiment.experiment_id])
    assert [(run.info.status, run.data.params) for run in runs] == [("FINISHED", {"a": "1"})] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://ann:p%40w@db/x and https://tok@h", "postgresql://***@db/x and https://***@h"),
        ("http://host/a@b sqlite:////x/y.db", "http://host/a@b sqlite:////x/y.db"),
    ],
)
def test_credentials_are_left_out(text, expected):
    assert redact(text) == expected


def test_an_error_names_the_server_without_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    with pytest.raises(TrackingError) as caught, tracking_errors("opening the store"):
        raise ConnectionError("no route to http://ann:secret@127.0.0.1:9/api")
    assert "secret" not in str(caught.value)
    assert "http://***@127.0.0.1:9: opening the store failed (no route" in str(caught.value)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"http://127.0.0.1:9: opening the store failed"):
        connect()


@pytest.mark.parametrize(
    ("uri", "way"),
    [
        ("sqlite:////data/m.db", "mlflow ui --backend-store-uri sqlite:////data/m.db"),
        ("http://ann:pw@host:5000/", "http://***@host:5000/#/experiments/3/runs/abc"),
        ("postgresql://ann:pw@db/m", "mlflow ui --backend-store-uri postgresql://***@db/m"),
    ],
)
def test_the_way_to_the_ui_fits_the_store(monkeypatch, uri, way):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert describe_way_to_ui("3", "abc") == way


# --- searches ------------------------------------------------------------------------------------------------------


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


def test_a_database_that_does_not_answer_is_one_line_without_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:secret@127.0.0.1:1/runs")
    with pytest.raises(TrackingError) as caught:
        store.connect()
    message = str(caught.value)
    assert message.startswith("tracking server postgresql://***@127.0.0.1:1/runs: opening the store failed (")
    assert "\n" not in message
    assert "secret" not in message
