"""A face's own coordinates, the pose that turns them into pixels, and strokes on an image in those terms.

Face coordinates: x to the viewer's right, y down, the origin on the nose's bridge; an average head is 1.5 wide
and 2.2 high. Depth comes from an ellipsoid, so turning the head moves the nose further than the ears.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]  # blue, green, red in 0..255

_SHIFT = 4  # OpenCV draws at 1/16 pixel: without it features jump by whole pixels
_RADII = np.array([0.84, 1.22, 0.80])  # of the ellipsoid that gives depth


@dataclass(frozen=True)
class Pose:
    """How the head is held and where it is in the image.

    Attributes
    ----------
    yaw, pitch, roll : radians; a positive yaw turns the nose to the viewer's right
    scale : pixels per face unit
    centre : (x, y) pixels of the origin
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Return the (n, 2) float pixels of (n, 2) face coordinates on the head, `lift` units above its surface."""
        x, y = points[:, 0], points[:, 1]
        rest = 1 - (x / _RADII[0]) ** 2 - ((y + 0.1) / _RADII[1]) ** 2
        z = _RADII[2] * np.sqrt(np.clip(rest, 0, None)) + lift - 0.35  # the neck's axis is behind the middle
        x, z = x * np.cos(self.yaw) + z * np.sin(self.yaw), z * np.cos(self.yaw) - x * np.sin(self.yaw)
        y, z = y * np.cos(self.pitch) + z * np.sin(self.pitch), z * np.cos(self.pitch) - y * np.sin(self.pitch)
        x, y = x * np.cos(self.roll) - y * np.sin(self.roll), x * np.sin(self.roll) + y * np.cos(self.roll)
        near = self.scale * (1 + 0.08 * z)  # a camera some twelve units away
        return np.stack([self.centre[0] + near * x, self.centre[1] + near * y], axis=1)


@dataclass(frozen=True)
class Canvas:
    """An image that is drawn on, and the pose in which the face is seen there.

    Attributes
    ----------
    image : (H, W, 3) uint8 BGR, or (H, W) uint8 for a map of shade
    """

    image: np.ndarray
    pose: Pose

    def sheet(self) -> "Canvas":
        """Return an empty (H, W) map of the same pose."""
        return Canvas(np.zeros(self.image.shape[:2], np.uint8), self.pose)

    def fill(self, points: np.ndarray, colour: Colour | float, lift: float = 0.0) -> None:
        """Fill the polygon of (n, 2) face coordinates."""
        cv2.fillPoly(self.image, [_fixed(self.pose.project(points, lift))], _scalar(colour), cv2.LINE_AA, _SHIFT)

    def stroke(self, points: np.ndarray, colour: Colour | float, width: float, lift: float = 0.0) -> None:
        """Draw a line of `width` face units through (n, 2) face coordinates; it is at least one pixel wide."""
        pixels = max(1, round(width * self.pose.scale))
        line = [_fixed(self.pose.project(points, lift))]
        cv2.polylines(self.image, line, False, _scalar(colour), pixels, cv2.LINE_AA, _SHIFT)

    def dot(self, x: float, y: float, radius: float, colour: Colour | float, lift: float = 0.0) -> None:
        """Fill a disc of `radius` face units (it stays round in any pose)."""
        centre = _fixed(self.pose.project(np.array([[x, y]]), lift))[0]
        size = max(1, round(radius * self.pose.scale * 2**_SHIFT))
        cv2.circle(self.image, centre.tolist(), size, _scalar(colour), -1, cv2.LINE_AA, _SHIFT)

    def paste(self, other: "Canvas", mask: np.ndarray) -> None:
        """Blend another image in where the (H, W) uint8 mask is above 0, by mask / 255."""
        rows, columns = _bounds(mask)
        share = mask[rows, columns, None].astype(np.float32) / 255
        under = self.image[rows, columns]
        self.image[rows, columns] = under + (other.image[rows, columns].astype(np.float32) - under) * share + 0.5

    def darken(self, shade: np.ndarray, tint: Colour = (1.0, 1.0, 1.0)) -> None:
        """Multiply by 1 - shade / 255 * tint, where shade is (H, W) uint8 and a tint of 1 takes all of a channel."""
        rows, columns = _bounds(shade)
        loss = shade[rows, columns, None].astype(np.float32) * (np.array(tint, np.float32) / 255)
        self.image[rows, columns] = self.image[rows, columns] * (1 - loss) + 0.5


def curve(points: list[tuple[float, float]], count: int = 16) -> np.ndarray:
    """Return (count, 2) points of a smooth line through all the given ones (a Catmull-Rom spline)."""
    knots = np.array(points)
    knots = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    at = np.linspace(0, len(points) - 1, count)
    i = np.minimum(at.astype(int), len(points) - 2)
    t = (at - i)[:, None]
    a, b, c, d = knots[i], knots[i + 1], knots[i + 2], knots[i + 3]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def ellipse(x: float, y: float, width: float, height: float, count: int = 24) -> np.ndarray:
    """Return (count, 2) points on an ellipse with these half axes."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return the colour that is `share` of the way from one to the other."""
    blue, green, red = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return blue, green, red


def _fixed(points: np.ndarray) -> np.ndarray:
    """Return float pixels as OpenCV's fixed-point integers."""
    return np.round(points * 2**_SHIFT).astype(np.int32)


def _scalar(colour: Colour | float) -> tuple[float, ...]:
    """Return a colour or a grey as OpenCV wants it."""
    return colour if isinstance(colour, tuple) else (float(colour),)


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns where a mask is above 0: most are small, and blending is what costs time."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(y, y + height), slice(x, x + width)
