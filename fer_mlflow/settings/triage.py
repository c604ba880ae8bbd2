"""Settings of `triage`: which runs are judged, tagged and ranked."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, split_names
from fer_mlflow.settings.groups import RunSettings

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
    reap: Annotated[bool, Option("End dead runs as KILLED, or FAILED where the command never started.")] = False
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
