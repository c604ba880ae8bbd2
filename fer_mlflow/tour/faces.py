"""Drawn faces of three sources of pictures, whose expressions overlap as in photographs, and a folder of them.

A head is shapes in face coordinates that a pose turns into pixels: x to the viewer's right, y down, the origin on the
bridge of the nose; a head is 1.5 wide, 2.2 high.
"""

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_mlflow.data.classes import FER7
from fer_mlflow.errors import ManifestError
from fer_mlflow.files import written_file

Colour = tuple[float, ...]  # blue, green, red in 0..255
_BLACK: Colour = (0.0, 0.0, 0.0)
_SHIFT = 4  # OpenCV draws at 1/16 pixel: without it features jump by whole pixels
# Of the ellipsoid that gives depth: turning moves the nose further than the temples.
_RADII = (0.84, 1.22, 0.80)
_ALONG = np.linspace(-1, 1, 17)  # from one corner of an eye or a mouth to the other


@dataclass(frozen=True)
class Expression:
    """How far each muscle pulls, 0..1; the numbers are action units (Ekman and Friesen 1978)."""

    inner_brow: float = 0.0  # 1: raises the brows' inner ends
    outer_brow: float = 0.0  # 2
    brow_lower: float = 0.0  # 4: lowers the brows and draws them together
    lid_raise: float = 0.0  # 5: white above the iris
    lid_tight: float = 0.0  # 6 and 7: narrow eyes
    nose_wrinkle: float = 0.0  # 9
    lip_raise: float = 0.0  # 10: upper lip up
    smile: float = 0.0  # 12: corners out and up
    frown: float = 0.0  # 15: corners down
    stretch: float = 0.0  # 20: corners straight out
    press: float = 0.0  # 24: thin lips
    jaw: float = 0.0  # 25 to 27: mouth open


@dataclass(frozen=True)
class Identity:
    """One person: sizes as multiples of an average one, colours, and the muscles of the face at rest."""

    width: float
    jaw: float
    eye_size: float
    eye_gap: float
    brow_weight: float
    nose_width: float
    mouth_width: float
    lips: float
    long_hair: bool
    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    rest: np.ndarray


