"""Everything of a head but its features: shoulders, ears, skin with its shading and wrinkles, hair, glasses."""

import cv2
import numpy as np

from fer_mlflow.tour.canvas import Canvas, Colour, curve, ellipse, mix
from fer_mlflow.tour.expressions import Expression
from fer_mlflow.tour.identities import Identity

BLACK: Colour = (0.0, 0.0, 0.0)
WHITE: Colour = (255.0, 255.0, 255.0)
_SKIN_SHADE: Colour = (1.0, 0.86, 0.66)  # shaded skin keeps its red


def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points from top to bottom on the right, followed by the same on the left from bottom to top."""
    return points + [(-x, y) for x, y in reversed(points) if x != 0]


def head_outline(who: Identity, moves: Expression) -> np.ndarray:
    """Return the (n, 2) outline of the head; a dropped jaw makes it longer."""
    w, jaw, chin = who.width, who.width * who.jaw, who.length + 0.15 * moves.jaw
    right = [
        (0.0, -1.16 * who.length),
        (0.42 * w, -1.06 * who.length),
        (0.70 * w, -0.72),
        (0.77 * w, -0.25),
        (0.74 * w, 0.15),
        (0.64 * jaw, 0.52),
        (0.40 * jaw, 0.88 * chin),
        (0.14 * jaw, 1.02 * chin),
        (0.0, 1.03 * chin),
    ]
    points = mirrored(right)
    return curve([*points, points[0]], 64)[:-1]


def draw_body(canvas: Canvas, who: Identity) -> None:
    """Draw neck and shoulders; the canvas has the body's pose."""
    slope = [(0.36, 1.28), (0.62, 1.42), (1.35, 1.62), (1.65, 2.0), (1.7, 2.8)]
    neck = [(0.44, 0.4), (0.42, 1.1), (0.52, 1.4), (0.2, 1.72)]
    canvas.fill(np.array(mirrored(slope)), who.clothes, -0.4)
    canvas.fill(curve(mirrored(neck), 24), mix(who.skin, BLACK, 0.14), -0.4)
    for side in (-1, 1):  # a collar
        canvas.stroke(
            curve([(side * 0.5, 1.33), (side * 0.4, 1.6), (side * 0.05, 1.86)], 8),
            mix(who.clothes, BLACK, 0.3),
            0.05,
            -0.4,
        )


