"""Settings of the workflows on soft labels: export, evaluate, calibrate, inspect, compare, fetch, verify."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, option_name, split_names
from fer_mlflow.settings.groups import (
    MANIFEST,
    TEACHERS,
    Classes,
    FusionSettings,
    Limit,
    Root,
    RunSettings,
    SourceSettings,
    Split,
)


def rising_numbers(value: Any, count: int | None = None) -> tuple[float, ...]:
    """Return rising finite numbers above 0, `count` of them, from comma-separated text or a sequence.

    >>> rising_numbers("1, 2,4.5")
    (1.0, 2.0, 4.5)
    """
    try:
        numbers = tuple(float(each) for each in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    rising = all(a < b for a, b in zip((0.0, *numbers), (*numbers, float("inf")), strict=True))
    if not numbers or not rising or (count and len(numbers) != count):
        how_many = f"{count} " if count else ""
        raise ValueError(f"{value!r} is not {how_many}rising numbers above 0, comma-separated")
    return numbers


def _columns(value: Any) -> tuple[str, ...]:
    """Return names of columns; the word none gives no name."""
    return () if value == "none" else split_names(value)


def _names(names: tuple[str, ...]) -> str:
    return ",".join(names) or "none"


def format_number(number: float) -> str:
    """Return a number as it is typed.

    >>> format_number(1.0), format_number(0.5)
    ('1', '0.5')
    """
    return repr(number).removesuffix(".0")


def format_numbers(numbers: tuple[float, ...]) -> str:
    """Return numbers as they are typed.

    >>> format_numbers((1.0, 2.5))
    '1,2.5'
    """
    return ",".join(map(format_number, numbers))


@dataclass(frozen=True, kw_only=True)
class InspectSettings(SourceSettings):
    """Settings of `inspect`."""

    temperatures: Annotated[
        tuple[float, ...],
        Option("Temperatures to look at.", parse=rising_numbers, text=format_numbers, kind="numbers"),
    ] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    band: Annotated[
        tuple[float, ...],
        Option(
            "Mean top probability that suits distillation: lowest, highest.",
            parse=lambda value: rising_numbers(value, 2),
            text=format_numbers,
            kind="numbers",
        ),
    ] = (0.5, 0.8)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(FusionSettings):
    """Settings of `export`."""

    out: Annotated[str | None, Option("Also put the bundle into this folder.", kind="path")] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SourceSettings):
    """Settings of `evaluate`."""

    by: Annotated[
        tuple[str, ...],
        Option("Columns whose values are scored on their own, or none.", parse=_columns, text=_names, kind="names"),
    ] = ("source",)
    temperature: Annotated[float, Option("Evaluate logits divided by this.", above=0, text=format_number)] = 1.0


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(SourceSettings):
    """Settings of `calibrate`."""

    method: Annotated[Literal["temperature", "bias-corrected", "vector"], Option("What is fitted.")] = "temperature"
    per_teacher: Annotated[bool, Option("Fit a temperature for each teacher, before fusion.")] = False
    fit_run: Annotated[
        str | None, Option("Fit on the soft labels of this run (or folder), such as the validation split's.")
    ] = None
    crossfit: Annotated[
        int | None,
        Option("Else fit on all folds but one of so many, and measure on that one.", least=2, none_text="none"),
    ] = 5
    in_sample: Annotated[bool, Option("Else measure on the rows that were fitted on; the run is tagged so.")] = False
    by: Annotated[
        tuple[str, ...],
        Option("Columns whose values get their own temperature, or none.", parse=_columns, text=_names, kind="names"),
    ] = ("source",)
    seed: Annotated[int, Option("Assigns rows to folds.", least=0)] = 0
    export: Annotated[bool, Option("Log the calibrated soft labels as an export run.")] = False

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.per_teacher and self.method != "temperature":
            raise ContractError(f"--per-teacher true fits temperatures; it does not go with --method {self.method}")
        if self.in_sample and self.fit_run:
            raise ContractError("--fit-run fits on other rows and --in-sample true on the same: leave one out")
        if not (self.in_sample or self.fit_run or self.crossfit):
            raise ContractError("no rows to fit on: give --crossfit K, --fit-run RUN or --in-sample true")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """Settings of `compare`."""

    run_a: Annotated[str, Option("Export or teacher run, by its id or its first digits, or a folder.", argument=True)]
    run_b: Annotated[str, Option("The one that is compared with it.", argument=True)]


@dataclass(frozen=True, kw_only=True)
class ManifestRowsSettings(Settings):
    """The rows of a manifest on this machine that soft labels are compared with."""

    verify_paths: ClassVar[bool] = False  # soft labels can be used where the images are not
    manifest: Annotated[str | None, MANIFEST] = None
    root: Root = None
    split: Split = None
    limit: Limit = None
    classes: Classes = None

    def check(self, *others: str) -> None:
        """Check that nothing is given that needs a manifest where there is none; `others` are further such fields."""
        for name in ("root", "split", "limit", "classes", *others):
            if getattr(self, name) and not self.manifest:
                raise ContractError(f"{option_name(name)} goes with a manifest; give --manifest CSV too")


@dataclass(frozen=True, kw_only=True)
class _RunChoice(Settings):
    """Which run's soft labels, and where they are put."""

    run: Annotated[str | None, Option("Fetch the soft labels of this export or teacher run; its first digits do.")] = (
        None
    )
    best: Annotated[str | None, Option("Or of the best run by this metric, such as macro_f1,")] = None
    benchmark: Annotated[str | None, Option("on the benchmark of this name, or digest; its first digits do;")] = None
    where: Annotated[str | None, Option("among runs that fulfil this MLflow filter: 'params.space = \"logit\"'.")] = (
        None
    )
    even_bad: Annotated[bool, Option("Take a run that triage called bad, too.")] = False
    out: Annotated[
        str | None,
        Option("Folder to put the bundle into.", default_text="softlabels-<run's first 8 digits>", kind="path"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FetchSettings(ManifestRowsSettings, _RunChoice):
    """Settings of `fetch`."""

    reorder: Annotated[bool, Option("Where only the order differs, rewrite the soft labels to the manifest's.")] = False
    check_images: Annotated[bool, Option("Check that the images are the ones that the teachers decoded.")] = False

    def check(self, *others: str) -> None:
        """Check that exactly one run is named, and that the options go together."""
        if bool(self.run) == bool(self.best):
            raise ContractError("name one run: --run RUN_ID, or --best METRIC --benchmark NAME")
        if self.best and not self.benchmark:
            raise ContractError(f"--best {self.best} needs --benchmark: only runs on the same rows can be ranked")
        for name in ("benchmark", "where"):
            if self.run and getattr(self, name):
                raise ContractError(f"{option_name(name)} goes with --best; --run names one run already")
        super().check("reorder", "check_images", *others)


@dataclass(frozen=True, kw_only=True)
class VerifySettings(ManifestRowsSettings):
    """Settings of `verify`."""

    run_or_folder: Annotated[
        str, Option("Export or teacher run, by its id or its first digits, or a folder.", argument=True)
    ]
    recompute: Annotated[int | None, Option("Compute the logits of so many random rows again.", least=1)] = None
    teachers: Annotated[str | None, TEACHERS] = None
    seed: Annotated[int, Option("Draws the rows.", least=0)] = 0
    device: Annotated[str, Option("auto, cpu, cuda or cuda:N.")] = "auto"

    def check(self, *others: str) -> None:
        """Check that no option lacks its other half."""
        super().check(*others)
        missing = [option_name(name) for name in ("manifest", "teachers") if not getattr(self, name)]
        if self.recompute and missing:
            raise ContractError(f"--recompute needs {' and '.join(missing)} too")
        if self.teachers and not self.recompute:
            raise ContractError("--teachers goes with --recompute N, the number of rows that are computed again")
