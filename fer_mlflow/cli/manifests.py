"""The commands below `manifest`: build, merge, check, split, track."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import click

from fer_mlflow.cli.options import print_parts, settings_command, workflow_command
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import show_progress
from fer_mlflow.settings import Option, manifests as settings
from fer_mlflow.tables import Part


@dataclass(frozen=True, kw_only=True)
class CheckCommandSettings(settings.CheckManifestSettings):
    """Options of `manifest check`: those of the workflow, and what decides the exit status."""

    strict: Annotated[bool, Option("Exit with status 2 for warnings, too.")] = False


@workflow_command(
    "build", settings.BuildManifestSettings, "build_manifest", epilog=f"Data sets: {', '.join(settings.DATASETS)}."
)
def build(result) -> Iterator[Part]:
    """Make the manifest of DATASET, which lies in FOLDER as it was unpacked."""
    yield result.report


@workflow_command("merge", settings.MergeManifestsSettings, "merge_manifests")
def merge(result) -> Iterator[Part]:
    """Merge A.csv[:SPLIT] B.csv …: paths stay valid, each image is there once, leakage between splits is reported."""
    yield result.report


@settings_command("check", CheckCommandSettings)
def check(given: CheckCommandSettings) -> None:
    """Report what is wrong with MANIFEST (A.csv, or A.csv:SPLIT): exit status 0, or 2 when it cannot be trusted."""
    from fer_mlflow import check_manifest

    result = check_manifest.of(given, progress=show_progress)
    print_parts([result.report])
    if result.errors or (result.warnings and given.strict):
        counts = f"{result.errors} errors" + f" and {result.warnings} warnings" * given.strict
        raise ManifestError(f"{result.name}: {counts}; the report above has them")


@workflow_command("split", settings.SplitManifestSettings, "split_manifest")
def split(result) -> Iterator[Part]:
    """Split the rows of MANIFEST by label and source, each group on one side."""
    yield result.report


@workflow_command("track", settings.TrackManifestSettings, "track_manifest")
def track(result) -> Iterator[Part]:
    """Build or merge, and log the manifest as an MLflow run: what `mlflow run . -e manifest` starts."""
    yield result.manifest.report
    yield f"\nrun       {result.run_id}\nui        {result.ui}"


manifest = click.Group(
    "manifest",
    commands=[build, merge, check, split, track],
    help="Make manifests from data sets, merge, check and split them.",
)
