"""The command line: sub-commands loaded when they are named, errors as one line."""

import importlib
import logging
import os
import traceback
from contextlib import suppress

import click

import fer_mlflow
from fer_mlflow.errors import FerError, Interrupted
from fer_mlflow.tracking import command_line

# Command, which is an entry point of MLproject -> the module of this package that has it.
COMMANDS = {
    "manifest": "manifests",
    **dict.fromkeys(("export", "evaluate", "calibrate", "inspect", "compare"), "scoring"),
    **dict.fromkeys(("sweep", "reproduce"), "search"),
    **dict.fromkeys(("triage", "promote", "fetch", "verify", "lineage"), "scoring"),
    **dict.fromkeys(("train", "distill", "demo"), "training"),
}


class _ToStderr(logging.Handler):
    """Prints what the package logs on stderr, a line each; warnings say that they are."""

    def emit(self, record):
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        click.echo(f"{prefix}{record.getMessage()}", err=True)


def _describe(error: BaseException, group: click.Context) -> tuple[str, int]:
    """Return an error in one line, with where to read about a command's options, and the exit status."""
    if isinstance(error, FerError | Interrupted):
        return str(error), error.exit_status
    if not isinstance(error, click.UsageError):
        return f"{type(error).__name__}: {error} (--debug shows where)", 1
    message = error.format_message().rstrip(".")
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        name = error.param.opts[0] if isinstance(error.param, click.Option) else error.param.human_readable_name
        message = f"{name}: {error.message}"
    invoked = f"{group.command_path} {group.invoked_subcommand or ''}".rstrip()
    command = error.ctx.command_path if error.ctx is not None else invoked
    return f"{message}; see `{command} --help`", error.exit_code


class LazyGroup(click.Group):
    """Imports a command's module when it is named, and turns what it raises into a line and an exit status."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"fer_mlflow.cli.{COMMANDS[name]}"), name)

    def invoke(self, ctx):
        logger = logging.getLogger("fer_mlflow")
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
            logger.addHandler(_ToStderr())
        try:
            with command_line():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except (Exception, Interrupted) as error:
            message, status = _describe(error, ctx)
            if ctx.params["debug"]:
                click.echo(traceback.format_exc(), err=True)
        click.echo(f"fer-mlflow: {message}", err=True)
        _record_failure(ctx.invoked_subcommand or "", message, status)
        return ctx.exit(status)


def _record_failure(command: str, message: str, status: int) -> None:
    """Leave the message on the run that `mlflow run` opened, if it did, whatever stage the command had reached."""
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        with suppress(Exception):  # the first error is the one to report, and it is on stderr
            from fer_mlflow.tracking.store import record_failure

            record_failure(run_id, command, message, "KILLED" if status > 128 else "FAILED")


# MLflow writes parameters that MLproject does not declare with `_`.
@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(fer_mlflow.__version__, prog_name="fer-mlflow")
def main(debug: bool) -> None:
    """Soft labels from ensembles of facial-expression teachers: tracked, verified, comparable."""
