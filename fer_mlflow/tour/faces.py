"""One drawn face: who, which expression, and the picture that a source takes of it."""

from dataclasses import dataclass

import numpy as np

from fer_mlflow.tour.canvas import Canvas, Pose
from fer_mlflow.tour.expressions import Expression, draw_expression
from fer_mlflow.tour.features import draw_brows, draw_eyes, draw_mouth, draw_nose
from fer_mlflow.tour.hair import draw_back_hair, draw_front_hair
from fer_mlflow.tour.head import draw_beard, draw_body, draw_glasses, draw_skin
from fer_mlflow.tour.identities import Identity, draw_identity
from fer_mlflow.tour.sources import SOURCES, Source, draw_background, draw_pose, photograph

SIZE = 112  # pixels along each side
FACES_A_PERSON = 5
# As in real collections: Disgust and Fear are rare, Happy and Neutral most frequent.
CLASS_SHARES = {
    "Angry": 0.13,
    "Disgust": 0.05,
    "Fear": 0.06,
    "Happy": 0.24,
    "Sad": 0.15,
    "Surprise": 0.13,
    "Neutral": 0.24,
}
SPLIT_SHARES = {"train": 0.68, "val": 0.12, "test": 0.20}


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """A picture of a person with an expression.

    Attributes
    ----------
    image : (SIZE, SIZE, 3) uint8 BGR
    person : number of the person; all of a person's pictures are of one source and in one split
    quality : of the JPEG that the source makes, 0..100
    """

    image: np.ndarray
    label: str
    source: str
    split: str
    person: int
    quality: int


def draw_face(seed: int, index: int) -> DrawnFace:
    """Draw face `index` of `seed`.

    It depends on these two alone, not on how many faces are drawn or in which order, so the same numbers give the
    same picture (with the same OpenCV and numpy).
    """
    person = index // FACES_A_PERSON
    of_person, of_face = np.random.default_rng([seed, 0, person]), np.random.default_rng([seed, 1, index])
    source = SOURCES[of_person.choice(len(SOURCES), p=[source.share for source in SOURCES])]
    split = str(of_person.choice(list(SPLIT_SHARES), p=list(SPLIT_SHARES.values())))
    who = draw_identity(of_person)
    label = str(of_face.choice(list(CLASS_SHARES), p=list(CLASS_SHARES.values())))
    image = _picture(of_face, source, who, draw_expression(of_face, label, who.rest))
    return DrawnFace(image, label, source.name, split, person, int(of_face.integers(*source.quality)))


def _picture(rng: np.random.Generator, source: Source, who: Identity, moves: Expression) -> np.ndarray:
    """Draw a person at twice the size, from the back to the front, and take the source's picture of it."""
    pose = draw_pose(rng, source, 2 * SIZE)
    scene = draw_background(rng, source, 2 * SIZE)
    face = Canvas(scene, pose)
    body = Canvas(scene, Pose(0.3 * pose.yaw, 0.3 * pose.pitch, 0.3 * pose.roll, pose.scale, pose.centre))
    draw_back_hair(face, who)
    draw_body(body, who)
    draw_skin(face, who, moves)
    draw_beard(face, who, moves)
    draw_eyes(face, who, moves)
    draw_nose(face, who, moves)
    draw_mouth(face, who, moves)
    draw_brows(face, who, moves)
    draw_front_hair(face, who)
    draw_glasses(face, who)
    return photograph(rng, source, scene, SIZE)
