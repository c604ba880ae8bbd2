"""Groups of settings that several workflows share; a workflow's settings are composed of them by inheritance.

Base classes give their fields from right to left.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, option_name
from fer_mlflow.settings.texts import FilePath, NamedWeights

_OF_STORED = ("run", "bundle", "manifest", "root")  # go with soft labels that are stored
SpaceWord = Literal["logit", "prob"]
Manifest = Annotated[FilePath, Option("CSV of images: path, label, split, source.")]
Root = Annotated[FilePath | None, Option("Folder or URL that paths start from.", default_text="the manifest's")]
Split = Annotated[str | None, Option("Use the rows of this split.", default_text="all rows")]
Limit = Annotated[int | None, Option("Use only the first so many of them.", least=1, default_text="all")]
Classes = Annotated[FilePath | None, Option("YAML file with another class order, or more words for a class.")]
VerifyPaths = Annotated[
    bool, Option("Check that files exist, and that reused logits are of these images.", default_text="true")
]
Teachers = Annotated[FilePath, Option("YAML file: name -> arch, checkpoint, …")]
Weights = Annotated[NamedWeights, Option("NAME=share,… summing to 1.")]
Space = Annotated[SpaceWord, Option("Where the weighted mean is taken.", default_text="logit")]
Dtype = Annotated[Literal["float32", "float16"], Option("How the bundle stores logits.", default_text="float32")]
Clahe = Annotated[bool, Option("Equalise contrast; must match the teachers' training.", default_text="false")]
ClaheClip = Annotated[float, Option("CLAHE's clip limit.", above=0, default_text="2.0")]
ClaheTile = Annotated[int, Option("CLAHE's tiles along each side.", least=1, default_text="8")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"], Option("Precision of the forward pass.", default_text="fp32")]
Device = Annotated[str, Option("auto, cpu, cuda or cuda:N.")]
LogImages = Annotated[
    bool | None,
    Option("Let the run have pictures of faces.", default_text="$FER_MLFLOW_LOG_IMAGES, else true"),
]
Switch = Literal["auto", "true", "false"]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """Where a run is logged."""

    experiment: Annotated[str | None, Option("MLflow experiment.", default_text="MLflow's own choice")] = None
    name: Annotated[str | None, Option("Name of the run.", default_text="the configuration")] = None


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """On what a forward pass runs."""

    device: Device = "auto"
    workers: Annotated[int | None, Option("Processes that decode images.", least=0, none_text="auto")] = None


@dataclass(frozen=True, kw_only=True)
class ComputeSettings(DeviceSettings):
    """How teachers' logits are computed; none of it changes what is computed."""

    compile: Annotated[Switch, Option("torch.compile; auto where the rows repay it.")] = "auto"
    batch_size: Annotated[
        int | None, Option("Rows in a forward pass; auto is 32, and on a GPU what fits.", least=1, none_text="auto")
    ] = None
    on_bad_image: Annotated[
        Literal["fail", "skip"], Option("Images that cannot be decoded: stop, or leave them out.")
    ] = "fail"


@dataclass(frozen=True, kw_only=True)
class ForwardSettings(ComputeSettings):
    """How a forward pass runs; of these only the precision is meant to change the logits."""

    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """Which rows."""

    manifest: Manifest
    root: Root = None
    split: Split = None
    limit: Limit = None
    verify_paths: VerifyPaths = True
    classes: Classes = None


@dataclass(frozen=True, kw_only=True)
class ClaheSettings(Settings):
    """Contrast-limited adaptive histogram equalisation before the resize."""

    clahe: Clahe = False
    clahe_clip: ClaheClip = 2.0
    clahe_tile: ClaheTile = 8


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings(ClaheSettings):
    """Which teachers, and how their logits are computed and fused."""

    teachers: Teachers
    weights: Weights
    space: Space = "logit"
    dtype: Dtype = "float32"
    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class FusionSettings(RunSettings, ForwardSettings, EnsembleSettings, BenchmarkSettings):
    """Everything that an ensemble's soft labels are made from."""


def fusion_settings(settings: Settings, **own: Any) -> FusionSettings:
    """Return an ensemble's settings: the given values, then those of other settings; None stands for the default."""
    values = {name: getattr(settings, name, None) for name in FusionSettings.__dataclass_fields__} | own
    return FusionSettings(**{name: value for name, value in values.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class _SourceFields(Settings):
    """The fields of `SourceSettings` that name the source."""

    run: Annotated[str | None, Option("Use the soft labels of this export or teacher run; its first digits do.")] = None
    bundle: Annotated[FilePath | None, Option("Or those in this folder.")] = None
    manifest: Manifest | None = None
    root: Root = None
    split: Split = None
    limit: Limit = None
    verify_paths: VerifyPaths | None = None
    classes: Classes = None
    teachers: Teachers | None = None
    weights: Weights | None = None
    space: Space | None = None
    dtype: Dtype | None = None
    clahe: Clahe | None = None
    clahe_clip: ClaheClip | None = None
    clahe_tile: ClaheTile | None = None
    precision: Precision | None = None


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
        of_ensembles = [name for name in _SourceFields.__dataclass_fields__ if name not in _OF_STORED]
        if useless := [option_name(name) for name in of_ensembles if getattr(self, name) is not None]:
            raise ContractError(
                f"{', '.join(useless)}: no effect with {option_name(named[0])}, whose soft labels are already fused; "
                "remove it"
            )

    def fusion(self) -> FusionSettings | None:
        """Return the settings of the ensemble; None where a run or a folder is named."""
        return None if self.weights is None else fusion_settings(self)
