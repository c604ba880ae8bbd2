"""A mistake in an `mlflow run` leaves one run that has FAILED and says why, on stderr and in the run."""

import shutil

import pytest
import toys


@pytest.fixture(scope="module")
def sound(toy_faces, toy_teachers):
    """Return what an export takes when nothing is wrong."""
    return {"manifest": toy_faces, "teachers": toy_teachers, "weights": "A=0.6,B=0.4"}


def run_and_fail(machine, entry="export", **how):
    """Run an entry point that fails, and return its only new run and what it output."""
    before = {run.info.run_id for run in machine.runs()}
    output = machine.mlflow_run(entry, manager="local", status=1, **how)
    (run,) = (run for run in machine.runs() if run.info.run_id not in before)
    return run, output.stderr


def check_failed(run, stderr, reason, name="export: "):
    """Check that a run has failed for a reason that stderr has too, under a name that begins so."""
    assert run.info.status == "FAILED"
    assert reason in run.data.tags["fer.error"]
    assert stderr is None or run.data.tags["fer.error"] in stderr
    assert run.data.tags["fer.kind"] == "export"
    assert run.info.run_name.startswith(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": "A=0.6,B=0.6"}, "sum to 1.2, not to 1"),
        ({"clahe_clp": "3"}, "'--clahe-clp'"),
        ({"batch_size": "many"}, "--batch-size"),
        ({"classes": "classes.txt"}, "classes.txt"),
    ],
    ids=["weights that do not sum to 1", "a misspelt option", "a bad number", "a relative path from another folder"],
)
def test_a_bad_value(machine, sound, change, reason):
    (machine.folder / "elsewhere/classes.txt").write_text("\n".join(toys.CLASSES))
    check_failed(*run_and_fail(machine, **(sound | change)), reason)


def test_a_missing_teacher_file(machine, sound, toy_teachers, tmp_path):
    shutil.copy(toy_teachers, tmp_path)
    check_failed(*run_and_fail(machine, **(sound | {"teachers": tmp_path / "teachers.yaml"})), f"{tmp_path}/A.pt")


def test_a_label_outside_the_classes(machine, sound, toy_faces, tmp_path):
    shutil.copytree(toy_faces.parent, tmp_path / "faces")
    manifest = tmp_path / "faces/manifest.csv"
    manifest.write_text(manifest.read_text().replace(",Happy,", ",Blissful,", 1))
    check_failed(*run_and_fail(machine, **(sound | {"manifest": manifest})), "Blissful")


def test_a_checkpoint_with_eight_outputs(machine, sound, tmp_path):
    import timm
    import torch

    torch.save(timm.create_model("test_resnet", num_classes=8).state_dict(), tmp_path / "A.pt")
    teachers = tmp_path / "teachers.yaml"
    teachers.write_text("A: {arch: test_resnet, checkpoint: A.pt, img_size: 32}\n")
    run, stderr = run_and_fail(machine, **(sound | {"teachers": teachers, "weights": "A=1"}))
    check_failed(run, stderr, "fc.bias (8,)", name="A")  # the export had begun, and named its run


def test_a_server_that_is_not_there(machine, sound):
    before = len(machine.runs())
    variables = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    output = machine.mlflow_run("export", manager="local", status=1, variables=variables, **sound)
    assert "127.0.0.1" in output.stderr  # MLflow's own words: without a server there is no run that could say it
    assert len(machine.runs()) == before


def test_a_missing_manifest_leaves_a_run_that_triage_reaps(machine, sound):
    """MLflow refuses it before our process starts, and leaves its run RUNNING."""
    run, stderr = run_and_fail(machine, **(sound | {"manifest": "missing.csv"}))
    assert "missing.csv" in stderr
    assert run.info.status == "RUNNING"
    machine.mlflow_run("triage", manager="local", reap="true", stale_after="1s")
    (reaped,) = (each for each in machine.runs() if each.info.run_id == run.info.run_id)
    check_failed(reaped, None, "a path that does not exist")
    assert not [each for each in machine.runs() if each.info.status == "RUNNING"]
