"""MLflow's own UI: the saved view, the note, the primary metric, and what a run says of itself."""

import json

import numpy as np
import pytest
from mlflow import MlflowClient
from toys import draw_logits, publish, write_bundle

from fer_mlflow.tracking import store
from fer_mlflow.tracking.bundles import describe_run
from fer_mlflow.tracking.store import furnish_experiment

NOTE, PRIMARY = "mlflow.note.content", "mlflow.experiment.primaryMetric.name"
VIEW = "mlflow.sharedViewState.leaderboard"


class Counting:
    """MLflow's client, and which tags of the experiment were written."""

    def __init__(self, client):
        self.client, self.written = client, []

    def get_experiment(self, *arguments):
        return self.client.get_experiment(*arguments)

    def set_experiment_tag(self, experiment_id, name, text):
        self.written.append(name)
        self.client.set_experiment_tag(experiment_id, name, text)


@pytest.fixture
def client(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    return Counting(MlflowClient(workplace.uri))


def furnish(client, leaderboard="# board", metric="macro_f1") -> None:
    client.written.clear()
    furnish_experiment(client, "0", leaderboard, metric)


def warning_of(client, caplog) -> str:
    """Furnish the experiment, and return the one warning."""
    furnish(client)
    (record,) = caplog.records
    return record.getMessage()


def tags(client) -> dict[str, str]:
    return client.get_experiment("0").tags


def test_an_experiment_gets_a_view_a_note_and_its_primary_metric(client):
    furnish(client)
    assert tags(client)[PRIMARY] == "macro_f1"
    assert tags(client)[NOTE] == "<!-- written by fer-mlflow triage -->\n\n# board"
    assert sorted(client.written) == sorted([VIEW, NOTE, PRIMARY])


def test_the_view_is_what_mlflows_menu_of_views_takes(client):
    """Its menu lists envelopes of a name, a number, and the state as text; see `static/js/main.*.js` of 3.17."""
    furnish(client, metric="f1/Fear")
    envelope = json.loads(tags(client)[VIEW])
    assert envelope["name"] == "leaderboard"
    assert 1.7e12 < envelope["createdAt"] <= envelope["updatedAt"]
    state = json.loads(envelope["state"])
    assert state["searchFilter"] == "tags.`triage.status` = 'good' AND tags.`fer.bundle_sha256` LIKE '%'"
    assert (state["orderByKey"], state["orderByAsc"], state["lifecycleFilter"]) == (
        "metrics.`f1/Fear`",
        False,
        "Active",
    )
    columns = state["selectedColumns"]
    assert {"params.`ensemble`", "metrics.`macro_f1`", "tags.`triage.rank`", "metrics.`f1/Fear`"} <= set(columns)
    assert len(columns) == len(set(columns))
    assert state_of(client, "macro_f1")["orderByKey"] == "metrics.`macro_f1`"
    assert state_of(client, "macro_f1")["selectedColumns"].count("metrics.`macro_f1`") == 1


def state_of(client, metric: str) -> dict:
    furnish(client, metric=metric)
    return json.loads(json.loads(tags(client)[VIEW])["state"])


@pytest.mark.parametrize(("metric", "rises"), [("nll", True), ("ece", True), ("brier", True), ("accuracy", False)])
def test_the_best_stand_first_in_the_view(client, metric, rises):
    assert state_of(client, metric)["orderByAsc"] is rises


def test_the_views_filter_is_one_that_mlflow_takes(client, workplace, tmp_path):
    logits, labels = draw_logits(20)
    run_id = publish(workplace, write_bundle(tmp_path / "b", logits, labels))
    found = client.client.search_runs(["0"], state_of(client, "nll")["searchFilter"], order_by=["metrics.`nll` ASC"])
    assert list(found) == []
    client.client.set_tag(run_id, "triage.status", "good")
    found = client.client.search_runs(["0"], state_of(client, "nll")["searchFilter"], order_by=["metrics.`nll` ASC"])
    assert [run.info.run_id for run in found] == [run_id]


def test_nothing_is_written_that_is_so_already(client):
    furnish(client)
    before = tags(client)
    furnish(client)
    assert client.written == []
    furnish(client, "# another board")
    assert client.written == [NOTE]
    furnish(client, "# another board", "nll")
    assert sorted(client.written) == sorted([VIEW, PRIMARY])
    assert json.loads(tags(client)[VIEW])["createdAt"] == json.loads(before[VIEW])["createdAt"]


@pytest.mark.parametrize("there", ["", "{", "[]", "7", '{"state": 5}', '{"name": "x"}', '{"searchFilter": ""}'])
def test_a_view_of_another_make_is_replaced(client, there):
    client.client.set_experiment_tag("0", VIEW, there)
    furnish(client)
    assert json.loads(tags(client)[VIEW])["name"] == "leaderboard"


@pytest.mark.parametrize("note", ["mine", "", "I like <!-- written by fer-mlflow triage -->"])
def test_a_persons_note_is_left_alone(client, note):
    client.client.set_experiment_tag("0", NOTE, note)
    furnish(client)
    assert tags(client)[NOTE] == note
    assert PRIMARY in client.written


def test_no_leaderboard_leaves_the_note_as_it_is(client):
    furnish(client, None)
    assert NOTE not in tags(client)
    furnish(client, "# board")
    furnish(client, None)
    assert tags(client)[NOTE].endswith("# board")


@pytest.mark.parametrize("length", [4900, 4961, 4962, 4963, 4999, 5000, 5001, 9000])
def test_a_long_note_is_cut_after_a_line(client, length):
    lines = [f"| {number:02d} {'x' * 33}" for number in range(length // 40 + 1)]
    text = ("\n".join(lines) + "\n" * 40)[:length]
    furnish(client, text)
    note = tags(client)[NOTE]
    whole = f"<!-- written by fer-mlflow triage -->\n\n{text}"
    if len(whole) <= 5000:
        assert note == whole
        return
    assert len(note) <= 5000
    body, _, rest = note.partition("\n\n…")
    assert rest == " the rest is in the triage run's `leaderboard.md`\n"
    assert whole.startswith(f"{body}\n")  # whole lines
    assert len(body) > 4800
    furnish(client, text)
    assert client.written == []


@pytest.mark.parametrize("refuses", ["get_experiment", "set_experiment_tag"])
def test_a_store_that_refuses_costs_a_warning(client, monkeypatch, refuses, caplog):
    def refuse(*_):
        raise ConnectionError("http://ann:secret@host says no")

    monkeypatch.setattr(client, refuses, refuse)
    warning = warning_of(client, caplog)
    assert warning.startswith("MLflow's UI is left as it is: tracking server ")
    assert "furnishing the experiment failed (http://***@host says no" in warning


def test_a_deleted_experiment_costs_a_warning(client, caplog):
    client.client.delete_experiment("0")
    warning = warning_of(client, caplog)
    assert "furnishing the experiment failed" in warning


def test_every_column_of_the_view_is_one_that_exports_have(workplace, tmp_path):
    logits, labels = draw_logits(20)
    run = MlflowClient(workplace.uri).get_run(publish(workplace, write_bundle(tmp_path / "b", logits, labels)))
    for column in store.VIEW_COLUMNS:
        where, _, name = column.rstrip("`").partition(".`")
        assert name in getattr(run.data, where) or name.startswith("triage.")


# --- a run's description -----------------------------------------------------------------------------------------

LOGITS, LABELS = draw_logits(40, seed=1)


def test_a_run_says_its_benchmark_settings_metrics_and_teachers(tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS, weights={"A": 0.4, "B": 0.6}, space="prob")
    text = describe_run(
        bundle, {"fer.teacher_run/B": "bb" * 16, "fer.kind": "export", "fer.teacher_run/A": "aa" * 16}, "7"
    )
    lines = text.splitlines()
    assert lines[0] == "**faces:test**, 40 rows"
    assert {"| setting | |", "| space | prob |", "| weights | A=0.4,B=0.6 |", "| calibration | none |"} <= set(lines)
    assert f"| accuracy | {bundle.metrics['accuracy']:.4f} |" in lines
    assert lines[-1] == (f"Teachers: [A](#/experiments/7/runs/{'aa' * 16}), [B](#/experiments/7/runs/{'bb' * 16})")


def test_a_run_without_labels_or_teachers_says_less(tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, np.full(40, -1))
    text = describe_run(bundle, {}, "7")
    assert "| metric |" not in text
    assert "Teachers" not in text


def test_names_do_not_break_a_descriptions_tables(tmp_path):
    classes = ("a|b", *(f"c{at}" for at in range(6)))
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS, classes=classes, benchmark="x|y:test")
    rows = [line for line in describe_run(bundle, {}, "7").splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {3}


def test_an_export_has_its_description_as_note(workplace, tmp_path):
    run_id = publish(workplace, write_bundle(tmp_path / "b", LOGITS, LABELS), **{"fer.teacher_run/A": "aa" * 16})
    note = MlflowClient(workplace.uri).get_run(run_id).data.tags["mlflow.note.content"]
    assert note.startswith("**faces:test**, 40 rows\n")
    assert note.endswith(f"Teachers: [A](#/experiments/0/runs/{'aa' * 16})")
