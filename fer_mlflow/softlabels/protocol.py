"""What two results must share to be compared, and what sets them apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_mlflow.scoring.calibration_error import ECE_BINS
from fer_mlflow.softlabels.bundle import SoftLabels

FEWEST_SHARED = 30  # labelled rows below which two models cannot be told apart anyway


def describe_protocol(bundle: SoftLabels) -> dict[str, str]:
    """Return everything that shaped a bundle's numbers, as label -> text, in the order in which people read it."""
    configuration = bundle.configuration
    options = configuration.options
    checkpoints = (f"{name} {digest[:8]}" for name, digest in sorted(bundle.checkpoints.items()))
    return {
        "benchmark": bundle.benchmark,
        "selection": bundle.selection_sha256[:12],
        "rows": f"{len(bundle):,}",
        "labelled rows": f"{int(bundle.labelled.sum()):,}",
        "classes": ", ".join(bundle.classes),
        "weights": options["weights"],
        "space": options["space"],
        "dtype": options["dtype"],
        "calibration": str(configuration.calibration or "none"),
        "clahe": _of_teachers(bundle, lambda each: _describe_clahe(each["preprocessing"]["clahe"])),
        "decoding": _of_teachers(
            bundle, lambda each: ", ".join(each["preprocessing"][key] for key in ("decode", "resize", "interpolation"))
        ),
        "image size": _of_teachers(bundle, lambda each: each["preprocessing"]["img_size"]),
        "precision": options["precision"],
        "checkpoints": ", ".join(checkpoints),
        "trained on these images": _of_teachers(bundle, lambda each: each["in_sample"]),
        "ECE": f"{ECE_BINS} bins, (lo, hi]",
    }


def _describe_clahe(clahe: Mapping[str, Any] | None) -> str:
    """Return CLAHE's settings, and the start of the hash of what it makes of a fixed pattern."""
    if clahe is None:
        return "none"
    return f"clip {clahe['clip']:g}, {clahe['tile']} tiles, pattern {clahe['pattern_sha256'][:8]}"


def _of_teachers(bundle: SoftLabels, take: Callable[[Mapping[str, Any]], object]) -> str:
    """Return the text that all teachers share, or each teacher's."""
    found = {name: str(take(each)) for name, each in sorted(bundle.report["teachers"].items())}
    values = set(found.values())
    return values.pop() if len(values) == 1 else ", ".join(f"{name} {value}" for name, value in found.items())


@dataclass(frozen=True)
class SharedRows:
    """Which rows of two bundles are the same image with the same label, and whether scores on them can be compared.

    Attributes
    ----------
    rows_a, rows_b : (N,) int64 positions in the bundles, pairwise; labelled rows only
    columns_b : (C,) int64, column of B's logits for each class of A; None where the class sets differ
    verdict : a sentence, from "comparable" or "not comparable" on
    """

    rows_a: np.ndarray
    rows_b: np.ndarray
    columns_b: np.ndarray | None
    verdict: str

    @property
    def is_comparable(self) -> bool:
        """Whether there is anything to compare."""
        return self.verdict.startswith("comparable")


def find_shared_rows(a: SoftLabels, b: SoftLabels) -> SharedRows:
    """Match two bundles' labelled rows by the images' content, and say whether their scores can be compared.

    They can on all rows where selection and images are the same, and else on the rows that both have, if their labels
    agree.
    """
    none = np.empty(0, np.int64)
    if set(a.classes) != set(b.classes):
        return SharedRows(
            none, none, None, f"not comparable because classes differ: {_difference(a.classes, b.classes)}"
        )
    columns_b = np.array([b.classes.index(name) for name in a.classes])
    same_images = a.index["image_sha256"].equals(b.index["image_sha256"])
    if a.selection_sha256 == b.selection_sha256 and same_images:
        rows = np.flatnonzero(a.labels >= 0)
        shared = f"comparable: the same {len(rows):,} labelled rows"
        rows_a = rows_b = rows
        if not len(rows):
            shared = "not comparable because no row has a label"
    else:
        rows_a, rows_b, differ = _match_images(a, b)
        n = len(rows_a) + differ
        if differ:
            shared = f"not comparable because {differ:,} of {n:,} shared images have other labels"
        elif n < FEWEST_SHARED:
            shared = f"not comparable because the benchmarks share {n:,} labelled images; {FEWEST_SHARED} are needed"
        else:
            shared = (
                f"comparable on the {n:,} shared rows (of {int((a.labels >= 0).sum()):,} labelled rows of A and "
                f"{int((b.labels >= 0).sum()):,} of B)"
            )
    return SharedRows(rows_a, rows_b, columns_b, shared)


def _difference(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    """Return which names only one of two class orders has."""
    only = [(whose, [name for name in own if name not in other]) for whose, own, other in (("A", a, b), ("B", b, a))]
    return "; ".join(f"only {whose} has {', '.join(names)}" for whose, names in only if names)


def _match_images(a: SoftLabels, b: SoftLabels) -> tuple[np.ndarray, np.ndarray, int]:
    """Return positions of labelled rows with the same image and label, and how many shared images have other labels.

    An image may be there several times, with several labels (FER2013 has such): the n-th copy of an image with a label
    matches the n-th.
    """
    key = ["image_sha256", "label"]
    frames = []
    for bundle in (a, b):
        frame = bundle.index[key].assign(at=np.arange(len(bundle)))[bundle.labels >= 0]
        frames.append(frame.assign(copy=frame.groupby(key).cumcount()))
    merged = frames[0].merge(frames[1], on=[*key, "copy"], suffixes=("_a", "_b")).sort_values("at_a")
    left_a, left_b = (
        frame["image_sha256"][~frame["at"].isin(merged[at])].value_counts()
        for frame, at in zip(frames, ("at_a", "at_b"), strict=True)
    )
    differ = int(np.minimum(*left_a.align(left_b, join="inner")).sum())
    return merged["at_a"].to_numpy(np.int64), merged["at_b"].to_numpy(np.int64), differ
