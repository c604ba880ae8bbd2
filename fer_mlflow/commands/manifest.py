"""`manifest`: make manifests from data sets, join, check and split them."""

import click

from fer_mlflow.commands.options import (
    Count,
    Share,
    Text,
    TrueFalse,
    option,
    option_group,
    run_options,
    typed_argument,
    typed_options,
)

DATASETS = ("rafdb", "affectnet", "fer2013", "ferplus", "expw", "ckplus", "folder")

_classes = option("classes", "", Text(), "YAML file with another class order, or more words for a class.")
_out = option("out", None, str, "CSV to write.")
_root = option("root", "", Text(), "Folder that the new manifest's paths start from.  [default: that of --out]")
_from_root = option(
    "from-root",
    "",
    Text(),
    "Folder of the paths that are read; one for each input, or one for all.  [default: its own]",
)
_report = option("report", "", Text(), "Also write what is printed into this Markdown file.")
_build_options = option_group(
    option("images", "", Text(), "Folder for images that must be written.  [default: beside --out, STEM_images]"),
    option("min-agreement", "0", Share(), "Least share of the votes for the label (ferplus)."),
    option("allow-missing", "false", TrueFalse(), "Leave out missing images, however many they are."),
)


@click.group("manifest")
def command() -> None:
    """Make manifests from data sets, join, check and split them."""


@command.command("build")
@click.argument("dataset", type=click.Choice(DATASETS))
@typed_argument("folder")
@_out
@_root
@_classes
@option("source", "", Text(), "Text of the column source.  [default: the data set's name]")
@_build_options
@_report
def build_command(**options) -> None:
    """Make the manifest of DATASET, which lies in FOLDER as it was unpacked."""
    from fer_mlflow.commands.manifesting import build_manifest

    build_manifest(options)


@command.command("merge")
@click.argument("inputs", nargs=-1, required=True, metavar="A.csv[:SPLIT] B.csv …")
@_out
@_root
@_from_root
@_classes
@option(
    "source", "", Text(), "Text of the column source; one for each input, or one for all.  [default: what is there]"
)
@_report
def merge_command(**options) -> None:
    """Join manifests: paths stay valid, each image is there once, leakage between splits is reported."""
    from fer_mlflow.commands.manifesting import merge_manifests

    merge_manifests(options)


@command.command("check")
@typed_argument("manifest")
@option("root", "", Text(), "Folder that paths start from.  [default: the manifest's]")
@_classes
@option("dataset", "", Text(), "Data set whose published counts the rows should have.  [default: goes by source]")
@option("decode", "true", TrueFalse(), "Decode every image; false only hashes the files.")
@option("near", "false", TrueFalse(), "Look for near-duplicates, too.")
@option("near-distance", "4", click.IntRange(0, 12), "Bits of 64 in which two near-duplicates may differ.")
@option("against", "", Text(), "Another manifest (OTHER.csv or OTHER.csv:SPLIT) to compare with.")
@option("against-root", "", Text(), "Folder that its paths start from.  [default: its own]")
@option("strict", "false", TrueFalse(), "Exit with status 2 for warnings, too.")
@_report
def check_command(**options) -> None:
    """Say what is wrong with MANIFEST (A.csv, or A.csv:SPLIT): exit status 0, or 2 when it cannot be trusted."""
    from fer_mlflow.commands.manifest_checking import check

    check(options)


@command.command("split")
@typed_argument("manifest")
@_out
@_root
@_from_root
@_classes
@option("splits", "train=0.8,val=0.1,test=0.1", str, "NAME=share,… summing to 1.")
@option("split", "", Text(), "Split only the rows of this split; the others stay.  [default: all rows]")
@option("group", "", Text(), "Column whose equal values stay together, such as identity.")
@option("seed", "0", Count(0, ""), "Another seed gives other splits.")
@_report
def split_command(**options) -> None:
    """Split the rows of MANIFEST by label and source, each group on one side."""
    from fer_mlflow.commands.manifesting import split_manifest

    split_manifest(options)


@command.command("track")
@option("action", None, click.Choice(("build", "merge")), "What to do.")
@_out
@option("dataset", "", Text(), "build: the data set.")
@option("folder", "", Text(), "build: where it lies.")
@option("inputs", "", Text(), "merge: A.csv[:SPLIT],B.csv,…")
@_root
@_from_root
@_classes
@option("source", "", Text(), "Text of the column source.")
@_build_options
@run_options
def track_command(**options) -> None:
    """Build or merge, and log the manifest as an MLflow run: what `mlflow run . -e manifest` starts."""
    from fer_mlflow.commands.manifest_tracking import track

    track(options, typed_options())
