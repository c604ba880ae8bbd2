"""Run records: which runs are read, what is taken of each, and how their tags are written."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking.records import RunRecord, read_records
from fer_mlflow.tracking.store import write_tags
from fer_mlflow.tracking.triage import RULES, build_context

OURS = "https://example.org/fer_mlflow.git"


@pytest.fixture
def client(workplace, monkeypatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    return MlflowClient(workplace.uri)


def new_run(client, kind: str | None = "export", start_ms: int = 1_000, experiment: str = "0", **more) -> str:
    tags = {"fer.kind": kind} if kind else {}
    return client.create_run(experiment, start_time=start_ms, tags=tags, **more).info.run_id


def read_ids(client) -> list[str]:
    return [record.run_id for record in read_records(client)]


def test_all_active_runs_of_ours_are_read_oldest_first(client):
    second, first = new_run(client, start_ms=2_000), new_run(client, "evaluate", start_ms=1_000)
    new_run(client, kind=None)  # of another tool
    client.delete_run(new_run(client))
    other = client.create_experiment("other", artifact_location="x")
    third = new_run(client, "triage", 3_000, other)
    assert read_ids(client) == [first, second, third]
    client.delete_experiment(other)
    assert read_ids(client) == [first, second]
    client.restore_experiment(other)
    assert read_ids(client) == [first, second, third]


def test_of_a_run_is_kept_what_triage_needs(client):
    run_id = new_run(client, run_name="ranked")
    # Runs of earlier versions have a setting of the soft labels as `ensemble/space` too; a student's own has no prefix.
    params = {
        "ensemble": "A=1",
        "w/A": "1",
        "manifest": "m.csv",
        "rows": "6",
        "ensemble/clahe": "true",
        "clahe": "false",
    }
    params |= {"space": "logit", "clahe_clip": "3.0"}
    tags = {"triage.rank": "1", "mlflow.note.content": "long", "fer.benchmark": "faces:test", "other": "x"}
    client.log_batch(
        run_id,
        metrics=[Metric("accuracy", 0.5, 1, 0)],
        params=[Param(*each) for each in params.items()],
        tags=[RunTag(*each) for each in tags.items()],
    )
    client.set_terminated(run_id, "FINISHED", end_time=2_000)
    (record,) = read_records(client)
    assert record == RunRecord(
        run_id,
        "0",
        "ranked",
        "FINISHED",
        1_000,
        {key: text for key, text in params.items() if key != "manifest"},
        {"accuracy": 0.5},
        {"fer.kind": "export", "triage.rank": "1", "fer.benchmark": "faces:test", "mlflow.note.content": "long"},
    )
    assert (record.kind, record.benchmark, record.selection, record.of_ensemble("space")) == (
        *("export", "faces:test", "", "logit"),
    )
    assert (record.of_ensemble("clahe"), record.of_ensemble("clahe_clip")) == ("true", "3.0")


@pytest.mark.parametrize("name", ["two\nlines", "🙂 <b>", " "])
def test_odd_names_are_read(client, name):
    new_run(client, run_name=name)
    assert [record.name for record in read_records(client)] == [name]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_that_are_not_finite_are_known_although_the_store_has_the_largest_number_for_infinity(client, value):
    run_id = new_run(client)
    client.log_metric(run_id, "nll", value)
    client.log_metric(run_id, "ece", 0.5)
    (record,) = read_records(client)
    (rule,) = (rule for rule in RULES if rule.name == "not finite")
    assert rule.check(record, build_context([record], {}, 0, 60)) == "nll"


def test_a_store_without_runs_or_experiments_is_empty(client):
    assert read_records(client) == []
    client.delete_experiment("0")
    assert read_records(client) == []


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


# --- tags ---------------------------------------------------------------------------------------------------------

# Texts as people and errors give them; a rank that is deleted where it is, and where it is not.
TEXT = 'ended badly: it\'s "x" %s ? :x 🙂\nend'
BEFORE = {"fer.kind": "export", "triage.status": "good", "triage.rank": "1"}


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
