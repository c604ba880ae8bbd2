"""`reproduce`: which configurations, rows and temperatures give the numbers of an old table."""

from collections.abc import Iterator

import click

from fer_mlflow.cli.options import settings_command
from fer_mlflow.progress import show_progress
from fer_mlflow.settings.search import ReproduceSettings
from fer_mlflow.tables import report_text


@settings_command("reproduce", ReproduceSettings)
def command(settings: ReproduceSettings) -> None:
    """Search benchmarks, subsets of them, preprocessing, spaces, weights and temperatures for published numbers."""
    from fer_mlflow.workflows.reproduce import reproduce

    click.echo("\n".join(lines(reproduce.of(settings, progress=show_progress))))


def lines(result) -> Iterator[str]:
    """Yield the report, and where everything is."""
    yield report_text(result.report)
    yield f"\n  run      {result.run_id}"
    yield f"  table    {result.table_location}"
    yield f"  ui       {result.ui}"
