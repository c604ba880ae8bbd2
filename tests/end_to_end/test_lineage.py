"""`fer-mlflow lineage`: from a student to checkpoints and manifests, by tags and by links, and what to redo."""

import json
import shutil

import pytest
from conftest import new_workplace
from mlflow import MlflowClient
from toys import error_line, write_faces, write_teachers

from fer_mlflow.files import sha256_of_file

SMALL = ("--arch", "test_resnet", "--img-size", "32", "--epochs", "1", "--batch-size", "16", "--workers", "0")


@pytest.fixture(scope="module")
def made(migrated_store, tmp_path_factory):
    """Return a workplace with a student of an ensemble, of which one teacher was trained here."""
    folder = tmp_path_factory.mktemp("lineage")
    place = new_workplace(folder / "workplace", migrated_store)
    manifest, teachers = write_faces(folder / "faces", 84), write_teachers(folder / "teachers", "AB")
    rows = manifest.read_text().splitlines()
    splits = ["val" if i % 4 == 0 else "test" if i % 7 == 1 else "train" for i in range(len(rows))]
    manifest.write_text("\n".join(r.replace(",test,", f",{s},") for r, s in zip(rows, splits, strict=True)) + "\n")
    place.run("train", "--manifest", manifest, *SMALL, "--out", folder / "teachers/T.pt", "--name", "T")
    with teachers.open("a") as file:
        file.write("T: {checkpoint: T.pt}\n")
    options = ["--teachers", teachers, "--weights", "A=0.2,T=0.8", "--split", "train"]
    place.run("export", "--manifest", manifest, *options)
    (export,) = place.runs("export")
    options = ["--softlabels", export.info.run_id, "--name", "KD", "--onnx", "true"]
    place.run("distill", "--manifest", manifest, *SMALL, *options)
    return place, manifest, teachers


def run_of(place, kind, name=""):
    (run,) = (each for each in place.runs(kind) if each.info.run_name.startswith(name))
    return run


def ids(place) -> dict[str, str]:
    """Return what a run is called in these tests -> the first digits of its id."""
    names = {"A": ("teacher", "A"), "T": ("teacher", "T"), "train": ("train",), "export": ("export",)}
    names |= {"distill": ("distill",), "student": ("student",)}
    return {name: run_of(place, *words).info.run_id[:8] for name, words in names.items()}


def tree(output: str) -> list[str]:
    """Return the lines of the tree up to the name, with the ends of the lines that have a file's status."""
    lines = output.partition("\n\n")[0].splitlines()
    return [
        f"{line.split('  run ')[0].split(' /')[0]}{line[line.rfind('  ') :] if ' /' in line else ''}" for line in lines
    ]


def redo(output: str) -> list[tuple[str, str]]:
    """Return command and run of each line of what is to be redone."""
    lines = output.partition("redo, in this order:\n")[2].splitlines()
    return [(line.split()[0], line.partition("  run ")[2].split()[0]) for line in lines]


def test_the_tree_of_a_student_ends_at_checkpoints_and_manifests(made):
    place, manifest, _ = made
    run = ids(place)
    output = place.run("lineage", run["student"]).stdout
    assert tree(output) == [
        "student KD · test · manifest",
        "├ distill KD",
        "│ ├ export logit · A 0.2 · T 0.8 · train · manifest",
        "│ │ ├ teacher A · train · manifest",
        "│ │ │ ├ manifest  the same",
        "│ │ │ └ checkpoint  the same",
        "│ │ ├ teacher T · train · manifest",
        "│ │ │ ├ train T",
        "│ │ │ │ └ manifest  the same",
        "│ │ │ ├ manifest  the same",
        "│ │ │ └ checkpoint  the same",
        "│ │ └ manifest  the same",
        "│ └ manifest  the same",
        "└ manifest  the same",
    ]
    lines = output.splitlines()
    assert f"  run {run['export']}  macro_f1 " in lines[2]
    assert lines[2].endswith(f"  bundle {run_of(place, 'export').data.tags['fer.bundle_sha256'][:8]}")
    assert f"manifest {manifest}  {sha256_of_file(manifest)[:8]}  the same" in output
    assert output.endswith("\nnothing to redo: no file that is here has changed\n")
    assert place.runs("lineage") == []


def test_a_changed_checkpoint_is_reported_with_what_follows_from_it(made):
    place, _, teachers = made
    run, path = ids(place), teachers.with_name("A.pt")
    before = path.read_bytes()
    path.write_bytes(before + b"x")
    output = place.run("lineage", run["student"]).stdout
    path.write_bytes(before)
    assert tree(output)[5] == "│ │ │ └ checkpoint  changed"
    assert [line.rsplit("  ")[1] for line in tree(output) if "  " in line].count("changed") == 1
    follows = [("export", "A"), ("export", "export"), ("distill", "distill"), ("distill", "student")]
    assert redo(output) == [(command, run[name]) for command, name in follows]


