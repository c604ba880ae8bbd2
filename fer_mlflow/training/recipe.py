"""How a teacher is trained: everything that shapes its weights beside the rows."""

from dataclasses import dataclass

from fer_mlflow.data.images import Clahe


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights beside the rows.

    Attributes
    ----------
    arch : a `timm` model name
    lr : the highest learning rate; it warms up, then falls to zero along a cosine
    balance : how rare classes are weighed: not, by drawing their rows more often, or in the loss
    flip : probability of a mirror image
    affine : largest rotation in degrees; with it come shifts up to 5 % and scales up to 10 %
    color_jitter : strength of changes of brightness, contrast and saturation
    random_erasing : probability that a rectangle is filled with noise
    """

    arch: str
    img_size: int = 224
    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 64
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    warmup_epochs: int = 1
    label_smoothing: float = 0.0
    balance: str = "none"
    flip: float = 0.5
    affine: float = 0.0
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    clahe: Clahe | None = None
    precision: str = "auto"
    seed: int = 0
