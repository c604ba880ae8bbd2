"""Options as MLproject has them too: every one takes a value, and an empty one means it was not given."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from fer_mlflow.settings.groups import FusionSettings

_TYPED = "fer_mlflow.typed_options"


class TypedOption(click.Option):
    """An option that remembers what was typed, since that, not its parsed value, is logged as the param.

    `mlflow run` logs the text of every option before the command starts, and MLflow refuses a second text.
    """

    def consume_value(self, ctx, opts):
        value, source = super().consume_value(ctx, opts)
        if isinstance(value, str):
            ctx.meta.setdefault(_TYPED, {})[self.name] = value
        return value, source


class TypedArgument(click.Argument):
    """An argument that remembers what was typed, as an option does."""

    def consume_value(self, ctx, opts):
        value, source = super().consume_value(ctx, opts)
        if isinstance(value, str):
            ctx.meta.setdefault(_TYPED, {})[self.name] = value
        return value, source


def typed_argument(name: str) -> Callable:
    """Return the decorator for one argument, which is required."""
    return click.argument(name, cls=TypedArgument)


def typed_options() -> dict[str, str]:
    """Return option name -> text as typed, or as its default, of the command that is running."""
    return dict(click.get_current_context().meta.get(_TYPED, {}))


class Text(click.ParamType):
    """Text; empty gives None."""

    name = "text"

    def convert(self, value, param, ctx):
        return value or None


class OrElse(click.ParamType):
    """What another type takes; empty gives what that type makes of `default`."""

    def __init__(self, kind: Any, default: str):
        self.kind, self.default = click.types.convert_type(kind), default
        self.name = self.kind.name

    def convert(self, value, param, ctx):
        return self.kind.convert(self.default if value == "" else value, param, ctx)


class Count(click.ParamType):
    """A whole number of at least `least`; the word `empty` gives None."""

    name = "number"

    def __init__(self, least: int, empty: str):
        self.least, self.empty = least, empty

    def convert(self, value, param, ctx):
        if value == self.empty:
            return None
        if isinstance(value, int) or (value.isdecimal() and int(value) >= self.least):
            return int(value)
        wanted = f"neither a whole number of at least {self.least} nor {self.empty or 'empty'}"
        return self.fail(f"{value!r} is {wanted}", param, ctx)


class TrueFalse(click.ParamType):
    """The words true and false: MLproject has no flags."""

    name = "true|false"

    def convert(self, value, param, ctx):
        if value in ("true", "false", True, False):
            return value in ("true", True)
        return self.fail(f"{value!r} is neither true nor false", param, ctx)


class Number(click.ParamType):
    """A finite number of at least `least` and at most `most`; empty gives None."""

    name = "number"

    def __init__(self, least: float = 0.0, most: float = float("inf")):
        self.least, self.most = least, most

    def convert(self, value, param, ctx):
        if value == "":
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not self.least <= number <= self.most or number == float("inf"):
            limits = f"at least {self.least:g}" if self.most == float("inf") else f"{self.least:g} to {self.most:g}"
            return self.fail(f"{value!r} is not a number from {limits}".replace("from at", "of at"), param, ctx)
        return number


class AboveZero(click.ParamType):
    """A finite number above 0."""

    name = "number"

    def convert(self, value, param, ctx):
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


class Share(click.ParamType):
    """A number from 0 to `most`."""

    name = "number"

    def __init__(self, most: float = 1.0):
        self.most = most

    def convert(self, value, param, ctx):
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= self.most or number == float("inf"):
            return self.fail(f"{value!r} is not a number from 0 to {self.most:g}", param, ctx)
        return number


class Spaces(click.ParamType):
    """Fusion spaces, comma-separated; gives a tuple in their usual order."""

    name = "spaces"
    _KNOWN = ("logit", "prob")

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        named = [part.strip() for part in value.split(",")]
        if not set(named) <= set(self._KNOWN):
            return self.fail(f"{value!r} is not logit, prob or logit,prob", param, ctx)
        return tuple(space for space in self._KNOWN if space in named)


def split_names(text: str | None) -> list[str]:
    """Return the names in a comma-separated list, without blanks around them and without empty ones.

    >>> split_names(" val, test,")
    ['val', 'test']
    """
    return [name for name in (part.strip() for part in (text or "").split(",")) if name]


def fusion_settings(options: Mapping[str, Any]) -> FusionSettings:
    """Return the settings of an ensemble that options name."""
    known = {name: options.get(name) for name in FusionSettings.__dataclass_fields__}
    return FusionSettings(**{name: value for name, value in known.items() if value is not None})


def option(name: str, default: str | None, kind: Any, text: str) -> Callable:
    """Return the decorator for one option; a default of None makes it required."""
    if default is None:
        return click.option(f"--{name}", cls=TypedOption, required=True, type=kind, help=text)
    return click.option(f"--{name}", cls=TypedOption, default=default, show_default=bool(default), type=kind, help=text)


def option_group(*options: Callable) -> Callable:
    """Return one decorator for several options, shown in this order."""

    def decorate(function):
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


def _choice(*words: str) -> click.Choice:
    return click.Choice(words)


_BENCHMARK = (
    ("manifest", None, str, "CSV of images: path, label, split, source."),
    ("root", "", Text(), "Folder that paths start from.  [default: the manifest's]"),
    ("split", "", Text(), "Use the rows of this split.  [default: all rows]"),
    ("limit", "", Count(1, ""), "Use only the first so many of them.  [default: all]"),
    ("verify-paths", "true", TrueFalse(), "Check that files exist, and that reused logits are of these images."),
    ("classes", "", Text(), "YAML file with another class order, or more words for a class."),
)
_ENSEMBLE = (
    ("teachers", None, str, "YAML file: name -> arch, checkpoint, …"),
    ("weights", None, str, "NAME=share,… summing to 1."),
    ("space", "logit", _choice("logit", "prob"), "Where the weighted mean is taken."),
    ("dtype", "float32", _choice("float32", "float16"), "How the bundle stores logits."),
)
_PREPROCESSING = (
    ("clahe", "false", OrElse(TrueFalse(), "false"), "Equalise contrast; must match the teachers' training."),
    ("clahe-clip", "2.0", AboveZero(), "CLAHE's clip limit."),
    ("clahe-tile", "8", click.IntRange(min=1), "CLAHE's tiles along each side."),
)
_PRECISION = (("precision", "fp32", _choice("fp32", "bf16", "fp16"), "Precision of the forward pass."),)
_COMPUTE = (
    ("compile", "auto", _choice("auto", "true", "false"), "torch.compile; auto where the rows repay it."),
    ("device", "auto", str, "auto, cpu, cuda or cuda:N."),
    ("batch-size", "32", click.IntRange(min=1), "Rows in a forward pass."),
    ("workers", "auto", Count(0, "auto"), "Processes that decode images."),
    ("on-bad-image", "fail", _choice("fail", "skip"), "Images that cannot be decoded: stop, or leave them out."),
)


def _options(*specs) -> Callable:
    return option_group(*(option(*spec) for spec in specs))


def _if_given(name: str, default: str | None, kind: Any, text: str) -> Callable:
    """Return an option of an ensemble for commands that may take their bundle elsewhere: empty until it is typed.

    A default that was logged would contradict the bundle that was taken.
    """
    if default is None:
        return option(name, "", Text(), text)
    return option(name, "", OrElse(kind, default), f"{text}  [default: {default}]" if default else text)


benchmark_options = _options(*_BENCHMARK)
ensemble_options = _options(*_ENSEMBLE)
preprocessing_options = _options(*_PREPROCESSING)
compute_options = _options(*_PRECISION, *_COMPUTE)
source_options = option_group(
    option("run", "", Text(), "Take the soft labels of this export or teacher run; its first digits do."),
    option("bundle", "", Text(), "Or those in this folder."),
    *(_if_given(*spec) for spec in (*_BENCHMARK, *_ENSEMBLE, *_PREPROCESSING, *_PRECISION)),
    _options(*_COMPUTE),
)


def teacher_set_options(clahe: str) -> Callable:
    """Return the options that name teachers' logits, with a default for --clahe."""
    return option_group(
        option("manifest", "", Text(), "CSV of images, or CSV:SPLIT,CSV:SPLIT,…; each is a benchmark."),
        option("teachers", "", Text(), "YAML file: name -> arch, checkpoint, …"),
        option("benchmark", "", Text(), "Instead of both: stored teacher runs on these benchmarks, comma-separated."),
        option("members", "", str, "Use these teachers, comma-separated.  [default: all]"),
        option("space", "logit,prob", Spaces(), "Where the weighted mean is taken: logit, prob or both."),
        option("clahe", clahe, _choice("false", "true", "both"), "Teachers' logits without CLAHE, with it, or both."),
        *(_if_given(*spec) for spec in (*_BENCHMARK[1:], *_PREPROCESSING[1:], *_PRECISION)),
        _options(*_COMPUTE),
    )


weightings_options = option_group(
    option("step", "0.1", AboveZero(), "Step of the grid of weights; 1 is a whole number of them."),
    option("weights-list", "", Text(), "Instead: a file with NAME=share,… in each line."),
    option("most", "20000", click.IntRange(min=1), "Refuse to score more configurations than this."),
)
local_rows_options = option_group(*(_if_given(*spec) for spec in _BENCHMARK if spec[0] != "verify-paths"))

run_options = option_group(
    option("experiment", "", Text(), "MLflow experiment.  [default: MLflow's own choice]"),
    option("name", "", Text(), "Name of the run.  [default: says the configuration]"),
)
