"""Drawn faces of three sources of pictures, whose expressions overlap as in photographs, and a folder of them."""

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_mlflow.data.classes import FER7
from fer_mlflow.errors import ManifestError
from fer_mlflow.files import written_file
from fer_mlflow.tour.drawing import Canvas, Colour, Expression, Identity, draw_head, mix

SIZE, FACES_A_PERSON = 112, 5  # pixels along each side, pictures of each person
VERSION = 2  # raised when the same seed gives other faces
SPLIT_SHARES = {"train": 0.68, "val": 0.12, "test": 0.20}
CLASS_SHARES = dict(zip(FER7.names, (0.13, 0.05, 0.06, 0.24, 0.15, 0.13, 0.24), strict=True))  # two are rare
# The ways to show an expression, equally frequent, at full strength.
WAYS = {
    "Angry": (
        Expression(brow_lower=0.95, lid_raise=0.25, lid_tight=0.5, press=0.85),
        Expression(brow_lower=0.95, lid_raise=0.3, lid_tight=0.5, lip_raise=0.5, jaw=0.5, stretch=0.35),
    ),
    "Disgust": (Expression(nose_wrinkle=0.95, lip_raise=0.9, brow_lower=0.45, lid_tight=0.6, frown=0.4, jaw=0.15),),
    "Fear": (Expression(inner_brow=0.9, outer_brow=0.5, brow_lower=0.45, lid_raise=0.9, stretch=0.7, jaw=0.45),),
    "Happy": (Expression(lid_tight=0.3, smile=0.85), Expression(lid_tight=0.5, smile=0.95, jaw=0.5)),
    "Sad": (Expression(inner_brow=0.85, brow_lower=0.35, lid_tight=0.3, frown=0.8),),
    "Surprise": (Expression(inner_brow=0.85, outer_brow=0.9, lid_raise=0.7, jaw=0.65),),
    "Neutral": (Expression(), Expression(), Expression(jaw=0.2)),  # the last is caught while speaking
}
MIXED = 0.2  # share of faces that lean towards another expression
SPREAD = 0.08  # standard deviation of every movement, of a face and of its owner's face at rest
SKINS: tuple[Colour, ...] = ((196, 214, 241), (140, 175, 220), (88, 126, 182), (46, 66, 104))  # mixed in pairs
HAIRS: tuple[Colour, ...] = ((30, 26, 28), (44, 72, 112), (120, 176, 214), (178, 180, 182))
IRISES: tuple[Colour, ...] = ((28, 48, 78), (44, 82, 116), (92, 128, 96), (158, 128, 84))


@dataclass(frozen=True)
class Source:
    """One kind of picture, with its own poses, light, camera and compression; ranges are uniform."""

    share: float  # of all people; a person belongs to one source
    turn: float  # standard deviation of the head's angles in degrees
    clutter: int  # largest number of shapes behind the head
    shadow: float  # largest share of the light that a shadow across the face takes
    contrast: tuple[float, float]  # of the range of lightness that is left
    level: tuple[float, float]  # middle of that range, 0..255
    blur: tuple[float, float]  # pixels
    noise: tuple[float, float]  # standard deviation, of 255
    is_grey: bool
    quality: tuple[int, int]  # of the JPEG, 0..100


SOURCES = {
    "studio": Source(0.4, 5, 0, 0.1, (0.9, 1.05), (118, 138), (0.0, 0.4), (0.5, 2.0), False, (88, 95)),
    "street": Source(0.36, 9, 14, 0.6, (0.6, 1.05), (85, 140), (0.0, 0.9), (4.0, 12.0), False, (55, 85)),
    "archive": Source(0.24, 5, 3, 0.4, (0.16, 0.36), (52, 100), (0.5, 1.2), (1.0, 3.0), True, (30, 60)),
}


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """A (SIZE, SIZE, 3) uint8 BGR picture of a person, all of whose pictures are of one source and in one split."""

    image: np.ndarray
    label: str
    source: str
    split: str
    person: int
    quality: int


