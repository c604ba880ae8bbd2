"""Settings of workflows: frozen dataclasses, whose fields give command-line options, option tables and params.

These modules import neither numpy, torch nor mlflow, since the command line reads them before a command runs.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fer_mlflow.errors import ContractError, FerError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextForm:
    """How values of a type are typed and written, where the type does not say it; annotate the type with it."""

    kind: str = ""  # the word for such values in help texts
    parse: Callable[[Any], Any] | None = None  # turns a text or a Python value into a value, or raises ValueError
    text: Callable[[Any], str] | None = None  # turns a value into its canonical text


@dataclass(frozen=True)
class Option:
    """How a field is documented and limited; annotate a field's type with it."""

    help: str  # one sentence for `--help` and the docs
    least: float | None = None
    most: float | None = None
    above: float | None = None  # the number must be greater than this
    none_text: str = ""  # the word for None, such as `auto`, or for no names; without one only an empty text is None
    default_text: str = ""  # what the help shows as the default where the field's own default says nothing
    argument: bool = False  # whether the command line takes it by position instead of by name
    renamed_from: str = ""  # a former name of the field, which works for one minor version with a warning


@dataclass(frozen=True)
class Field:
    """One field of a settings class."""

    name: str
    base: Any  # its type without None: bool, int, float, str, a Literal, or what `form.parse` gives
    optional: bool
    default: Any  # `dataclasses.MISSING` where the field is required
    option: Option
    form: TextForm

    @property
    def required(self) -> bool:
        """Whether a value has to be given."""
        return self.default is dataclasses.MISSING

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed; empty where it is no choice."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()

    @property
    def kind(self) -> str:
        """The kind of value, for help texts."""
        words = {bool: "true|false", int: "integer", float: "number", tuple[str, ...]: "names"}
        return self.form.kind or "|".join(self.choices) or words.get(self.base, "text")

    @property
    def default_text(self) -> str:
        """The default as the help shows it; empty for none."""
        if self.option.default_text or self.required:
            return self.option.default_text
        return self.text(self.default)

    def text(self, value: Any) -> str:
        """Return a value's canonical text: what is typed, logged as a param, and shown as a default."""
        if value is None or value == ():
            return self.option.none_text
        return self.form.text(value) if self.form.text else format_value(value)

    def check(self, value: Any) -> Any:
        """Return the field's value for a typed text or a Python value; an empty text gives the default.

        A ValueError or FerError says what is wrong with the value, without the field's name.
        """
        if isinstance(value, str) and not value:
            if self.required:
                raise ValueError("a value is required")
            return self.default
        if value is None or (self.option.none_text and value == self.option.none_text):
            if value is not None and self.base == tuple[str, ...]:
                return ()
            if not self.optional:
                raise ValueError("a value is required")
            return None
        if self.form.parse is not None:
            return self.form.parse(value)
        if self.choices:
            word = format_value(value) if isinstance(value, bool) else value
            if word not in self.choices:
                raise ValueError(f"{value!r} is not one of {', '.join(self.choices)}")
            return word
        if self.base is bool:
            if not isinstance(value, bool) and value not in ("true", "false"):
                raise ValueError(f"{value!r} is neither true nor false")
            return value in (True, "true")
        if self.base in (int, float):
            return self._check_number(value)
        if self.base == tuple[str, ...]:
            return split_names(value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a text")
        return value

    def _check_number(self, value: Any) -> Any:
        """Return a number of the field's type within its limits."""
        option = self.option
        try:
            number = None if isinstance(value, bool) else self.base(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if self.base is int and not isinstance(value, str) and number != value:  # 2.5, which int() cuts
            number = None
        wanted = {int: "a whole number", float: "a number"}[self.base] + self._limits()
        if (
            number is None
            or not math.isfinite(number)
            or (option.least is not None and number < option.least)
            or (option.most is not None and number > option.most)
            or (option.above is not None and number <= option.above)
        ):
            word = f", nor {option.none_text}" if option.none_text else ""
            raise ValueError(f"{value!r} is not {wanted}{word}")
        return number

    def _limits(self) -> str:
        option = self.option
        if option.least is not None and option.most is not None:
            return f" from {option.least:g} to {option.most:g}"
        if option.least is not None:
            return f" of at least {option.least:g}"
        return f" above {option.above:g}" if option.above is not None else ""


def format_value(value: Any) -> str:
    """Return the canonical text of a value.

    >>> format_value(True), format_value(0.05), format_value(32), format_value(("val", "test"))
    ('true', '0.05', '32', 'val,test')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(format_value, value))
    return repr(value) if isinstance(value, float) else str(value)


def fields_of(settings: Any) -> tuple[Field, ...]:
    """Return the fields of a settings class, in the order in which help texts show them."""
    return _fields(settings)


@cache
def _fields(settings: Any) -> tuple[Field, ...]:
    hints = get_type_hints(settings, include_extras=True)
    return tuple(_field(each, hints[each.name]) for each in dataclasses.fields(settings))


def _field(field: dataclasses.Field, hint: Any) -> Field:
    """Return what an annotation says of a field: `Annotated[T | None, Option(…)]`, or `Limit | None` of such a type."""
    base, notes = _unwrapped(hint)
    optional = type(None) in get_args(base)
    if optional:
        (inner,) = (each for each in get_args(base) if each is not type(None))  # one type, or None
        base, more = _unwrapped(inner)
        notes += more
    option = next((each for each in notes if isinstance(each, Option)), None)
    form = next((each for each in notes if isinstance(each, TextForm)), TextForm())
    if option is None:
        raise TypeError(f"the field {field.name} has no Option")
    return Field(field.name, base, optional or field.default is None, field.default, option, form)


def _unwrapped(hint: Any) -> tuple[Any, tuple]:
    """Return a type without its annotations, and those."""
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of workflows. Values are checked when an object is made, texts are parsed."""

    def __post_init__(self):
        for field in fields_of(type(self)):
            try:
                value = field.check(getattr(self, field.name))
            except (ValueError, FerError) as error:
                raise ContractError(f"{field.name}: {str(error).removeprefix(f'{field.name}: ')}") from error
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Check what concerns several fields; settings with such rules override it."""

    @property
    def params(self) -> dict[str, str]:
        """Name -> canonical text of the fields that have a value: what a run logs as its params."""
        texts = {field.name: field.text(getattr(self, field.name)) for field in fields_of(type(self))}
        return {name: text for name, text in texts.items() if text}


def option_name(field: str) -> str:
    """Return how the command line spells a field.

    >>> option_name("clahe_clip")
    '--clahe-clip'
    """
    return f"--{field.replace('_', '-')}"


def split_names(text: Any) -> tuple[str, ...]:
    """Return the names in a comma-separated text, or in a sequence, without blanks around them and empty ones.

    >>> split_names(" val, test,")
    ('val', 'test')
    """
    names = text.split(",") if isinstance(text, str) else list(text)
    return tuple(name for name in (str(each).strip() for each in names) if name)


def renamed(settings: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with former names of fields replaced by the present ones, and warn of each."""
    former = {field.option.renamed_from: field.name for field in fields_of(settings) if field.option.renamed_from}
    for name in former.keys() & values.keys():
        logger.warning("%s is now called %s; the former name works until the next minor version", name, former[name])
    return {former.get(name, name): value for name, value in values.items()}
