"""Do logits and labels belong together? Statistics that need no metadata, only the numbers.

Hashes prove that nothing changed after it was written, not that it was right then: a loader may have shuffled, a
teacher be off by one row, two columns exchanged. `docs/bundle-format.md` lists which check finds which fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax

from fer_mlflow.scoring.metrics import confusion_matrix

BLOCK_ROWS = 256
FEWEST_ROWS = 64  # below this a fault cannot be distinguished from noise
_Z = 4.0  # one-sided p = 3e-5: a benchmark of 200,000 rows has 800 blocks


@dataclass(frozen=True)
class Check:
    """One check: its name, `pass`, `warn`, `skip` or `fail`, a sentence for people, and the numbers behind it."""

    name: str
    verdict: str
    detail: str
    values: dict = field(default_factory=dict)


def check_statistics(
    logits: np.ndarray, labels: np.ndarray, teachers: Mapping[str, np.ndarray], classes: tuple[str, ...]
) -> list[Check]:
    """Return the checks `agreement`, `blocks`, `assignment`, `support` and `teacher_pairs` of an ensemble's logits.

    `labels` are -1 for rows without a label, which only `teacher_pairs` can use; `teachers` are name -> (N, C) float,
    the logits that were fused.
    """
    known = labels >= 0
    y, predictions = labels[known], logits[known].argmax(axis=1)
    if len(y) < FEWEST_ROWS:
        few = f"{len(y)} labelled rows; {FEWEST_ROWS} are needed to distinguish a fault from noise"
        first = [Check(name, "skip", few) for name in ("agreement", "blocks", "assignment")]
    else:
        confusion = confusion_matrix(y, predictions, len(classes))
        first = [
            check_agreement(confusion),
            check_blocks(y, predictions, len(classes)),
            check_columns(confusion, y, {n: z[known].argmax(axis=1) for n, z in sorted(teachers.items())}, classes),
        ]
    return [*first, check_support(y, predictions, classes), check_teacher_pairs(teachers, labels)]


def check_agreement(confusion: np.ndarray) -> Check:
    """Compare how often prediction and label agree with what chance would give, z = (a - c) sqrt(N / (c (1 - c))).

    `confusion` is (C, C) counts, label by prediction; c = sum_k P(label = k) P(prediction = k).
    """
    N = confusion.sum()
    agreement = np.trace(confusion) / N
    chance = float(confusion.sum(axis=1) @ confusion.sum(axis=0) / N**2)
    values = {"agreement": float(agreement), "chance": chance, "rows": int(N)}
    if chance >= 1:
        return Check("agreement", "skip", "all rows have one class and one prediction", values)
    z = float((agreement - chance) * np.sqrt(N / (chance * (1 - chance)))) if chance > 0 else 0.0
    detail = f"labels and predictions agree on {agreement:.1%} of rows, by chance on {chance:.1%} (z = {z:.1f})"
    if z < _Z:
        detail += ": the rows may be out of step, or the class order wrong"
    return Check("agreement", "pass" if z >= _Z else "warn", detail, {**values, "z": z})


def check_blocks(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> Check:
    """Find blocks of 256 rows that agree with their labels at chance while the rest of the rows do better.

    Each block is held against the recall per class of all other rows, so a block that merely has hard classes
    is not suspected, in a manifest sorted by class either.
    """
    blocks = _blocks(len(labels))
    if len(blocks) < 2:
        return Check("blocks", "skip", f"fewer than {2 * BLOCK_ROWS} labelled rows make no two blocks")
    whole = confusion_matrix(labels, predictions, n_classes)
    out_of_step = []
    for block in blocks:
        y, hit = labels[block], labels[block] == predictions[block]
        rest = whole - confusion_matrix(y, predictions[block], n_classes)
        recall = np.diagonal(rest) / np.maximum(rest.sum(axis=1), 1)
        share = rest.sum(axis=0) / max(rest.sum(), 1)
        known = rest.sum(axis=1)[y] > 0  # rows of a class that other blocks have too
        expected, chance = recall[y][known].sum(), share[y][known].sum()
        spread = np.sqrt((recall * (1 - recall))[y][known].sum())
        hits = int(hit[known].sum())
        if hits - expected < -_Z * max(spread, 1) and hits - chance < 0.5 * (expected - chance):
            out_of_step.append(f"{block.start}-{block.stop - 1}")
    values = {"blocks": len(blocks), "out_of_step": out_of_step}
    if not out_of_step:
        return Check("blocks", "pass", f"none of {len(blocks)} blocks falls to chance", values)
    found = f"{len(out_of_step)} of {len(blocks)} blocks of labelled rows agree no better than chance"
    return Check("blocks", "warn", f"{found}: rows {', '.join(out_of_step[:10])}", values)


def check_assignment(confusion: np.ndarray, classes: tuple[str, ...]) -> Check:
    """Demand that matching predicted to labelled classes for the greatest recall is the identity.

    Two exchanged columns of logits make another matching better, and it names them. Classes weigh the same,
    however rare, and a matching counts as better when it gains more than three standard errors: a weak teacher that
    takes one class for another does not exchange the two, since the other way round it loses.
    """
    support = np.maximum(confusion.sum(axis=1), 1)
    labelled, predicted = linear_sum_assignment(confusion / support[:, None], maximize=True)
    moved = np.flatnonzero(labelled != predicted)
    there, here = confusion[moved, predicted[moved]], confusion[moved, moved]
    gain = float(((there - here) / support[moved]).sum())
    error = float(np.sqrt(((there + here) / support[moved] ** 2).sum()))
    values = {"gain": gain, "standard_error": error}
    if gain > 3 * error:
        pairs = [f"{classes[a]} labelled, {classes[b]} predicted" for a, b in zip(moved, predicted[moved], strict=True)]
        detail = f"columns seem exchanged: {'; '.join(pairs)} (recalls would sum to {gain:.2f} more)"
        return Check("assignment", "warn", detail, {**values, "exchanged": pairs})
    detail = "no other matching is surely better" if len(moved) else "every class is matched best by its own column"
    return Check("assignment", "pass", detail, values)


def check_columns(
    confusion: np.ndarray, labels: np.ndarray, predictions: Mapping[str, np.ndarray], classes: tuple[str, ...]
) -> Check:
    """Check the ensemble's columns, then each teacher's: fusing with the others hides one teacher's exchange."""
    found = check_assignment(confusion, classes)
    if found.verdict == "warn":
        return found
    for name, predicted in predictions.items():
        own = check_assignment(confusion_matrix(labels, predicted, len(classes)), classes)
        if own.verdict == "warn":
            return Check("assignment", "warn", f"{name}: {own.detail}", {**own.values, "teacher": name})
    return found


