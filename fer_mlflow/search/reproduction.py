"""Which candidates give published numbers: a configuration, a subset of the rows and a temperature each.

Distances are in units of the tolerance: 1 is as far as a match may be in any number, and a candidate's distance is the
root of the mean of squares over all numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from operator import attrgetter

import numpy as np
from scipy.optimize import brentq

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import metric_names, row_losses, score
from fer_mlflow.search.teacher_logits import CountTables

WITH_TEMPERATURE = frozenset(metric_names(having=lambda metric: not metric.from_counts))  # what a temperature changes
_TEMPERATURES = np.unique([*np.geomspace(0.2, 10, 40).round(3), 1.0])
_WITHIN = 1 + 1e-9  # distance of a match, with what rounding adds
_MOST_ROWS = 1_000_000  # candidates x rows whose temperature is sought
_NEAREST = 100  # candidates whose temperature is sought where no other number tells them apart, or none matches
_ZOOMS = 2
_DISTANCE = attrgetter("distance")
_MOST_SOURCES = 6  # of which every union is tried; of more only one, all but one, and all


@dataclass(frozen=True)
class Subset:
    """Some of a benchmark's labelled rows: their name for people, which of its G groups they are, and their number."""

    name: str
    groups: np.ndarray
    rows: int


def find_subsets(splits: np.ndarray, sources: np.ndarray) -> tuple[list[Subset], np.ndarray]:
    """Return the subsets of a benchmark that a published number may be of, and each row's group.

    They are all rows, each split, each source and unions of sources, over all rows and within each split; subsets
    of the same rows are there once. Both columns are (N,) text of the labelled rows.
    """
    columns = np.column_stack([splits, sources]).astype(str)
    found, groups, counts = np.unique(columns, axis=0, return_inverse=True, return_counts=True)
    pairs = found.tolist()
    subsets: dict[bytes, Subset] = {}
    for split in (None, *sorted({pair[0] for pair in pairs})):
        for union in _unions(sorted({pair[1] for pair in pairs})):
            chosen = np.array([split in (None, pair[0]) and (union is None or pair[1] in union) for pair in pairs])
            words = ["all rows"] if split is None else [f"split {split or '(empty)'}"]
            words += [f"source {' + '.join(each or '(empty)' for each in union)}"] if union else []
            name = ", ".join(words[1:] if split is None and union else words)
            if chosen.any():
                subsets.setdefault(chosen.tobytes(), Subset(name, chosen, int(counts[chosen].sum())))
    return list(subsets.values()), groups.reshape(-1)


def _unions(sources: list[str]) -> Iterator[tuple[str, ...] | None]:
    """Yield sets of sources, small ones first; None stands for all."""
    yield None
    S = len(sources)
    sizes = range(1, S) if S <= _MOST_SOURCES else sorted({1, S - 1})
    for size in sizes:
        yield from combinations(sources, size)


