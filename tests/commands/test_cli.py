"""The command line by itself: help, errors, exit statuses."""

import click
import pytest
from click.testing import CliRunner

from fer_mlflow.cli import COMMANDS, main
from fer_mlflow.cli import export as export_command
from fer_mlflow.commands.options import (
    AboveZero,
    Count,
    Duration,
    OrElse,
    RisingNumbers,
    Text,
    TrueFalse,
    option,
    typed_argument,
    typed_options,
)
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
def test_a_value_that_an_option_does_not_take_is_refused(option, value, said):
    result = invoke("export", *REQUIRED, option, value)
    assert result.exit_code == 2
    assert said in result.stderr
    assert option in result.stderr


def test_a_missing_option_is_named():
    result = invoke("export", "--manifest", "m.csv", "--teachers", "t.yaml")
    assert result.exit_code == 2
    assert "--weights" in result.stderr


def parsed(kind, value):
    return kind.convert(value, None, None)


@pytest.mark.parametrize("text", ["1", "1,2,3.5", " 0.5 , 2e3"])
def test_rising_numbers(text):
    assert parsed(RisingNumbers(), text) == [float(part) for part in text.split(",")]


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "1,,2", "1,1", "2,1", "0,1", "-1,1", "1,nan", "nan", "1,inf", "inf", "1 2"]
)
def test_numbers_that_do_not_rise_are_refused(text):
    with pytest.raises(click.BadParameter, match="is not rising numbers above 0, comma-separated"):
        parsed(RisingNumbers(), text)


def test_as_many_rising_numbers_as_are_wanted():
    assert parsed(RisingNumbers(2), "0.5,0.8") == [0.5, 0.8]
    for text in ("0.5", "0.5,0.6,0.7"):
        with pytest.raises(click.BadParameter, match="is not 2 rising numbers above 0"):
            parsed(RisingNumbers(2), text)


def test_empty_means_what_the_default_means_and_the_rest_is_checked_as_ever():
    assert parsed(OrElse(TrueFalse(), "false"), "") is False
    assert parsed(OrElse(TrueFalse(), "false"), "true") is True
    assert parsed(OrElse(AboveZero(), "2.0"), "") == 2.0
    assert parsed(OrElse(AboveZero(), "2.0"), "3") == 3.0
    assert parsed(OrElse(Count(1, ""), ""), "") is None
    assert parsed(OrElse(Text(), ""), "") is None
    assert parsed(OrElse(click.IntRange(min=1), "8"), "") == 8
    assert parsed(OrElse(click.Choice(["logit", "prob"]), "logit"), "") == "logit"
    with pytest.raises(click.BadParameter, match="'yes' is neither true nor false"):
        parsed(OrElse(TrueFalse(), "false"), "yes")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h", 3600),
        ("2d", 172_800),
        ("1.5h", 5400),
        ("0.5m", 30),
        (".5h", 1800),
        ("007s", 7),
    ],
)
def test_a_duration_is_a_number_and_its_unit(text, seconds):
    assert parsed(Duration(), text) == seconds
    assert parsed(Duration(), parsed(Duration(), text)) == seconds  # click parses a default twice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "1",
        "60",
        ".h",
        "-1h",
        "+1h",
        "1 h",
        "h1",
        "1w",
        "1H",
        "1h30m",
        "1.2.3h",
        "1e3s",
        "nans",
        "infh",
        "1,5h",
    ],
)
def test_a_time_without_a_unit_or_a_number_is_refused(text):
    with pytest.raises(click.BadParameter, match=r"is not a time such as 90s, 30m, 1h or 2d"):
        parsed(Duration(), text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stale-after", "soon"], "'soon' is not a time such as 90s, 30m, 1h or 2d"),
        (["--top", "0"], "is not a whole number of at least 1, nor all"),
        (["--top", "many"], "is not a whole number of at least 1, nor all"),
        (["--deep", "yes"], "is not one of"),
        (["--reap", "1"], "neither true nor false"),
        (["--dry-run"], "requires an argument"),
    ],
)
def test_values_that_triage_does_not_take(arguments, said):
    result = invoke("triage", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def command_of(*decorators):
    """Return a command with these options that prints what it parsed and what was typed."""

    def show(**options):
        click.echo(f"{options} {typed_options()}")

    for decorate in reversed(decorators):
        show = decorate(show)
    return click.command()(show)


def test_arguments_and_options_are_kept_as_typed():
    command = command_of(typed_argument("run_a"), option("temperatures", "1,2", RisingNumbers(), "help"))
    result = CliRunner().invoke(command, ["00ab"])
    assert result.stdout == ("{'run_a': '00ab', 'temperatures': [1.0, 2.0]} {'run_a': '00ab', 'temperatures': '1,2'}\n")
    result = CliRunner().invoke(command, ["00ab", "--temperatures", "1.0, 4"])
    assert "'temperatures': '1.0, 4'" in result.stdout


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
    ("arguments", "said"),
    [
        (["evaluate", "--temperature", "0"], "'0' is not a number above 0"),
        (["calibrate", "--crossfit", "1"], "'1' is not a whole number of at least 2, nor none"),
        (["calibrate", "--method", "isotonic"], "is not one of"),
        (["calibrate", "--in-sample", "yes"], "neither true nor false"),
        (["calibrate", "--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
        (["calibrate", "--clahe-tile", "0"], "is not a whole number of at least 1"),
        (["inspect", "--band", "0.8,0.5"], "is not 2 rising numbers above 0"),
        (["compare", "abcd"], "Missing argument 'RUN_B'"),
    ],
)
def test_values_that_the_commands_on_soft_labels_do_not_take(arguments, said):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
