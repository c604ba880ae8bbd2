"""Sweeps to draw."""

from itertools import combinations

import numpy as np

from fer_mlflow.figures.sweep import WeightMap, draw_weight_map
from fer_mlflow.search.choices import pareto_front

NAMES = ("RN18", "RN50", "ViT", "B0", "CNX")
AWKWARD = ("$x_1$", "$", "怒り", "悲しみ", "a_very_long_name " * 5, "a\tb\nc", "", "\\frac{", "Ärger ☺", "\ud800")
PANELS = ("logit", "prob", "logit · clahe", "prob · clahe")


def simplex(K: int, n: int) -> np.ndarray:
    """Return all weights of K teachers in steps of 1/n, (M, K)."""
    bars = list(combinations(range(n + K - 1), K - 1))
    return (np.diff(np.reshape(bars, (len(bars), K - 1)).astype(int), axis=1, prepend=-1, append=n + K - 1) - 1) / n


def sweep(K=3, n=5, P=1, seed=0, **changes):
    """Return the arguments of a map: a metric that is best near the weights' second half, and one plateau."""
    weights = changes.get("weights", np.tile(simplex(K, n), (P, 1)))
    M = len(weights)
    values = 0.7 - 0.1 * ((weights - 0.6) ** 2).sum(axis=1) + np.random.default_rng(seed).normal(0, 0.001, M)
    given = {
        "weights": weights,
        "values": values,
        "panels": [PANELS[p] for p in np.arange(P).repeat(M // P)],
        "names": NAMES[:K],
        "metric": "macro_f1",
        "title": "Sweep of faces",
    } | changes
    scores = given["values"] * (-1 if given["metric"] == "nll" else 1)
    given.setdefault("best", int(np.nanargmax(scores)))
    given.setdefault("plateau", scores > np.nanmax(scores) - 0.003)
    return given


def weight_map(title, **given):
    """Draw a map from the arguments that `sweep` returns."""
    return draw_weight_map(WeightMap(**given), title)


def trade(seed=0, M=60, P=2, **changes):
    """Return the arguments of a trade-off between ECE and macro-F1."""
    rng = np.random.default_rng(seed)
    given = {
        "x": rng.uniform(0.01, 0.1, M),
        "y": rng.uniform(0.6, 0.8, M),
        "panels": [PANELS[m % P] for m in range(M)],
        "x_metric": "ece",
        "y_metric": "macro_f1",
        "title": "Trade-off",
        "marks": {"equal weights": 0, "RN18 alone": 1},
    } | changes
    values = np.column_stack([given["x"], given["y"]])
    given.setdefault("front", pareto_front(values, np.array([True, False])))
    return given
