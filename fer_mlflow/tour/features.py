"""The features that make an expression: eyes, brows, nose and mouth."""

import numpy as np

from fer_mlflow.tour.canvas import Canvas, Colour, curve, ellipse, mix
from fer_mlflow.tour.expressions import Expression
from fer_mlflow.tour.head import BLACK, WHITE
from fer_mlflow.tour.identities import Identity

_SCLERA: Colour = (226.0, 232.0, 236.0)
_TEETH: Colour = (222.0, 236.0, 242.0)
_THROAT: Colour = (26.0, 20.0, 58.0)
_TONGUE: Colour = (98.0, 86.0, 184.0)
_ROSE: Colour = (84.0, 72.0, 178.0)
_ALONG = np.linspace(-1, 1, 17)  # from one corner of an eye or a mouth to the other


def draw_eyes(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw eyeballs, cut by the lids, and the lids' edges."""
    inside, balls = canvas.sheet(), Canvas(canvas.image.copy(), canvas.pose)
    edges = []
    for side in (-1, 1):
        upper, lower = _lids(who, moves, side)
        opening = np.vstack([upper, lower[::-1]])
        inside.fill(opening, 255)
        balls.fill(opening + (opening - opening.mean(0)) * 0.2, mix(_SCLERA, who.skin, 0.12))
        x = side * 0.34 * who.eye_gap + 0.075 * moves.gaze_x
        y = -0.105 + 0.05 * moves.gaze_y
        radius = 0.088 * (0.6 + 0.4 * who.eye_size)
        balls.dot(x, y, radius, mix(who.iris, BLACK, 0.5))
        balls.dot(x, y, radius * 0.82, who.iris)
        balls.dot(x, y, radius * 0.46, (16.0, 12.0, 12.0))
        balls.stroke(upper + np.array([0.0, 0.025]), mix(_SCLERA, BLACK, 0.45), 0.03)  # the upper lid's shadow
        balls.dot(x - 0.03, y - 0.035, 0.022, WHITE)
        edges.append((upper, lower))
    canvas.paste(balls, inside.image)
    lash, line = mix(mix(who.hair, who.skin, 0.1), BLACK, 0.72), mix(who.skin, BLACK, 0.42)
    for upper, lower in edges:
        canvas.stroke(lower, line, 0.016)
        canvas.stroke(upper, lash, 0.034)
        crease = 0.045 + 0.02 * moves.shut - 0.02 * moves.brow_lower
        canvas.stroke(upper[2:-2] - np.array([0.0, crease]), line, 0.016)


def _lids(who: Identity, moves: Expression, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (17, 2) edges of the upper and the lower lid of one eye, from left to right."""
    wide = 1 + 0.80 * moves.lid_raise - 0.30 * moves.lid_tight - 0.2 * moves.cheek_raise - 0.2 * moves.brow_lower
    up = 0.088 * who.eye_size * max(0.15, wide) * (1 - moves.shut)
    down = 0.058 * who.eye_size * (1 + 0.25 * moves.lid_raise - 0.5 * moves.lid_tight - 1.2 * moves.cheek_raise)
    down = max(down - 0.02 * moves.nose_wrinkle + 0.01 * moves.shut, 0.006 - up)
    outward = _ALONG * side  # -1 at the nose, 1 at the temple
    grief = 0.035 * min(moves.inner_brow, 1 - moves.outer_brow) * (1 - moves.lid_raise)  # sad lids slope outwards
    slant = -0.10 + (grief - who.eye_tilt) * outward
    x = side * 0.34 * who.eye_gap + 0.168 * who.eye_size * _ALONG
    upper = slant - up * (1 - np.abs(_ALONG) ** 2.3) * (1 - 0.12 * outward)
    lower = slant + down * (1 - np.abs(_ALONG) ** 2)
    return np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)


def draw_brows(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw brows as strips that taper towards the temples."""
    lowered, inner, outer = moves.brow_lower, moves.inner_brow, moves.outer_brow
    y = -0.335 - who.brow_height
    for side in (-1, 1):
        points = [
            (side * (0.135 - 0.055 * lowered), y - 0.17 * inner + 0.15 * lowered + 0.05 * moves.nose_wrinkle),
            (side * (0.25 - 0.03 * lowered), y - 0.045 - 0.13 * inner - 0.06 * outer + 0.11 * lowered),
            (side * 0.42, y - 0.07 - 0.03 * inner - 0.17 * outer + 0.02 * lowered),
            (side * 0.57, y + 0.0 + 0.06 * inner - 0.17 * outer - 0.01 * lowered),
        ]
        middle = curve(points, 14)
        weight = (
            0.042
            * who.brow_weight
            * np.array([0.75, 1, 1.05, 1.05, 1, 1, 0.95, 0.9, 0.85, 0.75, 0.65, 0.5, 0.35, 0.15])
        )
        edge = np.stack([np.zeros(14), weight], axis=1)
        colour = mix(mix(who.hair, BLACK, 0.35), who.skin, 0.12)
        canvas.fill(np.vstack([middle - edge, (middle + edge)[::-1]]), colour)


def draw_nose(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw nostrils, wings and the light on the tip."""
    tip = 0.27 * who.nose_length
    rise, w = 0.055 * moves.nose_wrinkle, who.nose_width * (1 + 0.18 * moves.nose_wrinkle)
    dark, line = mix(who.skin, BLACK, 0.68), mix(who.skin, BLACK, 0.36)
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.066 * w, tip + 0.045 - rise, 0.036 * w, 0.021, 12), dark, 0.16)
        wing = [
            (side * 0.115 * w, tip - 0.07),
            (side * 0.155 * w, tip),
            (side * 0.14 * w, tip + 0.045),
            (side * 0.1 * w, tip + 0.05),
        ]
        canvas.stroke(curve(wing, 10) - np.array([0.0, rise]), line, 0.022, 0.1)
    canvas.fill(ellipse(-0.02, tip - 0.05, 0.035, 0.03, 12), mix(who.skin, WHITE, 0.22), 0.25)


def draw_mouth(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw lips, and between them teeth, tongue and dark."""
    top, above, below, bottom = _lips(who, moves)
    colour = mix(mix(who.skin, _ROSE, 0.42), (58.0, 38.0, 176.0), 0.7 * who.lipstick)
    upper, lower = np.vstack([top, above[::-1]]), np.vstack([below, bottom[::-1]])
    inside = np.vstack([above, below[::-1]])
    canvas.fill(inside, _THROAT)
    gap = float((below - above)[8, 1])
    if gap > 0.03:
        _draw_inside(canvas, moves, above, below, gap)
    canvas.fill(upper, mix(colour, BLACK, 0.14))
    canvas.fill(lower, colour)
    if gap <= 0.03:
        canvas.stroke(above, mix(colour, BLACK, 0.62), 0.022 + 0.012 * moves.press)
    middle = (below + bottom)[6:11] / 2
    canvas.stroke(middle, mix(colour, WHITE, 0.25), 0.016)
    for end in (above[0], above[-1]):
        canvas.dot(float(end[0]), float(end[1]), 0.018, mix(who.skin, BLACK, 0.5))


def _lips(who: Identity, moves: Expression) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the (17, 2) outer and inner edges of the upper lip, then inner and outer edges of the lower one."""
    half = (
        0.265
        * who.mouth_width
        * (1 + 0.34 * moves.smile + 0.30 * moves.stretch - 0.26 * moves.jaw * (1 - moves.smile) - 0.1 * moves.press)
    )
    corner = 0.57 - 0.14 * moves.smile + 0.10 * moves.frown + 0.03 * moves.stretch + 0.04 * moves.jaw
    raised = 0.085 * moves.lip_raise
    gap = 0.075 * moves.part + 0.30 * moves.jaw + 0.4 * raised * moves.part
    middle = (
        0.565 - 0.6 * raised - 0.045 * moves.chin_raise - 0.06 * moves.frown * (1 - moves.part) + 0.03 * moves.smile
    )
    thick = 0.055 * who.lips * (1 - 0.75 * moves.press)
    fall = 1 - np.abs(_ALONG) ** (2.0 + 1.2 * moves.lip_raise + 0.8 * moves.stretch)
    bow = thick * (1 - 0.22 * np.exp(-((_ALONG / 0.16) ** 2))) * (1 - np.abs(_ALONG) ** 3)
    x = half * _ALONG
    above = corner + (middle - 0.18 * gap - corner) * fall
    below = corner + (middle + 0.82 * gap - corner) * (1 - np.abs(_ALONG) ** (2.2 + moves.stretch))
    below = np.maximum(below, above)
    bottom = below + (1.25 * thick + 0.01 + 0.02 * moves.chin_raise) * (1 - np.abs(_ALONG) ** 2.2)
    rows = (above - bow - 0.004, above, below, bottom)
    return tuple(np.stack([x, y], axis=1) for y in rows)  # type: ignore[return-value]


def _draw_inside(canvas: Canvas, moves: Expression, above: np.ndarray, below: np.ndarray, gap: float) -> None:
    """Draw what an open mouth shows: a tongue when it is wide, upper teeth, lower ones when it is stretched."""
    if gap > 0.16:
        canvas.fill(ellipse(0, float(below[8, 1]) - 0.02, 0.13, 0.28 * gap, 16), _TONGUE)
        lip = np.vstack([below, below[::-1] + np.array([0.0, 0.1])])
        canvas.fill(lip, _THROAT)  # the lower lip is drawn over this
    bared = max(moves.smile, moves.lip_raise, moves.stretch, 0.35)
    reach = min(0.10 * bared + 0.012, gap)
    teeth = above + (below - above) * min(1.0, reach / gap)
    canvas.fill(np.vstack([above, teeth[::-1]]), _TEETH)
    if moves.stretch > 0.3 or moves.lip_raise > 0.6:
        low = below - (below - above) * min(1.0, 0.06 / gap)
        canvas.fill(np.vstack([low, below[::-1]]), mix(_TEETH, BLACK, 0.08))
    for k in range(3, 14, 2):  # gaps between teeth
        canvas.stroke(np.array([above[k], teeth[k]]), mix(_TEETH, BLACK, 0.22), 0.008)
