"""Settings of the workflows that make and check manifests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, format_value, option_name
from fer_mlflow.settings.groups import Classes, Root, RunSettings
from fer_mlflow.settings.texts import FilePath, Inputs, NamedShares, Number, Texts

# A builder is registered by a word here; the module of fer_mlflow.datasets that has this name lists its rows.
Dataset = Literal["rafdb", "affectnet", "fer2013", "ferplus", "expw", "ckplus", "folder"]
DATASETS: tuple[str, ...] = get_args(Dataset)

Report = Annotated[FilePath | None, Option("Also write what is printed into this Markdown file.")]
FromRoots = Annotated[
    Texts,
    Option("Folder or URL of the paths that are read; one for each input, or one for all.", default_text="its own"),
]
Sources = Annotated[
    Texts, Option("Text of the column source; one for each input, or one for all.", default_text="what is there")
]


@dataclass(frozen=True, kw_only=True)
class _NewManifest(Settings):
    """Where a manifest is written."""

    out: Annotated[FilePath, Option("CSV to write.")]
    root: Annotated[
        FilePath | None, Option("Folder or URL that the new manifest's paths start from.", default_text="that of --out")
    ] = None
    classes: Classes = None

    @property
    def path(self) -> Path:
        """The file that is written."""
        return Path(self.out)

    @property
    def folder_of_paths(self) -> str:
        """The folder or URL that the new manifest's paths start from."""
        return self.root or str(self.path.parent)


@dataclass(frozen=True, kw_only=True)
class _BuildOptions(Settings):
    """How a data set is read."""

    images: Annotated[
        FilePath | None, Option("Folder for images that must be written.", default_text="beside --out, STEM_images")
    ] = None
    min_agreement: Annotated[Number, Option("Least share of the votes for the label (ferplus).", least=0, most=1)] = 0.0
    allow_missing: Annotated[bool, Option("Leave out missing images, however many they are.")] = False


@dataclass(frozen=True, kw_only=True)
class BuildManifestSettings(_BuildOptions, _NewManifest):
    """Settings of `manifest build`."""

    dataset: Annotated[Dataset, Option("What to build.", argument=True)]
    folder: Annotated[FilePath, Option("Where the data set lies as it was unpacked.", argument=True)]
    source: Annotated[str | None, Option("Text of the column source.", default_text="the data set's name")] = None
    report: Report = None


@dataclass(frozen=True, kw_only=True)
class MergeManifestsSettings(_NewManifest):
    """Settings of `manifest merge`."""

    inputs: Annotated[Inputs, Option("A.csv[:SPLIT] B.csv …", argument=True)]
    from_root: FromRoots = ()
    source: Sources = ()
    report: Report = None

    def check(self) -> None:
        """Check that roots and sources are one for all inputs, or one for each."""
        for name in ("from_root", "source"):
            count = len(getattr(self, name))
            if count not in (0, 1, len(self.inputs)):
                raise ContractError(
                    f"{option_name(name)}: found {count} for {len(self.inputs)} inputs; give one, or one for each"
                )


@dataclass(frozen=True, kw_only=True)
class CheckManifestSettings(Settings):
    """Settings of `manifest check`."""

    manifest: Annotated[FilePath, Option("A.csv, or A.csv:SPLIT.", argument=True)]
    root: Root = None
    classes: Classes = None
    dataset: Annotated[
        str | None, Option("Data set whose published counts the rows should have.", default_text="goes by source")
    ] = None
    decode: Annotated[bool, Option("Decode every image; false only hashes the files.")] = True
    near: Annotated[bool, Option("Find near-duplicates, too.")] = False
    near_distance: Annotated[
        int, Option("Bits of 64 in which the perceptual hashes of two near-duplicates may differ.", least=0, most=12)
    ] = 4
    against: Annotated[str | None, Option("Another manifest (OTHER.csv or OTHER.csv:SPLIT) to compare with.")] = None
    against_root: Annotated[str | None, Option("Folder or URL its paths start from.", default_text="its own")] = None
    report: Report = None


@dataclass(frozen=True, kw_only=True)
class SplitManifestSettings(_NewManifest):
    """Settings of `manifest split`."""

    manifest: Annotated[FilePath, Option("Manifest whose rows are split.", argument=True)]
    from_root: Annotated[str | None, Option("Folder or URL of the paths read.", default_text="the manifest's")] = None
    splits: Annotated[
        NamedShares | None, Option("NAME=share,… summing to 1.", default_text="train=0.8,val=0.1,test=0.1")
    ] = None
    split: Annotated[
        str | None, Option("Split only the rows of this split; the others stay.", default_text="all rows")
    ] = None
    group: Annotated[str | None, Option("Column whose equal values stay together, such as identity.")] = None
    seed: Annotated[int, Option("Another seed gives other splits.", least=0)] = 0
    report: Report = None

    @property
    def shares(self) -> dict[str, float]:
        """The splits and their shares."""
        return self.splits or {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class TrackManifestSettings(RunSettings, _BuildOptions, _NewManifest):
    """Settings of `manifest track`."""

    action: Annotated[Literal["build", "merge"], Option("What to do.")]
    dataset: Annotated[Dataset | None, Option("build: the data set.")] = None
    folder: Annotated[FilePath | None, Option("build: where the data set lies.")] = None
    inputs: Annotated[Inputs, Option("merge: A.csv[:SPLIT],B.csv,…")] = ()
    from_root: FromRoots = ()
    source: Sources = ()

    def check(self) -> None:
        """Check that the action has what it needs, and nothing that is for the other one."""
        needed = {"build": ("dataset", "folder"), "merge": ("inputs",)}[self.action]
        if lacking := [option_name(name) for name in needed if not getattr(self, name)]:
            raise ContractError(f"--action {self.action} needs {' and '.join(lacking)}")
        other = {"build": "merge", "merge": "build"}[self.action]
        only = {"build": ("inputs", "from_root"), "merge": ("dataset", "folder", "images")}[self.action]
        if useless := [option_name(name) for name in only if getattr(self, name)]:
            raise ContractError(
                f"{' and '.join(useless)}: no effect with --action {self.action}, only with {other}; remove it"
            )

    def of(self, settings: Any) -> Any:
        """Return the settings of the action, with the values of the fields that both have."""
        values = {name: getattr(self, name) for name in settings.__dataclass_fields__ if hasattr(self, name)}
        if settings is BuildManifestSettings:
            values["source"] = format_value(self.source)
        return settings(**values)
