"""Settings of the demo."""

from dataclasses import dataclass
from typing import Annotated

from fer_mlflow.settings.fields import Option, Settings


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `demo`."""

    out: Annotated[str, Option("Folder for faces, checkpoints and bundles.", kind="path")] = "demo"
    faces: Annotated[int, Option("Faces to draw.", least=200)] = 2500
    epochs: Annotated[int, Option("Epochs of each teacher.", least=1)] = 8
    seed: Annotated[int, Option("Everything random follows from it.", least=0)] = 0
