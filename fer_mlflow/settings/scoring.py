"""Settings of the workflows on soft labels, from export to triage and promote."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, groups, option_name
from fer_mlflow.settings.texts import Duration, FilePath, Number, RisingNumbers, RisingPair, RunOrAll


@dataclass(frozen=True, kw_only=True)
class InspectSettings(groups.SourceSettings):
    """Settings of `inspect`."""

    temperatures: Annotated[RisingNumbers, Option("Temperatures to look at.")] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    band: Annotated[RisingPair, Option("Mean top probability that suits distillation: lowest, highest.")] = (0.5, 0.8)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(groups.FusionSettings):
    """Settings of `export`."""

    out: Annotated[FilePath | None, Option("Also put the bundle into this folder.")] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(groups.SourceSettings):
    """Settings of `evaluate`."""

    by: Annotated[
        tuple[str, ...], Option("Columns whose values are scored on their own, or none.", none_text="none")
    ] = ("source",)
    temperature: Annotated[Number, Option("Evaluate logits divided by this.", above=0)] = 1.0
    log_images: groups.LogImages = None


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(groups.SourceSettings):
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
        tuple[str, ...], Option("Columns whose values get their own temperature, or none.", none_text="none")
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
class CompareSettings(groups.RunSettings):
    """Settings of `compare`."""

    run_a: Annotated[str, Option("Export or teacher run, by its id or its first digits, or a folder.", argument=True)]
    run_b: Annotated[str, Option("The one that is compared with it.", argument=True)]


@dataclass(frozen=True, kw_only=True)
class ManifestRowsSettings(Settings):
    """The rows of a manifest on this machine that soft labels are compared with."""

    verify_paths: ClassVar[bool] = False  # soft labels can be used where the images are not
    manifest: groups.Manifest | None = None
    root: groups.Root = None
    split: groups.Split = None
    limit: groups.Limit = None
    classes: groups.Classes = None

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
    for_split: Annotated[
        str | None,
        Option(
            "then fetch its configuration's soft labels of this split of the same manifest: choose on val for train;"
        ),
    ] = None
    where: Annotated[str | None, Option("among runs that fulfil this MLflow filter: 'params.space = \"logit\"'.")] = (
        None
    )
    even_bad: Annotated[bool, Option("Take a run that triage called bad, too.")] = False
    out: Annotated[
        FilePath | None, Option("Folder to put the bundle into.", default_text="softlabels-<run's first 8 digits>")
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
        for name in ("benchmark", "for_split", "where"):
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
    teachers: groups.Teachers | None = None
    seed: Annotated[int, Option("Draws the rows.", least=0)] = 0
    device: groups.Device = "auto"

    def check(self, *others: str) -> None:
        """Check that no option lacks its other half."""
        super().check(*others)
        missing = [option_name(name) for name in ("manifest", "teachers") if not getattr(self, name)]
        if self.recompute and missing:
            raise ContractError(f"--recompute needs {' and '.join(missing)} too")
        if self.teachers and not self.recompute:
            raise ContractError("--teachers goes with --recompute N, the number of rows that are computed again")


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(Settings):
    """Settings of `promote`."""

    run: Annotated[str, Option("Run of a student, teacher or export, by its id or first digits.", argument=True)]
    alias: Annotated[str, Option("Alias that moves to the better version.")] = "champion"
    name: Annotated[str | None, Option("Registered model.", default_text="fer-student, fer-teacher, …")] = None
    benchmark: Annotated[str | None, Option("Compare on it, by name or digest.", default_text="the run's own")] = None
    metric: Annotated[str, Option("Compare by this metric.")] = "macro_f1"
    level: Annotated[float, Option("Better means a p-value below this.", above=0, most=0.5)] = 0.01
    margin: Annotated[float | None, Option("Or not worse: the 95 % interval ends above minus this.", above=0)] = None
    force: Annotated[str | None, Option("Move the alias whatever is found, for this reason.")] = None

    def check(self) -> None:
        """Check that MLflow takes the names."""
        if not re.fullmatch(r"(?!(latest|v\d+)/)[\w-]+/[\w.-]+", f"{self.alias}/{self.name or 'fer'}"):
            raise ContractError(f"--alias {self.alias}, --name {self.name}: use letters, digits, _, -; not latest, v1")


@dataclass(frozen=True, kw_only=True)
class LineageSettings(Settings):
    """Settings of `lineage`."""

    run: Annotated[str, Option("Any run, by its id or first digits, or models:/NAME@ALIAS.", argument=True)]


@dataclass(frozen=True, kw_only=True)
class TriageSettings(groups.RunSettings):
    """Settings of `triage`."""

    benchmark: Annotated[
        str | None,
        Option("Show only benchmarks of this name, or whose selection digest begins so.", default_text="all"),
    ] = None
    metric: Annotated[str, Option("Rank by this metric.")] = "macro_f1"
    classes: Annotated[tuple[str, ...], Option("Also show F1 of these classes, comma-separated.")] = ()
    top: Annotated[int | None, Option("Runs shown and tested on each leaderboard.", least=1, none_text="all")] = 20
    across: Annotated[bool, Option("Also rank configurations over all benchmarks, and recommend one.")] = False
    even_bad: Annotated[bool, Option("Show runs on leaderboards whatever their status.")] = False
    stale_after: Annotated[
        Duration, Option("A running run is dead after so long without a heartbeat (90s, 30m, 1h, 2d).")
    ] = 3600.0
    reap: Annotated[bool, Option("End dead runs as KILLED, or FAILED where the command never started.")] = False
    deep: Annotated[groups.Switch, Option("Read bundles: those of runs never judged, all of them, or none.")] = "auto"
    dry_run: Annotated[bool, Option("Show what would be tagged, and change nothing.")] = False
    clear: Annotated[
        RunOrAll | None, Option("Remove triage's tags of this run, or with true of all runs, and do nothing else.")
    ] = None
    bad: Annotated[str | None, Option("Call this run bad, whatever the rules find, and do nothing else.")] = None
    keep: Annotated[str | None, Option("Call this run good, whatever the rules find, and do nothing else.")] = None
    reason: Annotated[str | None, Option("Why, for --bad and --keep.")] = None

    def check(self) -> None:
        """Check that no two settings exclude each other."""
        alone = [name for name in ("bad", "keep", "clear") if getattr(self, name)]
        if len(alone) > 1:
            raise ContractError(f"--{alone[0]} and --{alone[1]} do one thing each; give one of them")
        if self.reason and not (self.bad or self.keep):
            raise ContractError("--reason explains --bad RUN_ID or --keep RUN_ID; give one of them with it")
