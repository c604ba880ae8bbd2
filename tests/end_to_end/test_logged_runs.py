"""What every run has in common: params once and with a value, names that differ, helpers below what they are about."""

from collections import Counter

import pytest
from mlflow import MlflowClient
from toys import draw_logits, publish, repeated_params, write_bundle

pytestmark = pytest.mark.slow
ENSEMBLE_PARAMS = {
    "ensemble": "A=0.25,B=0.75",
    "w/A": "0.25",
    "w/B": "0.75",
    "space": "prob",
    "dtype": "float32",
    "precision": "fp32",
    "clahe": "true",
    "clahe_clip": "3.0",
    "calibration": "none",
    "benchmark": "manifest:test",
    "rows": "70",
    "split": "test",
}


@pytest.fixture
def ensemble(toy_faces, toy_teachers) -> list:
    """Return the options of an ensemble."""
    fused = ["--weights", "B=0.75,A=0.25", "--space", "prob", "--clahe", "true", "--clahe-clip", "3"]
    return ["--manifest", toy_faces, "--split", "test", "--teachers", toy_teachers, *fused]


def test_no_param_is_there_twice_or_without_a_value(workplace, ensemble):
    workplace.run("export", *ensemble, "--out", "")
    (exported,) = workplace.runs("export")
    assert exported.data.params.items() >= ENSEMBLE_PARAMS.items()
    source = exported.info.run_id
    workplace.run("evaluate", "--run", source, "--by", "")
    workplace.run("evaluate", *ensemble)
    workplace.run("inspect", "--run", source)
    workplace.run("calibrate", "--run", source, "--seed", "3")
    runs = workplace.runs()
    kinds = Counter(run.data.tags["fer.kind"] for run in runs)
    assert kinds == {"export": 1, "teacher": 2, "evaluate": 2, "inspect": 1, "calibrate": 1}
    assert {run.info.run_name: names for run in runs if (names := repeated_params(run))} == {}
    for run in runs:
        if run.data.tags["fer.kind"] not in ("teacher", "export"):
            assert run.data.params.items() >= ENSEMBLE_PARAMS.items(), run.info.run_name
    assert not [run.info.run_name for run in runs if "clahe_tile" in run.data.params]  # it has its usual value
    (teacher,) = (run for run in workplace.runs("teacher") if run.data.params["ensemble"] == "A=1")
    assert (teacher.data.params["clahe_clip"], "w/B" in teacher.data.params) == ("3.0", False)


def test_without_clahe_its_settings_are_no_params(workplace, toy_faces, toy_teachers):
    workplace.run("export", "--manifest", toy_faces, "--teachers", toy_teachers, "--weights", "A=1")
    for run in workplace.runs():
        assert (run.data.params["clahe"], [name for name in run.data.params if "clahe_" in name]) == ("false", [])


def test_evaluations_and_calibrations_that_differ_have_other_names(workplace, tmp_path):
    bundles = [
        write_bundle(tmp_path / split, *draw_logits(80, seed=at), split=split, benchmark=f"faces:{split}")
        for at, split in enumerate("ab")
    ]
    a, b = (publish(workplace, each) for each in bundles)
    for more in ([], ["--temperature", "2"], ["--temperature", "2.5"]):
        workplace.run("evaluate", "--run", a, *more)
    methods = [[], ["--method", "vector", "--export", "true"], ["--in-sample", "true"], ["--fit-run", b]]
    for more in methods:
        workplace.run("calibrate", "--run", a, *more)
    names = [run.info.run_name for kind in ("evaluate", "calibrate") for run in workplace.runs(kind)]
    assert len(set(names)) == len(names) == 7
    assert {name.partition(" · ")[0] for name in names} == {"evaluate", "calibrate"}
    exported, *_ = workplace.runs("export")
    assert (exported.data.params["calibration"], repeated_params(exported)) == ("vector, fitted on faces:a", [])
    assert exported.info.run_name == "logit · calibrated (vector) · A 0.5 · B 0.5 · a · faces"


PARENT = "mlflow.parentRunId"


def parents(workplace, kind: str) -> list[str | None]:
    """Return what the runs of a kind stand below, the newest first."""
    return [run.data.tags.get(PARENT) for run in workplace.runs(kind)]


def test_helpers_stand_below_the_run_that_they_are_about_and_triage_judges_as_before(workplace, tmp_path):
    client = MlflowClient(workplace.uri)
    bundle = write_bundle(tmp_path / "b", *draw_logits(80))
    source = publish(workplace, bundle)
    for command in ("evaluate", "inspect", "calibrate"):
        workplace.run(command, "--run", source[:8])
        assert parents(workplace, command) == [source]
    _, joined = workplace.run_joined("evaluate", "--run", source)
    assert joined.data.tags[PARENT] == source
    _, verified = workplace.run_joined("verify", source, status=1)
    assert verified.data.tags[PARENT] == source
    assert parents(workplace, "export") == [None]
    workplace.run("triage")
    about = [run for run in workplace.runs() if source in str(run.data) and run.data.tags["fer.kind"] != "triage"]
    judged = {run.info.run_id: run.data.tags["triage.status"] for run in about}
    assert len(judged) > 4
    for run_id in judged.keys() - {source}:
        client.delete_tag(run_id, PARENT)
    workplace.run("triage")
    runs = {run.info.run_id: run for run in workplace.runs()}
    assert {run_id: runs[run_id].data.tags["triage.status"] for run_id in judged} == judged


def test_a_run_of_another_experiment_or_below_another_run_stays_where_it_is(workplace, tmp_path):
    bundle = write_bundle(tmp_path / "b", *draw_logits(80))
    source = publish(workplace, bundle)
    _, mine = workplace.run_joined("inspect", "--run", source, **{PARENT: "0" * 32})
    assert mine.data.tags[PARENT] == "0" * 32
    workplace.run("inspect", "--run", source, "--experiment", "elsewhere")
    workplace.run("inspect", "--bundle", bundle.folder)
    found = {run.data.tags.get(PARENT) for run in workplace.runs("inspect") if run.info.run_id != mine.info.run_id}
    assert found == {None}
    compared = publish(workplace, bundle)
    workplace.run("compare", source, compared)
    assert parents(workplace, "compare") == [None]
    _, linked = (workplace.runs("compare")[0].data.tags[f"fer.source_run_{side}"] for side in "ab")
    assert linked == compared
