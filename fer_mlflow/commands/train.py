"""`train`: a teacher from a manifest, ready for teachers.yaml."""

import click

from fer_mlflow.commands.options import (
    AboveZero,
    Count,
    Share,
    Text,
    TrueFalse,
    option,
    option_group,
    preprocessing_options,
    run_options,
    typed_options,
)

rows_options = option_group(
    option("manifest", None, str, "CSV of images: path, label, split, source."),
    option("root", "", Text(), "Folder that paths start from.  [default: the manifest's]"),
    option("train-split", "train", str, "Rows to train on."),
    option("val-split", "val", str, "Rows that choose the best epoch."),
    option("verify-paths", "true", TrueFalse(), "Check that files exist before the first step."),
    option("classes", "", Text(), "YAML file with another class order, or more words for a class."),
)
recipe_options = option_group(
    option("arch", None, str, "Any timm model."),
    option("img-size", "224", click.IntRange(min=16), "Side of the square image, in pixels."),
    option("epochs", "10", click.IntRange(min=1), "Times through the training rows."),
    option("lr", "0.001", AboveZero(), "Highest learning rate; it falls along a cosine."),
    option("batch-size", "64", click.IntRange(min=2), "Rows in a step."),
    option("optimizer", "adamw", str, "Any of timm's optimizers."),
    option("weight-decay", "0.05", Share(most=float("inf")), "Weight decay."),
    option("warmup-epochs", "1", click.IntRange(min=0), "Epochs in which the learning rate rises."),
    option("label-smoothing", "0", Share(most=0.99), "Share of the target spread over all classes."),
    option("balance", "none", click.Choice(["none", "sampling", "loss"]), "How rare classes are weighed."),
    option("flip", "0.5", Share(), "Probability of a mirror image."),
    option("affine", "0", Share(most=180), "Largest rotation in degrees, with small shifts and scales."),
    option("color-jitter", "0", Share(), "Strength of changes of brightness, contrast, saturation."),
    option("random-erasing", "0", Share(), "Probability that a rectangle is filled with noise."),
    option("precision", "auto", click.Choice(["auto", "fp32", "bf16", "fp16"]), "auto: mixed where the device has it."),
    option("seed", "0", click.IntRange(min=0), "Everything random follows from it."),
    option("init", "", Text(), "Checkpoint to start from."),
)
training_compute_options = option_group(
    option("device", "auto", str, "auto, cpu, cuda or cuda:N."),
    option("workers", "auto", Count(0, "auto"), "Processes that decode and augment images."),
)


@click.command("train")
@rows_options
@recipe_options
@preprocessing_options
@training_compute_options
@run_options
@option("out", "", Text(), "Also put the checkpoint into this file.")
def command(**options) -> None:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path.
    """
    from fer_mlflow.commands.training import train

    train(options, typed_options())
