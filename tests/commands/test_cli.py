"""The command line by itself: help, errors, exit statuses."""

import pytest
from click.testing import CliRunner

from fer_mlflow.cli import COMMANDS, main
from fer_mlflow.commands import export as export_command
from fer_mlflow.errors import Interrupted, JobError, TeacherError

REQUIRED = ["--manifest", "m.csv", "--teachers", "t.yaml", "--weights", "A=1"]


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_help_names_every_command():
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def test_version_is_the_packages():
    import fer_mlflow

    assert invoke("--version").stdout.strip() == f"fer-mlflow, version {fer_mlflow.__version__}"


@pytest.mark.parametrize(
    ("error", "status"),
    [(TeacherError("no such arch"), 2), (JobError("disk full"), 1), (Interrupted(15, "SIGTERM"), 143)],
)
def test_an_error_is_one_line_on_stderr_and_an_exit_status(monkeypatch, error, status):
    def fail(**_):
        raise error

    monkeypatch.setattr(export_command.command, "callback", fail)
    result = invoke("export", *REQUIRED)
    assert result.exit_code == status
    assert (result.stdout, result.stderr) == ("", f"fer-mlflow: {error}\n")
    assert "Traceback" in invoke("--debug", "export", *REQUIRED).stderr


def test_a_fault_of_ours_is_named_and_points_to_debug(monkeypatch):
    monkeypatch.setattr(export_command.command, "callback", lambda **_: 1 / 0)
    result = invoke("export", *REQUIRED)
    assert result.exit_code == 1
    assert result.stderr == "fer-mlflow: ZeroDivisionError: division by zero (--debug shows where)\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--clahe", "yes", "neither true nor false"),
        ("--limit", "0", "neither a whole number of at least 1 nor empty"),
        ("--workers", "-1", "neither a whole number of at least 0 nor auto"),
        ("--workers", "many", "neither a whole number of at least 0 nor auto"),
        ("--clahe-clip", "nan", "not a number above 0"),
        ("--clahe-tile", "0", "0 is not in the range"),
        ("--batch-size", "1.5", "not a valid integer"),
        ("--space", "probs", "is not one of"),
        ("--precision", "fp8", "is not one of"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(option, value, said):
    result = invoke("export", *REQUIRED, option, value)
    assert result.exit_code == 2
    assert said in result.stderr
    assert option in result.stderr


def test_a_missing_option_is_named():
    result = invoke("export", "--manifest", "m.csv", "--teachers", "t.yaml")
    assert result.exit_code == 2
    assert "--weights" in result.stderr
