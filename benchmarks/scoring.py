"""What scoring costs: intervals, paired tests and temperatures, beside the usual ways to get them.

    python benchmarks/scoring.py

Each line says ours, the peer or the limit, the ratio, and whether the claim in the docs holds. Peers that would
take minutes are timed on a part of the work and scaled; the output says so.
"""

import time

import numpy as np
from limits import finish, judged, verdict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score

from fer_mlflow.calibration import fit_temperature
from fer_mlflow.scoring.evaluation import evaluate
from fer_mlflow.scoring.significance import bootstrap_intervals, paired_differences

CLASSES = tuple("abcdefg")


def seconds(function, *arguments) -> float:
    """Return the best time of three calls."""
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        function(*arguments)
        best = min(best, time.perf_counter() - began)
    return best


def make_logits(rows: int, temperature: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose best temperature is known, and labels drawn from them."""
    z = rng.normal(0, 1.5, (rows, len(CLASSES)))
    labels = (softmax(z, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return z * temperature, labels


def resampled_f1(labels: np.ndarray, predictions: np.ndarray, rng) -> float:
    """Return one replicate of the usual bootstrap."""
    rows = rng.integers(0, len(labels), len(labels))
    return f1_score(labels[rows], predictions[rows], average="macro")


def line(what: str, ours: float, limit: float, peer: str) -> None:
    """Print one claim."""
    print(f"{what:<58} {ours:7.3f} s  {verdict(ours, limit)}   {peer}")


def main() -> None:
    rng = np.random.default_rng(0)
    for rows in (3_000, 50_000, 200_000):
        a, labels = make_logits(rows, 4.5, rng)
        b = a + rng.normal(0, 2, a.shape)
        pa, pb = a.argmax(axis=1), b.argmax(axis=1)
        once = seconds(resampled_f1, labels, pa, rng)
        loop = f"a loop of f1_score over resampled rows: {10_000 * once:,.0f} s (scaled from one)"
        ours = seconds(bootstrap_intervals, labels, pa, CLASSES, rng)
        line(f"intervals, 10,000 replicates, {rows:,} rows", ours, 1, loop)
        ours = seconds(paired_differences, labels, pa, pb, CLASSES, rng)
        line(f"paired intervals and p-values, {rows:,} rows", ours, 1, f"the same loop, twice: {20_000 * once:,.0f} s")
        ours = seconds(evaluate, a, labels, CLASSES, rng)
        line(f"everything that evaluate computes, {rows:,} rows", ours, 1, "")
    for temperature in (0.5, 4.5, 22.5):
        z, labels = make_logits(200_000, temperature, rng)
        at = np.arange(len(z))

        def nll(log_t, z=z, labels=labels, at=at):
            return -log_softmax(z * np.exp(-log_t), axis=1)[at, labels].mean()

        found = fit_temperature(z, labels).temperature
        began = time.perf_counter()
        peer = np.exp(minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x)
        took = time.perf_counter() - began
        ours = seconds(fit_temperature, z, labels)
        differ = abs(peer / found - 1)
        same = judged(differ <= 1e-6, f"T {found} is not {peer}")
        peer = f"scipy's bounded search: {took:.2f} s, T differs by {differ:.1e}  {same}"
        line(f"temperature of 200,000 x 7 logits, made with T = {temperature:g}", ours, 1, peer)
    finish()


if __name__ == "__main__":
    main()