def draw_skin(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw ears and the skin of the face with its relief: shade that is soft, wrinkles that are sharp."""
    outline = head_outline(who, moves)
    canvas.fill(outline + np.array([0.0, 0.10]), mix(who.skin, BLACK, 0.38), -0.15)  # the chin's shadow on the neck
    for side in (-1, 1):
        canvas.fill(
            ellipse(side * 0.79 * who.width, 0.03, 0.12 * who.ears, 0.21 * who.ears), mix(who.skin, BLACK, 0.08), -0.1
        )
        canvas.fill(ellipse(side * 0.81 * who.width, 0.04, 0.06, 0.12 * who.ears), mix(who.skin, BLACK, 0.24), -0.1)
    canvas.fill(outline, who.skin)

    face, soft, sharp = canvas.sheet(), canvas.sheet(), canvas.sheet()
    face.fill(outline, 255)
    _shade(soft, who, moves, outline)
    _wrinkle(sharp, who, moves)
    blur = canvas.pose.scale * 0.075
    canvas.darken(cv2.multiply(cv2.GaussianBlur(soft.image, (0, 0), blur), face.image, scale=1 / 255), _SKIN_SHADE)
    canvas.darken(cv2.GaussianBlur(sharp.image, (0, 0), max(0.6, blur * 0.13)), _SKIN_SHADE)


def _shade(soft: Canvas, who: Identity, moves: Expression, outline: np.ndarray) -> None:
    """Mark where the head turns away from the light, and the hollows of eyes, nose and chin."""
    soft.stroke(outline, 85, 0.16)
    smile, tip = moves.smile, 0.27 * who.nose_length
    for side in (-1, 1):
        soft.fill(
            ellipse(side * 0.33 * who.eye_gap, -0.2, 0.22, 0.11 + 0.03 * moves.brow_lower), 52 + 35 * moves.brow_lower
        )
        soft.fill(ellipse(side * 0.34, 0.06, 0.17, 0.05), 18 + 40 * moves.cheek_raise + 30 * who.age)
        soft.fill(ellipse(side * 0.56, 0.45, 0.10, 0.26), 22 + 30 * smile)  # below the cheekbone
        soft.fill(ellipse(side * 0.15, 0.22 * who.nose_length, 0.06, 0.09), 40 + 40 * moves.nose_wrinkle, 0.1)
    soft.fill(np.array([(0.03, -0.2), (0.12, -0.2), (0.14, tip), (0.05, tip)]), 42, 0.12)
    soft.fill(ellipse(0, tip + 0.08, 0.12 * who.nose_width, 0.04), 95, 0.1)
    soft.fill(ellipse(0, 0.78 + 0.1 * moves.jaw, 0.17, 0.04), 60 + 40 * moves.chin_raise)


def _wrinkle(sharp: Canvas, who: Identity, moves: Expression) -> None:
    """Mark the folds that muscles make, deeper in old faces."""
    old, tip = who.age, 0.27 * who.nose_length
    fold = min(1.0, max(0.95 * moves.smile, 0.85 * moves.lip_raise, 0.75 * moves.nose_wrinkle) + 0.35 * old)
    corner = 0.27 * who.mouth_width * (1 + 0.3 * moves.smile + 0.25 * moves.stretch)
    for side in (-1, 1):
        low = 0.6 - 0.14 * moves.smile + 0.06 * moves.frown
        sharp.stroke(
            curve(
                [
                    (side * 0.15 * who.nose_width, tip - 0.06),
                    (side * (corner - 0.02), low - 0.15),
                    (side * (corner + 0.09), low),
                ]
            ),
            150 * fold,
            0.03,
        )
        if moves.frown > 0.25:  # marionette lines
            x = side * (corner + 0.02)
            sharp.stroke(curve([(x, 0.66), (x * 1.1, 0.74), (x * 1.12, 0.82)], 8), 110 * moves.frown, 0.03)
        feet = 0.6 * moves.cheek_raise + 0.3 * old
        for rise in (-0.07, 0.0, 0.07):  # crow's feet
            sharp.stroke(
                np.array([(side * 0.57, -0.06 + 0.4 * rise), (side * 0.68, -0.06 + 1.3 * rise)]), 130 * feet, 0.02
            )
        bag = 0.35 * old + 0.5 * moves.cheek_raise
        sharp.stroke(curve([(side * 0.2, 0.03), (side * 0.34, 0.075), (side * 0.48, 0.02)], 8), 110 * bag, 0.02)
        squeeze = moves.brow_lower * (0.55 + 0.45 * old)
        sharp.stroke(np.array([(side * 0.055, -0.42), (side * 0.045, -0.25)]), 190 * squeeze, 0.035)
        if moves.nose_wrinkle > 0.15:
            for y in (-0.16, -0.08, 0.0):
                line = curve([(side * 0.02, y), (side * 0.08, y - 0.03), (side * 0.13, y - 0.08)], 8)
                sharp.stroke(line, 185 * moves.nose_wrinkle, 0.028, 0.1)
    raised = 0.65 * min(1.0, moves.inner_brow + 0.5 * moves.outer_brow) + 0.35 * old
    reach = 0.22 + 0.28 * max(moves.outer_brow, old)  # sad brows wrinkle the middle of the forehead only
    for y in (-0.83, -0.73, -0.63):
        sharp.stroke(curve([(-reach, y + 0.02), (0.0, y - 0.015), (reach, y + 0.02)], 10), 105 * raised, 0.022)
    if moves.chin_raise > 0.2:
        sharp.stroke(curve([(-0.13, 0.85), (0.0, 0.78), (0.13, 0.85)], 8), 130 * moves.chin_raise, 0.03)


def draw_beard(canvas: Canvas, who: Identity, moves: Expression) -> None:
    """Draw beard and moustache, before the mouth."""
    if not who.beard and not who.moustache:
        return
    shade = canvas.sheet()
    if who.beard:
        outline = head_outline(who, moves)
        low = outline[outline[:, 1] > 0.2] * np.array([0.985, 0.995])
        low = low[np.argsort(-low[:, 0])]
        top = curve([(-0.66, 0.3), (-0.44, 0.5), (-0.2, 0.44), (0.0, 0.42), (0.2, 0.44), (0.44, 0.5), (0.66, 0.3)], 16)
        shade.fill(np.vstack([low, top]), 70 + 160 * who.beard)
    if who.moustache:
        y = 0.40
        lip = [(-0.3, y + 0.12), (-0.15, y), (0.0, y - 0.01), (0.15, y), (0.3, y + 0.12), (0.0, y + 0.09)]
        shade.fill(np.array(lip), 225)
    colour = Canvas(np.full_like(canvas.image, mix(who.hair, BLACK, 0.1)), canvas.pose)
    canvas.paste(colour, cv2.GaussianBlur(shade.image, (0, 0), canvas.pose.scale * 0.03))


def draw_glasses(canvas: Canvas, who: Identity) -> None:
    """Draw the frames of spectacles."""
    if not who.glasses:
        return
    frame = mix(who.hair, BLACK, 0.6)
    x = 0.35 * who.eye_gap
    for side in (-1, 1):
        rim = ellipse(side * x, -0.08, 0.25, 0.2)
        canvas.stroke(np.vstack([rim, rim[:1]]), frame, 0.03, 0.12)
        canvas.stroke(np.array([(side * (x + 0.25), -0.1), (side * 0.78, -0.08)]), frame, 0.03)
    canvas.stroke(curve([(-x + 0.25, -0.1), (0.0, -0.14), (x - 0.25, -0.1)], 8), frame, 0.03, 0.12)
