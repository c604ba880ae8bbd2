"""The rows of a local manifest, that a bundle from elsewhere is held against."""

from collections.abc import Mapping
from typing import Any

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import ContractError
from fer_mlflow.softlabels.bundle import SoftLabels


def check_manifest_options(options: Mapping[str, Any], *others: str) -> None:
    """Refuse options that say how to read, or what to do with, a manifest where none is given."""
    if not options["manifest"]:
        for name in ("root", "split", "limit", "classes", *others):
            if options[name]:
                raise ContractError(f"--{name.replace('_', '-')} goes with a manifest; give --manifest CSV too")


def read_local_rows(options: Mapping[str, Any], bundle: SoftLabels) -> Benchmark:
    """Return the rows that the options select; labels are read as the bundle's classes unless others are given.

    Raises
    ------
    ManifestError
        the manifest cannot be used
    """
    classes = ClassOrder.read(options["classes"]) if options["classes"] else ClassOrder.of(bundle.classes)
    return read_benchmark(
        options["manifest"],
        classes,
        root=options["root"],
        split=options["split"],
        limit=options["limit"],
        verify_paths=False,  # soft labels can be used where the images are not; their hashes say more than that
    )
