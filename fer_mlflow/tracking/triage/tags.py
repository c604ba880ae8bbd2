"""The tags that triage writes, and how a person's status differs from a rule's."""

from collections.abc import Callable, Mapping

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from fer_mlflow.tracking.store import tracking_errors

STATUS, REASONS, BENCHMARK, RANK = "triage.status", "triage.reasons", "triage.benchmark", "triage.rank"
WRITTEN, OVERRULED = "triage.written", "triage.overruled"  # the status that the rules wrote; that a person had written
TAGS = (STATUS, REASONS, BENCHMARK, RANK, WRITTEN, OVERRULED)
GOOD, WARN, BAD, SUPERSEDED = "good", "warn", "bad", "superseded"
STATUSES = (GOOD, WARN, BAD, SUPERSEDED)


def is_by_person(tags: Mapping[str, str]) -> bool:
    """Return whether a person set a run's status: through `--bad` or `--keep`, or by hand.

    >>> is_by_person({"triage.status": "bad"}), is_by_person({"triage.status": "bad", "triage.written": "bad"})
    (True, False)
    """
    return STATUS in tags and (OVERRULED in tags or tags.get(WRITTEN) != tags[STATUS])


def write_tags(
    client: MlflowClient,
    changes: Mapping[str, Mapping[str, str | None]],
    on_written: Callable[[int], object] = lambda count: None,
) -> None:
    """Set and delete tags, run by run; `on_written` is called with 1 after each run.

    Parameters
    ----------
    changes : run id -> tag -> text, or None to delete it

    Raises
    ------
    TrackingError
        the store refused; the runs that were counted keep their new tags
    """
    with tracking_errors("setting tags"):
        for run_id, tags in changes.items():
            texts = [RunTag(name, text) for name, text in tags.items() if text is not None]
            if texts:
                client.log_batch(run_id, tags=texts)
            for name in (name for name, text in tags.items() if text is None):
                _delete_tag(client, run_id, name)
            on_written(1)


def _delete_tag(client: MlflowClient, run_id: str, name: str) -> None:
    """Delete a run's tag; one that is not there, or that another triage has just deleted, is no error."""
    try:
        client.delete_tag(run_id, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
