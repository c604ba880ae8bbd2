"""What a choice of weights is worth: its lead over equal weights and over the best teacher, on rows it did not see.

On the rows that it was made on a choice looks better than it is: the best of many equal configurations is ahead by
chance alone. So it is made on some rows and judged on others, or on all parts but one and judged on that one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fer_mlflow.calibration.temperature import OK, fit_temperature
from fer_mlflow.scoring.comparison import Comparison, compare_logits
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.significance import REPLICATES
from fer_mlflow.search.selection import Choice, Pools, choose_best, equal_weights

RIVALS = ("equal weights", "best teacher")
LEVEL = 0.05


@dataclass(frozen=True)
class Judgement:
    """A choice's logits and its rivals', on rows that none of them was chosen on, unless that was asked for.

    Attributes
    ----------
    choices : one for each part of the rows, in order; one where all rows were judged at once
    rivals : the same for each rival, by name
    metrics : `chosen` and each rival -> public metric name -> value
    leads : rival -> chosen less rival, with intervals and p-values
    """

    choices: list[Choice]
    rivals: dict[str, list[Choice]]
    metrics: dict[str, dict[str, float]]
    leads: dict[str, Comparison]

    def is_better(self, rival: str, metric: str, lower_is_better: bool) -> bool:
        """Return whether the choice is ahead of a rival by more than chance explains, at 5 %."""
        lead = self.leads[rival].differences.get(metric)
        ahead = lead is not None and (lead.value < 0 if lower_is_better else lead.value > 0)
        return lead is not None and ahead and lead.p_value <= LEVEL


def rivals_of(pools: Pools, choice: Choice, metric: str) -> dict[str, Choice]:
    """Return equal weights and the teacher that is best alone, in the pool and space of a choice.

    Where a choice has a temperature, each rival has its own best one on the same rows: a lead is one of weights.

    Parameters
    ----------
    metric : public name, as `choose_best` takes it
    """
    pool = pools[choice.pool]
    alone = np.eye(pool.teachers)
    equal = Choice(choice.pool, choice.space, equal_weights(pool.teachers))
    if choice.temperature == 1:
        return {
            "equal weights": equal,
            "best teacher": choose_best(pools, {(choice.pool, choice.space): alone}, metric),
        }
    tempered = [_tempered(pools, replace(equal, weights=own)) for own in alone]
    losses = [pool.outcomes(each.space, each.weights, each.temperature).loss.mean() for each in tempered]
    return {"equal weights": _tempered(pools, equal), "best teacher": tempered[int(np.argmin(losses))]}


def _tempered(pools: Pools, choice: Choice) -> Choice:
    """Return a choice with its best temperature, or as it is where there is none."""
    fit = fit_temperature(choice.fused(pools), pools[choice.pool].labels)
    return replace(choice, temperature=fit.temperature) if fit.status == OK else choice


def judge_on(
    fit: Pools,
    report: Pools,
    choice: Choice,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Judgement:
    """Judge a choice that was made on one benchmark on another: rivals are chosen where it was.

    Parameters
    ----------
    metric : public name
    """
    rivals = rivals_of(fit, choice, _numbered(metric, classes))
    logits = {name: each.fused(report) for name, each in {"chosen": choice, **rivals}.items()}
    labels = report[choice.pool].labels
    return _judged([choice], {name: [each] for name, each in rivals.items()}, logits, labels, classes, rng, replicates)


def judge_crossfitted(
    pools: Pools,
    choose: Callable[[int, Pools], Choice],
    folds: np.ndarray,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Judgement:
    """Judge a way to choose: part by part of the rows, by what it chooses on all the others.

    Parameters
    ----------
    choose : (part that is held out, pools of the other rows) -> choice
    folds : (N,) int from 0 up without a gap, each row's part
    """
    first = next(iter(pools.values()))
    logits = {name: np.empty((first.rows, first.n_classes)) for name in ("chosen", *RIVALS)}
    choices: list[Choice] = []
    rivals: dict[str, list[Choice]] = {name: [] for name in RIVALS}
    for k in range(int(folds.max()) + 1):
        held = np.flatnonzero(folds == k)
        others = {name: pool.taken(np.flatnonzero(folds != k)) for name, pool in pools.items()}
        choice = choose(k, others)
        against = rivals_of(others, choice, _numbered(metric, classes))
        held_pools = {name: pool.taken(held) for name, pool in pools.items()}
        for name, each in {"chosen": choice, **against}.items():
            logits[name][held] = each.fused(held_pools)
        choices.append(choice)
        for name, each in against.items():
            rivals[name].append(each)
    return _judged(choices, rivals, logits, first.labels, classes, rng, replicates)


def _judged(choices, rivals, logits, labels, classes, rng, replicates) -> Judgement:
    metrics = {name: score(each, labels, classes) for name, each in logits.items()}
    leads = {name: compare_logits(logits[name], logits["chosen"], labels, classes, rng, replicates) for name in RIVALS}
    return Judgement(choices, rivals, metrics, leads)


def _numbered(metric: str, classes: tuple[str, ...]) -> str:
    """Return a metric's name with a class's number in the place of its name."""
    return f"f1/{classes.index(metric.removeprefix('f1/'))}" if metric.startswith("f1/") else metric
