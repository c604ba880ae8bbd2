"""Where pictures come from: three sources with their own backgrounds, light, cameras and compression."""

from dataclasses import dataclass

import cv2
import numpy as np

from fer_mlflow.tour.canvas import Pose


@dataclass(frozen=True)
class Source:
    """One kind of picture. Angles are standard deviations in degrees, ranges are uniform.

    Attributes
    ----------
    share : of all people; a person belongs to one source
    clutter : shapes behind the head
    shadow : chance of a shadow across the face, and how much light it takes
    contrast : of the range of lightness that is left
    level : middle of that range, 0..255
    slope : how much brighter one side of the picture is than the other, as a share of the range
    blur : pixels
    noise : standard deviation, of 255
    """

    name: str
    share: float
    yaw: float
    pitch: float
    roll: float
    shift: float
    zoom: tuple[float, float]
    clutter: tuple[int, int]
    shadow: tuple[float, float]
    contrast: tuple[float, float]
    level: tuple[float, float]
    slope: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    grey: bool
    quality: tuple[int, int]


SOURCES = (
    Source(
        name="studio",
        share=0.4,
        yaw=6,
        pitch=3,
        roll=3,
        shift=0.015,
        zoom=(0.96, 1.1),
        clutter=(0, 0),
        shadow=(0.0, 0.0),
        contrast=(0.9, 1.05),
        level=(118, 138),
        slope=(0.0, 0.25),
        blur=(0.0, 0.4),
        noise=(0.5, 2.0),
        grey=False,
        quality=(88, 95),
    ),
    Source(
        name="street",
        share=0.36,
        yaw=12,
        pitch=5,
        roll=6,
        shift=0.03,
        zoom=(0.82, 1.16),
        clutter=(6, 16),
        shadow=(0.55, 0.55),
        contrast=(0.6, 1.05),
        level=(85, 140),
        slope=(0.1, 0.6),
        blur=(0.0, 0.9),
        noise=(4.0, 12.0),
        grey=False,
        quality=(55, 85),
    ),
    Source(
        name="archive",
        share=0.24,
        yaw=7,
        pitch=3,
        roll=3,
        shift=0.02,
        zoom=(0.88, 1.1),
        clutter=(0, 3),
        shadow=(0.15, 0.4),
        contrast=(0.16, 0.36),
        level=(52, 100),
        slope=(0.2, 0.9),
        blur=(0.5, 1.2),
        noise=(1.0, 3.0),
        grey=True,
        quality=(30, 60),
    ),
)


def draw_pose(rng: np.random.Generator, source: Source, size: int) -> Pose:
    """Draw how the head is held in a picture of `size` x `size` pixels."""
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (source.yaw, source.pitch, source.roll)))
    limit = np.deg2rad(36)
    centre = size * (np.array([0.5, 0.43]) + rng.normal(0, source.shift, 2))
    return Pose(
        float(np.clip(yaw, -limit, limit)),
        float(np.clip(pitch, -limit / 2, limit / 2)),
        float(np.clip(roll, -limit, limit)),
        0.48 * size * float(rng.uniform(*source.zoom)),
        (float(centre[0]), float(centre[1])),
    )


def draw_background(rng: np.random.Generator, source: Source, size: int) -> np.ndarray:
    """Draw what is behind the head: a (size, size, 3) uint8 BGR backdrop, with shapes out of focus in a street."""
    hue = rng.uniform(0, 180)
    ends = np.array(
        [
            [
                [hue, rng.uniform(20, 110), rng.uniform(120, 245)],
                [hue + rng.normal(0, 12), rng.uniform(20, 130), rng.uniform(60, 220)],
            ]
        ]
    )
    ends[..., 0] %= 180
    pair = cv2.cvtColor(ends.astype(np.uint8), cv2.COLOR_HSV2BGR)[0].astype(np.float32)
    mixture = (_slope(rng, size) + 1) / 2
    image = (pair[0] + (pair[1] - pair[0]) * mixture[..., None]).astype(np.uint8)
    count = int(rng.integers(source.clutter[0], source.clutter[1] + 1))
    for _ in range(count):
        colour = rng.integers(10, 256, 3).tolist()
        x, y = rng.integers(0, size, 2).tolist()
        long, wide = rng.integers(size // 12, size // 2, 2).tolist()
        kind = rng.random()
        if kind < 0.5:  # windows, signs
            corners = cv2.boxPoints(((x, y), (long, wide), float(rng.normal(0, 12))))
            cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind < 0.75:  # lamps, leaves
            cv2.circle(image, (x, y), wide // 3, colour, -1, cv2.LINE_AA)
        else:  # poles, branches
            end = rng.integers(0, size, 2).tolist()
            cv2.line(image, (x, y), end, colour, 2 + long // 10, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.0, 5.0))) if count else image


def photograph(rng: np.random.Generator, source: Source, scene: np.ndarray, size: int) -> np.ndarray:
    """Return the (size, size, 3) uint8 BGR picture that the source's light and camera make of a larger scene."""
    image: np.ndarray = cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    if source.grey:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        image = grey[..., None] * (1 + rng.uniform(0, 1) * np.array([-0.10, 0.0, 0.05], np.float32))  # sepia
    else:
        spread = 0.02 if source.clutter == (0, 0) else 0.08  # of the white balance
        image *= np.exp(rng.normal(0, spread, 3)).astype(np.float32)
    if rng.random() < source.shadow[0]:
        edge = np.clip(_slope(rng, size) * 4 + rng.normal(0, 1.2), -1, 1)
        image *= (1 - source.shadow[1] * rng.uniform(0.5, 1) * (edge + 1) / 2)[..., None]
    contrast, level, slope = (rng.uniform(*bounds) for bounds in (source.contrast, source.level, source.slope))
    image = level + (image - 128) * contrast + (_slope(rng, size) * slope * 64 * min(1.0, contrast * 2))[..., None]
    blur = rng.uniform(*source.blur)
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    grain = rng.standard_normal((size, size, 1 if source.grey else 3), np.float32)
    return np.clip(image + grain * np.float32(rng.uniform(*source.noise)) + 0.5, 0, 255).astype(np.uint8)


def _slope(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a (size, size) float32 ramp from -1 to 1 in a drawn direction."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    ramp = along[None, :] * np.float32(np.cos(angle)) + along[:, None] * np.float32(np.sin(angle))
    return ramp / np.float32(abs(np.cos(angle)) + abs(np.sin(angle)))
