"""Tags of one run or of hundreds are the same tags, and what was reported as written is written."""

import sqlite3

import pytest
from conftest import Workplace, new_workplace
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking import tagging
from fer_mlflow.tracking.tagging import write_tags

COUNT = 70  # more than are written one by one


@pytest.fixture(scope="module")
def prepared(migrated_store, tmp_path_factory) -> Workplace:
    """Return a workplace with runs that have tags, some of them triage's."""
    place = new_workplace(tmp_path_factory.mktemp("tagging") / "workplace", migrated_store)
    insert_runs(place, COUNT)
    return place


def insert_runs(place, count: int) -> None:
    connection = sqlite3.connect(place.folder / "mlflow.db")
    with connection:
        for number in range(count):
            run_id = f"{number:032x}"
            connection.execute(
                "INSERT INTO runs (run_uuid, name, user_id, source_type, status, start_time, end_time,"
                " lifecycle_stage, experiment_id, artifact_uri) VALUES (?, 'toy', 'ann', 'LOCAL', 'FINISHED', 1, 2,"
                " 'active', 0, '')",
                (run_id,),
            )
            tags = {"fer.kind": "export", "triage.status": "good"} | ({"triage.rank": "1"} if number % 2 else {})
            connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(*tag, run_id) for tag in tags.items()])
    connection.close()


@pytest.fixture
def place(prepared, tmp_path, monkeypatch) -> Workplace:
    place = new_workplace(tmp_path / "own", prepared.folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    return place


def all_tags(place) -> dict[str, dict[str, str]]:
    """Return run id -> tags as the database has them."""
    connection = sqlite3.connect(place.folder / "mlflow.db")
    found: dict[str, dict[str, str]] = {}
    for run_id, key, text in connection.execute("SELECT run_uuid, key, value FROM tags"):
        assert key not in found.setdefault(run_id, {})
        found[run_id][key] = text
    connection.close()
    return found


# Texts as people and errors give them; a rank that is deleted where it is, and where it is not.
CHANGES = {
    f"{number:032x}": {
        "triage.status": "bad" if number % 3 else "good",
        "triage.reasons": f'ended badly: it\'s "{number}" %s ? :x 🙂\nend' if number % 3 else None,
        "triage.rank": None if number % 4 < 2 else str(number),
    }
    for number in range(COUNT - 1)
}


def expected(before: dict) -> dict:
    after = {run_id: dict(tags) for run_id, tags in before.items()}
    for run_id, tags in CHANGES.items():
        after[run_id] |= {name: text for name, text in tags.items() if text is not None}
        for name, text in tags.items():
            if text is None:
                after[run_id].pop(name, None)
    return after


def test_many_tags_and_single_ones_are_written_the_same(prepared, place, monkeypatch):
    before = all_tags(place)
    calls = []
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *_, **__: calls.append(1))
    written = []
    write_tags(MlflowClient(place.uri), CHANGES, written.append)
    assert all_tags(place) == expected(before)
    assert calls == []  # hundreds went together
    assert sorted(written) == sorted(CHANGES)
    monkeypatch.undo()
    write_tags(MlflowClient(place.uri), CHANGES)
    assert all_tags(place) == expected(before)  # again changes nothing
    single = new_workplace(place.folder.parent / "single", prepared.folder / "mlflow.db")
    monkeypatch.setattr(tagging, "_session_maker", lambda client: None)
    written = []
    write_tags(MlflowClient(single.uri), CHANGES, written.append)
    assert all_tags(single) == expected(before)
    assert written == list(CHANGES)


def test_few_are_written_by_mlflow_itself(place, monkeypatch):
    monkeypatch.setattr(tagging, "_write_together", None)
    before = all_tags(place)
    few = dict(list(CHANGES.items())[:50])
    write_tags(MlflowClient(place.uri), few)
    after = expected(before)
    assert {run_id: tags for run_id, tags in all_tags(place).items() if run_id in few} == {
        run_id: after[run_id] for run_id in few
    }


def test_more_than_one_transaction_is_one_as_well(place, monkeypatch):
    monkeypatch.setattr(tagging, "_TOGETHER", 7)
    before = all_tags(place)
    written = []
    write_tags(MlflowClient(place.uri), CHANGES, written.append)
    assert all_tags(place) == expected(before)
    assert written == list(CHANGES)


@pytest.mark.parametrize("how", ["together", "singly"])
def test_a_tag_that_is_gone_already_is_no_error(place, monkeypatch, how):
    if how == "singly":
        monkeypatch.setattr(tagging, "_session_maker", lambda client: None)
    gone = {run_id: {"triage.overruled": None, "triage.rank": None} for run_id in CHANGES}
    write_tags(MlflowClient(place.uri), gone)
    write_tags(MlflowClient(place.uri), gone)
    assert not [tags for run_id, tags in all_tags(place).items() if run_id in gone and "triage.rank" in tags]


def test_what_was_reported_before_the_store_refused_is_written_and_no_more(place, monkeypatch):
    monkeypatch.setattr(tagging, "_TOGETHER", 20)
    inner, calls = tagging._write_together, []

    def refuse(open_session, part):
        if calls:
            raise ConnectionError("http://ann:secret@host is away")
        calls.append(1)
        inner(open_session, part)

    monkeypatch.setattr(tagging, "_write_together", refuse)
    before, written = all_tags(place), []
    with pytest.raises(TrackingError, match=r"setting tags failed \(http://\*\*\*@host is away"):
        write_tags(MlflowClient(place.uri), CHANGES, written.append)
    assert written == list(CHANGES)[:20]
    after = expected(before)
    assert all_tags(place) == before | {run_id: after[run_id] for run_id in written}


def test_a_transaction_that_fails_leaves_nothing(place):
    session_maker = tagging._session_maker(MlflowClient(place.uri))
    before = all_tags(place)
    with pytest.raises(MlflowException):
        tagging._write_together(session_maker, CHANGES | {"no such run": {"triage.status": {"not": "text"}}})
    assert all_tags(place) == before


def test_a_run_that_is_gone_is_named(place):
    with pytest.raises(TrackingError, match=r"setting tags failed .*ffff0000"):
        write_tags(MlflowClient(place.uri), {"ffff0000" * 4: {"triage.status": "good"}})


def test_nothing_to_write_asks_nothing():
    write_tags(None, {})


class Renamed:
    """A table of tags without the columns that are known."""

    class __table__:  # noqa: N801
        columns: dict = {"name": None, "content": None}  # noqa: RUF012


@pytest.mark.parametrize("change", ["no columns", "no maker", "no store", "no tables"])
def test_an_mlflow_that_is_made_otherwise_is_asked_run_by_run(place, monkeypatch, change):
    from mlflow.store.tracking.dbmodels import models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    client = MlflowClient(place.uri)
    if change == "no columns":
        monkeypatch.setattr(models, "SqlTag", Renamed)
    elif change == "no maker":
        monkeypatch.delattr(SqlAlchemyStore, "ManagedSessionMaker", raising=False)
        del client._tracking_client.store.ManagedSessionMaker
    elif change == "no store":
        monkeypatch.delattr(type(client._tracking_client), "store")
    else:
        monkeypatch.delattr(models, "SqlTag")
    assert tagging._session_maker(client) is None
