"""Options as MLproject has them too: every one takes a value, and an empty one means it was not given."""

from collections.abc import Callable
from typing import Any

import click

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


def typed_options() -> dict[str, str]:
    """Return option name -> text as typed, or as its default, of the command that is running."""
    return dict(click.get_current_context().meta.get(_TYPED, {}))


class Text(click.ParamType):
    """Text; empty gives None."""

    name = "text"

    def convert(self, value, param, ctx):
        return value or None


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


benchmark_options = option_group(
    option("manifest", None, str, "CSV of images: path, label, split, source."),
    option("root", "", Text(), "Folder that paths start from.  [default: the manifest's]"),
    option("split", "", Text(), "Use the rows of this split.  [default: all rows]"),
    option("limit", "", Count(1, ""), "Use only the first so many of them.  [default: all]"),
    option("verify-paths", "true", TrueFalse(), "Check that files exist, and that reused logits are of these images."),
    option("classes", "", Text(), "YAML file with another class order, or more words for a class."),
)

ensemble_options = option_group(
    option("teachers", None, str, "YAML file: name -> arch, checkpoint, …"),
    option("weights", None, str, "NAME=share,… summing to 1."),
    option("space", "logit", _choice("logit", "prob"), "Where the weighted mean is taken."),
    option("dtype", "float32", _choice("float32", "float16"), "How the bundle stores logits."),
)

preprocessing_options = option_group(
    option("clahe", "false", TrueFalse(), "Equalise contrast; must match the teachers' training."),
    option("clahe-clip", "2.0", AboveZero(), "CLAHE's clip limit."),
    option("clahe-tile", "8", click.IntRange(min=1), "CLAHE's tiles along each side."),
)

compute_options = option_group(
    option("precision", "fp32", _choice("fp32", "bf16", "fp16"), "Precision of the forward pass."),
    option("compile", "auto", _choice("auto", "true", "false"), "torch.compile; auto where the rows repay it."),
    option("device", "auto", str, "auto, cpu, cuda or cuda:N."),
    option("batch-size", "32", click.IntRange(min=1), "Rows in a forward pass."),
    option("workers", "auto", Count(0, "auto"), "Processes that decode images."),
    option("on-bad-image", "fail", _choice("fail", "skip"), "Images that cannot be decoded: stop, or leave them out."),
)

run_options = option_group(
    option("experiment", "", Text(), "MLflow experiment.  [default: MLflow's own choice]"),
    option("name", "", Text(), "Name of the run.  [default: says the configuration]"),
)
