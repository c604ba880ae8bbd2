"""Shared places to work in: a tracking store that is migrated once, toy data, real data where there is some."""

import importlib.metadata
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import toys
from click.testing import CliRunner

from fer_mlflow.cli import main

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
    os.environ.pop(variable, None)
# A shell that starts the tests in the background has them ignore SIGINT, and every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def _not_installed():
    """Hide the project's own metadata: an environment that `mlflow run` makes holds conda.yaml's packages only."""
    find = importlib.metadata.Distribution.from_name

    def from_name(name):
        if name.replace("_", "-") == "fer-mlflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata.Distribution, "from_name", from_name)
        yield


def pytest_generate_tests(metafunc):
    """Run a test with a local store, and one that is marked `server` with a real server's store too."""
    if "place" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("server")
        metafunc.parametrize("place", ["local", "server"] if marked else ["local"], indirect=True)


@dataclass
class Workplace:
    """A folder with a tracking store and a cache of its own, and the installed command line in it."""

    folder: Path
    uri: str

    @property
    def env(self) -> dict[str, str]:
        """The environment of a command that works here."""
        return os.environ | {
            "MLFLOW_TRACKING_URI": self.uri,
            "FER_MLFLOW_CACHE": str(self.folder / "cache"),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        }

    def start(self, *arguments) -> subprocess.Popen:
        """Start `fer-mlflow` here."""
        program = Path(sys.executable).with_name("fer-mlflow")
        return subprocess.Popen(
            [program, *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, status: int = 0, env: dict[str, str] | None = None):
        """Run the command line here in this process, which spares its imports, and check its exit status."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(main, list(map(str, arguments)), env=self.env | (env or {}))
        finally:
            os.chdir(before)
        assert result.exit_code == status, f"exit status {result.exit_code}\n{result.output}"
        return result

    def run_joined(self, *arguments, status: int = 0, **tags: str):
        """Run the command line in a run that is open already, as `mlflow run` starts it; return that run too."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        run_id = client.create_run("0", run_name="bold-shark-12", tags=tags).info.run_id
        result = self.run(*arguments, status=status, env={"MLFLOW_RUN_ID": run_id})
        return result, client.get_run(run_id)

    def run_installed(self, *arguments, status: int = 0) -> subprocess.CompletedProcess:
        """Run the installed `fer-mlflow` here to its end and check its exit status."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == status, f"exit status {process.returncode}\n{stdout}{stderr}"
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def runs(self, kind: str | None = None) -> list:
        """Return the store's runs, newest first."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`fer.kind` = '{kind}'" if kind else "")
        return list(found)

    def bundle(self, run):
        """Return a run's bundle, verified."""
        from mlflow import MlflowClient

        from fer_mlflow import SoftLabels

        target = self.folder / "downloaded" / run.info.run_id
        target.mkdir(parents=True, exist_ok=True)
        return SoftLabels.open(MlflowClient(self.uri).download_artifacts(run.info.run_id, "softlabels", str(target)))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory) -> Path:
    """Return a SQLite store with MLflow's tables; making them takes seconds, copying them none."""
    from fer_mlflow.tracking.store import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        connect()
    return path


def new_workplace(folder: Path, store: Path) -> Workplace:
    """Make a workplace in a folder, with a copy of a migrated store."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store, folder / "mlflow.db")
    move_experiments(folder / "mlflow.db", str(folder / "mlruns" / "0"))
    return Workplace(folder, f"sqlite:///{folder / 'mlflow.db'}")


def move_experiments(store: Path, location: str) -> None:
    """Change where a store's experiments keep artifacts: they remember the folder that the store was made in."""
    connection = sqlite3.connect(store)
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (location,))
    connection.close()


@pytest.fixture
def workplace(migrated_store, tmp_path) -> Workplace:
    """Return a workplace of the test's own."""
    return new_workplace(tmp_path / "workplace", migrated_store)


@pytest.fixture(scope="session")
def toy_faces(tmp_path_factory) -> Path:
    """Return the manifest of 70 small images; tests that change anything copy its folder first."""
    return toys.write_faces(tmp_path_factory.mktemp("faces"), 70)


