"""`mlflow run` starts the project, joins its run, and hands every parameter over intact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

pytestmark = pytest.mark.slow


def mlflow_run(workplace, *parameters, status=0):
    """Run the export entry point from another folder, in the environment that runs the tests."""
    program = Path(sys.executable).with_name("mlflow")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` in MLproject is found on it
    result = subprocess.run(
        [program, "run", PROJECT, "-e", "export", "--env-manager", "local"]
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
    assert run.data.params["weights"] == "A=0.5,B=0.5"
    assert run.data.params["ensemble"] == "A=0.5,B=0.5"
    assert workplace.bundle(run).sha256 == run.data.tags["fer.bundle_sha256"]
    assert len(workplace.runs()) == 3  # with the two teachers; none besides
    assert not [path for folder in (workplace.folder, PROJECT) for path in folder.glob("pwned*")]
    mlflow_run(workplace, f"manifest={toy_faces}", f"teachers={toy_teachers}", "weights=A=0.9,B=0.1", "clahe=true")
    assert len(workplace.runs("teacher")) == 2


def test_bad_input_fails_the_run_that_mlflow_opened(workplace, toy_faces, toy_teachers):
    result = mlflow_run(workplace, f"manifest={toy_faces}", f"teachers={toy_teachers}", "weights=A=2", status=1)
    assert "fer-mlflow: weights: shares sum to 2, not to 1; normalised they are A=1" in result.stderr
    (run,) = workplace.runs()
    assert run.info.status == "FAILED"
