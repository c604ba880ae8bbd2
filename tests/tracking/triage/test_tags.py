"""Tags are written and deleted through MLflow's client, run by run, and what was counted as written is written."""

import pytest
from mlflow import MlflowClient

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking.triage.tags import write_tags

# Texts as people and errors give them; a rank that is deleted where it is, and where it is not.
TEXT = 'ended badly: it\'s "x" %s ? :x 🙂\nend'
BEFORE = {"fer.kind": "export", "triage.status": "good", "triage.rank": "1"}


@pytest.fixture
def client(workplace, monkeypatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    return MlflowClient(workplace.uri)


@pytest.fixture
def runs(client) -> list[str]:
    return [client.create_run("0", tags=BEFORE).info.run_id for _ in range(3)]


def tags_of(client, run_id: str) -> dict[str, str]:
    return {name: text for name, text in client.get_run(run_id).data.tags.items() if not name.startswith("mlflow.")}


def test_tags_are_set_and_deleted(client, runs):
    changes = {
        runs[0]: {"triage.status": "bad", "triage.reasons": TEXT, "triage.rank": None},
        runs[1]: {"triage.overruled": None, "triage.rank": None},
    }
    counted = []
    for _ in range(2):  # again changes nothing, and a tag that is gone already is no error
        write_tags(client, changes, counted.append)
        assert tags_of(client, runs[0]) == {"fer.kind": "export", "triage.status": "bad", "triage.reasons": TEXT}
        assert tags_of(client, runs[1]) == {"fer.kind": "export", "triage.status": "good"}
        assert tags_of(client, runs[2]) == BEFORE
    assert counted == [1] * 4


def test_what_was_counted_before_the_store_refused_is_written_and_no_more(client, runs, monkeypatch):
    inner, counted = client.log_batch, []

    def refuse(run_id, **more):
        if run_id == runs[1]:
            raise ConnectionError("http://ann:secret@host is away")
        inner(run_id, **more)

    monkeypatch.setattr(client, "log_batch", refuse)
    with pytest.raises(TrackingError, match=r"setting tags failed \(http://\*\*\*@host is away"):
        write_tags(client, {each: {"triage.status": "bad"} for each in runs}, counted.append)
    assert counted == [1]
    assert [tags_of(client, run_id)["triage.status"] for run_id in runs] == ["bad", "good", "good"]


def test_a_run_that_is_gone_is_named(client):
    with pytest.raises(TrackingError, match=r"setting tags failed .*ffff0000"):
        write_tags(client, {"ffff0000" * 4: {"triage.status": "good"}})


def test_no_change_needs_no_server():
    write_tags(None, {})
