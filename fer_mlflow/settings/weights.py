"""The text form of an ensemble's weights: `NAME=share,NAME=share`."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fer_mlflow.errors import ContractError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TOLERANCE = 1e-6


def parse_weights(value: Any) -> dict[str, float]:
    """Read `NAME=share,NAME=share`, or a mapping of names to shares.

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
    for name, share in _pairs(value):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ContractError(f'weights: "{name}={share}" is not NAME=share; write for example RN18=0.4,B3=0.6')
        if name in weights:
            raise ContractError(f"weights: teacher {name} is there twice; give it one share")
        try:
            weights[name] = float(share)
        except (TypeError, ValueError) as error:
            raise ContractError(f'weights: the share "{share}" of {name} is not a number') from error
    check_weights(weights)
    return {name: share for name, share in weights.items() if share > 0}


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """Return the names and shares of a text or a mapping, not checked yet."""
    if isinstance(value, Mapping):
        return list(value.items())
    if not isinstance(value, str):
        raise ContractError(f"weights: {value!r} is neither NAME=share,… nor a mapping of names to shares")
    pairs = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ContractError(f'weights: "{part}" is not NAME=share; write for example RN18=0.4,B3=0.6')
        pairs.append((name, share))
    return pairs


def check_weights(weights: Mapping[str, float]) -> None:
    """Check that shares are finite, at least 0 and sum to 1 within 1e-6.

    Raises
    ------
    ContractError
        they are not; for a wrong sum the message gives the normalised weights
    """
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
    """Return the canonical text of an ensemble: names sorted, shares as shortest decimals.

    >>> format_weights({"RN18": 0.40, "B3": 0.6})
    'B3=0.6,RN18=0.4'
    """
    return ",".join(f"{name}={_shortest(weights[name])}" for name in sorted(weights))


def _shortest(share: float) -> str:
    """Return the shortest decimal that gives this number, without an exponent and trailing zeros."""
    text = format(Decimal(repr(float(share))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
