"""From rules to a verdict on every run; what a person said stands above them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fer_mlflow.tracking.rules import RULES, Surroundings
from fer_mlflow.tracking.run_table import RunRecord
from fer_mlflow.tracking.triage_tags import (
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
    """A run's status and why; `by_person` where nothing of it may be changed."""

    status: str
    reasons: tuple[str, ...] = ()
    by_person: bool = False


def judge(runs: Sequence[RunRecord], around: Surroundings) -> dict[str, Judgement]:
    """Return run id -> verdict.

    `superseded` are runs whose configuration a newer run has, unless that one is bad.
    """
    found = {run.run_id: judge_one(run, around) for run in runs}
    newest: dict[tuple[str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda each: (each.start_ms, each.run_id), reverse=True):
        key = run.kind, run.tags.get("fer.config_key", "")
        if not key[1] or run.status != "FINISHED" or found[run.run_id].status == BAD:
            continue
        newer = newest.setdefault(key, run)
        if newer is not run and not found[run.run_id].by_person:
            said = f"superseded: run {newer.run_id} has the same configuration and is newer"
            found[run.run_id] = Judgement(SUPERSEDED, (said,))
    return found


def judge_one(run: RunRecord, around: Surroundings) -> Judgement:
    """Return the verdict on one run, apart from what other runs of its configuration say."""
    if is_by_person(run.tags):
        reasons = run.tags.get(REASONS, "")
        return Judgement(run.tags[STATUS], (reasons,) if reasons else (), by_person=True)
    found: list[str] = []
    statuses = set()
    before = dict(parse_reasons(run.tags.get(REASONS, "")))
    for rule in RULES:
        said = rule.check(run, around)
        if said is None and rule.needs_bundle and run.run_id not in around.evidence:
            said = before.get(rule.name)  # the bundle was looked at elsewhere or before, and is not looked at now
        if said is not None:
            found.append(f"{rule.name}: {said}")
            statuses.add(rule.severity)
    status = BAD if BAD in statuses else WARN if WARN in statuses else GOOD
    return Judgement(status, tuple(each.replace(_BETWEEN, ", ") for each in found))


def parse_reasons(text: str) -> Iterable[tuple[str, str]]:
    """Yield rule and finding of a tag's text."""
    for part in filter(None, text.split(_BETWEEN)):
        name, _, said = part.partition(": ")
        yield name, said


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
    """Return those of the wanted tags that the run does not have so."""
    return {name: text for name, text in wanted.items() if run.tags.get(name) != text}
