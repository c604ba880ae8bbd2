"""`reproduce`: which configurations, rows and temperatures give the numbers of an old table."""

from collections.abc import Iterator

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings.search import ReproduceSettings
from fer_mlflow.tables import report_text


@workflow_command("reproduce", ReproduceSettings)
def command(result) -> Iterator[str]:
    """Search benchmarks, subsets of them, preprocessing, spaces, weights and temperatures for published numbers."""
    yield report_text(result.report)
    yield ""
    yield from where_lines(result, table=result.table_location)
