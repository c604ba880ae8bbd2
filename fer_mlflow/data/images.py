"""From a file's bytes to a teacher's pixels, by its preprocessing.

bytes -> decode -> CLAHE on L of LAB at the decoded size, where the preprocessing has it -> resize -> RGB. The model's
input is these pixels / 255, scaled by mean and std.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.data.roots import is_url, read_url, read_urls
from fer_mlflow.errors import ImageError, listed
from fer_mlflow.files import is_under

# A marker that begins a segment, or ends the image: not stuffing (FF 00), a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def read_image_bytes(root: str | Path, path: str) -> bytes:
    """Return the bytes of an image file under `root`; ImageError where links lead out of it, JobError as `read_url`."""
    root = str(root)
    if is_url(root):
        return read_url(root, path)
    try:
        with open(path, "rb", buffering=0, opener=partial(_open_under, root)) as file:
            return file.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def image_readers(root: str | Path, paths: Sequence[str]) -> list[Callable[[], bytes]]:
    """Return for each file a function that does `read_image_bytes`; files of a URL are read now, all at once."""
    if is_url(root):
        return read_urls(str(root), paths)
    return [partial(read_image_bytes, root, path) for path in paths]


def _open_under(root: str, path: str, flags: int) -> int:
    """Open a file without leaving `root`.

    Resolving every path would cost more than reading it, so a folder is resolved once, and only a file that
    is itself a link is resolved on its own.
    """
    folder, _, name = path.rpartition("/")
    top, here = _real_folder(root, ""), _real_folder(root, folder)
    full = os.path.join(here, name)
    if not is_under(full, top):
        raise ImageError(f"leads out of {root}")
    if hasattr(os, "O_NOFOLLOW"):
        try:
            return os.open(full, flags | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise
    target = os.path.realpath(full)
    if not is_under(target, top):
        raise ImageError(f"leads out of {root}")
    return os.open(target, flags)


@lru_cache(maxsize=4096)
def _real_folder(root: str, folder: str) -> str:
    """Return a folder of the root with all links resolved."""
    return os.path.realpath(os.path.join(root, folder))


def decode_image(data: bytes) -> np.ndarray:
    """Decode JPEG, PNG, BMP, WebP or whatever else OpenCV knows to (H, W, 3) uint8 BGR.

    16-bit values are cut to 8 bits, an alpha channel is dropped, palettes and grey become colour, and the
    EXIF orientation is applied.

    Raises ImageError: the bytes are no image, or a JPEG ends early (OpenCV would fill the rest with grey and say
    nothing).
    """
    if not data:
        raise ImageError("empty file")
    if data[:2] == b"\xff\xd8" and not _jpeg_ends(data):
        raise ImageError("truncated JPEG")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise ImageError("not an image that OpenCV can decode")
    return image


def _jpeg_ends(data: bytes) -> bool:
    """Return whether the markers of a JPEG lead to its end; what stands behind that does not matter."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        if found[0] == b"\xff\xd9":
            return True
        at = found.start() + 2 + int.from_bytes(data[found.end() : found.end() + 2], "big")  # over its segment
    return False


def apply_clahe(image: np.ndarray, clahe: Clahe) -> np.ndarray:
    """Equalise the lightness of an (H, W, 3) uint8 BGR image, and leave its colours alone."""
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lab[:, :, 0] = _equaliser(clahe).apply(np.ascontiguousarray(lab[:, :, 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)


@lru_cache(maxsize=8)
def _equaliser(clahe: Clahe) -> cv2.CLAHE:
    """Return OpenCV's object for a setting (one a process: making it costs more than a small image)."""
    return cv2.createCLAHE(clipLimit=clahe.clip, tileGridSize=(clahe.tile, clahe.tile))


def _squash(image: np.ndarray, size: int) -> np.ndarray:
    """Resize both sides, whatever their ratio: by area when both shrink, else bilinear."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    shrinks = height > size and width > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# Each word of `preprocessing.CHOICES["resize"]` -> (H, W, 3) image and size to (size, size, 3) image.
RESIZES = {"squash": _squash}


def grey_image_bytes(side: int) -> bytes:
    """Return a PNG file of a square without a face, where an example of an input is wanted."""
    return cv2.imencode(".png", np.full((side, side, 3), 128, np.uint8))[1].tobytes()


def prepare_image(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Return the (img_size, img_size, 3) uint8 RGB image of a file's bytes."""
    return prepare_images(data, [preprocessing])[0]


def prepare_images(data: bytes, preprocessings: Sequence[Preprocessing]) -> list[np.ndarray]:
    """Return one image for each preprocessing; decoding happens once, and so does each CLAHE."""
    decoded = decode_image(data)
    equalised: dict[Clahe | None, np.ndarray] = {None: decoded}
    images = []
    for each in preprocessings:
        if each.clahe is not None and each.clahe not in equalised:
            equalised[each.clahe] = apply_clahe(decoded, each.clahe)
        resized = RESIZES[each.resize](equalised[each.clahe], each.side)
        images.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))
    return images


def describe_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return a preprocessing as the alignment report has it, with the hash of what CLAHE makes of a fixed pattern."""
    described, clahe = preprocessing.as_json(), preprocessing.clahe
    if clahe is not None:
        described["clahe"]["pattern_sha256"] = clahe_pattern(clahe)
    return described


def clahe_pattern(clahe: Clahe) -> str:
    """Return the SHA-256 of a fixed pattern after CLAHE: another OpenCV that equalises differently shows there."""
    rows, columns = np.mgrid[0:96, 0:112]
    pattern = np.stack([(rows * 7 + columns * c) % 251 for c in (3, 5, 11)], axis=-1).astype(np.uint8)
    return hashlib.sha256(apply_clahe(pattern, clahe).tobytes()).hexdigest()


def image_prefixes(sha256: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of (N, 32) uint8 hashes as (N,) int64: enough to tell images apart.

    Two of a million different images share one with a probability of 3e-8.
    """
    return np.ascontiguousarray(sha256[:, :8]).view(">i8").ravel().astype(np.int64)


@dataclass(frozen=True)
class Unreadable:
    """A row whose image could not be decoded: its position, path, why, and the hash of its bytes."""

    row: int
    path: str
    reason: str
    image_sha256: str


def unreadable_message(
    unreadable: Sequence[Unreadable],
    where: str = "",
    remedy: str = "repair them, or leave them out with --on-bad-image skip",
) -> str:
    """Return one line that names the first rows that could not be decoded, how many there are, and what to do."""
    named = listed([f'row {bad.row + 1} "{bad.path}" ({bad.reason})' for bad in unreadable])
    return f"{len(unreadable):,} images cannot be decoded: {named}{where}; {remedy}"
