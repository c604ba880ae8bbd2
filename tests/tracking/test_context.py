"""The commit that a run is made from."""

import shutil
import subprocess
from pathlib import Path
from unittest.mock import patch

import fer_mlflow
from fer_mlflow.tracking import source_commit
from fer_mlflow.tracking.runs import open_run


def git(folder, *arguments):
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def make_checkout(folder):
    package = folder / "fer_mlflow"
    package.mkdir(parents=True)
    shutil.copy(Path(fer_mlflow.__file__), package)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return package


def test_the_commit_is_the_checkouts_that_the_package_is_part_of(tmp_path):
    package = make_checkout(tmp_path / "checkout")
    assert source_commit(package) == git(package, "rev-parse", "HEAD")
    installed = tmp_path / "checkout/.venv/site-packages/fer_mlflow"
    shutil.copytree(package, installed)
    assert source_commit(installed) is None
    assert source_commit(tmp_path) is None


def test_a_run_has_the_commit_where_mlflow_finds_none(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    for commit, expected in (("ab" * 20, "ab" * 20), (None, None)):
        with (
            patch("fer_mlflow.tracking.runs.source_commit", lambda commit=commit: commit),
            open_run("export", "r") as run,
        ):
            assert run.client.get_run(run.run_id).data.tags.get("mlflow.source.git.commit") == expected
