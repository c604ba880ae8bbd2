"""The recipe of a training: everything that shapes the weights beside the rows."""

from dataclasses import dataclass
from typing import Annotated

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.settings import Option
from fer_mlflow.settings.training import RecipeSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeSettings):
    """The settings of a recipe, with the CLAHE of the images."""

    clahe: Annotated[Clahe | None, Option("CLAHE of the images.", parse=lambda value: value)] = None

    @classmethod
    def of(cls, settings: TrainSettings) -> "Recipe":
        """Return the recipe in the settings of a workflow."""
        values = {name: getattr(settings, name) for name in RecipeSettings.__dataclass_fields__}
        clahe = Clahe(settings.clahe_clip, settings.clahe_tile) if settings.clahe else None
        return cls(**values, clahe=clahe)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images, without mean and std."""
        return Preprocessing(img_size=self.img_size, clahe=self.clahe)
