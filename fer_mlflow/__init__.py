"""Soft labels of facial-expression teachers: tracked, verified, ready for a student's training loop.

The names below are the whole public surface for student code; everything else is the command line's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_mlflow.softlabels.bundle import SoftLabels

__all__ = ["SoftLabels"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that importing the package costs nothing."""
    if name == "SoftLabels":
        from fer_mlflow.softlabels.bundle import SoftLabels

        return SoftLabels
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
