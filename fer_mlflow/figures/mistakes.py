"""The contact sheet of mistakes: the images that a model got wrong, to be looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fer_mlflow.errors import ContractError
from fer_mlflow.figures.style import MUTED, fit, head, page, place, png, readable, write

MOST_IMAGES = 36
_CELL, _GAP = 1.45, 0.12  # inches
_LINE, _LINES = 0.165, 3  # of a caption
_EDGE, _HEAD = 0.25, 0.85


def draw_mistakes(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 6) -> bytes:
    """Draw images in the order given, each with its caption of up to three lines below.

    The page has room for 36, however many there are, so that sheets of two runs are alike in scale.

    Parameters
    ----------
    images : 1 to 36 of (h, w, 3) uint8 RGB, each of any size
    captions : one for each image; lines that are too wide become smaller, then lose their middle

    Returns
    -------
    PNG, 1470 × 2004 pixels for six columns

    Raises
    ------
    ContractError
        no image, more than 36, another shape or type, no column, or another number of captions
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ContractError(f"{len(images)} images; a sheet of mistakes has 1 to {MOST_IMAGES}")
    if len(captions) != len(images):
        raise ContractError(f"{len(images)} images and {len(captions)} captions")
    if not 1 <= columns <= MOST_IMAGES:
        raise ContractError(f"{columns} columns; a sheet of mistakes has 1 to {MOST_IMAGES}")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ContractError(f"image {number} is {image.dtype} of shape {image.shape}; it must be uint8, (h, w, 3)")
    rows = -(-MOST_IMAGES // columns)
    width = 2 * _EDGE + columns * _CELL + (columns - 1) * _GAP
    tall = _CELL + _LINE * _LINES + _GAP
    height = _HEAD + rows * tall + _EDGE / 2
    with page(width, height) as figure:
        head(figure, "Most confident mistakes", f"{len(images)} shown", left=_EDGE)
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            row, column = divmod(number, columns)
            left = _EDGE + column * (_CELL + _GAP)
            _draw_image(figure, left, height - _HEAD - row * tall, image, caption)
        return png(figure)


def _draw_image(figure: Figure, left: float, top: float, image: np.ndarray, caption: str) -> None:
    axes = place(figure, left, top - _CELL, _CELL, _CELL)
    axes.imshow(image, interpolation="hanning")
    axes.set_anchor("S")
    axes.set_axis_off()
    for number, line in enumerate(caption.splitlines()[:_LINES]):
        y = top - _CELL - 0.03 - number * _LINE
        style: dict[str, Any] = {"weight": "bold"} if number == 0 else {"color": MUTED}
        text = write(figure, left + _CELL / 2, y, readable(line), ha="center", va="top", size=9.5, **style)
        fit([text], _CELL)
