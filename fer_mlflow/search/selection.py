"""Choosing a configuration: the best of a list, greedy selection, the likeliest mixture.

Pools are the same rows asked in several ways (CLAHE off and on), by name. What is chosen says which of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fer_mlflow.calibration.coefficients import fit_coefficients
from fer_mlflow.calibration.temperature import OK
from fer_mlflow.scoring.metrics import is_lower_better
from fer_mlflow.search.plateau import best_of
from fer_mlflow.search.pool import Pool, tally

GREEDY_ROUNDS = 50
_EM_STEPS = 20_000
_EM_GAP = 1e-9  # nats that other weights could still be better by

Pools = Mapping[str, Pool]


@dataclass(frozen=True)
class Choice:
    """One configuration, and how it came about.

    Attributes
    ----------
    pool : name of the pool
    space : `logit` or `prob`
    weights : (K,) float64 of at least 0, summing to 1
    temperature : what fused logits are divided by
    said : what is to be known of the choice; empty where it is as expected
    """

    pool: str
    space: str
    weights: np.ndarray
    temperature: float = 1.0
    said: str = ""

    def fused(self, pools: Pools) -> np.ndarray:
        """Return (N, C) float64 logits of the configuration on pools."""
        return pools[self.pool].fused(self.space, self.weights, self.temperature)


def equal_weights(teachers: int) -> np.ndarray:
    """Return (K,) float64 equal shares."""
    return np.full(teachers, 1 / teachers)


def choose_best(pools: Pools, lists: Mapping[tuple[str, str], np.ndarray], metric: str, workers: int = 1) -> Choice:
    """Return the configuration of the best metric; among equal ones that of the lowest NLL, then the first.

    Parameters
    ----------
    lists : (pool, space) -> (M, K) weights
    metric : public name; F1 of class k is `f1/k`
    """
    best = []
    for (name, space), weights in lists.items():
        pool = pools[name]
        scores = tally(pool, space, weights, workers=workers).scores(tuple(map(str, range(pool.n_classes))))
        values = scores.get(metric, np.zeros(len(weights)))
        at = best_of(values, metric, scores["nll"])
        sign = 1 if is_lower_better(metric) else -1
        best.append((sign * float(values[at]), float(scores["nll"][at]), Choice(name, space, weights[at])))
    return min(best, key=lambda each: each[:2])[2]


def choose_greedily(
    pools: Pools, spaces: Sequence[str], metric: str, rounds: int = GREEDY_ROUNDS, workers: int = 1
) -> Choice:
    """Return the best ensemble that greedy selection with replacement meets, in any pool and space.

    From no teacher on, each round adds the teacher, chosen before or not, with which the mean is best; weights are how
    often each was chosen. The best of all rounds is taken, of equal ones that of the lowest NLL, then the shortest.

    References
    ----------
    Caruana et al. 2004, Ensemble Selection from Libraries of Models, sec. 2.1 and 2.2.
    """
    met: dict[tuple[str, str], np.ndarray] = {}
    for name, pool in pools.items():
        for space in spaces:
            counts, seen = np.zeros(pool.teachers), []
            for size in range(1, rounds + 1):
                chosen = choose_best(pools, {(name, space): (counts + np.eye(pool.teachers)) / size}, metric, workers)
                counts = np.round(chosen.weights * size)
                seen.append(chosen.weights)
            met[name, space] = np.array(seen)
    return choose_best(pools, met, metric, workers)


def choose_likeliest(pools: Pools, spaces: Sequence[str]) -> Choice:
    """Return the weights of the lowest NLL: a convex problem in each pool and space, and the best of them.

    In logit space weights and temperature are one fit of coefficients a_k = w_k / T >= 0; where that has no optimum,
    weights are equal and T is 1, and the choice says why. In probability space T is 1.
    """
    found = []
    for name, pool in pools.items():
        for space in spaces:
            if space == "logit":
                choice = _likeliest_logits(name, pool)
            else:
                choice = Choice(name, space, likeliest_mixture(pool.label_log_probs()))
            losses = pool.outcomes(space, choice.weights, choice.temperature).loss
            found.append((bool(choice.said), float(losses.mean()), choice))
    return min(found, key=lambda each: each[:2])[2]


def _likeliest_logits(name: str, pool: Pool) -> Choice:
    fit = fit_coefficients(pool.logits(), pool.labels)
    if fit.status != OK:
        return Choice(name, "logit", equal_weights(pool.teachers), said=f"equal weights: {fit.explanation}")
    total = float(fit.coefficients.sum())
    return Choice(name, "logit", fit.coefficients / total, 1 / total)


def likeliest_mixture(log_probs: np.ndarray) -> np.ndarray:
    """Return the weights w of K distributions that minimise mean -log sum_k w_k p_k(y), by expectation maximisation.

    Each step is w_k <- w_k mean[p_k(y) / sum_j w_j p_j(y)]. The NLL is convex in w, falls at every step, and is within
    log max_k mean[p_k(y) / sum_j w_j p_j(y)] of its minimum: at 1e-9 nats the search stops.

    Parameters
    ----------
    log_probs : (K, N) float64, log p_k of each row's label; may be -inf for some teachers of a row, not for all

    Returns
    -------
    (K,) float64, summing to 1

    References
    ----------
    Dempster, Laird & Rubin 1977; the bound follows from Jensen's inequality.

    Examples
    --------
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
