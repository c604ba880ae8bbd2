"""RAF-DB, basic expressions: a list of labels, and aligned faces."""

import pandas as pd

from fer_mlflow import datasets
from fer_mlflow.data.published import CODES
from fer_mlflow.errors import ManifestError

_LIST = "EmoLabel/list_patition_label.txt"


def list_rows(request: datasets.Request) -> datasets.Listing:
    """List the rows of `EmoLabel/list_patition_label.txt`; images are `Image/aligned/…_aligned.jpg`, or one deeper."""
    folder = datasets.find_inside(request.folder, [_LIST], "RAF-DB")
    entries = []
    for where, line in datasets.read_lines(folder / _LIST):
        fields = line.split()
        split, _, _ = fields[0].partition("_")
        if len(fields) != 2 or split not in ("train", "test"):
            raise ManifestError(
                f'{where}: found "{line}"; a line is train_NNNNN.jpg CODE or test_NNNN.jpg CODE. Is the file complete?'
            )
        entries.append((fields[0], CODES["rafdb"].parse(fields[1], where), split))
    rows = pd.DataFrame(entries, columns=["path", "label", "split"])
    halves = rows["path"].str.rpartition(".")
    aligned = halves[0] + "_aligned." + halves[2]
    folders = datasets.nested(folder / "Image", "aligned") or [folder / "Image" / "aligned"]
    images, paths = datasets.fullest([(each, names) for each in folders for names in (aligned, rows["path"])])
    unlisted = set(datasets.image_names(images)) - set(paths)
    return datasets.Listing(rows.assign(path=paths), images, unlisted=len(unlisted))
