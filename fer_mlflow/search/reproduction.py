"""Which settings give numbers that were once published: configurations, parts of the rows, temperatures.

Distances are in units of the tolerance: 1 is as far as a match may be in any number, and a setting's distance is the
root of the mean of squares over all numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import metric_names, row_losses, score
from fer_mlflow.scoring.parts import Part
from fer_mlflow.scoring.tallies import Tallies

WITH_TEMPERATURE = frozenset(metric_names(having=lambda metric: not metric.from_counts))  # what a temperature changes
_TEMPERATURES = np.unique([*np.geomspace(0.2, 10, 40).round(3), 1.0])
_ROUNDING = 1e-9
_MOST_ROWS = 1_000_000  # settings x rows whose temperature is sought
_NEAREST = 100  # settings whose temperature is sought where no other number tells them apart, or none matches
_ZOOMS = 2


@dataclass(frozen=True)
class Target:
    """The numbers that are to be given again.

    Attributes
    ----------
    values : public metric name -> number
    tolerance : how far a match may be from each
    temperature : what logits were divided by; None where that is not known
    rows : labelled rows that were scored; None where that is not known
    """

    values: Mapping[str, float]
    tolerance: float
    temperature: float | None = None
    rows: int | None = None

    @property
    def seeks_temperature(self) -> bool:
        """Whether a temperature is unknown and makes a difference."""
        return self.temperature is None and any(name in WITH_TEMPERATURE for name in self.values)

    def distances(self, scores: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return (M,) root mean square and greatest difference of (M,) scores, in tolerances."""
        off = np.abs([(values - self.values[name]) / self.tolerance for name, values in scores.items()])
        return np.sqrt(np.square(off).mean(axis=0)), off.max(axis=0)

    def compared(
        self, benchmark: str, part: Part, m: int, temperature: float, scores: Mapping[str, float]
    ) -> "Setting":
        """Return a configuration with its distance."""
        (distance,), (greatest,) = self.distances({name: np.array([value]) for name, value in scores.items()})
        is_match = bool(greatest <= 1 + _ROUNDING)
        return Setting(
            benchmark, part.name, part.rows, m, temperature, (temperature,) * 2, scores, float(distance), is_match
        )


@dataclass(frozen=True)
class Searched:
    """One benchmark: M configurations' tallies by group, at the target's temperature, or 1 where that is not known.

    Attributes
    ----------
    parts : the first is all rows
    labels, groups : (N,) int
    fused : gives a configuration's (N, C) logits, T = 1
    """

    tallies: Tallies
    parts: Sequence[Part]
    labels: np.ndarray
    groups: np.ndarray
    fused: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """A configuration on a part of a benchmark at a temperature, and how near it comes.

    Attributes
    ----------
    scores : metric of the target -> what this setting gives
    temperatures : least and greatest temperature that was found to match; both `temperature` where it was not sought
    distance : root mean square of the differences, in tolerances
    is_match : whether every difference is within the tolerance
    """

    benchmark: str
    part: str
    rows: int
    configuration: int
    temperature: float
    temperatures: tuple[float, float]
    scores: Mapping[str, float]
    distance: float
    is_match: bool


@dataclass(frozen=True)
class Reproduction:
    """What a search found.

    Attributes
    ----------
    matches : the nearest first
    nearest : the nearest of all, match or not
    usual : the setting that changes are told from: all rows of the first benchmark, the usual configuration; None where
        that has no row of a class whose F1 is asked for
    changes : what is changed -> the nearest setting that differs from the usual one in nothing else
    reachable : metric -> least and greatest value over all settings that were looked at
    sought : settings whose temperature was sought, and how many could have been
    """

    matches: list[Setting]
    nearest: Setting
    usual: Setting | None
    changes: dict[str, Setting]
    reachable: dict[str, tuple[float, float]]
    sought: tuple[int, int]


