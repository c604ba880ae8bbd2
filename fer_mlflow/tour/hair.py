"""Hair: what hangs behind the head, and what lies on top of it."""

import numpy as np

from fer_mlflow.tour.canvas import Canvas, curve, ellipse, mix
from fer_mlflow.tour.head import BLACK, WHITE
from fer_mlflow.tour.identities import Identity

_LENGTHS = {"long": 1.55, "bob": 0.72}
_VOLUMES = {"cropped": 1.02, "curly": 1.1, "bun": 1.03}


def draw_back_hair(canvas: Canvas, who: Identity) -> None:
    """Draw what hangs behind the head, before the head."""
    dark = mix(who.hair, BLACK, 0.25)
    if who.hair_style in _LENGTHS:
        end = _LENGTHS[who.hair_style]
        right = [(0.0, -1.28), (0.6, -1.1), (0.88, -0.5), (0.93, 0.1), (0.9, end - 0.25), (0.72, end)]
        canvas.fill(curve(right + [(-x, y) for x, y in reversed(right)], 40), dark, -0.3)
    elif who.hair_style == "bun":
        canvas.fill(ellipse(0.25 * who.parting, -1.3, 0.3, 0.26), dark, -0.2)
    elif who.hair_style == "curly":
        for angle in np.linspace(-0.35, np.pi + 0.35, 15):
            x, y = 0.84 * np.cos(angle), -0.35 - 0.86 * np.sin(angle)
            canvas.fill(ellipse(x, y, 0.2, 0.2, 12), dark, -0.2)


def draw_front_hair(canvas: Canvas, who: Identity) -> None:
    """Draw what lies on the head, after the features."""
    if who.hair_style == "bald":
        return
    if who.hair_style == "cap":
        _draw_cap(canvas, who)
        return
    volume = _VOLUMES.get(who.hair_style, 1.07)
    angle = np.linspace(np.pi + 0.05, 2 * np.pi - 0.05, 28)
    top = np.stack(
        [0.80 * who.width * volume * np.cos(angle), -0.28 + 0.96 * who.length * volume * np.sin(angle)], axis=1
    )
    front = _hairline(who)
    canvas.fill(np.vstack([top, front]), who.hair, 0.02)
    shine, dark = mix(who.hair, WHITE, 0.16), mix(who.hair, BLACK, 0.28)
    for k in range(9):  # strands, from the parting outwards
        share = (k + 0.5) / 9
        start = top[int((0.5 + 0.3 * who.parting) * 0.6 * 27 + share * 0.4 * 27)] * np.array([0.9, 0.97])
        end = front[int((1 - share) * (len(front) - 1))]
        middle = (start + end) / 2 + np.array([0.08 * (share - 0.5), -0.05])
        canvas.stroke(curve([tuple(start), tuple(middle), tuple(end)], 8), shine if k % 3 == 1 else dark, 0.014, 0.02)


def _hairline(who: Identity) -> np.ndarray:
    """Return the (n, 2) lower edge of the hair, from the right temple to the left one."""
    w, y, p = who.width, -0.80 + who.hairline, who.parting
    if who.hair_style == "fringe":
        y = -0.56 + 0.5 * who.hairline
        teeth = [(x, y + (0.06 if k % 2 else -0.02)) for k, x in enumerate(np.linspace(0.6, -0.6, 9) * w)]
        return np.array([(0.79 * w, -0.18), (0.72 * w, -0.3), *teeth, (-0.72 * w, -0.3), (-0.79 * w, -0.18)])
    if who.hair_style in ("parted", "long", "bob"):
        low = -0.12 if who.hair_style == "parted" else 0.35
        points = [(0.80 * w, low), (0.70 * w, -0.32), (0.52 * w, -0.62), (0.4 * p, y - 0.08), (-0.52 * w, -0.62)]
        return curve([*points, (-0.70 * w, -0.32), (-0.80 * w, low)], 28)
    if who.hair_style == "curly":
        return curve(
            [(0.82 * w, -0.2), (0.66 * w, -0.52), (0.3 * w, y), (-0.3 * w, y), (-0.66 * w, -0.52), (-0.82 * w, -0.2)],
            24,
        )
    right = [(0.78 * w, -0.1), (0.71 * w, -0.42), (0.62 * w, -0.66), (0.4 * w, y - 0.04), (0.0, y)]
    return curve(right + [(-x, y) for x, y in reversed(right[:-1])], 28)


def _draw_cap(canvas: Canvas, who: Identity) -> None:
    """Draw a woollen hat in the colour of the clothes."""
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    dome = np.stack([0.85 * who.width * np.cos(angle), -0.55 + 0.85 * np.sin(angle)], axis=1)
    w = 0.86 * who.width
    canvas.fill(dome, who.clothes, 0.04)
    band = np.vstack(
        [curve([(-w, -0.5), (0.0, -0.62), (w, -0.5)], 10), curve([(w, -0.74), (0.0, -0.86), (-w, -0.74)], 10)]
    )
    canvas.fill(band, mix(who.clothes, WHITE, 0.15), 0.06)
    for x in np.linspace(-0.7, 0.7, 9) * who.width:
        canvas.stroke(np.array([(x, -0.84), (x, -0.56)]), mix(who.clothes, BLACK, 0.2), 0.02, 0.06)
