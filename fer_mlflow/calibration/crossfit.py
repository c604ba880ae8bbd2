"""Parts of the rows to fit on and to hold out, so that nothing is measured on the rows it was fitted on."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fer_mlflow.calibration.temperature import OK
from fer_mlflow.errors import ContractError


def stratified_folds(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return each row's fold in 0..k-1: rows of each class are dealt out in a random order.

    Folds of one class differ by at most one row, and so do whole folds. A class with fewer rows than folds is
    absent from some of them.

    Parameters
    ----------
    labels : (N,) int, N >= k
    k : at least 2

    Raises
    ------
    ContractError
        fewer than two folds, or fewer rows than folds
    """
    if k < 2 or len(labels) < k:
        raise ContractError(f"{len(labels)} labelled rows make no {k} folds; use 2 folds to as many as rows")
    order = np.lexsort((rng.permutation(len(labels)), labels))  # by class, random within
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % k
    return folds


def crossfit(
    fit: Callable[[np.ndarray, np.ndarray], Any], logits: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray | None, list[Any]]:
    """Calibrate each fold's rows with what was fitted on all the others.

    Parameters
    ----------
    fit : (logits, labels) -> something with `status` and `apply`
    logits : (..., N, C) float, rows on the last axis but one
    labels : (N,) int
    folds : (N,) int from 0 up without a gap

    Returns
    -------
    (N, C) calibrated logits, None where some fold's status is not `ok`; and each fold's fit
    """
    fits = [fit(logits[..., folds != k, :], labels[folds != k]) for k in range(int(folds.max()) + 1)]
    if any(each.status != OK for each in fits):
        return None, fits
    calibrated = np.empty(logits.shape[-2:])
    for k, each in enumerate(fits):
        calibrated[folds == k] = each.apply(logits[..., folds == k, :])
    return calibrated, fits
