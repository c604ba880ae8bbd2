"""`verify`: every check of a bundle with its verdict, and, on request, logits that are computed again."""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import workflow_command
from fer_mlflow.settings.scoring import VerifySettings


@workflow_command("verify", VerifySettings)
def command(result) -> Iterator[str]:
    """Check all of a run's soft labels, or a folder's, and print every check with its verdict.

    With --manifest, the rows too; with --recompute N and --teachers, the logits of N random rows are computed again.
    The exit status is 1 where a check fails.
    """
    counts, checks = result.counts, result.checks
    yield result.source
    if result.name:
        yield f"{result.name}, {result.rows:,} rows"
    yield ""
    width = max(len(check.name) for check in checks)
    for check in checks:
        word = "FAIL" if check.verdict == "fail" else check.verdict
        yield f"  {word}  {check.name:<{width}}  {' '.join(check.detail.split())}"
    others = "".join(f", {counts[word]} {word}" for word in ("warn", "skip") if counts[word])
    verdict = f"does not verify: {counts['fail']} of {len(checks)} checks fail" if counts["fail"] else "verifies"
    yield f"\n{verdict} ({counts['pass']} pass{others})"
    if counts["fail"]:
        raise click.exceptions.Exit(1)
