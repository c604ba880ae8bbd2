"""Soft labels of facial-expression teachers: tracked, verified, ready for a student's training loop.

The names below are the whole public surface for student code; everything else is the command line's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_mlflow.softlabels.bundle import SoftLabels
    from fer_mlflow.student.dataset import SoftLabelDataset
    from fer_mlflow.student.losses import dkd_loss, kd_loss
    from fer_mlflow.tracking.selection import fetch_soft_labels
    from fer_mlflow.workflows.calibrate import calibrate
    from fer_mlflow.workflows.compare import compare
    from fer_mlflow.workflows.distill import distill
    from fer_mlflow.workflows.evaluate import evaluate
    from fer_mlflow.workflows.export import export
    from fer_mlflow.workflows.inspect import inspect
    from fer_mlflow.workflows.manifest import build_manifest, check_manifest, merge_manifests, split_manifest
    from fer_mlflow.workflows.manifest_track import track_manifest
    from fer_mlflow.workflows.reproduce import reproduce
    from fer_mlflow.workflows.sweep import sweep
    from fer_mlflow.workflows.train import train
    from fer_mlflow.workflows.triage import triage

__all__ = [
    "SoftLabelDataset",
    "SoftLabels",
    "build_manifest",
    "calibrate",
    "check_manifest",
    "compare",
    "distill",
    "dkd_loss",
    "evaluate",
    "export",
    "fetch_soft_labels",
    "inspect",
    "kd_loss",
    "merge_manifests",
    "reproduce",
    "split_manifest",
    "sweep",
    "track_manifest",
    "train",
    "triage",
]
__version__ = "0.1.0"


_HOMES = {
    "SoftLabels": "fer_mlflow.softlabels.bundle",
    "SoftLabelDataset": "fer_mlflow.student.dataset",
    "kd_loss": "fer_mlflow.student.losses",
    "dkd_loss": "fer_mlflow.student.losses",
    "fetch_soft_labels": "fer_mlflow.tracking.selection",
    "calibrate": "fer_mlflow.workflows.calibrate",
    "compare": "fer_mlflow.workflows.compare",
    "distill": "fer_mlflow.workflows.distill",
    "reproduce": "fer_mlflow.workflows.reproduce",
    "sweep": "fer_mlflow.workflows.sweep",
    "train": "fer_mlflow.workflows.train",
    "triage": "fer_mlflow.workflows.triage",
    "evaluate": "fer_mlflow.workflows.evaluate",
    "export": "fer_mlflow.workflows.export",
    "inspect": "fer_mlflow.workflows.inspect",
    "build_manifest": "fer_mlflow.workflows.manifest",
    "check_manifest": "fer_mlflow.workflows.manifest",
    "merge_manifests": "fer_mlflow.workflows.manifest",
    "split_manifest": "fer_mlflow.workflows.manifest",
    "track_manifest": "fer_mlflow.workflows.manifest_track",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
