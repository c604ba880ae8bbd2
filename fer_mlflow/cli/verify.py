"""`verify`: every check of a bundle with its verdict, and, on request, logits that are computed again."""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import settings_command
from fer_mlflow.settings.scoring import VerifySettings

FAILED = 1  # exit status


@settings_command("verify", VerifySettings)
def command(settings: VerifySettings) -> None:
    """Check all of a run's soft labels, or a folder's, and print every check with its verdict.

    With --manifest, the rows too; with --recompute N and --teachers, the logits of N random rows are computed again.
    The exit status is 1 where a check fails.
    """
    from fer_mlflow.workflows.verify import verify

    result = verify.of(settings)
    click.echo("\n".join(lines(result)))
    if result.counts["fail"]:
        click.get_current_context().exit(FAILED)


def lines(result) -> Iterator[str]:
    """Yield every check with its verdict, and what they come to."""
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
