"""Settings of the workflows that judge, bring and verify stored soft labels: triage, fetch, verify."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings.fields import Option, Settings, option_name, split_names
from fer_mlflow.settings.groups import MANIFEST, TEACHERS, Classes, Limit, Root, RunSettings, Split

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(value: Any) -> float:
    """Return seconds, of a number of seconds or of a text with a unit: 90s, 30m, 1h, 2d.

    >>> parse_duration("90m"), parse_duration(60)
    (5400.0, 60.0)
    """
    if isinstance(value, str):
        number, unit = value[:-1], _UNITS.get(value[-1:])
        if unit is None or not number.replace(".", "", 1).isdecimal():
            raise ValueError(f"{value!r} is not a time such as 90s, 30m, 1h or 2d")
        return float(number) * unit
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)


def format_duration(seconds: float) -> str:
    """Return seconds with the largest unit that gives a whole number.

    >>> format_duration(3600.0), format_duration(5400.0), format_duration(1.5)
    ('1h', '90m', '1.5s')
    """
    unit = next((name for name, length in _UNITS.items() if seconds and seconds % length == 0), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


@dataclass(frozen=True, kw_only=True)
class TriageSettings(RunSettings):
    """Settings of `triage`."""

    benchmark: Annotated[
        str | None,
        Option("Show only benchmarks of this name, or whose selection digest begins so.", default_text="all"),
    ] = None
    metric: Annotated[str, Option("Rank by this metric.")] = "macro_f1"
    classes: Annotated[
        tuple[str, ...], Option("Also show F1 of these classes, comma-separated.", parse=split_names, kind="names")
    ] = ()
    top: Annotated[int | None, Option("Runs shown and tested on each leaderboard.", least=1, none_text="all")] = 20
    across: Annotated[bool, Option("Also rank configurations over all benchmarks, and recommend one.")] = False
    even_bad: Annotated[bool, Option("Show runs on leaderboards whatever their status.")] = False
    stale_after: Annotated[
        float,
        Option(
            "A running run is dead after so long without a heartbeat (90s, 30m, 1h, 2d).",
            parse=parse_duration,
            text=format_duration,
            kind="duration",
        ),
    ] = 3600.0
    reap: Annotated[bool, Option("End dead runs as KILLED.")] = False
    deep: Annotated[
        Literal["auto", "true", "false"], Option("Read bundles: those of runs never judged, all of them, or none.")
    ] = "auto"
    dry_run: Annotated[bool, Option("Show what would be tagged, and change nothing.")] = False
    clear: Annotated[bool, Option("Remove all tags of triage, and do nothing else.")] = False
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


@dataclass(frozen=True, kw_only=True)
class LocalRowsSettings(Settings):
    """The rows of a local manifest that soft labels are compared with."""

    manifest: Annotated[str | None, MANIFEST] = None
    root: Root = None
    split: Split = None
    limit: Limit = None
    classes: Classes = None

    def check(self) -> None:
        """Check that nothing describes the rows of a manifest where none is given."""
        for name in ("root", "split", "limit", "classes", "reorder", "check_images"):
            if self.manifest is None and getattr(self, name, None):
                raise ContractError(f"{option_name(name)} needs a manifest; give --manifest CSV too")


@dataclass(frozen=True, kw_only=True)
class FetchSettings(LocalRowsSettings):
    """Settings of `fetch`."""

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
    reorder: Annotated[bool, Option("Where only the order differs, rewrite the soft labels to the manifest's.")] = False
    check_images: Annotated[bool, Option("Check that the images are the ones of the export.")] = False

    def check(self) -> None:
        """Check that one run is named."""
        if bool(self.run) == bool(self.best):
            raise ContractError("name one run: --run RUN_ID, or --best METRIC --benchmark NAME")
        if self.best and not self.benchmark:
            raise ContractError(f"--best {self.best} needs --benchmark: only runs on the same rows can be ranked")
        for name in ("benchmark", "where"):
            if self.run and getattr(self, name):
                raise ContractError(f"--{name} goes with --best; --run names one run already")
        super().check()


@dataclass(frozen=True, kw_only=True)
class VerifySettings(LocalRowsSettings):
    """Settings of `verify`."""

    run_or_folder: Annotated[
        str, Option("An export or teacher run, by its id or its first digits, or a folder.", argument=True)
    ]
    recompute: Annotated[int | None, Option("Compute the teachers' logits of so many random rows again.", least=1)] = (
        None
    )
    teachers: Annotated[str | None, TEACHERS] = None
    seed: Annotated[int, Option("Draws the rows.", least=0)] = 0
    device: Annotated[str, Option("auto, cpu, cuda or cuda:N.")] = "auto"

    def check(self) -> None:
        """Check that what recomputation needs is there."""
        super().check()
        if self.recompute:
            missing = [option_name(name) for name in ("manifest", "teachers") if getattr(self, name) is None]
            if missing:
                raise ContractError(f"--recompute needs {' and '.join(missing)} too")
        elif self.teachers:
            raise ContractError("--teachers goes with --recompute N, the number of rows to compute again")