@pytest.fixture
def split_faces(tmp_path) -> Path:
    """Return a manifest with three splits: of 84 images every fourth is for validation, every seventh for tests."""
    path = toys.write_faces(tmp_path / "faces", 84)
    lines = path.read_text().splitlines()
    splits = ["val" if i % 4 == 0 else "test" if i % 7 == 1 else "train" for i in range(len(lines))]
    rows = [line.replace(",test,", f",{split},") for line, split in zip(lines, splits, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def train_part(split_faces):
    """Return the training rows of `split_faces`."""
    from fer_mlflow.data.classes import FER7
    from fer_mlflow.data.manifest import read_benchmark

    return read_benchmark(split_faces, FER7, split="train")


@pytest.fixture
def train_bundle(tmp_path, train_part):
    """Return soft labels of `train_part`, by two teachers whose logits follow from the paths."""
    return toys.write_soft_labels(tmp_path / "softlabels", train_part)


@pytest.fixture(scope="session")
def many_faces(tmp_path_factory) -> Path:
    """Return a manifest of 1,200 rows: three shards."""
    return toys.write_many_faces(tmp_path_factory.mktemp("many"), 1200)


@pytest.fixture(scope="session")
def toy_teachers(tmp_path_factory) -> Path:
    """Return the teachers.yaml of three toy teachers, A, B and C."""
    return toys.write_teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder with real faces/ and teachers/ that FER_REAL_DATA names."""
    folder = os.environ.get("FER_REAL_DATA")
    if not folder:
        pytest.skip("FER_REAL_DATA names no folder with faces/ and teachers/")
    return Path(folder).resolve()


def wait_until(answers, process: subprocess.Popen, name: str) -> None:
    """Wait until a server that was started answers."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return answers()
        except OSError:
            assert process.poll() is None, f"{name} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{name} does not answer"
            time.sleep(0.1)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def object_store():
    """Give the address of an empty server that speaks S3; this process's clients use it from then on."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "MLFLOW_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close(), process, "moto")
        yield address
        process.kill()
        process.wait()


class Server:
    """A real `mlflow server` over a store of its own, which can go away and come back; it may get further options."""

    def __init__(self, folder: Path, store: Path, *options: str, **variables: str):
        self.options, self.variables = options, variables
        folder.mkdir()
        shutil.copyfile(store, folder / "mlflow.db")
        move_experiments(folder / "mlflow.db", "mlflow-artifacts:/0")
        shutil.copyfile(folder / "mlflow.db", folder / "empty.db")
        self.port = free_port()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
            + [f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db"]
            + [f"--artifacts-destination={self.folder}/artifacts", *self.options],
            cwd=self.folder,
            # Its runners of background jobs are eight processes that nobody here asks anything of.
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | self.variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(
            lambda: urllib.request.urlopen(f"{self.uri}/health", timeout=5).close(), self.process, "mlflow server"
        )

    def empty(self) -> None:
        """Take its store back to no runs while it runs, as a writer of its database may."""
        names = ("empty.db", "mlflow.db")
        empty, store = (sqlite3.connect(self.folder / name) for name in names)
        with closing(empty), closing(store):
            empty.backup(store)

    def stop(self) -> None:
        """Kill it with all its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path, migrated_store):
    """Give a running tracking server that keeps artifacts itself."""
    running = Server(tmp_path / "server", migrated_store)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory, migrated_store):
    """Give a running tracking server for tests that only add runs to it, under benchmarks of their own."""
    running = Server(tmp_path_factory.mktemp("shared") / "server", migrated_store)
    running.start()
    yield running
    running.stop()


@dataclass
class Place(Workplace):
    """A workplace whose store is local or a server's, and the folder of that store on this disk."""

    store: Path

    def stored(self, run_id: str) -> Path:
        """Return the folder in which the store keeps a run's bundle."""
        kept = "artifacts" if self.uri.startswith("http") else "mlruns"
        return self.store / kept / "0" / run_id / "artifacts" / "softlabels"


@pytest.fixture(scope="module")
def local_place(tmp_path_factory, migrated_store) -> Place:
    """Return a workplace with a local store for a module's tests."""
    own = new_workplace(tmp_path_factory.mktemp("local") / "a workplace", migrated_store)
    return Place(own.folder, own.uri, own.folder)


@pytest.fixture(scope="module")
def server_place(tmp_path_factory, shared_server) -> Place:
    """Return a workplace whose store is a real `mlflow server`'s."""
    folder = tmp_path_factory.mktemp("served")
    return Place(folder, shared_server.uri, shared_server.folder)


@pytest.fixture(scope="module")
def place(request) -> Place:
    """Return a workplace for a module's tests; see `pytest_generate_tests`."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture(scope="session", autouse=True)
def common_figures_once():
    """Draw the two figures of an export once: those of every bundle would take a fifth of the suite's time."""
    from fer_mlflow.figures import scores

    drawn: dict[str, bytes] = {}

    def draw(rows, classes, title, null=None, real=scores.draw_predictions):
        if null is None and drawn:
            return drawn
        found = real(rows, classes, title, null)
        drawn.update(found if null is None else {})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "draw_predictions", draw)
        yield


@pytest.fixture(scope="module")
def coarse_figures():
    """Draw figures with a ninth of their pixels, whose compression takes a third of a command's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fer_mlflow.figures.style.DPI", 50)
        yield


@pytest.fixture
def figure_of(monkeypatch):
    """Return a function that draws and gives the figure, of which no bytes are made."""
    kept: list = []

    def keep(figure):
        kept.append(figure)
        return b""

    monkeypatch.setattr("fer_mlflow.figures.style.png", keep)

    def draw(kind, *given, **named):
        kind(*given, **named)
        return kept[-1]

    return draw
