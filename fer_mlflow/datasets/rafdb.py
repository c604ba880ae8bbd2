"""RAF-DB, basic expressions: a list of labels, and aligned faces."""

from collections import Counter

import pandas as pd

from fer_mlflow.data.published import CODES
from fer_mlflow.datasets.files import parse_code, read_lines
from fer_mlflow.datasets.listing import Listing, Request, find_inside, fullest, image_names, nested, select_labels
from fer_mlflow.errors import ManifestError

_LIST = "EmoLabel/list_patition_label.txt"


def list_rows(request: Request) -> Listing:
    """List the rows of `EmoLabel/list_patition_label.txt`; images are `Image/aligned/…_aligned.jpg`, or one deeper.

    Raises ManifestError: the list is not there, is cut short, or has a code out of range.
    """
    folder = find_inside(request.folder, [_LIST], "RAF-DB")
    path = folder / _LIST
    names, words, splits = [], [], []
    for number, line in read_lines(path):
        fields = line.split()
        split, _, _ = fields[0].partition("_")
        if len(fields) != 2 or split not in ("train", "test"):
            raise ManifestError(
                f'{path} line {number}: found "{line}"; a line is train_NNNNN.jpg CODE or test_NNNN.jpg CODE. '
                "Is the file complete?"
            )
        names.append(fields[0])
        words.append(parse_code(fields[1], CODES["rafdb"], path, number))
        splits.append(split)
    dropped: Counter[str] = Counter()
    rows = pd.DataFrame({"path": names, "label": select_labels(words, request.classes, dropped), "split": splits})
    plain = rows["path"].astype(str)
    halves = plain.str.rpartition(".")
    aligned = halves[0] + "_aligned." + halves[2]
    folders = [*nested(folder / "Image", "aligned")] or [folder / "Image" / "aligned"]
    images, paths = fullest([(each, names) for each in folders for names in (aligned, plain)])
    unlisted = len(set(image_names(images)) - set(paths))
    rows["path"] = paths
    return Listing(rows.dropna(subset="label").reset_index(drop=True), images, skipped=dropped, unlisted=unlisted)
