"""`mlflow run` starts the project, joins its run, and hands every parameter over intact."""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from toys import draw_logits, publish, repeated_params, write_bundle

pytestmark = pytest.mark.slow
MANIFEST = "path,label,age\n" + "".join(f"images/f{n:04d}.jpg,,{n % 2 + 7}\n" for n in range(40))


def mlflow_run(workplace, *parameters, entry="export", status=0):
    """Run an entry point from another folder, in the environment that runs the tests."""
    program = Path(sys.executable).with_name("mlflow")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` in MLproject is found on it
    result = subprocess.run(
        [program, "run", PROJECT, "-e", entry, "--env-manager", "local"]
        + [word for parameter in parameters for word in ("-P", parameter)],
        cwd=workplace.folder,
        env=workplace.env | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


def test_one_run_is_opened_and_every_parameter_arrives(workplace, toy_faces, toy_teachers):
    name = 'it\'s $(touch pwned); `touch pwned` "quoted"'
    mlflow_run(
        workplace,
        f"manifest={os.path.relpath(toy_faces, workplace.folder)}",  # against the caller's folder, not the project's
        f"teachers={toy_teachers}",
        "weights=A=0.5,B=0.5",
        "space=prob",
        "clahe=true",
        f"name={name}",
    )
    (run,) = workplace.runs("export")
    assert (run.info.status, run.info.run_name) == ("FINISHED", name)
    assert run.data.tags["mlflow.project.entryPoint"] == "export"
    params = run.data.params
    assert (params["ensemble"], params["space"], params["clahe"]) == ("A=0.5,B=0.5", "prob", "true")
    assert repeated_params(run) == ["ensemble and weights"]  # MLflow logs what is declared
    assert [repeated_params(teacher) for teacher in workplace.runs("teacher")] == [[], []]
    assert workplace.bundle(run).sha256 == run.data.tags["fer.bundle_sha256"]
    assert len(workplace.runs()) == 3  # with the two teachers; none besides
    assert not [path for folder in (workplace.folder, PROJECT) for path in folder.glob("pwned*")]


def test_soft_labels_are_evaluated_in_the_run_that_mlflow_opened(workplace, tmp_path):
    logits, labels = draw_logits(40)
    manifest_sha256 = hashlib.sha256(MANIFEST.encode()).hexdigest()
    bundle = write_bundle(tmp_path / "b", logits, labels, manifest_sha256=manifest_sha256)
    (workplace.folder / "my faces").mkdir()
    (workplace.folder / "my faces/faces.csv").write_text(MANIFEST)
    manifest = shlex.quote(str(workplace.folder / "my faces/faces.csv"))  # as `mlflow run -e export` logs it
    run_id = publish(workplace, bundle, params={"manifest": manifest, "root": "''"})
    _, run = workplace.run_joined("evaluate", "--run", run_id[:12], "--by", "age, source", "--name", "it's mine")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "it's mine")
    assert run.data.tags["fer.kind"] == "evaluate"
    assert run.data.tags["fer.source_run"] == run_id
    assert (run.data.params["run"], run.data.params["ensemble"]) == (run_id[:12], "A=0.5,B=0.5")
    assert run.data.metrics["slices/age 8 rows"] == run.data.metrics["slices/source web rows"] == 20
    assert run.data.metrics["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert len(workplace.runs()) == 2


def test_a_comparison_that_cannot_be_made_leaves_its_verdict_in_the_run_that_mlflow_opened(workplace, tmp_path):
    logits, labels = draw_logits(40)
    run_id = publish(workplace, write_bundle(tmp_path / "a", logits, labels))
    write_bundle(tmp_path / "b b", logits, (labels + 1) % 7)
    result, run = workplace.run_joined("compare", run_id, tmp_path / "b b", status=3)
    assert "≠ selection" in result.stdout
    assert run.info.status == "FINISHED"  # MLflow makes it FAILED, as after every exit status but 0
    assert run.data.tags["fer.kind"] == "compare"
    assert run.data.tags["fer.verdict"] == "not comparable because 40 of 40 shared images have other labels"
    assert run.data.tags["fer.source_run_a"] == run_id