@dataclass(frozen=True)
class Canvas:
    """An image and the head's pose in it."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    angles: tuple[float, float, float]  # yaw, pitch and roll in radians
    scale: float  # pixels per face unit
    centre: tuple[float, float]  # pixels of the origin

    def fill(self, points: np.ndarray, colour: Colour, lift: float = 0.0) -> None:
        """Fill the polygon of (n, 2) face coordinates, `lift` units above the head's surface."""
        cv2.fillPoly(self.image, [self.pixels(points, lift)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, points: np.ndarray, colour: Colour, width: float, lift: float = 0.0) -> None:
        """Draw a line of `width` face units, and at least one pixel, through (n, 2) face coordinates."""
        wide = max(1, round(width * self.scale))
        cv2.polylines(self.image, [self.pixels(points, lift)], False, colour, wide, cv2.LINE_AA, _SHIFT)

    def pixels(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Return the pixels of (n, 2) face coordinates as OpenCV's fixed-point integers."""
        x, y = points[:, 0], points[:, 1]
        rest = 1 - (x / _RADII[0]) ** 2 - ((y + 0.1) / _RADII[1]) ** 2
        z = _RADII[2] * np.sqrt(np.clip(rest, 0, None)) + lift - 0.35  # the neck's axis is behind the middle
        (sin_yaw, sin_pitch, sin_roll), (cos_yaw, cos_pitch, cos_roll) = np.sin(self.angles), np.cos(self.angles)
        x, z = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        y, z = y * cos_pitch + z * sin_pitch, z * cos_pitch - y * sin_pitch
        x, y = x * cos_roll - y * sin_roll, x * sin_roll + y * cos_roll
        pixels = np.stack([x, y], axis=1) * (self.scale * (1 + 0.08 * z))[:, None] + self.centre
        return np.round(pixels * 2**_SHIFT).astype(np.int32)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return the colour that is `share` of the way from one to the other."""
    return tuple(a + (b - a) * share for a, b in zip(one, other, strict=True))


def draw_head(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw a person with an expression: hair, shoulders, skin with its folds, and the features on it."""

    def dark(share: float) -> Colour:
        return mix(who.skin, _BLACK, share)

    w, chin, jaw = who.width, 1.03 + 0.15 * moves.jaw, who.width * who.jaw
    back = _ellipse(0, -0.2, 0.9 * w, 1.07)
    if who.long_hair:
        back = np.vstack([back[12:], [(0.95 * w, 1.1), (-0.95 * w, 1.1)]])
    canvas.fill(back, mix(who.hair, _BLACK, 0.15), -0.3)
    canvas.fill(_ellipse(0, 2.3, 1.5, 0.95), who.clothes, -0.4)
    canvas.fill(_ellipse(0, 1.1, 0.4, 0.6), dark(0.22), -0.4)
    right = [(0.0, -1.1), (0.42 * w, -1.0), (0.7 * w, -0.7), (0.77 * w, -0.25), (0.73 * w, 0.15)]
    right += [(0.62 * jaw, 0.54), (0.38 * jaw, 0.87 * chin), (0.0, chin)]
    outline = _curve([*right, *((-x, y) for x, y in reversed(right[:-1]))], 64)
    canvas.fill(outline, who.skin)
    canvas.stroke(outline, dark(0.15), 0.05)
    crown = outline[outline[:, 1] < -0.35]
    line = _curve([(0.74 * w, -0.4), (0.5 * w, -0.68), (0.0, -0.8), (-0.5 * w, -0.68), (-0.74 * w, -0.4)])
    canvas.fill(np.vstack([crown[np.argsort(crown[:, 0])] * 1.04, line]), who.hair, 0.02)
    y, nose = 0.27 - 0.055 * moves.nose_wrinkle, who.nose_width * (1 + 0.18 * moves.nose_wrinkle)
    canvas.fill(np.array([(0.03, -0.2), (0.1, -0.15), (0.12 * nose, y), (0.04, y)]), dark(0.1), 0.12)
    fold = max(moves.smile, 0.9 * moves.lip_raise, 0.8 * moves.nose_wrinkle)
    corner = 0.28 * who.mouth_width * (1 + 0.3 * moves.smile)
    for side in (-1, 1):
        lines = (
            ([(0.16, 0.2), (corner, 0.38), (corner + 0.09, 0.56)], 0.4 * fold, 0.0),
            ([(0.055, -0.42), (0.045, -0.25)], 0.5 * moves.brow_lower, 0.0),
            ([(0.03, -0.1), (0.09, -0.13), (0.15, -0.2)], 0.5 * moves.nose_wrinkle, 0.1),
            ([(0.115 * nose, y - 0.07), (0.155 * nose, y), (0.1 * nose, y + 0.05)], 0.36, 0.1),
            ([(0.0, -0.66), (0.35, -0.63)], 0.3 * moves.inner_brow, 0.0),
        )
        for points, share, lift in lines:
            canvas.stroke(_curve([(side * x, y) for x, y in points]), dark(share), 0.03, lift)
        canvas.fill(_ellipse(side * 0.066 * nose, y + 0.045, 0.036 * nose, 0.021), dark(0.68), 0.16)
    _draw_eyes(canvas, who, moves)
    _draw_mouth(canvas, who, moves)
    _draw_brows(canvas, who, moves)


def _draw_eyes(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw eyeballs, cut by the lids, and the lids' edges."""
    wide = 1 + 0.8 * moves.lid_raise - 0.45 * moves.lid_tight - 0.2 * moves.brow_lower
    up = 0.088 * who.eye_size * max(0.15, wide) * (1 - np.abs(_ALONG) ** 2.3)
    down = 0.058 * who.eye_size * (1 + 0.25 * moves.lid_raise - 0.9 * moves.lid_tight) * (1 - _ALONG**2)
    grief = 0.04 * moves.inner_brow * (1 - moves.outer_brow) * (1 - moves.lid_raise)  # sad lids slope outwards
    for side in (-1, 1):
        x, y = side * 0.34 * who.eye_gap, -0.1 + grief * _ALONG * side
        upper = np.stack([x + 0.168 * who.eye_size * _ALONG, y - up], axis=1)
        lower = np.stack([x + 0.168 * who.eye_size * _ALONG, y + down], axis=1)
        opening = np.vstack([upper, lower[::-1]])
        inside = np.zeros(canvas.image.shape[:2], np.uint8)
        cv2.fillPoly(inside, [canvas.pixels(opening)], (1,), cv2.LINE_8, _SHIFT)
        lids = canvas.image.copy()
        canvas.fill(opening, (226.0, 232.0, 236.0))
        canvas.fill(_ellipse(x, -0.105, 0.09, 0.09), who.iris)
        canvas.fill(_ellipse(x, -0.105, 0.042, 0.042), _BLACK)
        np.copyto(canvas.image, lids, where=inside[..., None] == 0)
        canvas.stroke(lower, mix(who.skin, _BLACK, 0.42), 0.016)
        canvas.stroke(upper, mix(who.hair, _BLACK, 0.7), 0.034)


def _draw_brows(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw brows as strips that taper towards the temples."""
    y, lowered, inner, outer = -0.335, moves.brow_lower, moves.inner_brow, moves.outer_brow
    edge = np.stack([np.zeros(16), 0.042 * who.brow_weight * np.linspace(1.1, 0.25, 16)], axis=1)
    points = [
        (0.135 - 0.055 * lowered, y - 0.17 * inner + 0.15 * lowered + 0.05 * moves.nose_wrinkle),
        (0.25 - 0.03 * lowered, y - 0.045 - 0.13 * inner - 0.06 * outer + 0.11 * lowered),
        (0.42, y - 0.07 - 0.03 * inner - 0.17 * outer + 0.02 * lowered),
        (0.57, y + 0.06 * inner - 0.17 * outer - 0.01 * lowered),
    ]
    for side in (-1, 1):
        middle = _curve([(side * x, y) for x, y in points])
        canvas.fill(np.vstack([middle - edge, (middle + edge)[::-1]]), mix(who.hair, _BLACK, 0.35))


def _draw_mouth(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw lips, and between them teeth and dark."""
    wider = 0.34 * moves.smile + 0.3 * moves.stretch - 0.26 * moves.jaw * (1 - moves.smile) - 0.1 * moves.press
    x = 0.265 * who.mouth_width * (1 + wider) * _ALONG
    corner = 0.57 - 0.14 * moves.smile + 0.1 * moves.frown + 0.03 * moves.stretch + 0.04 * moves.jaw
    middle = 0.565 - 0.05 * moves.lip_raise - 0.06 * moves.frown * (1 - moves.jaw) + 0.03 * moves.smile
    gap, thick = 0.34 * moves.jaw + 0.03 * moves.lip_raise, 0.055 * who.lips * (1 - 0.75 * moves.press)
    fall = 1 - np.abs(_ALONG) ** (2 + moves.lip_raise + 0.8 * moves.stretch)
    above = corner + (middle - 0.18 * gap - corner) * fall
    below = np.maximum(corner + (middle + 0.82 * gap - corner) * fall, above)
    teeth = np.minimum(above + 0.02 + 0.09 * max(moves.smile, moves.lip_raise, moves.stretch), below)
    lip = mix(who.skin, (84.0, 72.0, 178.0), 0.45)
    for upper, lower, colour in (
        (above, below, (26.0, 20.0, 58.0)),
        (above, teeth, (222.0, 236.0, 242.0)),
        (above - thick * (1 - np.abs(_ALONG) ** 3), above + 0.006, mix(lip, _BLACK, 0.14 + 0.4 * (gap < 0.03))),
        (below + 0.006, below + 0.006 + (1.25 * thick + 0.01) * (1 - _ALONG**2), lip),
    ):
        canvas.fill(np.vstack([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]]), colour)


def _curve(points: list[tuple[float, float]], count: int = 16) -> np.ndarray:
    """Return (count, 2) points of a smooth line through all the given ones (a Catmull-Rom spline)."""
    knots = np.array(points)
    knots = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    at = np.linspace(0, len(points) - 1, count)
    i = np.minimum(at.astype(int), len(points) - 2)
    t = (at - i)[:, None]
    a, b, c, d = knots[i], knots[i + 1], knots[i + 2], knots[i + 3]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return (24, 2) points on an ellipse with these half axes."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


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
class PictureSource:
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
    "studio": PictureSource(0.4, 5, 0, 0.1, (0.9, 1.05), (118, 138), (0.0, 0.4), (0.5, 2.0), False, (88, 95)),
    "street": PictureSource(0.36, 9, 14, 0.6, (0.6, 1.05), (85, 140), (0.0, 0.9), (4.0, 12.0), False, (55, 85)),
    "archive": PictureSource(0.24, 5, 3, 0.4, (0.16, 0.36), (52, 100), (0.5, 1.2), (1.0, 3.0), True, (30, 60)),
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


def _draw_background(rng: np.random.Generator, source: PictureSource, size: int) -> np.ndarray:
    """Draw what is behind the head: a backdrop, with shapes out of focus in front of it."""
    image = (rng.uniform(60, 240, 3) + rng.uniform(-50, 50, 3) * _slope(rng, size)[..., None]).clip(0, 255)
    image = image.astype(np.uint8)
    for _ in range(rng.integers(source.clutter + 1)):
        x, y, long, wide = (rng.uniform((0, 0, 0.1, 0.1), (1, 1, 0.5, 0.5)) * size).tolist()
        corners = cv2.boxPoints(((x, y), (long, wide), rng.normal(0, 20)))
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.integers(10, 256, 3).tolist(), cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 5)) if source.clutter else image


def _photograph(rng: np.random.Generator, source: PictureSource, scene: np.ndarray) -> np.ndarray:
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
    that is complete is left as it is; one that was interrupted is completed. One of other faces is refused.
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
