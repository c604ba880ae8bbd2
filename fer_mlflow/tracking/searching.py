"""Searches of the tracking store, page by page."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from fer_mlflow.tracking.store import tracking_errors

TEACHING_KINDS = ("export", "teacher")  # kinds of runs whose soft labels a student may learn from
BUNDLED_KINDS = (*TEACHING_KINDS, "student")  # kinds that have a bundle, and stand in leaderboards
_PAGE = 1000


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while a block makes many objects, which halves the time.

    For short blocks only: cycles that were made within are collected after.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def search_runs(client: MlflowClient, condition: str = "", *, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return the runs of all active experiments that fulfil a condition, newest first.

    Parameters
    ----------
    condition : in MLflow's filter language; empty for all runs

    Raises
    ------
    TrackingError
        the server cannot be reached, or does not take the condition
    """
    order = ["attributes.start_time DESC"]
    with tracking_errors("searching runs"):
        experiments = [each.experiment_id for each in _pages(client.search_experiments)]
        if not experiments:
            return []
        return list(_pages(client.search_runs, experiments, condition, view, _PAGE, order_by=order))


def _pages(search, *arguments, **more) -> Iterator:
    """Yield everything that one of MLflow's searches returns, a page at a time."""
    token = None
    while True:
        with collector_paused():
            page = search(*arguments, **more, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
