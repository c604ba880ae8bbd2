"""`triage`: which runs to use. Leaderboards and tags, instead of folders."""

from collections import Counter
from collections.abc import Iterator

from fer_mlflow.cli.options import workflow_command
from fer_mlflow.settings.scoring import TriageSettings
from fer_mlflow.tables import one_line, text_lines


@workflow_command("triage", TriageSettings)
def triage(result) -> Iterator[str]:
    """Judge every run on the tracking server, tag it, and rank the good ones benchmark by benchmark.

    Nothing is moved or deleted, and every tag can be removed again.
    """
    if result.action == "clear":
        done = "would remove" if result.dry_run else "removed"
        yield f"{done} triage's tags from {len(result.changes):,} of {len(result.runs):,} runs"
        return
    if result.action != "judge":
        (run_id,), status = result.changes, "bad" if result.action == "bad" else "good"
        kept = f"run {run_id} is {status} from now on; `triage --clear true` takes it back"
        yield f"would tag run {run_id}: {status}" if result.dry_run else kept
        return
    for run_id, status in result.ended.items():
        done = "would end" if result.dry_run else "ended"
        yield one_line(f"{done} dead run {run_id} ({result.runs[run_id].name}) as {status}")
    if result.dry_run:
        for run_id, tags in result.changes.items():
            texts = (f"{name.removeprefix('triage.')} {text or 'removed'}" for name, text in tags.items())
            yield one_line(f"would tag {run_id[:8]} {result.runs[run_id].name}: {', '.join(texts)}")
    yield from leaderboard_lines(result)
    yield from _summary(result)


def leaderboard_lines(result) -> Iterator[str]:
    """Yield the leaderboards, and the table across benchmarks where there is one."""
    from fer_mlflow.workflows import leaderboards

    for board in leaderboards.boards_of(result.leaderboard):
        yield f"leaderboard of {board['benchmark'].iloc[0]} · {leaderboards.board_title(board)}\n"
        yield from text_lines(leaderboards.board_table(board, result.metric, result.classes), rule=True)
        if more := board["runs"].iloc[0] - len(board):
            yield f"  … and {more:,} more"
        if board["level"].any():
            yield f"  {leaderboards.LEGEND}"
        yield ""
    if result.across is not None and len(result.across):
        yield f"configurations across {result.across['rank'].shape[1]} benchmarks, {result.metric} (rank)\n"
        yield from text_lines(leaderboards.across_table(result.across), rule=True)
        yield f"  {leaderboards.recommendation(result.across)}"
        if result.in_sample:
            yield f"  left out, since teachers were trained on these rows: {', '.join(result.in_sample)}"
        yield ""


def _summary(result) -> Iterator[str]:
    """Yield how many runs have each status, the reasons for bad ones and doubts, and what was done."""
    from fer_mlflow.tracking.store import BAD, STATUSES, WARN
    from fer_mlflow.tracking.triage import RULES

    judgements, explained = list(result.judgements.values()), {rule.name: rule.explanation for rule in RULES}
    counts = Counter(each.status for each in judgements)
    yield f"{len(judgements):,} runs: " + ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)
    doubted = [each for each in judgements if each.status in (BAD, WARN) and not each.by_person]
    reasons = Counter(reason.partition(": ")[0] for each in doubted for reason in each.reasons)
    for name, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count:5,}  {name}: {explained.get(name, '')}"
    if by_person := sum(each.by_person for each in judgements):
        yield f"  {by_person:5,}  set by a person"
    yield f"tags {'to change' if result.dry_run else 'changed'} on {len(result.changes):,} runs"
    if result.ui:
        yield f"ui  {result.ui}"
