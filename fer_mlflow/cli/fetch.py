"""`fetch`: the chosen soft labels on this disk, verified, and proved to be aligned to the local manifest."""

from collections.abc import Iterator

from fer_mlflow.cli.options import workflow_command
from fer_mlflow.settings.scoring import FetchSettings


@workflow_command("fetch", FetchSettings)
def command(result) -> Iterator[str]:
    """Download a run's soft labels, verify all of them, and print the folder, ready for SoftLabels.open.

    With --manifest, prove row by row that they are aligned to it. A folder that has them already is verified again.
    """
    bundle, source = result.soft_labels, result.source_sha256
    yield f"{bundle.name}, {len(bundle):,} rows\n"
    if result.chosen:
        yield f"  chosen    {result.chosen}"
    yield f"  run       {result.source_run}"
    is_original = bundle.sha256 == source
    what = ", and the run is tagged with it" if is_original else f"; rewritten from the run's {source[:12]}…"
    yield f"  bundle    {bundle.sha256[:12]}…: every file has its hash{what}"
    for name, text in result.proofs.items():
        yield f"  {name:<8}  {text}"
    yield f"  folder    {result.how}\n"
    yield str(bundle.folder)
