"""The most confident mistakes, as a sheet of images to look at."""

import hashlib

import pandas as pd

from fer_mlflow.data.images import decode_image, read_image_bytes
from fer_mlflow.errors import ImageError
from fer_mlflow.figures import draw_mistakes
from fer_mlflow.workflows.ensemble import warn
from fer_mlflow.workflows.sources import Source

MOST = 30


def draw_most_confident_mistakes(source: Source, predictions: pd.DataFrame) -> bytes | None:
    """Return a PNG of the wrong rows with the greatest confidence; None where there are none or no images.

    Images that are not the ones the teachers saw are left out.

    Parameters
    ----------
    predictions : rows with path, label, prediction, confidence and correct, in the bundle's order
    """
    wrong = predictions[predictions["correct"].eq(False).fillna(False).astype(bool)]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable").head(MOST)
    root = source.root()
    if wrong.empty or root is None:
        return None
    images, captions, missing = [], [], 0
    for at, row in wrong.iterrows():
        try:
            data = read_image_bytes(root, row["path"])
            if hashlib.sha256(data).hexdigest() != source.bundle.index["image_sha256"].iloc[at]:
                raise ImageError("another image")
            images.append(decode_image(data)[:, :, ::-1])
            captions.append(f"{row['label']}, not {row['prediction']} {row['confidence']:.2f}")
        except ImageError:
            missing += 1
    if missing:
        warn(f"{missing} of the {len(wrong)} most confident mistakes are not under {root} any more, or changed")
    return draw_mistakes(images, captions) if images else None
