"""Settings of the workflows that make and judge soft labels: export, evaluate, calibrate, inspect, compare."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings.fields import Option, split_names
from fer_mlflow.settings.groups import FusionSettings, RunSettings, SourceSettings


def rising_numbers(value: Any, count: int | None = None) -> tuple[float, ...]:
    """Return rising finite numbers above 0, `count` of them, from comma-separated text or a sequence.

    >>> rising_numbers("1, 2,4.5")
    (1.0, 2.0, 4.5)
    """
    try:
        numbers = tuple(float(each) for each in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    rising = all(a < b for a, b in zip((0.0, *numbers), (*numbers, float("inf")), strict=True))
    if not numbers or not rising or (count and len(numbers) != count):
        how_many = f"{count} " if count else ""
        raise ValueError(f"{value!r} is not {how_many}rising numbers above 0, comma-separated")
    return numbers


def _columns(value: Any) -> tuple[str, ...]:
    """Return names of columns; the word none gives no name."""
    return () if value == "none" else split_names(value)


def _names(names: tuple[str, ...]) -> str:
    return ",".join(names) or "none"


def format_number(number: float) -> str:
    """Return a number as it is typed.

    >>> format_number(1.0), format_number(0.5)
    ('1', '0.5')
    """
    return repr(number).removesuffix(".0")


def format_numbers(numbers: tuple[float, ...]) -> str:
    """Return numbers as they are typed.

    >>> format_numbers((1.0, 2.5))
    '1,2.5'
    """
    return ",".join(map(format_number, numbers))


@dataclass(frozen=True, kw_only=True)
class InspectSettings(SourceSettings):
    """Settings of `inspect`."""

    temperatures: Annotated[
        tuple[float, ...],
        Option("Temperatures to look at.", parse=rising_numbers, text=format_numbers, kind="numbers"),
    ] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    band: Annotated[
        tuple[float, ...],
        Option(
            "Mean top probability that suits distillation: lowest, highest.",
            parse=lambda value: rising_numbers(value, 2),
            text=format_numbers,
            kind="numbers",
        ),
    ] = (0.5, 0.8)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(FusionSettings):
    """Settings of `export`."""

    out: Annotated[str | None, Option("Also put the bundle into this folder.", kind="path")] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SourceSettings):
    """Settings of `evaluate`."""

    by: Annotated[
        tuple[str, ...],
        Option("Columns whose values are scored on their own, or none.", parse=_columns, text=_names, kind="names"),
    ] = ("source",)
    temperature: Annotated[float, Option("Evaluate logits divided by this.", above=0, text=format_number)] = 1.0


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(SourceSettings):
    """Settings of `calibrate`."""

    method: Annotated[Literal["temperature", "bias-corrected", "vector"], Option("What is fitted.")] = "temperature"
    per_teacher: Annotated[bool, Option("Fit a temperature for each teacher, before fusion.")] = False
    fit_run: Annotated[
        str | None, Option("Fit on the soft labels of this run (or folder), such as the validation split's.")
    ] = None
    crossfit: Annotated[
        int | None,
        Option("Else fit on all folds but one of so many, and measure on that one.", least=2, none_text="none"),
    ] = 5
    in_sample: Annotated[bool, Option("Else measure on the rows that were fitted on; the run is tagged so.")] = False
    by: Annotated[
        tuple[str, ...],
        Option("Columns whose values get their own temperature, or none.", parse=_columns, text=_names, kind="names"),
    ] = ("source",)
    seed: Annotated[int, Option("Assigns rows to folds.", least=0)] = 0
    export: Annotated[bool, Option("Log the calibrated soft labels as an export run.")] = False

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.per_teacher and self.method != "temperature":
            raise ContractError(f"--per-teacher true fits temperatures; it does not go with --method {self.method}")
        if self.in_sample and self.fit_run:
            raise ContractError("--fit-run fits on other rows and --in-sample true on the same: leave one out")
        if not (self.in_sample or self.fit_run or self.crossfit):
            raise ContractError("no rows to fit on: give --crossfit K, --fit-run RUN or --in-sample true")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """Settings of `compare`."""

    run_a: Annotated[str, Option("Export or teacher run, by its id or its first digits, or a folder.", argument=True)]
    run_b: Annotated[str, Option("The one that is compared with it.", argument=True)]
