"""The table of runs: everything once, then what changed, and never anything else than a fresh look shows."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from conftest import Workplace, new_workplace
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fer_mlflow.tracking import run_table
from fer_mlflow.tracking.run_table import RunRecord, RunTable

HOUR_MS = 3_600_000
JUDGED = {"triage.status": "good", "triage.written": "good", "triage.benchmark": "faces:test"}


class Counting:
    """MLflow's client, and the ids of all runs that it has handed out."""

    def __init__(self, client):
        self.client, self.fetched = client, []

    def __getattr__(self, name):
        return getattr(self.client, name)

    def search_runs(self, *arguments, **more):
        page = self.client.search_runs(*arguments, **more)
        self.fetched += [run.info.run_id for run in page]
        return page


@pytest.fixture(scope="module")
def prepared(migrated_store, tmp_path_factory) -> tuple[Workplace, dict[str, str]]:
    """Return a workplace with runs of every sort, an hour between them, and name -> run id."""
    place = new_workplace(tmp_path_factory.mktemp("table") / "workplace", migrated_store)
    client = MlflowClient(place.uri)
    other = client.create_experiment("other", artifact_location=str(place.folder / "other"))
    kinds = {"foreign": None, "evaluation": "evaluate", "triage": "triage"}
    tags = {
        "plain": JUDGED,
        "second": JUDGED,
        "ranked": JUDGED | {"triage.rank": "1"},
        "bad": {"triage.status": "bad", "triage.written": "bad", "triage.reasons": "ended badly: FAILED"},
        "by hand": {"triage.status": "excellent", "triage.written": "good"},
        "overruled": {"triage.status": "good", "triage.written": "good", "triage.overruled": "keep"},
        "elsewhere": JUDGED,
        "deleted": JUDGED,
        "evaluation": {"triage.status": "good", "triage.written": "good"},
        "last": JUDGED,
    }
    names = ["plain", "second", "ranked", "bad", "by hand", "overruled", "fresh", "running", "deleted", "elsewhere"]
    ids = {}
    for number, name in enumerate([*names, *kinds, "last"], start=1):
        kind = kinds.get(name, "export")
        own = {"fer.kind": kind} if kind else {}
        began = number * HOUR_MS
        run = client.create_run(
            other if name == "elsewhere" else "0", start_time=began, run_name=name, tags=own | tags.get(name, {})
        )
        ids[name] = run.info.run_id
        client.log_batch(
            run.info.run_id,
            metrics=[Metric("accuracy", number / 100, began, 0)],
            params=[Param("ensemble", "A=1"), Param("w/A", "1"), Param("manifest", "m.csv"), Param("rows", "6")],
        )
        if name != "running":
            status = "FAILED" if name == "bad" else "FINISHED"
            client.set_terminated(run.info.run_id, status, end_time=began + 60_000)
    client.delete_run(ids["deleted"])
    return place, ids


class Store:
    """A store of a test's own, the table of one user, and what a fresh look at the store shows."""

    def __init__(self, place: Workplace, ids: dict[str, str], cache: Path):
        self.place, self.ids, self.cache = place, ids, cache
        self.client = Counting(MlflowClient(place.uri))

    def read(self, cache: str = "", **how) -> dict[str, RunRecord]:
        """Read as a new process does, and remember what was read."""
        self.client.fetched.clear()
        table = self.table(cache)
        runs = table.read(**how)
        table.save()
        return {run.run_id: run for run in runs}

    def table(self, cache: str = "") -> RunTable:
        return RunTable(self.client, self.cache / cache)

    def fresh(self) -> dict[str, RunRecord]:
        return {run.run_id: run for run in RunTable(MlflowClient(self.place.uri), self.cache / "never").read()}

    def triage_elsewhere(self, tags: dict[str, dict[str, str | None]]) -> None:
        """Write tags as a triage on another machine does."""
        table = self.table("other machine")
        table.read()
        for name, own in tags.items():
            self.tag(name, own)
        table.mark_changed()

    def tag(self, name: str, tags: dict[str, str | None]) -> None:
        for key, text in tags.items():
            if text is None:
                self.client.delete_tag(self.ids[name], key)
            else:
                self.client.set_tag(self.ids[name], key, text)

    def change(self, statement: str, *values) -> None:
        """Change the store behind MLflow's back."""
        connection = sqlite3.connect(self.place.folder / "mlflow.db")
        with connection:
            connection.execute(statement, values)
        connection.close()


