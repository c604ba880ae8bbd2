"""Checks of what figures are drawn from: shapes, types, ranges. Each raises a ContractError that names the value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_mlflow.errors import ContractError

_INFINITE = (-np.inf, np.inf)


def check_numbers(
    name: str, values: Any, shape: tuple[int, ...], *, gaps: bool = False, bounds: tuple[float, float] = _INFINITE
) -> np.ndarray:
    """Return values as float64 if they are finite numbers of a shape within bounds; NaN passes where `gaps`."""
    values = _check_type(name, values, shape, "fiu", "numbers").astype(np.float64)
    infinite = np.isinf(values) | (np.isnan(values) & (not gaps))
    outside = (values < bounds[0]) | (values > bounds[1])
    for wrong, rule in ((infinite, "be finite"), (outside, f"be in {list(bounds)}")):
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ContractError(f"{name}{list(where) if where else ''} is {values[where]}; it must {rule}")
    return values


def check_fractions(name: str, values: Any, shape: tuple[int, ...], *, gaps: bool = False) -> np.ndarray:
    """Return values as float64 if they are numbers of a shape in [0, 1]; NaN passes where `gaps`."""
    return check_numbers(name, values, shape, gaps=gaps, bounds=(0, 1))


def check_counts(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return values as int64 if they are counts of a shape, at least 1 in all."""
    values = _check_type(name, values, shape, "iu", "integers")
    if (values < 0).any():
        raise ContractError(f"{name} holds {values.min()}; counts are not negative")
    if not values.sum():
        raise ContractError(f"{name} counts no labelled row: there is nothing to draw")
    return values.astype(np.int64)


def check_mask(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask if it is bool of a shape."""
    return _check_type(name, mask, shape, "b", "bool")


def _check_type(name: str, values: Any, shape: tuple[int, ...], kinds: str, wanted: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != shape or values.dtype.kind not in kinds:
        raise ContractError(f"{name} is {values.dtype} of shape {values.shape}; it must be {wanted} of shape {shape}")
    return values


def check_classes(classes: Sequence[str]) -> int:
    """Return the number of classes if there are two or more."""
    if len(classes) < 2:
        raise ContractError(f"{len(classes)} class names; a figure by class needs two or more")
    return len(classes)
