"""Settings of the workflows that train: train, distill."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fer_mlflow.settings import Option, Settings
from fer_mlflow.settings.groups import ClaheSettings, Classes, DeviceSettings, LogImages, Manifest, Root, RunSettings
from fer_mlflow.settings.texts import FilePath, Number


@dataclass(frozen=True, kw_only=True)
class TrainingRowsSettings(Settings):
    """Which rows are trained on, and which choose the best epoch."""

    manifest: Manifest
    root: Root = None
    train_split: Annotated[str, Option("Rows to train on.")] = "train"
    val_split: Annotated[str, Option("Rows that choose the best epoch.")] = "val"
    verify_paths: Annotated[bool, Option("Check that files exist before the first step.")] = True
    classes: Classes = None


@dataclass(frozen=True, kw_only=True)
class RecipeSettings(Settings):
    """Everything that shapes the weights beside the rows and the preprocessing."""

    arch: Annotated[str, Option("Any timm model.")]
    img_size: Annotated[int, Option("Side of the square image, in pixels.", least=16)] = 224
    epochs: Annotated[int, Option("Passes over the training rows.", least=1)] = 10
    lr: Annotated[float, Option("Highest learning rate; it warms up, then falls to zero along a cosine.", above=0)] = (
        1e-3
    )
    batch_size: Annotated[int, Option("Rows in a step.", least=2)] = 64
    optimizer: Annotated[str, Option("Any of timm's optimizers.")] = "adamw"
    weight_decay: Annotated[float, Option("Weight decay.", least=0)] = 0.05
    warmup_epochs: Annotated[int, Option("Epochs in which the learning rate rises.", least=0)] = 1
    label_smoothing: Annotated[Number, Option("Share of the target spread over all classes.", least=0, most=0.99)] = 0.0
    balance: Annotated[
        Literal["none", "sampling", "loss"],
        Option("How rare classes are weighted: not, by drawing their rows more often, or in the loss."),
    ] = "none"
    flip: Annotated[float, Option("Probability of a mirror image.", least=0, most=1)] = 0.5
    affine: Annotated[
        Number,
        Option("Largest rotation in degrees; with it come shifts up to 5 % and scales up to 10 %.", least=0, most=180),
    ] = 0.0
    color_jitter: Annotated[
        Number, Option("Strength of changes of brightness, contrast, saturation.", least=0, most=1)
    ] = 0.0
    random_erasing: Annotated[Number, Option("Probability that a rectangle is filled with noise.", least=0, most=1)] = (
        0.0
    )
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], Option("auto: mixed precision where the device has it.")
    ] = "auto"
    seed: Annotated[int, Option("Seed of everything random.", least=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Recipe(ClaheSettings, RecipeSettings):
    """Everything that shapes the weights beside the rows."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings, DeviceSettings, Recipe, TrainingRowsSettings):
    """Settings of `train`."""

    init: Annotated[FilePath | None, Option("Checkpoint to start from.")] = None
    out: Annotated[FilePath | None, Option("Also put the best checkpoint into this file.")] = None


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """The loss: ce_weight · CE + warm-up · (alpha KD, or DKD with alpha and beta)."""

    loss: Annotated[Literal["ce", "kd", "dkd"], Option("Labels alone, or with soft labels by KD or DKD.")] = "kd"
    temperature: Annotated[Number, Option("Divides the logits of teachers and student.", above=0)] = 4.0
    alpha: Annotated[Number, Option("Weight of KD, or of DKD's target-class term.", least=0)] = 1.0
    beta: Annotated[Number, Option("Weight of DKD's non-target-class term.", least=0)] = 8.0
    ce_weight: Annotated[Number, Option("Weight of the cross-entropy with the labels.", least=0)] = 1.0
    distill_warmup_epochs: Annotated[
        int, Option("Epochs in which the weight of the distillation term rises to 1.", least=0)
    ] = 0


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings, LossSettings):
    """Settings of `distill`."""

    test_split: Annotated[
        str | None, Option("Rows that the student is measured on; none: no rows.", none_text="none")
    ] = "test"
    softlabels: Annotated[
        str | None, Option("Soft labels of the training rows: RUN, FOLDER or best:METRIC@BENCHMARK.")
    ] = None
    even_bad: Annotated[bool, Option("Take soft labels of a run that triage called bad, too.")] = False
    target: Annotated[
        Literal["logit", "prob", "mixture"] | None,
        Option("How the target is made.", default_text="the space that the soft labels were fused in"),
    ] = None
    missing: Annotated[Literal["fail", "ce"], Option("Rows without soft labels: stop, or use their labels.")] = "fail"
    grid: Annotated[str | None, Option("Values to try, such as temperature=4,5,6;loss=kd,dkd;seed=0,1,2.")] = None
    onnx: Annotated[bool, Option("Log the (best) student as an MLflow model that takes images.")] = False
    log_images: LogImages = None


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `demo`."""

    out: Annotated[FilePath, Option("Folder for faces, checkpoints and bundles.")] = "demo"
    faces: Annotated[int, Option("Faces to draw.", least=200)] = 2500
    epochs: Annotated[int, Option("Epochs of each teacher.", least=1)] = 8
    seed: Annotated[int, Option("Everything random follows from it.", least=0)] = 0
