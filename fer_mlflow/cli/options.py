"""Commands, made of the settings of a workflow and of the lines that are printed of its result."""

import inspect
import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Literal, get_origin

import click

import fer_mlflow
from fer_mlflow.errors import FerError
from fer_mlflow.progress import show_progress
from fer_mlflow.settings import Field, Option, Settings, TextForm, fields_of, option_name, renamed
from fer_mlflow.tables import Part, part_lines

Parts = Callable[[Any], Iterable[Part]]
LINES: dict[str, Parts] = {}  # command -> what yields the lines and tables of its workflow's result
_JSON = Option("Print tables, or one JSON object for scripts.")
FORMAT = Field("format", Literal["table", "json"], True, "table", _JSON, TextForm())
NONE = object()  # what the word for None gives: None itself means that an option is not given


class FieldType(click.ParamType):
    """What a settings field takes. An empty text means not given: MLproject passes such texts."""

    def __init__(self, field: Field):
        self.field, self.name = field, field.kind

    def convert(self, value, param, ctx):
        try:
            checked = self.field.check(value)
            return NONE if checked is None and value else checked
        except (ValueError, FerError) as error:
            return self.fail(str(error).removeprefix(f"{self.field.name}: "), param, ctx)


def settings_command(name: str, settings: type[Settings], *own: Field, **more: Any) -> Callable[[Any], click.Command]:
    """Return the decorator that makes a function of settings a command with their options.

    Options may be spelled with `_` too, as MLflow writes parameters that MLproject does not declare. The function's
    docstring is the help text; it gets the values of the command line's `own` options by name.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def run(**values: Any) -> None:
            given = {name: None if value is NONE else value for name, value in values.items() if value is not None}
            mine = {field.name: given.pop(field.name, field.default) for field in own}
            function(settings(**renamed(settings, given)), **mine)

        parameters = [parameter for field in (*fields_of(settings), *own) for parameter in _parameters(field)]
        return click.Command(name, params=parameters, callback=run, help=inspect.getdoc(function), **more)

    return decorate


def workflow_command(
    name: str, settings: type[Settings], workflow: str = "", *, has_rows: bool = False, **defaults: Any
) -> Callable[[Parts], click.Command]:
    """Return the decorator that makes a command of a function that yields what is printed of a workflow's result.

    Options and help text as for `settings_command`, and `--format` where the result has rows. The workflow is the one
    that the package has under the command's name, or another name; it is imported when the command runs. Where the
    result is a failure, the function raises after its last line.
    """

    def decorate(parts: Parts) -> click.Command:
        @wraps(parts)
        def run(given: Settings, format: str = "table") -> None:
            result = getattr(fer_mlflow, workflow or name).of(given, progress=show_progress)
            if format == "json":
                click.echo(json.dumps(result.plain(), indent=2, ensure_ascii=False, allow_nan=False))
                deque(parts(result), maxlen=0)  # raises where the result is a failure
            else:
                print_parts(parts(result), ", a pipe or --format json" if has_rows else " or a pipe")

        LINES[name] = parts
        return settings_command(name, settings, *[FORMAT] * has_rows, **defaults)(run)

    return decorate


def print_parts(parts: Iterable[Part], others: str = " or a pipe") -> None:
    """Print lines and tables, as wide as the terminal; whole where stdout is none."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for part in parts:
        for line in part_lines(part, width, others):
            click.echo(line)


def where_lines(result: Any, **places: Any) -> Iterator[str]:
    """Yield where everything is: the run, what else has a place, and the UI."""
    shown = {name: text for name, text in {"run": result.run_id, **places, "ui": result.ui}.items() if text}
    width = max(7, *map(len, shown))
    yield from (f"  {name:<{width}}  {text}" for name, text in shown.items())


def _parameters(field: Field) -> list[click.Parameter]:
    """Return a field's parameter, and a hidden one for its former name."""
    name, kind, option = field.name, FieldType(field), field.option
    if option.argument:
        several = get_origin(field.base) is tuple
        own: dict[str, Any] = {"nargs": -1} if several else {"type": kind}
        return [click.Argument([name], required=field.required, metavar=name.upper() + "..." * several, **own)]
    shown = f"  [default: {field.default_text}]" if field.default_text else ""
    own = {"required": True} if field.required else {"default": None}
    own |= {"type": kind, "metavar": kind.name, "help": option.help + shown}
    former = [click.Option([option_name(option.renamed_from)], type=kind, hidden=True)] if option.renamed_from else []
    return [click.Option([option_name(name)], **own), *former]
