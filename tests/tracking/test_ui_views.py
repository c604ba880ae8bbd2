"""MLflow's own UI: the saved views, the note, the kind and primary metric, and what a run says of itself."""

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from toys import CLASSES, draw_logits, publish, write_bundle

from fer_mlflow.scoring.significance import bootstrap_intervals
from fer_mlflow.tracking import store
from fer_mlflow.tracking.store import furnish_experiment

NOTE, PRIMARY, KIND = "mlflow.note.content", "mlflow.experiment.primaryMetric.name", "mlflow.experimentKind"
SELECTION = "ab" * 32
VIEW = "mlflow.sharedViewState.leaderboard-abababababab"
VIEWS = [f"mlflow.sharedViewState.{name}-abababababab" for name in ("leaderboard", "teachers", "students", "bad-runs")]
MARK = "<!-- written by fer-mlflow triage -->"


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


def furnish(client, note="# board", metric="macro_f1", is_judged=True) -> None:
    client.written.clear()
    furnish_experiment(client, "0", {SELECTION: "faces:test"}, metric, is_judged=is_judged, note=note)


def warning_of(client, caplog) -> str:
    """Furnish the experiment, and return the one warning."""
    furnish(client)
    (record,) = caplog.records
    return record.getMessage()


def tags(client) -> dict[str, str]:
    return client.get_experiment("0").tags


def test_an_experiment_gets_views_a_note_its_kind_and_its_primary_metric(client):
    furnish(client)
    assert (tags(client)[PRIMARY], tags(client)[KIND]) == ("macro_f1", "custom_model_development")
    assert tags(client)[NOTE] == f"# board\n\n{MARK}"  # the list of experiments shows the first words
    assert sorted(client.written) == sorted([*VIEWS, NOTE, PRIMARY, KIND])


def test_before_a_triage_what_is_there_is_left_alone_and_all_runs_are_shown(client):
    client.client.set_experiment_tag("0", KIND, "genai_development")
    furnish(client, note=None, is_judged=False)
    assert sorted(client.written) == sorted([*VIEWS, PRIMARY])
    assert "triage.status" not in json.loads(json.loads(tags(client)[VIEW])["state"])["searchFilter"]
    furnish(client, metric="nll")
    before = tags(client)
    assert "AND tags.`triage.status` = 'good'" in before[VIEW]
    assert before[KIND] == "genai_development"
    furnish(client, note=None, is_judged=False)
    assert client.written == []


def test_no_view_mixes_benchmarks(client):
    furnish(client)
    furnish_experiment(client, "0", {"cd" * 32: "faces:val:first9"}, "macro_f1", is_judged=True)
    views = [json.loads(text) for name, text in tags(client).items() if name.startswith("mlflow.sharedViewState.")]
    assert len(views) == 8
    for view in views:
        selection = SELECTION if view["name"].endswith(" · test · faces") else "cd" * 32
        assert view["name"].endswith(" · test · faces") or view["name"].endswith(" · val · faces · first9")
        assert f"tags.`fer.selection_sha256` = '{selection}' AND " in json.loads(view["state"])["searchFilter"]


def test_the_view_is_what_mlflows_menu_of_views_takes(client):
    """Its menu lists envelopes of a name, a number, and the state as text; see `static/js/main.*.js` of 3.17."""
    furnish(client, metric="f1/Fear")
    envelope = json.loads(tags(client)[VIEW])
    assert envelope["name"] == "leaderboard · test · faces"
    assert 1.7e12 < envelope["createdAt"] <= envelope["updatedAt"]
    state = json.loads(envelope["state"])
    assert state["searchFilter"] == (
        f"tags.`fer.selection_sha256` = '{SELECTION}' AND tags.`fer.bundle_sha256` LIKE '%' "
        "AND tags.`triage.status` = 'good'"
    )
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


def test_the_ui_of_this_mlflow_reads_what_a_view_says(client):
    """A newer MLflow that renames a part of a view fails here; see what its frontend reads, and write that."""
    furnish(client)
    state = json.loads(json.loads(tags(client)[VIEW])["state"])
    build = Path(mlflow.__file__).parent / "server/js/build/static/js"
    frontend = "\n".join(path.read_text(encoding="utf-8") for path in build.glob("*.js"))
    (searched,) = set(re.findall(r'\["searchFilter"(?:,"\w+")+\]', frontend))
    assert set(state) - {"selectedColumns"} <= set(json.loads(searched))
    words = {"selectedColumns:", "{name:", "createdAt:", "updatedAt:", f'.ACTIVE="{state["lifecycleFilter"]}"'}
    words |= {
        f'"{each}"' for each in (NOTE, PRIMARY, KIND, tags(client)[KIND], "machine_learning", "viewStateShareKey")
    }
    words |= {f'"{VIEW.partition("leaderboard")[0]}"', f'="{state["startTime"]}"'}
    assert [word for word in sorted(words) if word not in frontend] == []


def state_of(client, metric: str) -> dict:
    furnish(client, metric=metric)
    return json.loads(json.loads(tags(client)[VIEW])["state"])


