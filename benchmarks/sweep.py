"""What a sweep costs: 5,000 configurations of 3 teachers on 50,000 rows, beside one scikit-learn call for each.

    python benchmarks/sweep.py

Limits are 60 s and 2 GiB on 2 cores. The peer fuses with NumPy and asks scikit-learn for accuracy, F1 and log-loss; it
is timed on a few configurations and scaled; the output says so.
"""

import os
import resource
import time

import numpy as np
from limits import finish, verdict
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss

from fer_mlflow.search.choices import simplex_grid
from fer_mlflow.search.teacher_logits import TeacherLogits, count_rows, find_plateau

ROWS, CLASSES, TEACHERS, CONFIGURATIONS = 50_000, 7, 3, 5_000
SECONDS, MEMORY_MIB = 60, 2048
PEERS = 6
NAMES = tuple(f"class {k}" for k in range(CLASSES))


def make_teachers(rng) -> tuple[np.ndarray, np.ndarray]:
    """Return (K, N, C) logits of teachers that are right on about 60 % of the rows, and labels."""
    labels = rng.integers(0, CLASSES, ROWS)
    common = rng.normal(0, 1, (ROWS, CLASSES))
    common[np.arange(ROWS), labels] += 1.5
    return np.stack([common + rng.normal(0, 1, common.shape) for _ in range(TEACHERS)]).astype(np.float32), labels


def ask_scikit_learn(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the macro-F1 of one configuration in logit space, after all that a sweep computes of it."""
    fused = np.tensordot(weights, logits.astype(np.float64), axes=1)
    predictions = fused.argmax(axis=1)
    accuracy_score(labels, predictions)
    f1_score(labels, predictions, average=None)
    log_loss(labels, softmax(fused, axis=1), labels=np.arange(CLASSES))
    return f1_score(labels, predictions, average="macro")


def main() -> None:
    rng = np.random.default_rng(0)
    logits, labels = make_teachers(rng)
    grid = simplex_grid(TEACHERS, 70)
    weights = grid[np.sort(rng.permutation(len(grid))[: CONFIGURATIONS // 2])]
    pool, workers = TeacherLogits(logits, labels), os.cpu_count() or 1
    total, found = 0.0, {}
    for space in ("logit", "prob"):
        began = time.perf_counter()
        found[space] = count_rows(pool, space, weights, workers=workers)
        took = time.perf_counter() - began
        total += took
        print(f"{len(weights):,} configurations x {ROWS:,} rows x {TEACHERS} teachers, {space}: {took:.1f} s")
    began = time.perf_counter()
    _, plateau = find_plateau("macro_f1", NAMES, found["logit"], labels, lambda m: pool.row_scores("logit", weights[m]))
    took = time.perf_counter() - began
    print(f"plateau of {len(weights):,} configurations, {plateau.sum():,} in it: {took:.1f} s")
    began = time.perf_counter()
    scores = found["logit"].scores(NAMES)["macro_f1"]
    for m in range(PEERS):
        assert abs(ask_scikit_learn(logits, labels, weights[m]) - scores[m]) < 1e-3  # it does not round to float32
    peer = (time.perf_counter() - began) / PEERS * CONFIGURATIONS
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"all {CONFIGURATIONS:,}: {total:.1f} s  {verdict(total, SECONDS)}")
    print(f"one scikit-learn call each: {peer:,.0f} s (scaled from {PEERS}), {peer / total:.1f} x as long")
    print(f"peak memory {mib:,.0f} MiB  {verdict(mib, MEMORY_MIB)}")
    finish()


if __name__ == "__main__":
    main()
