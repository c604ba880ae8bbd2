"""Texts of values: how weights, shares, numbers, names and durations are typed, logged and shown."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import TextForm, format_value, split_names

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TOLERANCE = 1e-6
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _named_numbers(value: Any) -> Iterator[tuple[str, Any, float | None]]:
    """Yield each entry of `NAME=number,…`, or of a mapping, with its name and its number; None for another text."""
    if isinstance(value, Mapping):
        pairs = [(f"{name}={number}", name, number) for name, number in value.items()]
    elif isinstance(value, str):
        parts = (entry.partition("=") for entry in split_names(value))
        pairs = [(name + equals + text, name.strip(), text.strip()) for name, equals, text in parts]
    else:
        raise ContractError(f"{value!r} is neither NAME=share,… nor a mapping of names to shares")
    for entry, name, text in pairs:
        try:
            yield entry, name, float(text)
        except (TypeError, ValueError):
            yield entry, name, None


def parse_weights(value: Any) -> dict[str, float]:
    """Read an ensemble's weights: `NAME=share,NAME=share`, or a mapping of names to shares.

    Names are unique, shares finite, at least 0 and sum to 1 within 1e-6. A share of 0 drops the teacher.

    Raises
    ------
    ContractError
        anything else; for a wrong sum the message gives the normalised weights

    Examples
    --------
    >>> parse_weights("RN18=0.4, B3=0.6")
    {'RN18': 0.4, 'B3': 0.6}
    """
    weights: dict[str, float] = {}
    for entry, name, share in _named_numbers(value):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or "=" not in entry:
            raise ContractError(f'weights: "{entry}" is not NAME=share; write for example RN18=0.4,B3=0.6')
        if name in weights:
            raise ContractError(f"weights: teacher {name} is there twice; give it one share")
        if share is None:
            text = entry.partition("=")[2].strip()
            raise ContractError(f'weights: the share "{text}" of {name} is not a number')
        weights[name] = share
    check_weights(weights)
    return {name: share for name, share in weights.items() if share > 0}


def check_weights(weights: Mapping[str, float]) -> None:
    """Check that shares are finite, at least 0 and sum to 1 within 1e-6."""
    if not weights:
        raise ContractError("weights: no teacher is named; write for example RN18=0.4,B3=0.6")
    for name, share in weights.items():
        if not math.isfinite(share) or share < 0:
            raise ContractError(f"weights: the share {share:g} of {name} is not a finite number of at least 0")
    total = math.fsum(weights.values())
    if total <= 0:
        raise ContractError("weights: all shares are 0; give at least one teacher a share")
    if abs(total - 1) > _TOLERANCE:
        normalised = ",".join(f"{name}={share / total:.6g}" for name, share in weights.items())
        raise ContractError(f"weights: shares sum to {total:.6g}, not to 1; normalised they are {normalised}")


def format_weights(weights: Mapping[str, float]) -> str:
    """Return the canonical text of an ensemble: names sorted, shares as shortest decimals without an exponent.

    >>> format_weights({"RN18": 0.40, "B3": 0.6, "A": 1.0})
    'A=1,B3=0.6,RN18=0.4'
    """
    shares = {name: format(Decimal(repr(float(weights[name]))), "f") for name in sorted(weights)}
    return ",".join(f"{name}={text.rstrip('0').rstrip('.') if '.' in text else text}" for name, text in shares.items())


def parse_shares(value: Any) -> dict[str, float]:
    """Return the splits and shares of `train=0.8,val=0.1,test=0.1`, or of a mapping; shares sum to 1."""
    shares: dict[str, float] = {}
    for entry, name, share in _named_numbers(value):
        if not name or name in shares or share is None or not 0 < share <= 1:
            raise ContractError(f'"{entry}" is not NAME=share with a new name and a share above 0, up to 1')
        shares[name] = share
    if abs(sum(shares.values()) - 1) > _TOLERANCE:
        raise ContractError(f"shares sum to {sum(shares.values()):g}, not to 1")
    return shares


def parse_f1(value: Any) -> dict[str, float]:
    """Return the classes and numbers of `CLASS=number,…`, or of a mapping; numbers are shares of 1."""
    numbers: dict[str, float] = {}
    for entry, name, number in _named_numbers(value):
        if number is None or not 0 <= number <= 1:
            raise ValueError(f'"{entry}" is not CLASS=number with a share of 1; write for example Disgust=0.61')
        numbers[name] = number
    return numbers


def format_shares(shares: Mapping[str, float]) -> str:
    """Return names and shares as they are typed."""
    return ",".join(f"{name}={share!r}" for name, share in shares.items())


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


def format_number(number: float) -> str:
    """Return a number as it is typed.

    >>> format_number(1.0), format_number(0.5)
    ('1', '0.5')
    """
    return repr(number).removesuffix(".0")


def format_numbers(numbers: tuple[float, ...]) -> str:
    """Return numbers as they are typed."""
    return ",".join(map(format_number, numbers))


def parse_duration(value: Any) -> float:
    """Return seconds, of a number of seconds or of a text with a unit: 90s, 30m, 1h, 2d.

    >>> parse_duration("90m"), parse_duration(60)
    (5400.0, 60.0)
    """
    if isinstance(value, str):
        number, unit = value[:-1], _UNITS.get(value[-1:])
        if unit is None or not number.replace(".", "", 1).isdecimal():
            raise ValueError(f"{value!r} is not a time such as 90s, 30m, 1h or 2d")
        return float(number) * unit
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)


def format_duration(seconds: float) -> str:
    """Return seconds with the largest unit that gives a whole number.

    >>> format_duration(3600.0), format_duration(5400.0), format_duration(1.5)
    ('1h', '90m', '1.5s')
    """
    unit = next((name for name, length in _UNITS.items() if seconds and seconds % length == 0), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def parse_run_or_all(value: Any) -> str | None:
    """Return a run's id, `true` for all runs, None for none.

    >>> parse_run_or_all(True), parse_run_or_all("false"), parse_run_or_all("1f2e3d4c")
    ('true', None, '1f2e3d4c')
    """
    if not isinstance(value, str | bool):
        raise ValueError(f"{value!r} is neither a run id nor true")
    word = format_value(value)
    return None if word == "false" else word


def parse_inputs(value: Any) -> tuple[str, ...]:
    """Return the words of a sequence or a text; those that are no file are split at commas."""
    words = map(os.fspath, [value] if isinstance(value, str | os.PathLike) else value)
    return tuple(name for word in words for name in ([word.strip()] if os.path.exists(word) else split_names(word)))


def parse_texts(value: Any) -> tuple[str, ...]:
    """Return the comma-separated texts, of which one may be empty, or those of a sequence."""
    return tuple(value.split(",")) if isinstance(value, str) else tuple(str(each or "") for each in value)


FilePath = Annotated[str, TextForm("path")]
NamedWeights = Annotated[dict[str, float], TextForm("weights", parse_weights, format_weights)]
NamedShares = Annotated[dict[str, float], TextForm("shares", parse_shares, format_shares)]
NamedF1 = Annotated[dict[str, float], TextForm("numbers", parse_f1, format_shares)]
Number = Annotated[float, TextForm("number", text=format_number)]
RisingNumbers = Annotated[tuple[float, ...], TextForm("numbers", rising_numbers, format_numbers)]
RisingPair = Annotated[tuple[float, ...], TextForm("numbers", lambda value: rising_numbers(value, 2), format_numbers)]
Duration = Annotated[float, TextForm("duration", parse_duration, format_duration)]
RunOrAll = Annotated[str, TextForm("RUN|true", parse_run_or_all)]
Inputs = Annotated[tuple[str, ...], TextForm("names", parse_inputs)]
Texts = Annotated[tuple[str, ...], TextForm("names", parse_texts)]