def search_settings(
    target: Target,
    benchmarks: Mapping[str, Searched],
    classes: tuple[str, ...],
    usual: int,
    related: Mapping[str, np.ndarray],
    on_sought: Callable[[int], object] = lambda total: None,
) -> Reproduction:
    """Look at every configuration on every part of every benchmark, and at temperatures where they matter.

    A temperature is sought for settings whose accuracy and F1 match, or come nearest: the nearest first, and as many
    as take some seconds. `on_sought` is told how many there are, each time one is done.

    Parameters
    ----------
    classes : C names
    usual : the configuration that changes are told from
    related : what is changed -> the configurations that differ from the usual one in nothing else

    Raises
    ------
    ContractError
        no part of a benchmark has so many rows, or rows of the classes whose F1 is asked for
    """
    search = _Search(target, benchmarks, classes)
    for benchmark, searched in benchmarks.items():
        for part in searched.parts:
            search.look_at(benchmark, part)
    if not search.found:
        rows = sorted({part.rows for searched in benchmarks.values() for part in searched.parts})
        wanted = f"of {target.rows:,} labelled rows" if target.rows else "with rows of all classes of the target"
        raise ContractError(
            f"no part of the benchmarks is {wanted}; parts have {', '.join(f'{n:,}' for n in rows)} rows"
        )
    sought = search.seek_temperatures(on_sought)
    best: dict[tuple[str, str, int], Setting] = {}
    for each in sorted(search.found, key=lambda each: (not each.is_match, each.distance)):
        best.setdefault((each.benchmark, each.part, each.configuration), each)
    ordered = list(best.values())
    start, changes = search.changes(usual, related)
    return Reproduction(
        matches=[each for each in ordered if each.is_match],
        nearest=min(ordered, key=lambda each: each.distance),
        usual=start,
        changes=changes,
        reachable=search.reachable,
        sought=sought,
    )