def test_a_changed_manifest_makes_all_that_read_it_stale_once_each(made):
    place, manifest, _ = made
    run, before = ids(place), manifest.read_text()
    manifest.write_text(before.replace(",Happy,", ",Sad,", 1))
    output = place.run("lineage", run["distill"]).stdout
    manifest.write_text(before)
    names = ["A", "train", "T", "export", "distill"]
    commands = ["export", "train", "export", "export", "distill"]
    assert redo(output) == [(command, run[name]) for command, name in zip(commands, names, strict=True)]


def test_files_that_are_gone_are_not_here_and_nothing_is_concluded_from_it(made):
    place, manifest, teachers = made
    run, hidden = ids(place), manifest.with_name("hidden.csv")
    manifest.rename(hidden)
    teachers.rename(teachers.with_name("hidden.yaml"))
    output = place.run("lineage", run["export"]).stdout
    hidden.rename(manifest)
    teachers.with_name("hidden.yaml").rename(teachers)
    assert output.count("not here") == 6
    assert "the same" not in output
    assert "nothing to redo" in output


def test_a_source_that_was_deleted_ends_its_branch(made, tmp_path):
    place, *_ = made
    copy = new_workplace(tmp_path / "copy", place.folder / "mlflow.db")
    shutil.copytree(place.folder / "mlruns", copy.folder / "mlruns")
    MlflowClient(copy.uri).delete_run(run_of(place, "teacher", "A").info.run_id)
    output = place.run("lineage", ids(place)["export"], env={"MLFLOW_TRACKING_URI": copy.uri}).stdout
    assert "├ run " + run_of(place, "teacher", "A").info.run_id + " was deleted; bring it back with" in output


def test_a_run_that_is_not_there_is_refused(made):
    result = made[0].run("lineage", "ffff0000", status=2)
    assert "run ffff0000: " in error_line(result)


def test_python_has_the_tree_as_values(made, monkeypatch):
    import fer_mlflow

    place, *_ = made
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    result = fer_mlflow.lineage(run=ids(place)["export"])
    assert [each.text.split("  ")[0] for each in result.tree.sources[:2]] == [
        "teacher A · train · manifest",
        "teacher T · train · manifest",
    ]
    assert result.redo == []


def test_from_a_registered_student_links_lead_to_manifest_checkpoints_and_soft_labels(made, monkeypatch):
    import mlflow

    place, manifest, teachers = made
    client = MlflowClient(place.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    served = run_of(place, "distill").data.tags["fer.model"]
    version = mlflow.register_model(served, "fer-student")
    distill = client.get_run(client.get_logged_model(version.source.removeprefix("models:/")).source_run_id)
    trained = [client.get_logged_model(each.model_id) for each in distill.outputs.model_outputs]
    (student,) = (each for each in trained if each.model_type == "student")
    assert student.params["checkpoint_sha256"] == distill.data.tags["fer.checkpoint_sha256"]
    (soft_labels,) = (client.get_logged_model(each.model_id) for each in distill.inputs.model_inputs)
    export = client.get_run(soft_labels.source_run_id)
    assert soft_labels.tags["fer.bundle_sha256"] == export.data.tags["fer.bundle_sha256"]
    (dataset,) = (each.dataset for each in export.inputs.dataset_inputs)
    assert json.loads(dataset.source)["manifest_sha256"] == sha256_of_file(manifest)
    models = [client.get_logged_model(each.model_id) for each in export.inputs.model_inputs]
    assert {each.name: each.params["checkpoint_sha256"] for each in models} == {
        name: sha256_of_file(teachers.with_name(f"{name}.pt")) for name in "AT"
    }
    (own,) = (each for each in models if each.name == "T")
    assert own.source_run_id == run_of(place, "train").info.run_id
    (output,) = client.get_run(own.source_run_id).outputs.model_outputs
    assert output.model_id == own.model_id
    # The student that was scored is the one that was trained, and the served one is on no dataset's list.
    (scored,) = client.get_run(run_of(place, "student").info.run_id).inputs.model_inputs
    assert scored.model_id == student.model_id
    (rows,) = (each.dataset for each in client.get_run(run_of(place, "student").info.run_id).inputs.dataset_inputs)
    found = mlflow.search_logged_models(
        ["0"], datasets=[{"dataset_name": rows.name, "dataset_digest": rows.digest}], output_format="list"
    )
    assert [each.model_id for each in found] == [student.model_id]
