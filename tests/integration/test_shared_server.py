"""A server that asks for a name and a password: MLflow's own variables give them, and nothing shows them."""

import importlib.util
import re
import sqlite3
import time
from dataclasses import replace

import pytest
import requests
from conftest import Place, Server
from mlflow import MlflowClient
from toys import error_line

pytestmark = pytest.mark.skipif(importlib.util.find_spec("flask_wtf") is None, reason="mlflow[auth] is not installed")
ADMIN, SECRET, BOBS = "ann", "correct-horse-battery", "tr0ub4dor&3-tr0ub4dor"
CONFIG = """[mlflow]
default_permission = EDIT
database_uri = sqlite:///basic_auth.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 600
"""


def credentials(name: str = ADMIN, password: str = SECRET) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


@pytest.fixture(scope="module")
def place(tmp_path_factory, migrated_store):
    """Return a workplace on a server that knows ann, who may do everything, and bob, who may edit."""
    folder = tmp_path_factory.mktemp("auth")
    (folder / "auth.ini").write_text(CONFIG)
    variables = {f"MLFLOW_AUTH_ADMIN_{name}": text for name, text in (("USERNAME", ADMIN), ("PASSWORD", SECRET))}
    variables |= {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "some key"}
    server = Server(folder / "server", migrated_store, "--app-name=basic-auth", **variables)
    try:
        server.start()
        body = {"username": "bob", "password": BOBS}
        made = requests.post(f"{server.uri}/api/2.0/mlflow/users/create", auth=(ADMIN, SECRET), json=body, timeout=20)
        made.raise_for_status()
        (folder / "work").mkdir()
        yield Place(folder / "work", server.uri, server.folder)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def words(toy_faces, toy_teachers) -> list[str]:
    """Return what an export is given."""
    return ["export", "--manifest", toy_faces, "--teachers", toy_teachers, "--weights", "A=0.6,B=0.4", "--limit", "20"]


def everything(place) -> str:
    """Return all that the server has stored, as text."""
    connection = sqlite3.connect(place.store / "mlflow.db")
    lines = "\n".join(connection.iterdump())
    connection.close()
    files = (path.read_bytes().decode("latin-1") for path in (place.store / "artifacts").rglob("*") if path.is_file())
    return lines + "".join(files)


@pytest.fixture(scope="module")
def exported(place, words) -> list:
    """Return what an export and a triage print that get the name and the password from MLflow's variables."""
    return [place.run(*given, env=credentials()) for given in (words, ["triage"])]


def test_the_variables_of_mlflow_give_name_and_password(place, exported):
    assert "  run      " in exported[0].stdout
    assert "\n3 runs: " in exported[1].stdout
    assert SECRET not in "".join(result.output for result in exported) + everything(place)


@pytest.mark.parametrize("given", [credentials(password="wrong-password"), credentials("eve", "wrong-password"), {}])
def test_wrong_ones_are_one_line_at_once(place, words, given):
    for arguments in (words, ["triage"]):
        began = time.monotonic()
        line = error_line(place.run(*arguments, status=1, env={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7"} | given))
        assert time.monotonic() - began < 20
        assert line.startswith(f"tracking server {place.uri}: ")
        assert re.search("401|authenticated", line)
        assert "wrong-password" not in line


def test_credentials_in_the_address_appear_nowhere(place, words, exported):
    there = replace(place, uri=place.uri.replace("//", f"//{ADMIN}:{SECRET}@"))
    results = [there.run(*arguments) for arguments in ([*words, "--weights", "A=0.5,B=0.5"], ["triage"])]
    for text in [result.output for result in results] + [everything(place)]:
        assert SECRET not in text
        assert f"{ADMIN}:" not in text
    assert "***@" in results[1].stdout  # the address of the UI, without them


def test_the_tag_has_the_name_by_which_the_server_knows_a_person(place, exported):
    bob = credentials("bob", BOBS)
    with pytest.MonkeyPatch.context() as patch:
        for name, text in bob.items():
            patch.setenv(name, text)
        client = MlflowClient(place.uri)
        run = client.search_runs(["0"], "tags.`fer.kind` = 'export'")[0].info.run_id
        place.run("triage", "--bad", run, "--reason", "blurred", env=bob)
        assert re.fullmatch(r"bad by bob at \S+Z", client.get_run(run).data.tags["triage.overruled"])
        told = place.run("triage", "--keep", run, env=credentials()).stdout
        assert re.match(rf"run {run}: bad by bob at \S+Z \(“blurred”\), now good\n", told)
