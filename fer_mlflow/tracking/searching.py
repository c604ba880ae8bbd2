"""Every run that fulfils a condition, page by page."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from fer_mlflow.tracking.store import tracking_errors

TEACHING_KINDS = ("export", "teacher")  # kinds of runs whose soft labels a student may learn from
BUNDLED_KINDS = (*TEACHING_KINDS, "student")  # kinds that have a bundle, and stand in leaderboards
_PAGE = 1000


def all_experiments(client: MlflowClient) -> Iterator[Experiment]:
    """Yield every active experiment, page by page."""
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python from looking for cycles of garbage while many objects are made in a block, which takes half the time.

    Short blocks only: cycles that were made within are found after.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def search_runs(
    client: MlflowClient,
    condition: str = "",
    *,
    experiments: Sequence[str] | None = None,
    view: int = ViewType.ACTIVE_ONLY,
) -> list[Run]:
    """Return the runs of all active experiments, or of those named, that fulfil a condition; newest first.

    Parameters
    ----------
    condition : in MLflow's filter language; empty for all runs

    Raises
    ------
    TrackingError
        the server cannot be reached, or does not take the condition
    """
    found: list[Run] = []
    with tracking_errors("searching runs"):
        there = [each.experiment_id for each in all_experiments(client)] if experiments is None else list(experiments)
        token = None
        while there:
            with collector_paused():
                page = client.search_runs(
                    there, condition, view, _PAGE, order_by=["attributes.start_time DESC"], page_token=token
                )
            found += page
            token = page.token
            if not token:
                break
    return found
