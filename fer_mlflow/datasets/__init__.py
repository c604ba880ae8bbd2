"""Manifests from data sets as they are shipped: each builder lists what the label files name."""

from pathlib import Path

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.steps import Steps, unwatched
from fer_mlflow.datasets.affectnet import list_affectnet
from fer_mlflow.datasets.ckplus import list_ckplus
from fer_mlflow.datasets.expw import list_expw
from fer_mlflow.datasets.fer2013 import list_fer2013
from fer_mlflow.datasets.ferplus import list_ferplus
from fer_mlflow.datasets.folder import list_folder
from fer_mlflow.datasets.listing import Built, Request, settle
from fer_mlflow.datasets.rafdb import list_rafdb
from fer_mlflow.errors import ContractError

BUILDERS = {
    "rafdb": list_rafdb,
    "affectnet": list_affectnet,
    "fer2013": list_fer2013,
    "ferplus": list_ferplus,
    "expw": list_expw,
    "ckplus": list_ckplus,
    "folder": list_folder,
}


def build(
    dataset: str,
    folder: str | Path,
    classes: ClassOrder,
    images: str | Path,
    *,
    source: str | None = None,
    min_agreement: float = 0.0,
    allow_missing: bool = False,
    steps: Steps = unwatched,
) -> Built:
    """Return the rows of a data set as it lies on disk.

    Parameters
    ----------
    dataset : one of `BUILDERS`
    folder : where it lies; folders that unpacking added are gone through
    images : folder for images that must be written first (pixels of a CSV, crops)
    source : text of the column `source`; None means the data set's name (for `folder`, the folder's)
    min_agreement : least share of the votes for the label, in [0, 1]; only FER+ has votes
    allow_missing : leave out missing images however many they are

    Raises
    ------
    ManifestError
        the folder is not that data set, a label file is cut short or has a code out of range, or images are missing
    """
    if dataset not in BUILDERS:
        raise ContractError(f"data set {dataset} is not one of {', '.join(BUILDERS)}")
    if min_agreement and dataset != "ferplus":
        raise ContractError(f"{dataset} has no votes; --min-agreement is for ferplus")
    request = Request(Path(folder), classes, Path(images), min_agreement, steps)
    named = Path(folder).absolute().name if dataset == "folder" else dataset
    return settle(BUILDERS[dataset](request), request, source or named, allow_missing)
