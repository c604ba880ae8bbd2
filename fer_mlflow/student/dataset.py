"""Soft labels for anyone's training loop: a plain torch dataset."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from fer_mlflow.data.classes import ClassOrder, read_classes
from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import BundleError, ContractError, ImageError
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import align


class SoftLabelDataset(Dataset):
    """Rows of a manifest with their soft labels: `dataset[i]` is (image, label, logits).

    `image` is what `transform` makes of a PIL RGB image, `label` an int (-1 where the row has none), `logits` a (C,)
    float tensor: softmax(logits / T) is the target at temperature T. The order of rows is the manifest's.

    A flip or a crop by `transform` does not change the logits: they are those of the whole, upright image (see
    docs/student.md).

    The logits are one tensor in shared memory. Workers of a DataLoader see that memory, forked or spawned, and copy
    none of it; `pickle` outside of multiprocessing copies it.

    Attributes
    ----------
    logits : (N, C) float32 or float16, in shared memory
    labels : (N,) int64
    classes : the C class names, in the order of the columns
    left_out : rows of the manifest without soft labels, with `missing="skip"`
    """

    def __init__(
        self,
        manifest: str | Path,
        soft_labels: SoftLabels | str | Path,
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        root: str | Path | None = None,
        split: str | None = None,
        classes: str | Path | None = None,
        missing: str = "fail",
        verify_images: bool = True,
    ):
        """Read the manifest and align it with the soft labels.

        Parameters
        ----------
        soft_labels : a bundle, or its folder
        root : folder of relative paths; None means the manifest's own
        split : the rows of this split; None means those of the splits that the soft labels are of
        classes : YAML file with more words for a class, as for `--classes`; the order must be the bundle's
        missing : `fail`, or `skip` to leave out rows without soft labels
        verify_images : read every file once and refuse images that are not the ones that the teachers decoded

        Raises
        ------
        FerError
            the manifest or the bundle cannot be used; rows that were edited since the export, that have no soft
            labels or whose images have changed are counted, and the first named
        """
        if missing not in ("fail", "skip"):
            raise ContractError(f"missing {missing!r} is neither fail nor skip")
        bundle = soft_labels if isinstance(soft_labels, SoftLabels) else SoftLabels.open(soft_labels)
        order = read_classes(classes, bundle.classes)
        part = _read_rows(manifest, bundle, order, root, split)
        alignment = align(bundle, part, subset=True)
        if alignment.missing and missing == "fail":
            raise BundleError(f'{alignment.missing}; export them, or leave them out with missing="skip"')
        if verify_images:
            alignment.check_images()
        kept = alignment.rows
        self.left_out = len(part) - len(kept)
        if not len(kept):
            raise BundleError(f"{alignment.missing}; these soft labels are of other images")
        self.logits: torch.Tensor = torch.from_numpy(bundle.logits[alignment.positions[kept]]).share_memory_()
        self.labels = part.labels[kept]
        self.classes = bundle.classes
        self.transform = transform
        self._root = part.root
        # Bytes in one block: a list of str would be copied in every worker, as each counts its references.
        self._paths = np.array([path.encode() for path in part.paths.iloc[kept]])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int, torch.Tensor]:
        """Return (image, label, logits) of a row; ImageError where the image cannot be read or decoded."""
        return self.read_image(row), int(self.labels[row]), self.logits[row]

    def read_image(self, row: int) -> Any:
        """Return what `transform` makes of a row's image; see `__getitem__`."""
        path = self._paths[row].decode()
        try:
            pixels = decode_image(read_image_bytes(self._root, path))
        except ImageError as error:
            raise ImageError(f'row {row + 1} "{path}": {error}') from error
        image = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        return image if self.transform is None else self.transform(image)


def _read_rows(
    manifest: str | Path, bundle: SoftLabels, classes: ClassOrder, root: str | Path | None, split: str | None
) -> Benchmark:
    """Return the rows of a split, or of the splits that the bundle is of."""
    whole = read_benchmark(manifest, classes, root=root, split=split, verify_paths=False)
    if split is not None:
        return whole
    # A row whose split was edited is still one that the soft labels are of.
    is_own = whole.frame["split"].isin(set(bundle.index["split"])) | whole.paths.isin(set(bundle.index["path"]))
    chosen = is_own.to_numpy()
    removed = ~bundle.index["path"].isin(set(whole.paths)).to_numpy()
    if removed.any():
        first = bundle.index["path"].iloc[int(np.argmax(removed))]
        raise BundleError(
            f'{manifest}: {removed.sum():,} rows that the soft labels are of are gone, "{first}" first; '
            "export again, or name a split"
        )
    return replace(whole, frame=whole.frame[chosen].reset_index(drop=True), labels=whole.labels[chosen])