@dataclass(frozen=True)
class Target:
    """The numbers to reproduce; None where something about them is not known."""

    values: Mapping[str, float]  # by public metric name
    tolerance: float  # how far a match may be from each
    temperature: float | None = None  # what logits were divided by
    rows: int | None = None  # labelled rows that were scored

    @property
    def seeks_temperature(self) -> bool:
        """Whether a temperature is unknown and makes a difference."""
        return self.temperature is None and any(name in WITH_TEMPERATURE for name in self.values)

    def distances(self, scores: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return (M,) root mean square and greatest difference of (M,) scores, in tolerances."""
        off = np.abs([(values - self.values[name]) / self.tolerance for name, values in scores.items()])
        return np.sqrt(np.square(off).mean(axis=0)), off.max(axis=0)


@dataclass(frozen=True)
class BenchmarkCounts:
    """M configurations' count tables of one benchmark, at the target's temperature, or 1 where that is not known."""

    counts: CountTables
    subsets: Sequence[Subset]  # the first is all rows
    labels: np.ndarray  # (N,) int
    groups: np.ndarray  # (N,) int
    fused: Callable[[int], np.ndarray]  # gives a configuration's (N, C) logits, T = 1


@dataclass(frozen=True)
class Candidate:
    """A configuration on a subset of a benchmark at a temperature, and how near it comes."""

    benchmark: str
    subset: str
    rows: int
    configuration: int
    temperature: float
    temperatures: tuple[float, float]  # least and greatest that was found to match; both the same where none was sought
    scores: Mapping[str, float]  # by metric of the target
    distance: float  # root mean square of the differences, in tolerances
    is_match: bool  # whether every difference is within the tolerance


@dataclass(frozen=True)
class Reproduction:
    """What a search for a target found.

    The reference is all rows of the first benchmark under the reference configuration; None where they lack a class.
    """

    target: Target
    matches: list[Candidate]  # the nearest first
    nearest: Candidate  # of all, match or not
    reference: Candidate | None
    changes: dict[str, Candidate]  # what is changed -> the nearest that differs from the reference in nothing else
    reachable: dict[str, tuple[float, float]]  # metric -> least and greatest value over all candidates
    sought: tuple[int, int]  # candidates whose temperature was sought, and how many could have been


def search_candidates(
    target: Target,
    benchmarks: Mapping[str, BenchmarkCounts],
    classes: tuple[str, ...],
    reference_m: int,
    related: Mapping[str, np.ndarray],
    progress: Callable[[int], AbstractContextManager] = lambda total: nullcontext(lambda done: None),
) -> Reproduction:
    """Score every configuration on every subset of every benchmark, at several temperatures where they matter.

    A temperature is sought for candidates whose accuracy and F1 match, or come nearest: the nearest first, and as many
    as take some seconds. `progress` opens their report, which is called with 1 when one is done. `related` are what is
    changed -> the configurations that differ from the reference in nothing else.
    """
    search = _Search(target, benchmarks, classes)
    for benchmark, searched in benchmarks.items():
        for subset in searched.subsets:
            search.score_subset(benchmark, subset)
    if not search.scored:
        rows = sorted({subset.rows for searched in benchmarks.values() for subset in searched.subsets})
        wanted = f"of {target.rows:,} labelled rows" if target.rows else "with rows of all classes of the target"
        raise ContractError(
            f"no subset of the benchmarks is {wanted}; subsets have {', '.join(f'{n:,}' for n in rows)} rows"
        )
    sought = search.seek_temperatures(progress)
    best: dict[tuple[str, str, int], Candidate] = {}
    for each in sorted(search.scored, key=lambda each: (not each.is_match, each.distance)):
        best.setdefault((each.benchmark, each.subset, each.configuration), each)
    ordered = list(best.values())
    reference, changes = search.changes(reference_m, related)
    return Reproduction(
        target=target,
        matches=[each for each in ordered if each.is_match],
        nearest=min(ordered, key=_DISTANCE),
        reference=reference,
        changes=changes,
        reachable=search.reachable,
        sought=sought,
    )


class _Search:
    """The state of one search: the scored candidates, and what every configuration scores on every subset."""

    def __init__(self, target: Target, benchmarks: Mapping[str, BenchmarkCounts], classes: tuple[str, ...]):
        self.target, self.benchmarks, self.classes = target, benchmarks, classes
        self.scored: list[Candidate] = []
        self.reachable: dict[str, tuple[float, float]] = {}
        self.scores: dict[tuple[str, str], dict[str, np.ndarray]] = {}  # of benchmark and subset
        self.to_fit: list[tuple[float, str, Subset, int]] = []

    def score_subset(self, benchmark: str, subset: Subset) -> None:
        """Compare every configuration on one subset with the target."""
        target = self.target
        scores = self.benchmarks[benchmark].counts.scores(self.classes, subset.groups)
        if not set(target.values) <= set(scores):
            return  # a class of the target has no row here
        own = self.scores[benchmark, subset.name] = {name: scores[name] for name in target.values}
        if target.rows not in (None, subset.rows):
            return
        for name, values in own.items():
            low, high = self.reachable.get(name, (np.inf, -np.inf))
            self.reachable[name] = (min(low, float(values.min())), max(high, float(values.max())))
        distance, greatest = target.distances(own)
        near = np.union1d(np.flatnonzero(greatest <= _WITHIN), [int(distance.argmin())])
        self.scored += [self.candidate(benchmark, subset, m) for m in near.tolist()]
        if target.seeks_temperature:
            fixed = {name: values for name, values in own.items() if name not in WITH_TEMPERATURE}
            by = target.distances(fixed)[1] if fixed else distance
            kept = np.argsort(by, kind="stable")[: max(_NEAREST, int((by <= _WITHIN).sum()))]
            self.to_fit += [(float(by[m]), benchmark, subset, m) for m in kept.tolist()]

    def candidate(self, benchmark: str, subset: Subset, m: int) -> Candidate:
        """Return a configuration at the target's temperature, or 1."""
        own = {name: float(values[m]) for name, values in self.scores[benchmark, subset.name].items()}
        return self.compared(benchmark, subset, m, self.target.temperature or 1.0, own)

    def compared(
        self, benchmark: str, subset: Subset, m: int, temperature: float, scores: Mapping[str, float]
    ) -> Candidate:
        """Return a configuration at a temperature with its distance."""
        (distance,), (greatest,) = self.target.distances({name: np.array([value]) for name, value in scores.items()})
        is_match = bool(greatest <= _WITHIN)
        both = (temperature, temperature)
        return Candidate(benchmark, subset.name, subset.rows, m, temperature, both, scores, float(distance), is_match)

    def seek_temperatures(self, progress: Callable[[int], AbstractContextManager]) -> tuple[int, int]:
        """Seek the temperature of every candidate whose other numbers match, and return how many of how many.

        Where none of them does, it is sought for those that are nearest.
        """
        self.to_fit.sort(key=lambda each: each[0])
        open_ones = [each for each in self.to_fit if each[0] <= _WITHIN]
        if not open_ones or not set(self.target.values) - set(WITH_TEMPERATURE):
            open_ones = self.to_fit
            chosen = open_ones[:_NEAREST]
        else:
            rows = np.cumsum([subset.rows for _, _, subset, _ in open_ones])
            chosen = open_ones[: max(1, int(np.searchsorted(rows, _MOST_ROWS, side="right")))]
        if chosen:
            with progress(len(chosen)) as count:
                for _, benchmark, subset, m in chosen:
                    self.scored.append(self.at_best_temperature(benchmark, subset, m))
                    count(1)
        return len(chosen), len(open_ones)

    def at_best_temperature(self, benchmark: str, subset: Subset, m: int) -> Candidate:
        """Return a configuration at the temperature at which it comes nearest.

        The ECE jumps with T, so steps down its slope end anywhere. A grid is tried, then finer ones around its best
        point; and where the target has an NLL, which is smooth, the temperatures that give it.
        """
        searched = self.benchmarks[benchmark]
        rows = subset.groups[searched.groups]
        logits, labels = searched.fused(m)[rows], searched.labels[rows]

        def at(temperature: float) -> Candidate:
            named = score(logits / temperature, labels, self.classes)
            own = {name: named[name] for name in self.target.values}
            return self.compared(benchmark, subset, m, temperature, own)

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
            k = int(np.abs(grid - min(tried, key=_DISTANCE).temperature).argmin())
            grid = np.linspace(grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)], 9)
            tried += [at(float(temperature)) for temperature in grid]
        nearest = min(tried, key=_DISTANCE)
        matching = [each.temperature for each in tried if each.is_match] or [nearest.temperature]
        return replace(nearest, temperatures=(min(matching), max(matching)))

    def changes(
        self, reference: int, related: Mapping[str, np.ndarray]
    ) -> tuple[Candidate | None, dict[str, Candidate]]:
        """Return the reference candidate, and what a change of one thing at a time brings."""
        (first, searched), *others = self.benchmarks.items()
        whole, *parts = searched.subsets
        if (first, whole.name) not in self.scores:
            return None, {}
        changes: dict[str, list[Candidate]] = {
            what: [self.candidate(first, whole, m) for m in ms.tolist()] for what, ms in related.items()
        }
        elsewhere = {
            "rows": [(first, subset) for subset in parts],
            "benchmark": [(name, each.subsets[0]) for name, each in others],
        }
        for what, places in elsewhere.items():
            scored = [(name, subset) for name, subset in places if (name, subset.name) in self.scores]
            changes[what] = [self.candidate(name, subset, reference) for name, subset in scored]
        if self.target.seeks_temperature:
            changes["temperature"] = [self.at_best_temperature(first, whole, reference)]
        nearest = {what: min(each, key=_DISTANCE) for what, each in changes.items() if each}
        return self.candidate(first, whole, reference), dict(sorted(nearest.items(), key=lambda item: item[1].distance))
