"""What faces do: muscle movements for each expression, drawn from distributions that overlap.

The movements are the action units (AU) of the Facial Action Coding System (Ekman and Friesen 1978), and each
expression's usual units are those of EMFACS. Fear and Surprise share raised brows and wide eyes, Angry and
Disgust lowered brows, and a slight expression of any kind is close to Neutral: as in photographs, some faces
cannot be told apart.
"""

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Expression:
    """How far each muscle pulls: 0 at rest, 1 as far as it goes; the gaze is -1..1.

    The comment gives the action unit.
    """

    inner_brow: float = 0.0  # 1: raises the brows' inner ends
    outer_brow: float = 0.0  # 2
    brow_lower: float = 0.0  # 4: lowers the brows and draws them together
    lid_raise: float = 0.0  # 5: white above the iris
    cheek_raise: float = 0.0  # 6: lower lid up, crow's feet
    lid_tight: float = 0.0  # 7: a hard stare
    nose_wrinkle: float = 0.0  # 9
    lip_raise: float = 0.0  # 10: upper lip up, square
    smile: float = 0.0  # 12: corners out and up
    frown: float = 0.0  # 15: corners down
    chin_raise: float = 0.0  # 17: lower lip pushed up
    stretch: float = 0.0  # 20: corners straight out
    press: float = 0.0  # 23 and 24: thin lips
    part: float = 0.0  # 25: lips apart
    jaw: float = 0.0  # 26 and 27: jaw dropped
    shut: float = 0.0  # 43: lids closing
    gaze_x: float = 0.0
    gaze_y: float = 0.0


@dataclass(frozen=True)
class Variant:
    """One way to show an expression: how often it is chosen, and the mean of each movement at full strength."""

    share: float
    mean: Expression


VARIANTS = {
    "Angry": (
        Variant(0.45, Expression(brow_lower=0.95, lid_raise=0.25, lid_tight=0.6, press=0.85, chin_raise=0.2)),
        Variant(
            0.35,
            Expression(brow_lower=0.95, lid_raise=0.35, lid_tight=0.5, lip_raise=0.5, part=0.8, jaw=0.5, stretch=0.35),
        ),
        Variant(
            0.20, Expression(brow_lower=0.9, lid_tight=0.7, nose_wrinkle=0.4, lip_raise=0.4, part=0.9, stretch=0.4)
        ),
    ),
    "Disgust": (
        Variant(
            0.6,
            Expression(
                nose_wrinkle=0.95,
                lip_raise=0.8,
                brow_lower=0.45,
                lid_tight=0.5,
                cheek_raise=0.45,
                frown=0.45,
                chin_raise=0.4,
            ),
        ),
        Variant(
            0.4,
            Expression(
                nose_wrinkle=0.9, lip_raise=0.95, brow_lower=0.4, lid_tight=0.6, part=0.7, jaw=0.2, frown=0.4, shut=0.2
            ),
        ),
    ),
    "Fear": (
        Variant(
            0.6,
            Expression(
                inner_brow=0.9,
                outer_brow=0.35,
                brow_lower=0.5,
                lid_raise=0.9,
                stretch=0.85,
                part=0.8,
                jaw=0.25,
                frown=0.2,
            ),
        ),
        Variant(
            0.4,
            Expression(inner_brow=0.9, outer_brow=0.6, brow_lower=0.4, lid_raise=0.9, stretch=0.5, part=0.8, jaw=0.55),
        ),
    ),
    "Happy": (
        Variant(0.45, Expression(cheek_raise=0.7, smile=0.9, part=0.75, lip_raise=0.1)),
        Variant(0.30, Expression(cheek_raise=0.5, smile=0.85)),
        Variant(0.25, Expression(cheek_raise=0.9, smile=0.95, part=0.9, jaw=0.5, shut=0.15)),
    ),
    "Sad": (
        Variant(0.65, Expression(inner_brow=0.85, brow_lower=0.35, frown=0.8, chin_raise=0.5, shut=0.25, gaze_y=0.35)),
        Variant(0.35, Expression(inner_brow=0.75, brow_lower=0.25, frown=0.65, shut=0.4, gaze_y=0.6, part=0.15)),
    ),
    "Surprise": (
        Variant(0.7, Expression(inner_brow=0.85, outer_brow=0.9, lid_raise=0.75, part=0.6, jaw=0.8)),
        Variant(0.3, Expression(inner_brow=0.8, outer_brow=0.85, lid_raise=0.65, part=0.5, jaw=0.4)),
    ),
    "Neutral": (
        Variant(0.8, Expression()),
        Variant(0.2, Expression(part=0.35, jaw=0.1)),  # caught while speaking
    ),
}
# What an expression shades into, for the faces that show two at once.
NEIGHBOURS = {
    "Angry": ("Disgust", "Neutral", "Sad"),
    "Disgust": ("Angry", "Sad", "Happy"),
    "Fear": ("Surprise", "Sad"),
    "Happy": ("Neutral", "Surprise"),
    "Sad": ("Neutral", "Fear", "Angry"),
    "Surprise": ("Fear", "Happy", "Neutral"),
    "Neutral": ("Sad", "Angry", "Happy"),
}
MIXED = 0.2  # share of faces that lean towards a neighbour
SPREAD = 0.07  # standard deviation of every movement, whatever the expression
REST_SPREAD = 0.08  # of what a person's face does at rest


def draw_expression(rng: np.random.Generator, label: str, rest: Expression) -> Expression:
    """Draw what a face does when it shows `label` and its owner's face at rest does `rest`."""
    moves = _draw_variant(rng, label) * (0.38 + 0.72 * rng.beta(2.6, 1.5))
    lean, neighbour = rng.uniform(0.15, 0.5), NEIGHBOURS[label][rng.integers(len(NEIGHBOURS[label]))]
    if rng.random() < MIXED:
        moves = (1 - lean) * moves + lean * _draw_variant(rng, neighbour)
    moves = moves + rng.normal(0, SPREAD, len(moves)) + _vector(rest)
    return _limited(moves, rng.normal(0, (0.25, 0.12)))


def draw_rest(rng: np.random.Generator) -> Expression:
    """Draw a person's face at rest: some look a little stern, sad or amused when they feel nothing."""
    return _limited(rng.normal(0, REST_SPREAD, len(fields(Expression))) - 0.03, np.zeros(2))


def _draw_variant(rng: np.random.Generator, label: str) -> np.ndarray:
    """Return the mean movements of one of the label's variants as a vector."""
    variants = VARIANTS[label]
    return _vector(variants[rng.choice(len(variants), p=[variant.share for variant in variants])].mean)


def _vector(expression: Expression) -> np.ndarray:
    """Return the movements in the order of the fields."""
    return np.array([getattr(expression, field.name) for field in fields(Expression)])


def _limited(moves: np.ndarray, gaze: np.ndarray) -> Expression:
    """Return a vector as an expression within its range, its gaze moved by (2,) `gaze`."""
    values = dict(zip((field.name for field in fields(Expression)), moves.tolist(), strict=True))
    limited = Expression(**{name: min(max(value, 0.0), 1.0) for name, value in values.items()})
    eyes = np.clip(moves[-2:] + gaze, -1, 1).tolist()
    return replace(limited, shut=min(limited.shut, 0.75), gaze_x=eyes[0], gaze_y=eyes[1])
