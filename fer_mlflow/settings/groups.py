"""Groups of settings that several workflows share; a workflow's settings are composed of them by inheritance.

Base classes give their fields from right to left.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, option_name
from fer_mlflow.settings.texts import format_weights, parse_weights

MANIFEST = Option("CSV of images: path, label, split, source.", kind="path")
Manifest = Annotated[str, MANIFEST]
Root = Annotated[str | None, Option("Folder that paths start from.", default_text="the manifest's", kind="path")]
Split = Annotated[str | None, Option("Use the rows of this split.", default_text="all rows")]
Limit = Annotated[int | None, Option("Use only the first so many of them.", least=1, default_text="all")]
Classes = Annotated[str | None, Option("YAML file with another class order, or more words for a class.", kind="path")]
VERIFY_PATHS = Option("Check that files exist, and that reused logits are of these images.", default_text="true")
TEACHERS = Option("YAML file: name -> arch, checkpoint, …", kind="path")
Teachers = Annotated[str, TEACHERS]
WEIGHTS = Option("NAME=share,… summing to 1.", parse=parse_weights, text=format_weights, kind="weights")
Weights = Annotated[dict[str, float], WEIGHTS]
SpaceWord = Literal["logit", "prob"]
DtypeWord = Literal["float32", "float16"]
PrecisionWord = Literal["fp32", "bf16", "fp16"]
SPACE = Option("Where the weighted mean is taken.", default_text="logit")
DTYPE = Option("How the bundle stores logits.", default_text="float32")
CLAHE = Option("Equalise contrast; must match the teachers' training.", default_text="false")
CLAHE_CLIP = Option("CLAHE's clip limit.", above=0, default_text="2.0")
CLAHE_TILE = Option("CLAHE's tiles along each side.", least=1, default_text="8")
PRECISION = Option("Precision of the forward pass.", default_text="fp32")


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """Where a run is logged."""

    experiment: Annotated[str | None, Option("MLflow experiment.", default_text="MLflow's own choice")] = None
    name: Annotated[str | None, Option("Name of the run.", default_text="the configuration")] = None


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """On what a forward pass runs."""

    device: Annotated[str, Option("auto, cpu, cuda or cuda:N.")] = "auto"
    workers: Annotated[int | None, Option("Processes that decode images.", least=0, none_text="auto")] = None


@dataclass(frozen=True, kw_only=True)
class ComputeSettings(DeviceSettings):
    """How teachers' logits are computed; none of it changes what is computed."""

    compile: Annotated[Literal["auto", "true", "false"], Option("torch.compile; auto where the rows repay it.")] = (
        "auto"
    )
    batch_size: Annotated[int, Option("Rows in a forward pass.", least=1)] = 32
    on_bad_image: Annotated[
        Literal["fail", "skip"], Option("Images that cannot be decoded: stop, or leave them out.")
    ] = "fail"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """Which rows."""

    manifest: Manifest
    root: Root = None
    split: Split = None
    limit: Limit = None
    verify_paths: Annotated[bool, VERIFY_PATHS] = True
    classes: Classes = None


@dataclass(frozen=True, kw_only=True)
class ClaheSettings(Settings):
    """Contrast-limited adaptive histogram equalisation before the resize."""

    clahe: Annotated[bool, CLAHE] = False
    clahe_clip: Annotated[float, CLAHE_CLIP] = 2.0
    clahe_tile: Annotated[int, CLAHE_TILE] = 8


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings(ClaheSettings):
    """Which teachers, and how their logits are computed and fused."""

    teachers: Teachers
    weights: Weights
    space: Annotated[SpaceWord, SPACE] = "logit"
    dtype: Annotated[DtypeWord, DTYPE] = "float32"
    precision: Annotated[PrecisionWord, PRECISION] = "fp32"


@dataclass(frozen=True, kw_only=True)
class FusionSettings(RunSettings, ComputeSettings, EnsembleSettings, BenchmarkSettings):
    """Everything that an ensemble's soft labels are made from."""


def fusion_settings(settings: Settings, **own: Any) -> FusionSettings:
    """Return an ensemble's settings: the given values, then those of other settings; None stands for the default."""
    values = {name: getattr(settings, name, None) for name in FusionSettings.__dataclass_fields__} | own
    return FusionSettings(**{name: value for name, value in values.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class _SourceFields(Settings):
    """The fields of `SourceSettings` that name the source."""

    run: Annotated[str | None, Option("Use the soft labels of this export or teacher run; its first digits do.")] = None
    bundle: Annotated[str | None, Option("Or those in this folder.", kind="path")] = None
    manifest: Annotated[str | None, MANIFEST] = None
    root: Root = None
    split: Split = None
    limit: Limit = None
    verify_paths: Annotated[bool | None, VERIFY_PATHS] = None
    classes: Classes = None
    teachers: Annotated[str | None, TEACHERS] = None
    weights: Annotated[dict[str, float] | None, WEIGHTS] = None
    space: Annotated[SpaceWord | None, SPACE] = None
    dtype: Annotated[DtypeWord | None, DTYPE] = None
    clahe: Annotated[bool | None, CLAHE] = None
    clahe_clip: Annotated[float | None, CLAHE_CLIP] = None
    clahe_tile: Annotated[int | None, CLAHE_TILE] = None
    precision: Annotated[PrecisionWord | None, PRECISION] = None


@dataclass(frozen=True, kw_only=True)
class SourceSettings(RunSettings, ComputeSettings, _SourceFields):
    """Which soft labels: those of a run, those in a folder, or an ensemble's, which are fused when they are needed.

    What describes an ensemble is None until it is given: a default would contradict the soft labels of a run.
    """

    def check(self) -> None:
        """Check that exactly one source is named, and nothing that contradicts it."""
        named = [name for name in ("run", "bundle") if getattr(self, name) is not None]
        if self.teachers is not None or self.weights is not None:
            named.append("ensemble")
        if len(named) != 1:
            found = f"found {', '.join(sorted(named))}" if named else "found none of them"
            raise ContractError(
                "name one source of soft labels: --run RUN_ID, or --bundle FOLDER, or --manifest CSV with --teachers "
                f"and --weights ({found})"
            )
        if named == ["ensemble"]:
            if missing := [option_name(n) for n in ("manifest", "teachers", "weights") if getattr(self, n) is None]:
                raise ContractError(f"an ensemble needs {' and '.join(missing)} too")
            return
        fused = [each for each in _OF_ENSEMBLES if getattr(self, each) is not None]
        if fused:
            options = ", ".join(map(option_name, fused))
            raise ContractError(
                f"{options}: no effect with {option_name(named[0])}, whose soft labels are already fused; remove it"
            )

    def fusion(self) -> FusionSettings | None:
        """Return the settings of the ensemble; None where a run or a folder is named."""
        return None if self.weights is None else fusion_settings(self)


# What says which rows are predicted, and how logits are computed and fused.
_OF_ENSEMBLES = (
    *("split", "limit", "verify_paths", "classes", "space", "dtype"),
    *("clahe", "clahe_clip", "clahe_tile", "precision"),
)