class _Search:
    """The state of one search: what was found, and what every configuration scores on every part."""

    def __init__(self, target: Target, benchmarks: Mapping[str, Searched], classes: tuple[str, ...]):
        self.target, self.benchmarks, self.classes = target, benchmarks, classes
        self.found: list[Setting] = []
        self.reachable: dict[str, tuple[float, float]] = {}
        self.scores: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        self.candidates: list[tuple[float, str, Part, int]] = []

    def look_at(self, benchmark: str, part: Part) -> None:
        """Compare every configuration on one part with the target."""
        target = self.target
        scores = self.benchmarks[benchmark].tallies.scores(self.classes, part.groups)
        if not set(target.values) <= set(scores):
            return  # a class of the target has no row here
        own = self.scores[benchmark, part.name] = {name: scores[name] for name in target.values}
        if target.rows not in (None, part.rows):
            return
        for name, values in own.items():
            low, high = self.reachable.get(name, (np.inf, -np.inf))
            self.reachable[name] = (min(low, float(values.min())), max(high, float(values.max())))
        distance, greatest = target.distances(own)
        near = np.union1d(np.flatnonzero(greatest <= 1 + _ROUNDING), [int(distance.argmin())])
        self.found += [self.setting(benchmark, part, m) for m in near.tolist()]
        if target.seeks_temperature:
            fixed = {name: values for name, values in own.items() if name not in WITH_TEMPERATURE}
            by = target.distances(fixed)[1] if fixed else distance
            kept = np.argsort(by, kind="stable")[: max(_NEAREST, int((by <= 1 + _ROUNDING).sum()))]
            self.candidates += [(float(by[m]), benchmark, part, m) for m in kept.tolist()]

    def setting(self, benchmark: str, part: Part, m: int) -> Setting:
        """Return a configuration at the target's temperature, or 1."""
        own = {name: float(values[m]) for name, values in self.scores[benchmark, part.name].items()}
        return self.target.compared(benchmark, part, m, self.target.temperature or 1.0, own)

    def seek_temperatures(self, on_sought: Callable[[int], object]) -> tuple[int, int]:
        """Seek the temperature of every candidate whose other numbers match, and return how many of how many.

        Where none of them does, it is sought for those that are nearest.
        """
        self.candidates.sort(key=lambda each: each[0])
        open_ones = [each for each in self.candidates if each[0] <= 1 + _ROUNDING]
        if not open_ones or not set(self.target.values) - set(WITH_TEMPERATURE):
            open_ones = self.candidates
            chosen = open_ones[:_NEAREST]
        else:
            rows = np.cumsum([part.rows for _, _, part, _ in open_ones])
            chosen = open_ones[: max(1, int(np.searchsorted(rows, _MOST_ROWS, side="right")))]
        for _, benchmark, part, m in chosen:
            self.found.append(self.at_best_temperature(benchmark, part, m))
            on_sought(len(chosen))
        return len(chosen), len(open_ones)

    def at_best_temperature(self, benchmark: str, part: Part, m: int) -> Setting:
        """Return a configuration at the temperature at which it comes nearest.

        The ECE jumps with T, so steps down its slope end anywhere. A grid is tried, then finer ones around its best
        point; and where the target has an NLL, which is smooth, the temperatures that give it.
        """
        searched = self.benchmarks[benchmark]
        rows = part.groups[searched.groups]
        logits, labels = searched.fused(m)[rows], searched.labels[rows]

        def at(temperature: float) -> Setting:
            named = score(logits / temperature, labels, self.classes)
            own = {name: named[name] for name in self.target.values}
            return self.target.compared(benchmark, part, m, temperature, own)

        grid = _TEMPERATURES
        tried = [at(float(temperature)) for temperature in grid]
        if "nll" in self.target.values:
            wanted = self.target.values["nll"]

            def off(temperature: float) -> float:
                return float(row_losses(logits / temperature, labels).mean()) - wanted

            gaps = [each.scores["nll"] - wanted for each in tried]
            crossed = [k for k in range(len(grid) - 1) if gaps[k] * gaps[k + 1] < 0]
            tried += [at(brentq(off, grid[k], grid[k + 1], xtol=1e-7)) for k in crossed]
        for _ in range(_ZOOMS):
            k = int(np.argmin([abs(temperature - _best(tried).temperature) for temperature in grid]))
            grid = np.linspace(grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)], 9)
            tried += [at(float(temperature)) for temperature in grid]
        matching = [each.temperature for each in tried if each.is_match] or [_best(tried).temperature]
        return replace(_best(tried), temperatures=(min(matching), max(matching)))

    def changes(self, usual: int, related: Mapping[str, np.ndarray]) -> tuple[Setting | None, dict[str, Setting]]:
        """Return the usual setting, and what a change of one thing at a time brings."""
        wholes = {name: searched.parts[0] for name, searched in self.benchmarks.items()}
        at = {(name, part.name): part for name, each in self.benchmarks.items() for part in each.parts}
        (first, whole), *_ = wholes.items()
        if (first, whole.name) not in self.scores:
            return None, {}
        changes: dict[str, list[Setting]] = {
            what: [self.setting(first, whole, m) for m in ms.tolist()] for what, ms in related.items()
        }
        scored = [(name, at[name, part]) for name, part in self.scores]
        changes["rows"] = [self.setting(name, part, usual) for name, part in scored if name == first and part != whole]
        changes["benchmark"] = [
            self.setting(name, part, usual) for name, part in scored if name != first and part is wholes[name]
        ]
        if self.target.seeks_temperature:
            changes["temperature"] = [self.at_best_temperature(first, whole, usual)]
        nearest = {what: min(each, key=lambda s: s.distance) for what, each in changes.items() if each}
        return self.setting(first, whole, usual), dict(sorted(nearest.items(), key=lambda item: item[1].distance))


def _best(settings: Sequence[Setting]) -> Setting:
    return min(settings, key=lambda each: each.distance)
