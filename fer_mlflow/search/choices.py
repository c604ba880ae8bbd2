"""Choosing a configuration: weight grids, the best of a list, greedy selection, the likeliest mixture; what that gains.

On the rows that it was made on, a choice looks better than it is: the best of many equal configurations is better by
chance alone. So it is made on some rows and assessed on others, or on all folds but one and assessed on that one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np

from fer_mlflow.calibration import OK, fit_coefficients, fit_temperature
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import is_lower_better, score
from fer_mlflow.scoring.significance import REPLICATES, Comparison, compare_logits
from fer_mlflow.search.teacher_logits import CountTables, RowScores, TeacherLogits, count_rows

_GREEDY_ROUNDS = 50
_EM_STEPS = 20_000
_EM_GAP = 1e-9  # nats that other weights could still be better by
_USUAL_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.2, 0.25, 0.5, 1.0)
_WHOLE = 1e-6  # how far 1 / step may be from a whole number
_DIGITS = 6  # of a weight that is shown or exported
_LEVEL = 0.05
BASELINES = ("equal weights", "best teacher")

# Teachers' logits of the same rows under several preprocessings (CLAHE off and on), by name.
Variants = Mapping[str, TeacherLogits]


@dataclass(frozen=True)
class Choice:
    """One configuration, and how it came about."""

    variant: str  # name of the preprocessing; empty for the teachers' own
    space: str  # `logit` or `prob`
    weights: np.ndarray  # (K,) float64 of at least 0, summing to 1
    temperature: float = 1.0  # what fused logits are divided by
    note: str = ""  # why the choice is another than was sought

    def fused(self, variants: Variants) -> np.ndarray:
        """Return (N, C) float64 logits of the configuration."""
        return variants[self.variant].fused(self.space, self.weights, self.temperature)

    def row_scores(self, variants: Variants) -> RowScores:
        """Return the predictions of the configuration and the losses of each row."""
        return variants[self.variant].row_scores(self.space, self.weights, self.temperature)

    def shares(self, teachers: Sequence[str]) -> dict[str, float]:
        """Return the teachers that it uses and their weights, to 6 digits, as they are shown and exported."""
        shares = {name: round(float(share), _DIGITS) for name, share in zip(teachers, self.weights, strict=True)}
        return {name: share for name, share in shares.items() if share > 0}

    def describe(self, teachers: Sequence[str]) -> str:
        """Return it in a few words."""
        shares = [f"{name} {share:.3g}" for name, share in self.shares(teachers).items()]
        at = f"T {self.temperature:.3g}" if self.temperature != 1 else ""
        return " · ".join(filter(None, [self.space, self.variant, at, *shares]))


def equal_weights(teachers: int) -> np.ndarray:
    """Return (K,) float64 equal shares."""
    return np.full(teachers, 1 / teachers)


def steps_in(step: float) -> int:
    """Return how many steps make 1.

    >>> steps_in(0.1), steps_in(1 / 3)
    (10, 3)
    """
    if not 0 < step <= 1:
        raise ContractError(f"step {step:g}: it must be above 0 and at most 1, for example 0.1")
    steps = round(1 / step)
    if abs(1 / step - steps) > _WHOLE * steps:
        near = " or ".join(f"{1 / each:.6g}" for each in {int(1 / step), int(1 / step) + 1})
        raise ContractError(f"step {step:g}: 1 is not a whole number of steps; {near} would fit")
    return steps


def count_weightings(teachers: int, steps: int) -> int:
    """Return how many weightings a grid of `steps` steps has: (steps + K - 1) over (K - 1).

    >>> count_weightings(3, 10)
    66
    """
    return comb(steps + teachers - 1, teachers - 1)


def finest_step(teachers: int, most: int) -> float:
    """Return the smallest usual step (0.001, 0.002, 0.005, 0.01, …) of at most so many weightings; 0 if there is none.

    >>> finest_step(3, 20_000), finest_step(8, 1)
    (0.01, 0.0)
    """
    fitting = (step for step in _USUAL_STEPS if count_weightings(teachers, round(1 / step)) <= most)
    return next(fitting, 0.0)


def simplex_grid(teachers: int, steps: int) -> np.ndarray:
    """Return all weightings whose shares are multiples of 1 / steps, (M, K) float64 in rising order.

    >>> simplex_grid(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    # K - 1 bars among steps + K - 1 places: the gaps between them are the shares.
    chosen = list(combinations(range(steps + teachers - 1), teachers - 1))
    bars = np.array(chosen, dtype=np.int64).reshape(len(chosen), teachers - 1)
    return (np.diff(bars, axis=1, prepend=-1, append=steps + teachers - 1) - 1) / steps


def choose_best(
    variants: Variants, lists: Mapping[tuple[str, str], np.ndarray], metric: str, workers: int = 1
) -> Choice:
    """Return the configuration of the best metric; among equal ones that of the lowest NLL, then the first.

    `lists` are (variant, space) -> (M, K) weights. The metric has its public name; F1 of class k is `f1/k`.
    """
    counted = [count_rows(variants[name], space, each, workers=workers) for (name, space), each in lists.items()]
    choices = [Choice(name, space, own) for (name, space), weights in lists.items() for own in weights]
    classes = tuple(map(str, range(next(iter(variants.values())).n_classes)))
    return choices[CountTables.concatenated(counted).best(metric, classes)[0]]


def choose_greedily(
    variants: Variants, spaces: Sequence[str], metric: str, rounds: int = _GREEDY_ROUNDS, workers: int = 1
) -> Choice:
    """Return the best ensemble that greedy selection with replacement meets, in any variant and space.

    From no teacher on, each round adds the teacher, chosen before or not, with which the mean is best; weights are how
    often each was chosen. The best of all rounds is taken, of equal ones that of the lowest NLL, then the shortest.
    (Caruana et al. 2004, Ensemble Selection from Libraries of Models, sec. 2.1 and 2.2.)
    """
    ensembles: dict[tuple[str, str], np.ndarray] = {}
    for name, logits in variants.items():
        for space in spaces:
            counts, seen = np.zeros(logits.teachers), []
            for size in range(1, rounds + 1):
                larger = (counts + np.eye(logits.teachers)) / size
                chosen = choose_best(variants, {(name, space): larger}, metric, workers)
                counts = np.round(chosen.weights * size)
                seen.append(chosen.weights)
            ensembles[name, space] = np.array(seen)
    return choose_best(variants, ensembles, metric, workers)


def choose_likeliest(variants: Variants, spaces: Sequence[str]) -> Choice:
    """Return the weights of the lowest NLL: a convex problem in each variant and space, and the best of them.

    In logit space weights and temperature are one fit of coefficients a_k = w_k / T >= 0; where that has no optimum,
    weights are equal and T is 1, and the choice says why. In probability space T is 1.
    """
    choices = [_likeliest(name, space, logits) for name, logits in variants.items() for space in spaces]
    return min(choices, key=lambda each: (bool(each.note), each.row_scores(variants).loss.mean()))


def _likeliest(name: str, space: str, logits: TeacherLogits) -> Choice:
    if space == "prob":
        return Choice(name, space, likeliest_mixture(logits.label_log_probs()))
    if space != "logit":
        raise ContractError(f"space {space!r}: the weights of the lowest NLL are known for logit and prob only")
    fit = fit_coefficients(logits.logits(), logits.labels)
    if fit.status != OK:
        return Choice(name, space, equal_weights(logits.teachers), note=f"equal weights: {fit.explanation}")
    total = float(fit.coefficients.sum())
    return Choice(name, space, fit.coefficients / total, 1 / total)


def likeliest_mixture(log_probs: np.ndarray) -> np.ndarray:
    """Return the (K,) weights w of distributions that minimise mean -log sum_k w_k p_k(y), by expectation maximisation.

    The log-probabilities, (K, N) float64, are log p_k of each row's label; some of a row may be -inf, not all. Each
    step is w_k <- w_k mean[p_k(y) / sum_j w_j p_j(y)]. The NLL is convex in w, falls at every step, and is within
    log max_k mean[p_k(y) / sum_j w_j p_j(y)] of its minimum (by Jensen's inequality): at 1e-9 nats the search stops.
    (Dempster, Laird & Rubin 1977.)

    >>> likeliest_mixture(np.log([[0.9, 0.9, 0.9], [0.5, 0.5, 0.5]])).round(6).tolist()
    [1.0, 0.0]
    """
    likelihood = np.ascontiguousarray(np.exp(log_probs - log_probs.max(axis=0)))  # a row's factor changes nothing
    weights = equal_weights(len(likelihood))
    for _ in range(_EM_STEPS):
        ratios = likelihood @ (1 / (weights @ likelihood)) / likelihood.shape[1]
        if np.log(ratios.max()) <= _EM_GAP:
            break
        weights *= ratios
        weights /= weights.sum()
    return weights


@dataclass(frozen=True)
class Assessment:
    """A choice beside its baselines, on rows that none of them was chosen on, unless that was wanted.

    There is one choice, and one of each baseline, for each fold; one where all rows were assessed at once.
    """

    choices: list[Choice]
    baselines: dict[str, list[Choice]]
    metrics: dict[str, dict[str, float]]  # of `chosen` and each baseline, by public metric name
    differences: dict[str, Comparison]  # chosen - baseline, by baseline

    def is_better(self, baseline: str, metric: str) -> bool:
        """Return whether the choice is better than a baseline by more than chance explains, at 5 %."""
        difference = self.differences[baseline].differences.get(metric)
        if difference is None:
            return False
        improvement = -difference.value if is_lower_better(metric) else difference.value
        return improvement > 0 and difference.p_value <= _LEVEL


def find_baselines(variants: Variants, choice: Choice, metric: str) -> dict[str, Choice]:
    """Return equal weights and the best single teacher, in the variant and space of a choice.

    Where a choice has a temperature, each baseline has its own best one on the same rows, so that a difference is one
    of weights.
    """
    logits = variants[choice.variant]
    alone = np.eye(logits.teachers)
    equal = Choice(choice.variant, choice.space, equal_weights(logits.teachers))
    if choice.temperature == 1:
        best = choose_best(variants, {(choice.variant, choice.space): alone}, metric)
        return {"equal weights": equal, "best teacher": best}
    teachers = [_with_temperature(variants, replace(equal, weights=own)) for own in alone]
    best = min(teachers, key=lambda each: each.row_scores(variants).loss.mean())
    return {"equal weights": _with_temperature(variants, equal), "best teacher": best}


def _with_temperature(variants: Variants, choice: Choice) -> Choice:
    """Return a choice with its best temperature, or as it is where there is none."""
    fit = fit_temperature(choice.fused(variants), variants[choice.variant].labels)
    return replace(choice, temperature=fit.temperature) if fit.status == OK else choice


# A choice, the variants that it was made on, those of the rows that it is assessed on, and which of all rows these are.
_Part = tuple[Choice, Variants, Variants, np.ndarray | slice]


def assess_on(
    fit: Variants,
    report: Variants,
    choice: Choice,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Assessment:
    """Assess on one benchmark a choice that was made on another, where its baselines are chosen, too."""
    parts = [(choice, fit, report, slice(None))]
    return _assess(parts, report[choice.variant].labels, metric, classes, rng, replicates)


def assess_crossfitted(
    variants: Variants,
    choose: Callable[[int, Variants], Choice],
    folds: np.ndarray,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Assessment:
    """Assess a way to choose, by what it chooses on all folds but the one that it is given, whose rows are held out.

    Folds are (N,) int from 0 up without a gap.
    """

    def parts() -> Iterator[_Part]:
        for k in range(int(folds.max()) + 1):
            others, held = (
                {name: each.of_rows(rows) for name, each in variants.items()} for rows in (folds != k, folds == k)
            )
            yield choose(k, others), others, held, folds == k

    return _assess(parts(), next(iter(variants.values())).labels, metric, classes, rng, replicates)


def _assess(parts: Iterable[_Part], labels, metric, classes, rng, replicates) -> Assessment:
    """Assess choices, each on its own part of the labelled rows."""
    choices: list[Choice] = []
    baselines: dict[str, list[Choice]] = {name: [] for name in BASELINES}
    logits = {name: np.empty((len(labels), len(classes))) for name in ("chosen", *BASELINES)}
    name, slash, label = metric.partition("/")
    numbered = f"{name}/{classes.index(label)}" if slash else metric
    for choice, fit, report, rows in parts:
        choices.append(choice)
        logits["chosen"][rows] = choice.fused(report)
        for name, each in find_baselines(fit, choice, numbered).items():
            baselines[name].append(each)
            logits[name][rows] = each.fused(report)
    scores = {name: score(each, labels, classes) for name, each in logits.items()}
    differences = {
        name: compare_logits(logits[name], logits["chosen"], labels, classes, rng, replicates) for name in BASELINES
    }
    return Assessment(choices, baselines, scores, differences)


def pareto_front(values: np.ndarray, lower_is_better: np.ndarray) -> np.ndarray:
    """Return which of M rows are on the Pareto front: no other row is as good in both columns and better in one.

    A row with a NaN is never on it; equal rows are on it together or not at all.

    >>> pareto_front(np.array([[0.8, 0.3], [0.7, 0.2], [0.7, 0.3], [0.9, np.nan]]), np.array([False, True])).tolist()
    [True, True, False, False]
    """
    front = np.zeros(len(values), bool)
    scored = ~np.isnan(values).any(axis=1)
    losses = np.where(lower_is_better, values[scored], -values[scored])
    rows, inverse = np.unique(losses, axis=0, return_inverse=True)  # in lexical order: only an earlier row is better
    unbeaten = np.ones(len(rows), bool)
    unbeaten[1:] = rows[1:, 1] < np.minimum.accumulate(rows[:, 1])[:-1]
    front[scored] = unbeaten[inverse.reshape(-1)]
    return front