@pytest.fixture
def store(prepared, tmp_path, monkeypatch) -> Store:
    place = new_workplace(tmp_path / "own", prepared[0].folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    return Store(place, prepared[1], tmp_path / "cache")


# --- the first look ----------------------------------------------------------------------------------------------


def test_all_active_runs_of_ours_are_read_oldest_first(store):
    names = {run_id: name for name, run_id in store.ids.items()}
    assert [names[run_id] for run_id in store.read()] == [
        *("plain", "second", "ranked", "bad", "by hand", "overruled", "fresh", "running", "elsewhere"),
        *("evaluation", "triage", "last"),
    ]


def test_of_a_run_is_kept_what_triage_needs(store):
    store.client.log_batch(
        store.ids["ranked"],
        params=[Param("ensemble/space", "logit"), Param("calibration", "none")],
        tags=[RunTag("mlflow.note.content", "long"), RunTag("fer.benchmark", "faces:test")],
    )
    assert store.read()[store.ids["ranked"]] == RunRecord(
        store.ids["ranked"],
        "0",
        "ranked",
        "FINISHED",
        3 * HOUR_MS,
        3 * HOUR_MS + 60_000,
        {"ensemble": "A=1", "w/A": "1", "rows": "6", "ensemble/space": "logit", "calibration": "none"},
        {"accuracy": 0.03},
        JUDGED | {"triage.rank": "1", "fer.kind": "export", "fer.benchmark": "faces:test"},
    )


def test_a_run_without_a_name_and_with_odd_ones_is_read(store):
    for name in ("two\nlines", "🙂 <b>", " "):
        run = store.client.create_run("0", run_name=name, tags={"fer.kind": "export"})
        assert store.read()[run.info.run_id].name == name
    assert store.read() == store.fresh()


def test_numbers_that_are_none_survive_the_cache(store):
    run_id = store.ids["last"]
    store.client.log_metric(run_id, "nll", float("nan"))
    store.client.log_metric(run_id, "ece", float("inf"))
    for _ in range(2):
        read = store.read()[run_id]
        assert read.metrics["nll"] != read.metrics["nll"]
        assert run_table.infinite_metrics(read) == ["ece", "nll"]
    assert run_table.infinite_metrics(store.read()[store.ids["plain"]]) == []


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinity_is_known_although_the_store_keeps_the_largest_number_for_it(store, value):
    store.client.log_metric(store.ids["plain"], "nll", value)
    assert run_table.infinite_metrics(store.read()[store.ids["plain"]]) == ["nll"]


def test_a_store_without_runs_or_experiments_is_empty(workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    client = MlflowClient(workplace.uri)
    for _ in range(2):
        table = RunTable(client, tmp_path)
        assert table.read() == []
        table.save()
    client.delete_experiment("0")
    assert RunTable(client, tmp_path).read() == []
    client.restore_experiment("0")
    assert RunTable(client, tmp_path).read() == []


# --- later looks -------------------------------------------------------------------------------------------------


def test_a_second_look_asks_for_little_and_writes_nothing(store):
    first = store.read()
    (file,) = store.cache.rglob("*.json")
    before = file.stat().st_mtime_ns
    assert store.read() == first
    # The run that ended last, those that can change, and those that are by a person; not the finished, judged ones.
    names = {run_id: name for name, run_id in store.ids.items()}
    assert {names[run_id] for run_id in store.client.fetched} == {
        *("last", "running", "fresh", "by hand", "overruled", "deleted")
    }
    assert file.stat().st_mtime_ns == before
    store.read(afresh=True)
    assert len(store.client.fetched) == len(first) + 1  # and the deleted one


def new_run(store):
    run = store.client.create_run("0", start_time=20 * HOUR_MS, tags={"fer.kind": "export"})
    store.client.set_terminated(run.info.run_id, "FINISHED", end_time=20 * HOUR_MS + 1)


def imported_run(store):
    run = store.client.create_run("0", start_time=1, run_name="old", tags={"fer.kind": "export"})
    store.client.set_terminated(run.info.run_id, "FINISHED", end_time=2)


def running_run(store):
    store.client.create_run("0", tags={"fer.kind": "export"})


def new_experiment(store):
    experiment = store.client.create_experiment("new", artifact_location="x")
    run = store.client.create_run(experiment, start_time=1, tags={"fer.kind": "export"} | JUDGED)
    store.client.set_terminated(run.info.run_id, "FINISHED", end_time=2)


def end(store):
    store.client.set_terminated(store.ids["running"], "FINISHED", end_time=8 * HOUR_MS + 5)


def end_judged(store):
    store.tag("running", JUDGED)
    end(store)


CHANGES = {
    "a new run": [new_run],
    "a run with old times": [imported_run],
    "a run that is running": [running_run],
    "a run that ended": [end],
    "a run that ended and was judged elsewhere": [end_judged],
    "deleted": [lambda s: s.client.delete_run(s.ids["plain"])],
    "deleted, running": [lambda s: s.client.delete_run(s.ids["running"])],
    "restored": [lambda s: s.client.restore_run(s.ids["deleted"])],
    "deleted, then restored": [
        lambda s: s.client.delete_run(s.ids["second"]),
        lambda s: s.client.restore_run(s.ids["second"]),
    ],
    "deleted for good": [lambda s: s.change("DELETE FROM runs WHERE run_uuid = ?", s.ids["deleted"])],
    "experiment deleted": [
        lambda s: s.client.delete_experiment(s.client.get_run(s.ids["elsewhere"]).info.experiment_id)
    ],
    "experiment deleted, then restored": [
        lambda s: s.client.delete_experiment(s.client.get_experiment_by_name("other").experiment_id),
        lambda s: s.client.restore_experiment(s.client.get_experiment_by_name("other").experiment_id),
    ],
    "a new experiment with judged runs": [new_experiment],
    "a person sets the status": [lambda s: s.tag("plain", {"triage.status": "bad"})],
    "a person sets the status of a run never judged": [lambda s: s.tag("fresh", {"triage.status": "good"})],
    "a person sets the status of a triage run": [lambda s: s.tag("triage", {"triage.status": "bad"})],
    "a person removes the status": [lambda s: s.tag("plain", {"triage.status": None})],
    "a person removes what triage wrote": [lambda s: s.tag("plain", {"triage.written": None})],
    "a person changes it and back": [
        lambda s: s.tag("plain", {"triage.status": "bad"}),
        lambda s: s.tag("plain", {"triage.status": "good"}),
    ],
    "a person takes an own status back": [lambda s: s.tag("by hand", {"triage.status": "good"})],
    "a person removes an own status": [lambda s: s.tag("by hand", {"triage.status": None})],
    "a person removes a status, and puts it back": [
        lambda s: s.tag("plain", {"triage.status": None}),
        lambda s: s.tag("plain", {"triage.status": "good"}),
    ],
    "overruled elsewhere": [lambda s: s.tag("plain", {"triage.overruled": "keep"})],
    "overruled the other way": [
        lambda s: s.tag("overruled", {"triage.status": "bad", "triage.written": "bad", "triage.overruled": "bad"})
    ],
    "no longer overruled": [lambda s: s.tag("overruled", {"triage.overruled": None})],
    "another triage calls a good run bad": [
        lambda s: s.triage_elsewhere({"plain": {"triage.status": "bad", "triage.written": "bad"}})
    ],
    "another triage calls a bad run good": [
        lambda s: s.triage_elsewhere(
            {"bad": {"triage.status": "good", "triage.written": "good", "triage.reasons": None}}
        )
    ],
    "another triage ranks": [
        lambda s: s.triage_elsewhere({"plain": {"triage.rank": "1"}, "ranked": {"triage.rank": None}})
    ],
    "another triage moves ranks": [lambda s: s.triage_elsewhere({"ranked": {"triage.rank": "2"}})],
    "another triage judges what was new": [lambda s: s.triage_elsewhere({"fresh": JUDGED})],
    "another triage clears": [
        lambda s: s.triage_elsewhere({name: dict.fromkeys(JUDGED) for name in ("plain", "second", "last")})
    ],
    "another triage calls a run bad and a second one takes it back": [
        lambda s: s.triage_elsewhere({"plain": {"triage.status": "bad", "triage.written": "bad"}}),
        lambda s: s.triage_elsewhere({"plain": {"triage.status": "good", "triage.written": "good"}}),
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_seen(store, change):
    before = store.read()
    for step in CHANGES[change]:
        step(store)
        now = store.fresh()
        assert store.read() == now
    assert now != before or len(CHANGES[change]) == 2 or change.startswith("deleted for good")


def test_all_that_changed_at_once_is_seen(store, monkeypatch):
    monkeypatch.setattr(run_table, "_SINGLY", 1)  # so that it gives up looking run by run
    store.read()
    for name in (
        *("a new run", "a run with old times", "a run that ended", "restored", "experiment deleted"),
        *("a person sets the status", "no longer overruled", "another triage calls a bad run good"),
    ):
        CHANGES[name][0](store)
    assert store.read() == store.fresh()


def test_experiments_that_the_store_lists_page_by_page_are_all_read(store, monkeypatch):
    for name in "abc":
        experiment = store.client.create_experiment(name, artifact_location="x")
        store.client.create_run(experiment, tags={"fer.kind": "export"})
    inner = MlflowClient.search_experiments
    monkeypatch.setattr(
        MlflowClient,
        "search_experiments",
        lambda self, page_token=None: inner(self, max_results=2, page_token=page_token),
    )
    assert len(store.read()) == 12 + 3


# --- the file is only a cache ------------------------------------------------------------------------------------

DAMAGE = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "another thing": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "older": lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0})),
    "newer": lambda path: path.write_text(path.read_text().replace('"run_id"', '"id"')),
    "parts": lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"deleted": None})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_its_file_a_table_reads_everything_again(store, damage):
    first = store.read()
    (file,) = store.cache.rglob("*.json")
    DAMAGE[damage](file)
    assert store.read() == first
    assert len(store.client.fetched) == len(first) + 1
    assert store.read() == first
    assert len(store.client.fetched) < len(first)


