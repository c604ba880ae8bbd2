"""Options of commands, made from the fields of their settings."""

import inspect
from collections.abc import Callable
from typing import Any, get_origin

import click

from fer_mlflow.errors import FerError
from fer_mlflow.settings import Field, Settings, fields_of, option_name, renamed

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


def settings_command(name: str, settings: type[Settings], **defaults: Any) -> Callable[[Callable], click.Command]:
    """Return the decorator that makes a function of settings a command with their options.

    Options may be spelled with `_` too, as MLflow writes parameters that MLproject does not declare. The function's
    docstring is the help text.
    """

    def decorate(function: Callable[[Any], None]) -> click.Command:
        def run(**values: Any) -> None:
            given = {name: None if value is NONE else value for name, value in values.items() if value is not None}
            function(settings(**renamed(settings, given)))

        return click.Command(
            name,
            params=[parameter for field in fields_of(settings) for parameter in _parameters(field)],
            callback=run,
            help=inspect.getdoc(function),
            **defaults,
        )

    return decorate


def _parameters(field: Field) -> list[click.Parameter]:
    """Return a field's parameter, and a hidden one for its former name."""
    kind = FieldType(field)
    if field.option.argument and get_origin(field.base) is tuple:  # one or more words
        return [click.Argument([field.name], required=field.required, nargs=-1, metavar=f"{field.name.upper()}...")]
    if field.option.argument:
        return [click.Argument([field.name], required=field.required, type=kind, metavar=field.name.upper())]
    help_text = field.option.help + (f"  [default: {field.default_text}]" if field.default_text else "")
    unset: dict[str, Any] = {} if field.required else {"default": None}
    parameters: list[click.Parameter] = [
        click.Option(
            [option_name(field.name)],
            required=field.required,
            type=kind,
            **unset,
            help=help_text,
            metavar=kind.name,
        )
    ]
    if former := field.option.renamed_from:
        parameters.append(click.Option([option_name(former)], type=kind, default=None, hidden=True))
    return parameters
