"""Judgements: the status of every run, from the rules and from what a person set, and the tags that follow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fer_mlflow.tracking.triage.records import RunRecord
from fer_mlflow.tracking.triage.rules import RULES, Context
from fer_mlflow.tracking.triage.tags import (
    BAD,
    BENCHMARK,
    GOOD,
    RANK,
    REASONS,
    STATUS,
    SUPERSEDED,
    WARN,
    WRITTEN,
    is_by_person,
)

_BETWEEN = "; "


@dataclass(frozen=True)
class Judgement:
    """A run's status and its reasons; rules do not change it where a person set it."""

    status: str
    reasons: tuple[str, ...] = ()
    by_person: bool = False


def judge(runs: Sequence[RunRecord], context: Context) -> dict[str, Judgement]:
    """Return run id -> judgement.

    `superseded` are runs whose configuration a newer run has, unless that one is bad.
    """
    judgements = {run.run_id: judge_one(run, context) for run in runs}
    newest: dict[tuple[str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda each: (each.start_ms, each.run_id), reverse=True):
        key = run.kind, run.tags.get("fer.config_key", "")
        if not key[1] or run.status != "FINISHED" or judgements[run.run_id].status == BAD:
            continue
        newer = newest.setdefault(key, run)
        if newer is not run and not judgements[run.run_id].by_person:
            reason = f"superseded: run {newer.run_id} has the same configuration and is newer"
            judgements[run.run_id] = Judgement(SUPERSEDED, (reason,))
    return judgements


def judge_one(run: RunRecord, context: Context) -> Judgement:
    """Return the judgement of one run, apart from newer runs of its configuration."""
    before = run.tags.get(REASONS, "")
    if is_by_person(run.tags):
        return Judgement(run.tags[STATUS], (before,) if before else (), by_person=True)
    earlier = dict(parse_reasons(before))
    reasons: list[str] = []
    severities = set()
    for rule in RULES:
        reason = rule.check(run, context)
        if reason is None and rule.needs_bundle and run.run_id not in context.evidence:
            reason = earlier.get(rule.name)  # the bundle was read before, or elsewhere, and not now
        if reason is not None:
            reasons.append(f"{rule.name}: {reason}".replace(_BETWEEN, ", "))
            severities.add(rule.severity)
    status = BAD if BAD in severities else WARN if WARN in severities else GOOD
    return Judgement(status, tuple(reasons))


def parse_reasons(text: str) -> Iterable[tuple[str, str]]:
    """Yield rule and reason of a tag's text."""
    for part in filter(None, text.split(_BETWEEN)):
        name, _, reason = part.partition(": ")
        yield name, reason


def wanted_tags(run: RunRecord, judgement: Judgement, benchmark: str, rank: int | None) -> dict[str, str | None]:
    """Return triage's tags as they should be; None for one that should not be there."""
    ranked = str(rank) if rank is not None else None
    if judgement.by_person:
        return {RANK: ranked}
    return {
        STATUS: judgement.status,
        REASONS: _BETWEEN.join(judgement.reasons)[:5000] or None,
        BENCHMARK: benchmark or None,
        RANK: ranked,
        WRITTEN: judgement.status,
    }


def changes(run: RunRecord, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return those of the wanted tags that differ from the run's."""
    return {name: text for name, text in wanted.items() if run.tags.get(name) != text}
