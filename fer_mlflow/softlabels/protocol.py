"""How soft labels were made, line by line: what sets two results apart."""

from collections.abc import Callable, Mapping
from typing import Any

from fer_mlflow.scoring.metrics import ECE_BINS
from fer_mlflow.softlabels.bundle import SoftLabels


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
