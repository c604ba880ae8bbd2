"""Drawing of a head with an expression: shapes in face coordinates that a pose turns into pixels.

Face coordinates: x to the viewer's right, y down, the origin on the bridge of the nose; a head is 1.5 wide, 2.2 high.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, ...]  # blue, green, red in 0..255
_BLACK: Colour = (0.0, 0.0, 0.0)
_SHIFT = 4  # OpenCV draws at 1/16 pixel: without it features jump by whole pixels
_RADII = np.array(
    [0.84, 1.22, 0.80]
)  # of the ellipsoid that gives depth: turning moves the nose further than the temples
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