def check_support(labels: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> Check:
    """Count labelled and predicted rows of each class, to hold against the benchmark's known counts."""
    labelled, predicted = (
        dict(zip(classes, np.bincount(each, minlength=len(classes)).tolist(), strict=True))
        for each in (labels, predictions)
    )
    values = {"labelled": labelled, "predicted": predicted}
    if not len(labels):
        return Check("support", "skip", "no row has a label", values)
    if without := [name for name, count in labelled.items() if not count]:
        return Check("support", "warn", f"no labelled row of {', '.join(without)}: macro-F1 leaves them out", values)
    counts = ", ".join(f"{name} {count}" for name, count in labelled.items())
    return Check("support", "pass", f"labelled rows: {counts}", values)


def check_teacher_pairs(teachers: Mapping[str, np.ndarray], labels: np.ndarray) -> Check:
    """Demand that two teachers find the same rows hard, beyond what the label explains.

    This is what finds one teacher off by a row in a manifest sorted by class, where agreement with labels
    hardly moves. For each pair, and each block of 256 rows, the log-probability that both give the labelled class
    (where there is no label: their largest one) is correlated after taking each class's mean away;
    z = r sqrt(n).
    """
    if len(teachers) < 2 or len(labels) < FEWEST_ROWS:
        return Check("teacher_pairs", "skip", f"{len(teachers)} teacher(s), {len(labels)} rows: nothing to compare")
    hardness = {name: _hardness(logits, labels) for name, logits in sorted(teachers.items())}
    correlations, doubts = {}, []
    for first, second in combinations(hardness, 2):
        r = _correlation(hardness[first], hardness[second])
        correlations[f"{first}~{second}"] = r
        if r * np.sqrt(len(labels)) < _Z:
            doubts.append(f"{first} and {second} (r = {r:.2f})")
            continue
        for block in _blocks(len(labels)):
            n = block.stop - block.start
            here = _correlation(hardness[first][block], hardness[second][block])
            if (r - here) * np.sqrt(n) > _Z and here * np.sqrt(n) < 2:
                doubts.append(f"{first} and {second} in rows {block.start}-{block.stop - 1} (r = {here:.2f})")
    values = {"correlation": correlations}
    if doubts:
        detail = f"teachers do not find the same rows hard, so one may be out of step: {'; '.join(doubts[:10])}"
        return Check("teacher_pairs", "warn", detail, values)
    least = min(correlations.values())
    return Check("teacher_pairs", "pass", f"all pairs find the same rows hard (least r = {least:.2f})", values)


def _hardness(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (N,) log-probability of the label (else of the top class), less its mean over the same label."""
    log_probs = log_softmax(logits.astype(np.float64), axis=1)
    columns = np.where(labels >= 0, labels, log_probs.argmax(axis=1))
    values = log_probs[np.arange(len(labels)), columns]
    group = labels + 1
    count = np.maximum(np.bincount(group), 1)
    return values - (np.bincount(group, weights=values) / count)[group]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two (n,) centred arrays, 0 where one is constant."""
    norm = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / norm) if norm > 0 else 0.0


def _blocks(rows: int) -> list[slice]:
    """Return blocks of 256 rows; the last takes in a remainder too short to stand alone."""
    starts = list(range(0, rows, BLOCK_ROWS))
    if len(starts) > 1 and rows - starts[-1] < FEWEST_ROWS:
        starts.pop()
    return [slice(start, stop) for start, stop in pairwise([*starts, rows])]