@pytest.mark.parametrize(("metric", "rises"), [("nll", True), ("ece", True), ("brier", True), ("accuracy", False)])
def test_the_best_stand_first_in_the_view(client, metric, rises):
    assert state_of(client, metric)["orderByAsc"] is rises


@pytest.mark.parametrize("view", store.VIEWS)
def test_the_views_filters_are_ones_that_mlflow_takes(client, workplace, tmp_path, view):
    logits, labels = draw_logits(20)
    bundle = write_bundle(tmp_path / "b", logits, labels)
    run_id = publish(workplace, bundle)
    furnish_experiment(client, "0", {bundle.selection_sha256: "faces:test"}, "nll", is_judged=True)
    tag = f"mlflow.sharedViewState.{store.view_id(view, bundle.selection_sha256)}"
    state = json.loads(json.loads(tags(client)[tag])["state"])

    def found() -> list[str]:
        runs = client.client.search_runs(["0"], state["searchFilter"], order_by=["metrics.`nll` ASC"])
        return [run.info.run_id for run in runs]

    kind, status = (
        {"teachers": "teacher", "students": "student"}.get(view, "export"),
        "bad" if view == "bad runs" else "good",
    )
    assert found() == []
    client.client.set_tag(run_id, "fer.kind", kind)
    client.client.set_tag(run_id, "triage.status", status)
    assert found() == [run_id]
    client.client.set_tag(run_id, "fer.selection_sha256", "cd" * 32)
    assert found() == []


def test_nothing_is_written_that_is_so_already(client):
    furnish(client)
    before = tags(client)
    furnish(client)
    assert client.written == []
    furnish(client, "# another board")
    assert client.written == [NOTE]
    furnish(client, "# another board", "nll")
    assert sorted(client.written) == sorted([*VIEWS, PRIMARY])
    assert json.loads(tags(client)[VIEW])["createdAt"] == json.loads(before[VIEW])["createdAt"]


@pytest.mark.parametrize("there", ["", "{", "[]", "7", '{"state": 5}', '{"name": "x"}', '{"searchFilter": ""}'])
def test_a_view_of_another_make_is_replaced(client, there):
    client.client.set_experiment_tag("0", VIEW, there)
    furnish(client)
    assert json.loads(tags(client)[VIEW])["name"] == "leaderboard · test · faces"


@pytest.mark.parametrize("note", ["mine", f"I like {MARK} much"])
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
    assert tags(client)[NOTE].startswith("# board")


@pytest.mark.parametrize("length", [4900, 4961, 4962, 4963, 4999, 5000, 5001, 9000])
def test_a_long_note_is_cut_after_a_line(client, length):
    lines = [f"| {number:02d} {'x' * 33}" for number in range(length // 40 + 1)]
    text = ("\n".join(lines) + "\n" * 40)[:length]
    furnish(client, text)
    note = tags(client)[NOTE]
    whole = f"{text}\n\n{MARK}"
    if len(whole) <= 5000:
        assert note == whole
        return
    assert len(note) <= 5000
    body, _, rest = note.partition("\n\n…")
    assert rest == f" the rest is in the triage run's `leaderboard.md`\n\n{MARK}"
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


def note_of(workplace, run_id) -> list[str]:
    """Return the lines of a run's description."""
    return MlflowClient(workplace.uri).get_run(run_id).data.tags[NOTE].split("  \n")


def test_an_export_says_its_scores_what_it_is_of_and_its_teachers(workplace, tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS, weights={"A": 0.4, "B": 0.6}, space="prob")
    tags = {"fer.teacher_run/B": "bb" * 16, "fer.teacher_run/A": "aa" * 16, "fer.source_run": "cc" * 16}
    verdict, about, links = note_of(workplace, publish(workplace, bundle, **tags))
    interval = bootstrap_intervals(LABELS, LOGITS.argmax(axis=1), CLASSES, np.random.default_rng(0))["macro_f1"]
    values = bundle.metrics
    assert verdict == (
        f"macro\\_f1 **{values['macro_f1']:.4f}** \\[{interval.low:.4f}, {interval.high:.4f}\\] · "
        f"accuracy {values['accuracy']:.4f} · ece {values['ece']:.4f} · nll {values['nll']:.4f}"
    )
    assert about == f"{bundle.configuration.name} · test · faces, 40 rows"
    page = "#/experiments/0/runs"
    assert links == " · ".join(
        f"[{name}]({page}/{run_id * 16})" for name, run_id in {"A": "aa", "B": "bb", "source": "cc"}.items()
    )


def test_a_run_without_labels_or_teachers_says_less(workplace, tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, np.full(40, -1))
    verdict, about = note_of(workplace, publish(workplace, bundle))
    assert verdict == "no row has a label, so there are no scores"
    assert about.endswith(" · test · faces, 40 rows")


def test_names_of_other_people_are_no_markdown(workplace, tmp_path):
    bundle = write_bundle(tmp_path / "b", LOGITS, LABELS, benchmark="[x](http://y)<b>:test")
    assert r" · test · \[x\](http" not in note_of(workplace, publish(workplace, bundle))[1]  # `:` begins the next part
    assert r"\[x\](http" in note_of(workplace, publish(workplace, bundle))[1]
    assert r"\<b\>" in note_of(workplace, publish(workplace, bundle))[1]
