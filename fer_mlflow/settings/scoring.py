"""Settings of the workflows that make and judge soft labels: export, evaluate, calibrate, inspect, compare."""

from dataclasses import dataclass
from typing import Annotated, Any

from fer_mlflow.settings.fields import Option
from fer_mlflow.settings.groups import SourceSettings


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


def format_numbers(numbers: tuple[float, ...]) -> str:
    """Return numbers as they are typed.

    >>> format_numbers((1.0, 2.5))
    '1,2.5'
    """
    return ",".join(repr(number).removesuffix(".0") for number in numbers)


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
