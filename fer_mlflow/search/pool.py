"""K teachers' logits of the same labelled rows, laid out to be fused and scored thousands of times."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.calibration_error import ECE_BINS, equal_width_bins
from fer_mlflow.scoring.metrics import check_labels, check_logits
from fer_mlflow.scoring.tallies import Tallies

SPACES = ("logit", "prob")
_BLOCK = 4096  # rows whose logits stay in the processor's cache while they are scored


@dataclass(frozen=True)
class Outcomes:
    """What one configuration says of each row.

    Attributes
    ----------
    predictions : (N,) int64
    loss : (N,) float64, -log p_y in nats
    brier : (N,) float64, squared distance to the one-hot label
    confidence : (N,) float64, the predicted class's probability
    """

    predictions: np.ndarray
    loss: np.ndarray
    brier: np.ndarray
    confidence: np.ndarray


class Pool:
    """Teachers' logits of N labelled rows.

    What is scored is what a bundle of float32 logits would hold: fused in float64 in the order of the teachers,
    rounded to float32, and only then divided by a temperature, in float64.

    Parameters
    ----------
    logits : (K, N, C) float, finite, or K arrays of (N, C); teachers in the order of their names
    labels : (N,) int in 0..C-1
    groups : (N,) int from 0 up, the group of each row that sums are taken by; None means one group

    Raises
    ------
    ContractError
        shapes disagree, N = 0, a label is out of range, a value is not finite, or teachers are none
    """

    def __init__(self, logits: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None):
        layers = [check_logits(each) for each in logits]
        shapes = {each.shape for each in layers}
        if len(shapes) != 1:
            found = ", ".join(map(str, sorted(shapes))) or "no teacher"
            raise ContractError(f"teachers' logits must be of the same rows and classes; found {found}")
        self.rows, self.n_classes = layers[0].shape
        self.labels = check_labels(labels, self.rows, self.n_classes)
        self.groups = np.zeros(self.rows, np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
        self.n_groups = int(self.groups.max()) + 1
        self._logits = np.stack([np.ascontiguousarray(each.T) for each in layers])  # (K, C, N)
        self._log_probs: np.ndarray | None = None
        self._of_support: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def teachers(self) -> int:
        """K."""
        return len(self._logits)

    def taken(self, rows: np.ndarray) -> "Pool":
        """Return the pool of some rows, (N,) bool or positions, in one group."""
        return Pool(self._logits[:, :, rows].transpose(0, 2, 1), self.labels[rows])

    def logits(self) -> np.ndarray:
        """Return the teachers' (K, N, C) float64 logits."""
        return self._logits.transpose(0, 2, 1)

    def label_log_probs(self) -> np.ndarray:
        """Return each teacher's (K, N) float64 log-probability of the rows' labels."""
        return self.log_probs()[:, self.labels, np.arange(self.rows)]

    def log_probs(self) -> np.ndarray:
        """Return each teacher's (K, C, N) float64 log-probabilities."""
        if self._log_probs is None:
            self._log_probs = log_softmax(self._logits, axis=1)
        return self._log_probs

    def fused(self, space: str, weights: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return (N, C) float64 logits of one configuration, as a bundle of float32 holds them, over T."""
        out = np.empty((self.n_classes, self.rows))
        for start, block in self._fused_blocks(space, np.asarray(weights, dtype=np.float64), temperature):
            out[:, start : start + block.shape[1]] = block
        return out.T

    def outcomes(self, space: str, weights: np.ndarray, temperature: float = 1.0) -> Outcomes:
        """Return what one configuration says of each row.

        Parameters
        ----------
        weights : (K,) float of at least 0, summing to 1

        Raises
        ------
        ContractError
            the space is unknown or the weights are not of this pool
        """
        weights = np.asarray(weights, dtype=np.float64)
        fits = weights.shape == (self.teachers,) and (weights >= 0).all() and weights.any()
        if space not in SPACES or not fits:
            raise ContractError(f"{space}, {weights.tolist()}: no configuration of {self.teachers} teachers")
        predictions = np.zeros(self.rows, np.int64)
        losses, briers, confidence = np.empty((3, self.rows))
        for start, z in self._fused_blocks(space, weights, temperature):
            rows = slice(start, start + z.shape[1])
            best, chosen = z[0].copy(), predictions[rows]
            for k in range(1, self.n_classes):
                np.copyto(chosen, k, where=z[k] > best)  # a tie stays with the first
                np.maximum(best, z[k], out=best)
            z -= best
            z_y = z[self.labels[rows], np.arange(z.shape[1])]
            np.exp(z, out=z)
            total = z.sum(axis=0)
            log_total = np.log(total)
            losses[rows] = log_total - z_y
            confidence[rows] = np.exp(-log_total)  # by way of the logarithm as `score` has it: to the last bit
            briers[rows] = np.einsum("cn,cn->n", z, z) / total**2 - 2 * np.exp(z_y) / total + 1
        return Outcomes(predictions, losses, briers, confidence)

    def _fused_blocks(self, space: str, weights: np.ndarray, temperature: float) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the (C, rows) logits of one block of rows after the other; the array is reused."""
        used = tuple(np.flatnonzero(weights > 0).tolist())
        if space == "logit":
            highest, layers = None, self._logits
        else:
            highest, layers = self._prepared(used)
            weights = weights[list(used)]
            used = tuple(range(len(used)))
        width = min(_BLOCK, self.rows)
        whole, product = np.empty((2, self.n_classes, width))
        narrow = np.empty((self.n_classes, width), np.float32)
        for start in range(0, self.rows, width):
            rows = slice(start, min(start + width, self.rows))
            n = rows.stop - start
            z, term = whole[:, :n], product[:, :n]
            np.multiply(layers[used[0]][:, rows], weights[used[0]], out=z)
            for k in used[1:]:
                np.multiply(layers[k][:, rows], weights[k], out=term)
                z += term
            if highest is not None:
                np.log(z, out=z)
                z += highest[:, rows]
            narrow[:, :n] = z
            z[...] = narrow[:, :n]
            if temperature != 1:
                z /= temperature
            yield start, z

    def _prepared(self, used: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the greatest log-probability (C, N) among some teachers, and each one's share of it (k, C, N).

        log sum_k w_k p_k = highest + log sum_k w_k exp(log p_k - highest), where no weight above 0 meets an underflow.
        """
        if used not in self._of_support:
            log_probs = self.log_probs()[list(used)]
            highest = log_probs.max(axis=0)
            self._of_support = {used: (highest, np.exp(log_probs - highest))}  # only the last: each is a copy of all
        return self._of_support[used]


def tally(
    pool: Pool,
    space: str,
    weights: np.ndarray,
    temperatures: np.ndarray | None = None,
    workers: int = 1,
) -> Tallies:
    """Fuse and score every configuration of a list.

    Parameters
    ----------
    weights : (M, K) float, rows of at least 0 that sum to 1, M >= 1
    temperatures : (M,) float above 0 that logits are divided by; None means 1
    workers : threads

    Raises
    ------
    ContractError
        the space is unknown or weights are not of this pool
    """
    weights = np.asarray(weights, dtype=np.float64)
    over = np.ones(len(weights)) if temperatures is None else temperatures
    M, G, C = len(weights), pool.n_groups, pool.n_classes
    found = Tallies(
        confusion=np.empty((M, G, C, C), np.int32),
        gaps=np.empty((M, G, ECE_BINS)),
        p99_confidence=np.empty(M),
        **{name: np.empty((M, G)) for name in ("loss", "squared_loss", "brier", "squared_brier", "confidence")},
    )
    cells = (pool.groups * C + pool.labels) * C

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(pool.groups, weights=values, minlength=G) if G > 1 else values.sum()

    def fill(at: int) -> None:
        out = pool.outcomes(space, weights[at], float(over[at]))
        counts = np.bincount(cells + out.predictions, minlength=G * C * C)
        found.confusion[at] = counts.reshape(G, C, C)
        for name, values in (("loss", out.loss), ("brier", out.brier)):
            getattr(found, name)[at] = summed(values)
            getattr(found, f"squared_{name}")[at] = summed(values * values)
        found.confidence[at] = summed(out.confidence)
        bins = pool.groups * ECE_BINS + equal_width_bins(out.confidence)
        gap = out.confidence - (out.predictions == pool.labels)
        found.gaps[at] = np.bincount(bins, weights=gap, minlength=G * ECE_BINS).reshape(G, ECE_BINS)
        found.p99_confidence[at] = np.quantile(out.confidence, 0.99)

    # Configurations of the same teachers follow each other, since what is prepared for them is kept for one set only.
    supports = weights > 0
    codes = np.unique(supports, axis=0, return_inverse=True)[1].reshape(-1)
    for code in range(int(codes.max()) + 1):
        same = np.flatnonzero(codes == code)
        if space == "prob":
            pool._prepared(tuple(np.flatnonzero(supports[same[0]]).tolist()))
        if workers > 1:
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(fill, same.tolist()))
        else:
            for at in same.tolist():
                fill(at)
    return found
