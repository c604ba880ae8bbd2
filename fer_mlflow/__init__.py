"""Soft labels of facial-expression teachers: tracked, verified, ready for a student's training loop.

The names below are the Python API: every workflow by name, and what a training loop needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_mlflow.softlabels.bundle import SoftLabels as SoftLabels
    from fer_mlflow.student.dataset import SoftLabelDataset as SoftLabelDataset
    from fer_mlflow.student.losses import dkd_loss as dkd_loss, kd_loss as kd_loss
    from fer_mlflow.tracking.records import fetch_soft_labels as fetch_soft_labels
    from fer_mlflow.workflows.calibrate import calibrate as calibrate
    from fer_mlflow.workflows.distill import distill as distill
    from fer_mlflow.workflows.evaluate import compare as compare, evaluate as evaluate, inspect as inspect
    from fer_mlflow.workflows.export import export as export
    from fer_mlflow.workflows.fetch import fetch as fetch, lineage as lineage, verify as verify
    from fer_mlflow.workflows.manifest import (
        build_manifest as build_manifest,
        check_manifest as check_manifest,
        merge_manifests as merge_manifests,
        split_manifest as split_manifest,
        track_manifest as track_manifest,
    )
    from fer_mlflow.workflows.promote import promote as promote
    from fer_mlflow.workflows.reproduce import reproduce as reproduce
    from fer_mlflow.workflows.sweep import sweep as sweep
    from fer_mlflow.workflows.train import train as train
    from fer_mlflow.workflows.triage import triage as triage

__version__ = "0.1.0"
_MANIFESTS = ("build_manifest", "merge_manifests", "check_manifest", "split_manifest", "track_manifest")
_HOMES = {
    "SoftLabels": "softlabels.bundle",
    "SoftLabelDataset": "student.dataset",
    **dict.fromkeys(("dkd_loss", "kd_loss"), "student.losses"),
    "fetch_soft_labels": "tracking.records",
    **dict.fromkeys(_MANIFESTS, "workflows.manifest"),
    **dict.fromkeys(("evaluate", "inspect", "compare"), "workflows.evaluate"),
    **dict.fromkeys(("fetch", "verify", "lineage"), "workflows.fetch"),
    **{
        n: f"workflows.{n}"
        for n in ("export", "calibrate", "sweep", "reproduce", "triage", "promote", "train", "distill")
    },
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(import_module(f"fer_mlflow.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
