"""`manifest`: make manifests from data sets, merge, check and split them."""

from dataclasses import dataclass
from typing import Annotated

import click

from fer_mlflow.cli.options import settings_command
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import show_progress
from fer_mlflow.settings import Option
from fer_mlflow.settings.manifests import (
    DATASETS,
    BuildManifestSettings,
    CheckManifestSettings,
    MergeManifestsSettings,
    SplitManifestSettings,
    TrackManifestSettings,
)
from fer_mlflow.tables import report_text


@dataclass(frozen=True, kw_only=True)
class CheckCommandSettings(CheckManifestSettings):
    """Options of `manifest check`: those of the workflow, and what decides the exit status."""

    strict: Annotated[bool, Option("Exit with status 2 for warnings, too.")] = False


@settings_command("build", BuildManifestSettings, epilog=f"Data sets: {', '.join(DATASETS)}.")
def build_command(settings: BuildManifestSettings) -> None:
    """Make the manifest of DATASET, which lies in FOLDER as it was unpacked."""
    from fer_mlflow.workflows.manifest import build_manifest

    click.echo(report_text(build_manifest.of(settings, progress=show_progress).report))


@settings_command("merge", MergeManifestsSettings)
def merge_command(settings: MergeManifestsSettings) -> None:
    """Merge A.csv[:SPLIT] B.csv …: paths stay valid, each image is there once, leakage between splits is reported."""
    from fer_mlflow.workflows.manifest import merge_manifests

    click.echo(report_text(merge_manifests.of(settings, progress=show_progress).report))


@settings_command("check", CheckCommandSettings)
def check_command(settings: CheckCommandSettings) -> None:
    """Report what is wrong with MANIFEST (A.csv, or A.csv:SPLIT): exit status 0, or 2 when it cannot be trusted."""
    from fer_mlflow.workflows.manifest import check_manifest

    result = check_manifest.of(settings, progress=show_progress)
    click.echo(report_text(result.report))
    if result.errors or (result.warnings and settings.strict):
        counts = f"{result.errors} errors" + f" and {result.warnings} warnings" * settings.strict
        raise ManifestError(f"{result.name}: {counts}; the report above has them")


@settings_command("split", SplitManifestSettings)
def split_command(settings: SplitManifestSettings) -> None:
    """Split the rows of MANIFEST by label and source, each group on one side."""
    from fer_mlflow.workflows.manifest import split_manifest

    click.echo(report_text(split_manifest.of(settings, progress=show_progress).report))


@settings_command("track", TrackManifestSettings)
def track_command(settings: TrackManifestSettings) -> None:
    """Build or merge, and log the manifest as an MLflow run: what `mlflow run . -e manifest` starts."""
    from fer_mlflow.workflows.manifest_track import track_manifest

    result = track_manifest.of(settings, progress=show_progress)
    click.echo(f"{report_text(result.manifest.report)}\n\nrun       {result.run_id}\nui        {result.ui}")


command = click.Group(
    "manifest",
    commands=[build_command, merge_command, check_command, split_command, track_command],
    help="Make manifests from data sets, merge, check and split them.",
)
