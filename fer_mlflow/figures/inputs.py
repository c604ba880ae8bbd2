"""What figures refuse: arrays of other shapes, values out of range, nothing to draw."""

from collections.abc import Sequence

import numpy as np

from fer_mlflow.errors import ContractError


def check_numbers(name: str, values: np.ndarray, shape: tuple[int, ...], *, gaps: bool = False) -> np.ndarray:
    """Return values as float64 after checking that they are finite numbers of a shape; NaN passes where `gaps`.

    Raises
    ------
    ContractError
        another shape or type, or a value that is not finite (the message names the first such place)
    """
    values = np.asarray(values)
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise ContractError(f"{name} is {values.dtype} of shape {values.shape}; it must be numbers of shape {shape}")
    values = values.astype(np.float64)
    wrong = np.isinf(values) if gaps else ~np.isfinite(values)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ContractError(f"{_at(name, where)} is {values[where]}; it must be finite")
    return values


def check_fractions(name: str, values: np.ndarray, shape: tuple[int, ...], *, gaps: bool = False) -> np.ndarray:
    """Return values as float64 after checking that they are in [0, 1]; NaN passes where `gaps`.

    Raises
    ------
    ContractError
        as `check_numbers`, or a value outside [0, 1]
    """
    values = check_numbers(name, values, shape, gaps=gaps)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ContractError(f"{_at(name, where)} is {values[where]}; it must be in [0, 1]")
    return values


def _at(name: str, where: tuple[int, ...]) -> str:
    return f"{name}{list(where)}" if where else name


def check_counts(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return values as int64 after checking that they are counts of a shape, at least 1 in all.

    Raises
    ------
    ContractError
        another shape or type, a negative count, or no row at all
    """
    values = np.asarray(values)
    if values.shape != shape or values.dtype.kind not in "iu":
        raise ContractError(f"{name} is {values.dtype} of shape {values.shape}; it must be integers of shape {shape}")
    if (values < 0).any():
        raise ContractError(f"{name} holds {values.min()}; counts are not negative")
    if not values.sum():
        raise ContractError(f"{name} counts no labelled row: there is nothing to draw")
    return values.astype(np.int64)


def check_classes(classes: Sequence[str]) -> int:
    """Return the number of classes after checking that there are two or more.

    Raises
    ------
    ContractError
        fewer than two classes
    """
    if len(classes) < 2:
        raise ContractError(f"{len(classes)} class names; a figure by class needs two or more")
    return len(classes)
