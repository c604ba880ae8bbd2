"""Who is drawn: the shape and the colours of one person, the same in each of their faces."""

from dataclasses import dataclass

import numpy as np

from fer_mlflow.tour.canvas import Colour, mix
from fer_mlflow.tour.expressions import Expression, draw_rest

HAIR_STYLES = ("bald", "cropped", "parted", "fringe", "long", "bob", "curly", "bun", "cap")
# Blue, green, red; people are mixtures of two that follow each other.
SKINS: tuple[Colour, ...] = (
    (196, 214, 241),
    (160, 190, 229),
    (122, 161, 211),
    (88, 126, 182),
    (62, 92, 142),
    (46, 66, 104),
)
HAIRS: tuple[Colour, ...] = ((30, 26, 28), (34, 46, 66), (44, 72, 112), (76, 128, 178), (120, 176, 214), (44, 78, 158))
GREY_HAIR: Colour = (178, 180, 182)
IRISES: tuple[Colour, ...] = ((28, 48, 78), (44, 82, 116), (92, 128, 96), (158, 128, 84), (116, 112, 104))
CLOTHES: tuple[Colour, ...] = (
    (150, 96, 56),
    (72, 62, 160),
    (96, 128, 70),
    (66, 66, 74),
    (206, 206, 210),
    (58, 140, 204),
    (132, 84, 122),
    (150, 150, 84),
)


@dataclass(frozen=True)
class Identity:
    """One person. Sizes are multiples of an average one; `age` runs from 0 (young) to 1 (wrinkled)."""

    width: float
    jaw: float
    length: float
    eye_size: float
    eye_gap: float
    eye_tilt: float
    brow_weight: float
    brow_height: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lips: float
    ears: float
    age: float
    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    hair_style: str
    hairline: float
    parting: float
    beard: float
    moustache: bool
    glasses: bool
    lipstick: float
    rest: Expression


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw one person."""
    tone = rng.uniform(0, len(SKINS) - 1.001)
    skin = mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1)
    age = float(rng.beta(1.4, 2.2))
    dark = tone > 2.5 or rng.random() < 0.4
    hair = HAIRS[rng.integers(2 if dark else len(HAIRS))]
    hair = mix(hair, GREY_HAIR, 0.85 * float(np.clip(2.2 * age - 0.9 + rng.normal(0, 0.15), 0, 1)))
    iris = IRISES[rng.integers(2 if dark else len(IRISES))]
    bearded = rng.random() < 0.22
    return Identity(
        width=float(rng.normal(1, 0.05)),
        jaw=float(np.clip(rng.normal(1, 0.09), 0.82, 1.2)),
        length=float(rng.normal(1, 0.045)),
        eye_size=float(np.clip(rng.normal(1.08, 0.09), 0.85, 1.35)),
        eye_gap=float(rng.normal(1, 0.05)),
        eye_tilt=float(rng.normal(0.01, 0.02)),
        brow_weight=float(np.clip(rng.normal(1, 0.28), 0.45, 1.7)),
        brow_height=float(rng.normal(0, 0.028)),
        nose_width=float(np.clip(rng.normal(1, 0.15), 0.7, 1.4)),
        nose_length=float(rng.normal(1, 0.07)),
        mouth_width=float(np.clip(rng.normal(1, 0.09), 0.8, 1.25)),
        lips=float(np.clip(rng.normal(1, 0.25), 0.5, 1.6)),
        ears=float(rng.uniform(0.8, 1.2)),
        age=age,
        skin=skin,
        hair=hair,
        iris=iris,
        clothes=CLOTHES[rng.integers(len(CLOTHES))],
        hair_style=HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=(0.07, 0.2, 0.16, 0.13, 0.14, 0.1, 0.09, 0.07, 0.04))],
        hairline=float(rng.normal(0, 0.05)),
        parting=float(rng.uniform(-1, 1)),
        beard=float(rng.uniform(0.25, 1)) if bearded else 0.0,
        moustache=bool(rng.random() < (0.6 if bearded else 0.05)),
        glasses=bool(rng.random() < 0.13),
        lipstick=0.0 if bearded else float(np.clip(rng.normal(0.15, 0.35), 0, 1)),
        rest=draw_rest(rng),
    )
