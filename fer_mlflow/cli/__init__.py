"""The command line: sub-commands loaded when they are asked for, errors as one line."""

import importlib
import traceback

import click

from fer_mlflow.errors import FerError, Interrupted

# Modules of fer_mlflow.commands, and entry points of MLproject.
COMMANDS = (
    *("manifest", "export", "evaluate", "calibrate", "inspect", "compare"),
    *("sweep", "reproduce"),
    *("triage", "fetch", "verify", "train", "distill", "demo"),
)


class LazyGroup(click.Group):
    """Imports a command's module when it is named, and turns what it raises into a line and an exit status."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"fer_mlflow.commands.{name}").command

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except (FerError, Interrupted) as error:
            message, status = str(error), error.exit_status
            details = traceback.format_exc()
        except Exception as error:
            message, status = f"{type(error).__name__}: {error} (--debug shows where)", 1
            details = traceback.format_exc()
        if ctx.params["debug"]:
            click.echo(details, err=True)
        click.echo(f"fer-mlflow: {message}", err=True)
        return ctx.exit(status)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="fer-mlflow", prog_name="fer-mlflow")
def main(debug: bool) -> None:
    """Soft labels from ensembles of facial-expression teachers: tracked, verified, comparable."""
