"""The command line by itself: help, errors, exit statuses."""

import click
import pytest
from click.testing import CliRunner

from fer_mlflow.cli import COMMANDS, main
from fer_mlflow.errors import FerError, Interrupted, JobError, TeacherError

COMMAND = {name: main.get_command(click.Context(main), name) for name in COMMANDS}
RUNNABLE = {name: each for name, each in COMMAND.items() if not isinstance(each, click.Group)}
RUNNABLE |= {f"manifest {name}": each for name, each in COMMAND["manifest"].commands.items()}
REQUIRED = ["--manifest", "m.csv", "--teachers", "t.yaml", "--weights", "A=1"]


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments), prog_name="fer-mlflow")


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

    monkeypatch.setattr(COMMAND["export"], "callback", fail)
    result = invoke("export", *REQUIRED)
    assert result.exit_code == status
    assert (result.stdout, result.stderr) == ("", f"fer-mlflow: {error}\n")
    assert "Traceback" in invoke("--debug", "export", *REQUIRED).stderr


def test_a_fault_of_ours_is_named_and_points_to_debug(monkeypatch):
    monkeypatch.setattr(COMMAND["export"], "callback", lambda **_: 1 / 0)
    result = invoke("export", *REQUIRED)
    assert result.exit_code == 1
    assert result.stderr == "fer-mlflow: ZeroDivisionError: division by zero (--debug shows where)\n"


def takes(field, text: str) -> bool:
    """Return whether a field takes a text."""
    try:
        field.check(text)
    except (ValueError, FerError):
        return False
    return True


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_command_keeps_the_contract(name):
    """Help on stdout with status 0; a mistake as one line on stderr that names it and the help, with status 2."""
    words, options = name.split(), [each for each in RUNNABLE[name].params if isinstance(each, click.Option)]
    shown = invoke(*words, "--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert all(f"{each.opts[0]} " in shown.stdout for each in options if not each.hidden)
    mistakes = [(["--nonsense", "1"], "'--nonsense'")]
    required = sorted((p for p in RUNNABLE[name].params if p.required), key=lambda p: isinstance(p, click.Option))
    mistakes += [([], each.opts[0] if each in options else each.metavar) for each in required[:1]]
    for each in options:
        field = each.type.field
        texts = ["nonsense", "-1", "0", "1.5", "nan", "inf", "yes", "1000000"]
        wrong = [text for text in texts if not takes(field, text)]
        assert wrong or field.base in (str, tuple[str, ...]) or field.form.parse, (
            f"{name} {each.opts[0]} takes anything"
        )
        mistakes += [([each.opts[0], text], each.opts[0]) for text in wrong]
    for each in options[:1]:
        assert f"; see `fer-mlflow {words[0]} --help`\n" in invoke(*words, each.opts[0]).stderr  # it needs a value
    for given, named in mistakes:
        result = invoke(*words, *given)
        assert (result.exit_code, result.stdout) == (2, ""), given
        assert result.stderr.startswith("fer-mlflow: "), given
        assert result.stderr.endswith(f"; see `fer-mlflow {name} --help`\n"), given
        assert result.stderr.count("\n") == 1, given
        assert named in result.stderr, given


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
        (["sweep", "--benchmark", "b", "--space", "probs"], "'probs' is not logit, prob or logit,prob"),
        (["sweep", "--benchmark", "b", "--clahe", "yes"], "is not one of false, true, both"),
        (["compare", "abcd"], "Missing argument 'RUN_B'"),
    ],
)
def test_mistakes_of_one_command(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
