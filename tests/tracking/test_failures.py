"""A command that fails before it has taken over the run of `mlflow run` leaves the reason there."""

import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["compare", "a"], 2, "RUN_B"),
        (["fetch", "--runn", "a"], 2, "No such option '--runn'"),
        (["export", "--manifest", "m", "--teachers", "t", "--weights", "A=1", "--workers", "x"], 2, "--workers"),
        (["export", "--manifest", "m.csv", "--teachers", "t", "--weights", "A=2"], 2, "shares sum to 2, not to 1"),
    ],
)
def test_the_reason_and_the_command_are_on_the_run(workplace, arguments, status, reason):
    result, run = workplace.run_joined(*arguments, status=status)
    assert run.info.status == "FAILED"
    assert run.data.tags["fer.kind"] == arguments[0]
    assert reason in run.data.tags["fer.error"]
    assert reason in result.stderr
    assert run.info.run_name.startswith(f"{arguments[0]}: {run.data.tags['fer.error'][:40]}")


def test_a_crash_while_a_command_is_imported_is_on_the_run(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "fer_mlflow.workflows.evaluate", None)
    _, run = workplace.run_joined("inspect", "--bundle", "b", status=1)
    assert run.info.status == "FAILED"
    assert run.data.tags["fer.error"].startswith("ModuleNotFoundError: ")


def test_a_run_that_the_command_took_over_keeps_its_name_and_reason(workplace):
    _, run = workplace.run_joined("fetch", "--run", "0123abcd", status=2)
    assert (run.info.status, run.info.run_name) == ("FAILED", "fetch · 0123abcd")
    assert run.data.tags["fer.error"].startswith("run 0123abcd: ")
    _, run = workplace.run_joined("compare", "a", status=2, **{"fer.kind": "compare", "fer.error": "known"})
    assert (run.info.run_name, run.data.tags["fer.error"]) == ("bold-shark-12", "known")


def test_outside_of_mlflow_run_a_mistake_leaves_no_run(workplace):
    workplace.run("compare", "a", status=2)
    assert workplace.runs() == []