def draw_face(seed: int, index: int) -> DrawnFace:
    """Draw face `index` of `seed`.

    It depends on these two alone, so the same numbers give the same picture (with the same OpenCV and numpy).
    """
    person = index // FACES_A_PERSON
    of_person, of_face = np.random.default_rng([seed, 0, person]), np.random.default_rng([seed, 1, index])
    name = str(of_person.choice(list(SOURCES), p=[source.share for source in SOURCES.values()]))
    split = str(of_person.choice(list(SPLIT_SHARES), p=list(SPLIT_SHARES.values())))
    who, source = _draw_identity(of_person), SOURCES[name]
    label = str(of_face.choice(list(CLASS_SHARES), p=list(CLASS_SHARES.values())))
    size = 2 * SIZE  # the camera halves it
    yaw, pitch, roll = np.deg2rad(of_face.normal(0, source.turn, 3).clip(-25, 25) * (1.2, 0.5, 0.6)).tolist()
    x, y = (size * of_face.normal((0.5, 0.45), 0.02)).tolist()
    scene = _draw_background(of_face, source, size)
    canvas = Canvas(scene, (yaw, pitch, roll), 0.46 * size * of_face.uniform(0.85, 1.1), (x, y))
    draw_head(canvas, who, _draw_expression(of_face, label, who))
    image = _photograph(of_face, source, cv2.resize(scene, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return DrawnFace(image, label, name, split, person, int(of_face.integers(*source.quality)))


def _draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a person."""
    tone = rng.uniform(0, len(SKINS) - 1.001)
    sizes = np.clip(rng.normal(1, (0.05, 0.09, 0.09, 0.05, 0.28, 0.15, 0.09, 0.25)), 0.6, 1.5).tolist()
    width, jaw, eye_size, eye_gap, brow_weight, nose_width, mouth_width, lips = sizes
    return Identity(
        *(width, jaw, eye_size, eye_gap, brow_weight, nose_width, mouth_width, lips),
        long_hair=bool(rng.random() < 0.4),
        skin=mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1),
        hair=HAIRS[rng.integers(2 if tone > 1.5 else len(HAIRS))],
        iris=IRISES[rng.integers(len(IRISES))],
        clothes=tuple(rng.uniform(40, 210, 3).tolist()),
        rest=rng.normal(-0.03, SPREAD, len(astuple(Expression()))),
    )


def _draw_expression(rng: np.random.Generator, label: str, who: Identity) -> Expression:
    """Draw what a person's face does when it shows `label`."""
    own, other = (np.array(astuple(WAYS[n][rng.integers(len(WAYS[n]))])) for n in (label, rng.choice(FER7.names)))
    lean = rng.uniform(0.15, 0.5) if rng.random() < MIXED else 0.0
    moves = (1 - lean) * own * (0.38 + 0.72 * rng.beta(2.6, 1.5)) + lean * other
    return Expression(*np.clip(moves + rng.normal(0, SPREAD, len(moves)) + who.rest, 0, 1).tolist())


def _draw_background(rng: np.random.Generator, source: Source, size: int) -> np.ndarray:
    """Draw what is behind the head: a backdrop, with shapes out of focus in front of it."""
    image = (rng.uniform(60, 240, 3) + rng.uniform(-50, 50, 3) * _slope(rng, size)[..., None]).clip(0, 255)
    image = image.astype(np.uint8)
    for _ in range(rng.integers(source.clutter + 1)):
        x, y, long, wide = (rng.uniform((0, 0, 0.1, 0.1), (1, 1, 0.5, 0.5)) * size).tolist()
        corners = cv2.boxPoints(((x, y), (long, wide), rng.normal(0, 20)))
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.integers(10, 256, 3).tolist(), cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 5)) if source.clutter else image


def _photograph(rng: np.random.Generator, source: Source, scene: np.ndarray) -> np.ndarray:
    """Return the uint8 BGR picture that the source's light and camera make of a scene."""
    image: np.ndarray = scene.astype(np.float32)
    if source.is_grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    edge = np.clip(_slope(rng, SIZE) * 4 + rng.normal(0, 1.2), -1, 1)
    image *= (1 - source.shadow * rng.uniform(0, 1) * (edge + 1) / 2)[..., None]
    contrast, level, blur, noise = (rng.uniform(*b) for b in (source.contrast, source.level, source.blur, source.noise))
    image = cv2.GaussianBlur(level + (image - 128) * contrast, (0, 0), max(blur, 0.2))
    grain = rng.standard_normal((SIZE, SIZE, 1 if source.is_grey else 3)) * noise
    return np.clip(image + grain + 0.5, 0, 255).astype(np.uint8)


def _slope(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a (size, size) ramp that is 0 in the middle and rises in a drawn direction, by 2 at most along an axis."""
    angle, along = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, size)
    return along * np.cos(angle) + along[:, None] * np.sin(angle)


def write_faces(folder: Path, count: int, seed: int, on_face: Callable[[int], object] = lambda number: None) -> Path:
    """Draw faces into a folder, call `on_face(1)` after each, and return the manifest's path.

    The manifest (path, label, split, source, identity) is written last, so where it is, all images are. A folder
    that is complete is left as it is; one that was interrupted is completed.

    Raises
    ------
    ManifestError
        the folder holds faces of another count, seed or version
    """
    wanted = {"count": count, "seed": seed, "version": VERSION}
    made, manifest = folder / "drawn.json", folder / "manifest.csv"
    if made.exists() and (found := json.loads(made.read_text())) != wanted:
        raise ManifestError(f"{folder} holds drawn faces {found}, not {wanted}; remove it or choose another folder")
    if made.exists() and manifest.exists():
        return manifest
    with written_file(made) as file:
        file.write(json.dumps(wanted).encode())
    lines = ["path,label,split,source,identity"]
    for index in range(count):
        face = draw_face(seed, index)
        path = f"images/{face.source}/{index:05d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), face.image, [cv2.IMWRITE_JPEG_QUALITY, face.quality])
        lines.append(f"{path},{face.label},{face.split},{face.source},{face.person}")
        on_face(1)
    with written_file(manifest) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return manifest


def contact_sheet(faces: list[DrawnFace], each: int = 3) -> np.ndarray:
    """Return a uint8 BGR picture of faces by label (down) and source (across), `each` of a kind."""
    sheet = np.full((20 + len(CLASS_SHARES) * SIZE, 80 + len(SOURCES) * each * SIZE, 3), 40, np.uint8)
    for row, label in enumerate(CLASS_SHARES):
        for column, source in enumerate(SOURCES):
            y, x = 20 + row * SIZE, 80 + column * each * SIZE
            for text, place in ((label, (6, y + SIZE // 2)), (source, (x + 6, 14))):
                cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235,) * 3, 1, cv2.LINE_AA)
            images = [face.image for face in faces if (face.label, face.source) == (label, source)][:each]
            for number, image in enumerate(images):
                sheet[y : y + SIZE, x + number * SIZE : x + (number + 1) * SIZE] = image
    return sheet
