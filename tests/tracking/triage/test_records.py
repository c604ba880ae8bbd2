"""Which runs triage reads."""

import pytest
from mlflow import MlflowClient

from fer_mlflow.tracking.triage.records import read_records
from fer_mlflow.tracking.triage.rules import RULES, build_context

OURS = "https://example.org/fer_mlflow.git"


@pytest.fixture
def client(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    return MlflowClient(workplace.uri)


def opened_by_mlflow(client, source, **tags):
    tags = {"mlflow.source.name": source, "mlflow.project.entryPoint": "export"} | tags
    return client.create_run("0", tags=tags, start_time=1_000).info.run_id


def test_runs_that_mlflow_opened_and_no_command_took_over_are_read_when_they_are_ours(client):
    ours = {opened_by_mlflow(client, OURS, **{"fer.kind": "export"}), opened_by_mlflow(client, OURS)}
    opened_by_mlflow(client, "https://example.org/another.git")
    client.set_terminated(opened_by_mlflow(client, OURS))
    client.create_run("0")
    assert {run.run_id for run in read_records(client)} == ours


def test_they_are_stale_after_a_while_and_the_reason_says_why(client):
    opened_by_mlflow(client, OURS, **{"fer.kind": "export"})
    run_id = opened_by_mlflow(client, OURS)
    runs = read_records(client)
    (run,) = (run for run in runs if run.run_id == run_id)
    (stale,) = (rule for rule in RULES if rule.name == "stale")
    assert stale.check(run, build_context(runs, {}, 1_000 + 59_000, 60)) is None
    assert "1970-01-01 00:00 UTC, the command never started" in stale.check(run, build_context(runs, {}, 62_000, 60))
