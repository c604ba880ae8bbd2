"""A user's machine: an empty home, a clone of the project that is not installed, MLflow and uv beside it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from conftest import PROJECT
from mlflow import MlflowClient

_LEFT_OUT = ("PYTHON", "VIRTUAL_ENV", "XDG_", "MLFLOW_", "FER_", "OMP_")


@dataclass
class Machine:
    """A folder with a home, a clone, a tracking store, and the variables of a shell that works there."""

    folder: Path
    home: Path
    clone: Path = field(init=False)

    def __post_init__(self):
        self.clone = self.folder / "clone"
        for path in (self.home, self.folder / "bin", self.folder / "elsewhere"):
            path.mkdir(parents=True, exist_ok=True)
        found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        assert found, "uv is missing; `make integration` installs it"
        (self.folder / "bin" / "uv").symlink_to(found)
        self._copy_project()

    def _copy_project(self) -> None:
        """Make a repository of the working tree's files, so that what is not committed yet is tried as well."""
        listed = ["git", "-C", PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            if (PROJECT / name).is_file():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, self.clone / name)
        git = ["git", "-C", self.clone, "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"]):
            subprocess.run([*git, *arguments], check=True, capture_output=True)

    @property
    def commit(self) -> str:
        """The clone's commit."""
        found = subprocess.run(
            ["git", "-C", self.clone, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        )
        return found.stdout.strip()

    @property
    def uri(self) -> str:
        """The tracking store's."""
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def env(self) -> dict[str, str]:
        """The variables: nothing of the environment that runs the tests, save a Python that uv may build on."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}
        path = [str(self.folder / "bin"), "/usr/local/bin", "/usr/bin", "/bin", f"{sys.base_prefix}/bin"]
        return kept | {
            "HOME": str(self.home),
            "PATH": os.pathsep.join(path),
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "FER_MLFLOW_CACHE": str(self.folder / "cache"),
        }

    def mlflow_run(self, entry, *, project=None, manager="uv", status=0, cwd=None, variables=None, **parameters):
        """Run an entry point of the clone from another folder, and return what it printed.

        The manager `local` takes the environment that runs the tests, which is faster.
        """
        command = [sys.executable, "-m", "mlflow", "run", project or self.clone, "-e", entry, "--env-manager", manager]
        for key, value in parameters.items():
            command += ["-P", f"{key}={value}"]
        env = self.env | (variables or {})
        if manager == "local":
            env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        cwd = cwd or self.folder / "elsewhere"
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=1000)
        assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
        return done

    @cached_property
    def python(self) -> Path:
        """The interpreter of the environment that MLflow made."""
        environments = (self.home / ".mlflow" / "envs").iterdir()
        return max(environments, key=lambda folder: folder.stat().st_mtime) / "bin" / "python"

    def runs(self, kind: str | None = None) -> list:
        """Return the store's runs, newest first; the first `mlflow run` makes the store."""
        if not (self.folder / "mlflow.db").exists():
            return []
        return list(MlflowClient(self.uri).search_runs(["0"], f"tags.`fer.kind` = '{kind}'" if kind else ""))

    def last(self, kind: str):
        """Return the newest run of a kind, which has FINISHED."""
        run = self.runs(kind)[0]
        assert run.info.status == "FINISHED", run.data.tags
        return run


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """Give a machine whose home is empty, or kept in the folder that FER_INTEGRATION_HOME names."""
    folder = tmp_path_factory.mktemp("machine")
    kept = os.environ.get("FER_INTEGRATION_HOME")
    machine = Machine(folder, Path(kept or folder / "home"))
    yield machine
    if not kept:
        shutil.rmtree(machine.home)  # 5.6 GB
