"""What a choice of weights is worth: its difference from equal weights and from the best teacher, on other rows.

On the rows that it was made on a choice looks better than it is: the best of many equal configurations is better by
chance alone. So it is made on some rows and assessed on others, or on all folds but one and assessed on that one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fer_mlflow.calibration.temperature import OK, fit_temperature
from fer_mlflow.scoring.metrics import is_lower_better, score
from fer_mlflow.scoring.significance import REPLICATES, Comparison, compare_logits
from fer_mlflow.search.choice import Choice, Variants, choose_best, equal_weights

BASELINES = ("equal weights", "best teacher")
LEVEL = 0.05


@dataclass(frozen=True)
class Assessment:
    """A choice beside its baselines, on rows that none of them was chosen on, unless that was wanted.

    Attributes
    ----------
    choices : one for each fold, in order; one where all rows were assessed at once
    baselines : the same for each baseline, by name
    metrics : `chosen` and each baseline -> public metric name -> value
    differences : baseline -> chosen - baseline, with intervals and p-values
    """

    choices: list[Choice]
    baselines: dict[str, list[Choice]]
    metrics: dict[str, dict[str, float]]
    differences: dict[str, Comparison]

    def is_better(self, baseline: str, metric: str) -> bool:
        """Return whether the choice is better than a baseline by more than chance explains, at 5 %."""
        difference = self.differences[baseline].differences.get(metric)
        if difference is None:
            return False
        improvement = -difference.value if is_lower_better(metric) else difference.value
        return improvement > 0 and difference.p_value <= LEVEL


def find_baselines(variants: Variants, choice: Choice, metric: str) -> dict[str, Choice]:
    """Return equal weights and the best single teacher, in the variant and space of a choice.

    Where a choice has a temperature, each baseline has its own best one on the same rows, so that a difference is one
    of weights.

    Parameters
    ----------
    metric : public name, as `choose_best` takes it
    """
    logits = variants[choice.variant]
    alone = np.eye(logits.teachers)
    equal = Choice(choice.variant, choice.space, equal_weights(logits.teachers))
    if choice.temperature == 1:
        best = choose_best(variants, {(choice.variant, choice.space): alone}, metric)
        return {"equal weights": equal, "best teacher": best}
    teachers = [_with_temperature(variants, replace(equal, weights=own)) for own in alone]
    losses = [logits.row_scores(each.space, each.weights, each.temperature).loss.mean() for each in teachers]
    return {"equal weights": _with_temperature(variants, equal), "best teacher": teachers[int(np.argmin(losses))]}


def _with_temperature(variants: Variants, choice: Choice) -> Choice:
    """Return a choice with its best temperature, or as it is where there is none."""
    fit = fit_temperature(choice.fused(variants), variants[choice.variant].labels)
    return replace(choice, temperature=fit.temperature) if fit.status == OK else choice


def assess_on(
    fit: Variants,
    report: Variants,
    choice: Choice,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Assessment:
    """Assess on one benchmark a choice that was made on another, where its baselines are chosen, too.

    Parameters
    ----------
    metric : public name
    """
    baselines = find_baselines(fit, choice, _numbered(metric, classes))
    logits = {name: each.fused(report) for name, each in {"chosen": choice, **baselines}.items()}
    labels = report[choice.variant].labels
    lists = {name: [each] for name, each in baselines.items()}
    return _assess([choice], lists, logits, labels, classes, rng, replicates)


def assess_crossfitted(
    variants: Variants,
    choose: Callable[[int, Variants], Choice],
    folds: np.ndarray,
    metric: str,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Assessment:
    """Assess a way to choose: fold by fold, by what it chooses on all the others.

    Parameters
    ----------
    choose : (fold that is held out, variants of the other rows) -> choice
    folds : (N,) int from 0 up without a gap
    """
    first = next(iter(variants.values()))
    logits = {name: np.empty((first.rows, first.n_classes)) for name in ("chosen", *BASELINES)}
    choices: list[Choice] = []
    baselines: dict[str, list[Choice]] = {name: [] for name in BASELINES}
    for k in range(int(folds.max()) + 1):
        held = np.flatnonzero(folds == k)
        others = {name: each.of_rows(np.flatnonzero(folds != k)) for name, each in variants.items()}
        held_out = {name: each.of_rows(held) for name, each in variants.items()}
        choices.append(choose(k, others))
        logits["chosen"][held] = choices[-1].fused(held_out)
        for name, each in find_baselines(others, choices[-1], _numbered(metric, classes)).items():
            logits[name][held] = each.fused(held_out)
            baselines[name].append(each)
    return _assess(choices, baselines, logits, first.labels, classes, rng, replicates)


def _assess(choices, baselines, logits, labels, classes, rng, replicates) -> Assessment:
    metrics = {name: score(each, labels, classes) for name, each in logits.items()}
    differences = {
        name: compare_logits(logits[name], logits["chosen"], labels, classes, rng, replicates) for name in BASELINES
    }
    return Assessment(choices, baselines, metrics, differences)


def _numbered(metric: str, classes: tuple[str, ...]) -> str:
    """Return a metric's name with a class's number in the place of its name."""
    name, slash, label = metric.partition("/")
    return f"{name}/{classes.index(label)}" if slash else metric
