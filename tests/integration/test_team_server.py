"""A team's server: PostgreSQL and S3 behind `mlflow server`, and clients that work there at the same time."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import toys
from conftest import PROJECT, Workplace, free_port, wait_until

from fer_mlflow import SoftLabels

ROUNDS = ("first", "second", "third")
# Opens one store after the other, each when it is bidden.
CLIENT = """
import sys
from mlflow import set_tracking_uri
from fer_mlflow.tracking.store import connect

for uri in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    set_tracking_uri(uri)
    print([each.name for each in connect().search_experiments()], flush=True)
"""


@dataclass
class PostgreSQL:
    """A database server that only this machine's processes reach, by a socket in its folder."""

    folder: Path
    programs: Path

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs, as the user postgres where root may not."""
        own = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        command = [self.programs / program, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, **own)
        assert done.returncode == 0, done.stdout + done.stderr

    def uri(self, database: str) -> str:
        """Return a database's URI."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self, database: str, template: str = "template0") -> str:
        """Make a database, and return its URI."""
        self.run("createdb", "-h", str(self.folder), "-U", "postgres", "-T", template, database)
        return self.uri(database)


@pytest.fixture(scope="module")
def postgres():
    """Give a running PostgreSQL without databases."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = [shutil.which("pg_ctl"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")))]
    if not (programs := list(filter(None, found))):
        pytest.skip("PostgreSQL is not installed; Debian's package is postgresql")
    with tempfile.TemporaryDirectory(prefix="fer-pg-") as folder:  # pytest's own folders are for this user alone
        server = PostgreSQL(Path(folder), Path(programs[-1]).parent)
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server.run("initdb", "-D", "data", "-U", "postgres", "--auth", "trust", "--no-sync")
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"
        server.run("pg_ctl", "start", "-w", "-D", "data", "-l", "log", "-o", settings)
        yield server
        server.run("pg_ctl", "stop", "-w", "-D", "data", "-m", "immediate")


@pytest.fixture(scope="module")
def opened(postgres, tmp_path_factory):
    """Return what three clients print that open an empty database at the same time, for each of three databases."""
    uris = [postgres.create(each) for each in ROUNDS]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    logs = [(tmp_path_factory.mktemp("client") / "stderr").open("w+") for _ in range(3)]
    clients = [subprocess.Popen([sys.executable, "-c", CLIENT, *uris], env=env, stderr=log, **pipes) for log in logs]
    printed = {}
    for each in ROUNDS:
        for client, log in zip(clients, logs, strict=True):
            assert client.stdout.readline() == "ready\n", Path(log.name).read_text()
        for client in clients:
            client.stdin.write("\n")
            client.stdin.flush()
        printed[each] = [client.stdout.readline().strip() for client in clients]
    for client, log in zip(clients, logs, strict=True):
        assert client.wait(60) == 0, Path(log.name).read_text()
        client.stdin.close()
        client.stdout.close()
        log.close()
    return printed


def test_three_first_clients_of_an_empty_database_all_open_it(opened):
    assert opened == dict.fromkeys(ROUNDS, ["['Default']"] * 3)


@pytest.fixture(scope="module")
def team_server(postgres, opened, object_store):
    """Give the URI of an `mlflow server` over PostgreSQL, whose tables a client made, and a bucket."""
    toys.store_files("s3://team", {"faces/README": b"images"})
    uri, port = postgres.create("team", ROUNDS[0]), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    process = subprocess.Popen(
        [*command, f"--backend-store-uri={uri}", "--artifacts-destination=s3://team/mlflow"],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: urllib.request.urlopen(f"{address}/health", timeout=5).close(), process, "mlflow server")
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def clients(team_server, tmp_path_factory) -> list[Workplace]:
    """Return two machines of the team: each has its own folder and cache."""
    return [Workplace(tmp_path_factory.mktemp(each), team_server) for each in ("ann", "bob")]


def run_at_once(clients, *commands):
    """Run a command of each client, all at the same time, to their ends; return what they print."""
    processes = [client.start(*command) for client, command in zip(clients, commands, strict=True)]
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return [stdout for stdout, _ in printed]


@pytest.fixture(scope="module")
def exported(clients, toy_faces, toy_teachers):
    """Return the runs of two exports that started at the same time, of images in the bucket; by their ensemble."""
    root = toys.store_folder(toy_faces.parent, "s3://team/faces")
    base = ("export", "--manifest", toy_faces, "--root", root, "--teachers", toy_teachers, "--experiment", "team")
    run_at_once(clients, (*base, "--weights", "A=0.6,B=0.4"), (*base, "--weights", "B=0.5,C=0.5"))
    return {run.data.params["ensemble"]: run for run in clients[0].runs("export")}


def test_two_clients_export_at_once(exported, clients):
    assert set(exported) == {"A=0.6,B=0.4", "B=0.5,C=0.5"}
    for run in exported.values():
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert clients[0].bundle(run).sha256 == run.data.tags["fer.bundle_sha256"]


def test_artifacts_lie_in_the_bucket(exported):
    from fsspec.core import url_to_fs

    store, top = url_to_fs("s3://team/mlflow", use_listings_cache=False)
    for run in exported.values():
        place = f"{top}/{run.info.experiment_id}/{run.info.run_id}/artifacts/softlabels/softlabels.npz"
        assert store.info(place)["size"] > 0


def test_evaluate_triage_and_fetch_at_once(exported, clients):
    first, second = exported.values()
    evaluate = [("evaluate", "--run", run.info.run_id, "--experiment", "team") for run in (first, second)]
    run_at_once(clients, *evaluate)
    assert len(clients[1].runs("evaluate")) == 2
    out = [client.folder / "softlabels" for client in clients]
    triage = ("triage", "--experiment", "team")
    fetch = ("fetch", "--run", first.info.run_id, "--out", out[1])
    run_at_once([*clients, clients[1]], triage, triage, fetch)
    assert SoftLabels.open(out[1]).sha256 == first.data.tags["fer.bundle_sha256"]
    judged = [run for run in clients[0].runs() if run.data.tags["fer.kind"] in ("export", "teacher")]
    status = {run.info.run_id: run.data.tags["triage.status"] for run in judged}
    assert len(status) in (5, 6)  # without a cache that they share, both may predict with B
    fetched = clients[0].run("fetch", "--best", "macro_f1", "--benchmark", "manifest", "--out", out[0])
    sound = [run for run in judged if status[run.info.run_id] != "bad"]
    best = max(run.data.metrics["macro_f1"] for run in sound)
    hashes = {run.data.tags["fer.bundle_sha256"] for run in sound if run.data.metrics["macro_f1"] == best}
    assert SoftLabels.open(out[0]).sha256 in hashes, fetched.output
