"""The tags that triage writes, and how to tell what a person wrote."""

from collections.abc import Mapping

STATUS, REASONS, BENCHMARK, RANK = "triage.status", "triage.reasons", "triage.benchmark", "triage.rank"
WRITTEN, OVERRULED = "triage.written", "triage.overruled"  # the status as a rule wrote it; what a person had us write
TAGS = (STATUS, REASONS, BENCHMARK, RANK, WRITTEN, OVERRULED)
GOOD, WARN, BAD, SUPERSEDED = "good", "warn", "bad", "superseded"
STATUSES = (GOOD, WARN, BAD, SUPERSEDED)


def is_by_person(tags: Mapping[str, str]) -> bool:
    """Return whether a person set a run's status: through `--bad` or `--keep`, or by hand.

    >>> is_by_person({"triage.status": "bad"}), is_by_person({"triage.status": "bad", "triage.written": "bad"})
    (True, False)
    """
    return STATUS in tags and (OVERRULED in tags or tags.get(WRITTEN) != tags[STATUS])
