"""The command line by itself: help, errors, exit statuses."""

import click
import pytest
from click.testing import CliRunner

from fer_mlflow.cli import COMMANDS, export as export_command, main
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
    ("option", "value", "message"),
    [
        ("--clahe", "yes", "neither true nor false"),
        ("--limit", "0", "is not a whole number of at least 1"),
        ("--workers", "-1", "is not a whole number of at least 0, nor auto"),
        ("--workers", "many", "is not a whole number of at least 0, nor auto"),
        ("--clahe-clip", "nan", "not a number above 0"),
        ("--clahe-tile", "0", "is not a whole number of at least 1"),
        ("--batch-size", "1.5", "is not a whole number of at least 1"),
        ("--space", "probs", "is not one of"),
        ("--precision", "fp8", "is not one of"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(option, value, message):
    result = invoke("export", *REQUIRED, option, value)
    assert result.exit_code == 2
    assert message in result.stderr
    assert option in result.stderr


def test_a_missing_option_is_named():
    result = invoke("export", "--manifest", "m.csv", "--teachers", "t.yaml")
    assert result.exit_code == 2
    assert "--weights" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stale-after", "soon"], "'soon' is not a time such as 90s, 30m, 1h or 2d"),
        (["--top", "0"], "is not a whole number of at least 1, nor all"),
        (["--top", "many"], "is not a whole number of at least 1, nor all"),
        (["--deep", "yes"], "is not one of"),
        (["--reap", "1"], "neither true nor false"),
        (["--dry-run"], "requires an argument"),
    ],
)
def test_values_that_triage_does_not_take(arguments, message):
    result = invoke("triage", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("name", ["evaluate", "calibrate", "inspect"])
def test_options_of_an_ensemble_say_their_defaults_and_are_not_given_by_default(name):
    command = main.get_command(click.Context(main), name)
    for each in command.params:
        if each.name in ("manifest", "teachers", "weights", "space", "clahe", "clahe_clip", "precision", "split"):
            assert (each.default, each.required) == (None, False)
    text = " ".join(invoke(name, "--help").stdout.split())
    for words in ("taken. [default: logit]", "clip limit. [default: 2.0]", "its first digits do", "[default: fp32]"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--temperature", "0"], "'0' is not a number above 0"),
        (["calibrate", "--crossfit", "1"], "'1' is not a whole number of at least 2, nor none"),
        (["calibrate", "--method", "isotonic"], "is not one of"),
        (["calibrate", "--in-sample", "yes"], "neither true nor false"),
        (["calibrate", "--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
        (["calibrate", "--clahe-tile", "0"], "is not a whole number of at least 1"),
        (["inspect", "--band", "0.8,0.5"], "is not 2 rising numbers above 0"),
        (["sweep", "--benchmark", "b", "--space", "probs"], "'probs' is not logit, prob or logit,prob"),
        (["sweep", "--benchmark", "b", "--clahe", "yes"], "is not one of false, true, both"),
        (["reproduce", "--benchmark", "b", "--f1", "Disgust"], '"Disgust" is not CLASS=number'),
        (["compare", "abcd"], "Missing argument 'RUN_B'"),
    ],
)
def test_values_that_the_commands_on_soft_labels_do_not_take(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