def test_a_folder_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    table = store.table()
    assert len(table.read()) == 12
    with pytest.raises(OSError, match="cache"):
        table.save()


def test_two_stores_do_not_share_a_table(store, workplace, monkeypatch):
    assert len(store.read()) == 12
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    assert RunTable(MlflowClient(workplace.uri), store.cache).read() == []


def test_two_folders_with_a_store_of_one_relative_name_do_not_share_a_table(store, workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.chdir(store.place.folder)
    table = RunTable(MlflowClient("sqlite:///mlflow.db"), tmp_path / "cache")
    assert len(table.read()) == 12
    table.save()
    other = new_workplace(tmp_path / "another", workplace.folder / "mlflow.db")
    monkeypatch.chdir(other.folder)
    assert RunTable(MlflowClient(other.uri), tmp_path / "cache").read() == []


def test_a_store_that_was_made_anew_under_the_same_name_is_read_anew(store, migrated_store):
    assert len(store.read()) == 12
    path = store.place.folder / "mlflow.db"
    shutil.copyfile(migrated_store, path)
    store.change("UPDATE experiments SET creation_time = creation_time + 1000")
    assert store.read() == {}


def test_passwords_are_no_part_of_the_files_name_or_content(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@host:5000")
    one = RunTable(store.client, store.cache).path
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:other@host:5000")
    assert RunTable(store.client, store.cache).path == one
    assert "secret" not in str(one)


# --- several triages ---------------------------------------------------------------------------------------------


def test_what_another_triage_wrote_while_this_one_worked_is_seen_afterwards(store):
    store.read()
    mine = store.table()
    mine.read()
    store.triage_elsewhere({"plain": {"triage.status": "bad", "triage.written": "bad"}})
    mine.mark_changed()  # this one had read before, and ends after
    mine.save()
    assert store.read() == store.fresh()


def test_what_this_triage_wrote_is_known_without_asking(store):
    store.read()
    mine = store.table()
    mine.read()
    store.tag("plain", {"triage.rank": "2"})
    changed = mine.active[store.ids["plain"]]
    mine.put(RunRecord(**vars(changed) | {"tags": changed.tags | {"triage.rank": "2"}}))
    mine.mark_changed()
    mine.save()
    assert store.read() == store.fresh()
    assert store.ids["plain"] not in store.client.fetched


def test_a_mark_is_left_on_experiments_that_have_runs_of_ours(store):
    store.client.create_experiment("of others", artifact_location="x")
    table = store.table()
    table.read()
    table.mark_changed()
    marks = {each.name: each.tags.get(run_table.GENERATION) for each in store.client.search_experiments()}
    assert marks == {"Default": table.generation, "other": table.generation, "of others": None}
    table.save()
    before = table.generation
    store.client.delete_run(store.ids["elsewhere"])  # the last one there, which leaves a mark without runs
    table.read()
    table.mark_changed()
    table.save()
    assert table.generation != before
    store.read()
    assert store.ids["ranked"] not in store.client.fetched  # that one is asked for where another triage left a mark


def test_files_of_two_tables_that_are_saved_at_once_are_whole(store):
    tables = [store.table(), store.table()]
    for table in tables:
        table.read()
    for table in tables:
        table.put(next(iter(table.active.values())))
        table.save()
    assert [path.name for path in (store.cache / "runs").iterdir()] == [tables[0].path.name]
    assert os.stat(tables[0].path).st_mode & 0o777 == 0o666 & ~_umask()
    assert store.read() == store.fresh()


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
