"""Preprocessing: which steps lead from an image file to a model's input. `data.images` carries them out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fer_mlflow.errors import ContractError
from fer_mlflow.settings.groups import ClaheSettings

# The words that a field takes, the default first. `data.images` has what each of them does.
CHOICES = {
    "decode": ("opencv-color-exif",),  # 8-bit BGR, the EXIF orientation applied
    "resize": ("squash",),  # to a square, whatever the image's sides
    "interpolation": ("area-or-linear",),  # area where both sides shrink, else bilinear
}


@dataclass(frozen=True)
class Clahe:
    """Contrast-limited adaptive histogram equalisation of L in LAB, at the decoded size, as OpenCV does it."""

    clip: float = 2.0  # OpenCV's clipLimit, a multiple of the mean bin height; > 0
    tile: int = 8  # tiles along each side

    def __post_init__(self):
        if not self.clip > 0 or self.tile < 1:
            raise ContractError(
                f"CLAHE clip {self.clip} with {self.tile} tiles: clip must be above 0 and tiles at least 1"
            )
        object.__setattr__(self, "clip", float(self.clip))  # 3 and 3.0 have one key

    @classmethod
    def of(cls, settings: ClaheSettings) -> "Clahe | None":
        """Return the CLAHE in the settings of a workflow; None where it is off."""
        return cls(settings.clahe_clip, settings.clahe_tile) if settings.clahe else None


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of one teacher. None leaves a size, mean or std to the teacher's checkpoint."""

    img_size: int | None = None  # side of the square image in pixels
    mean: tuple[float, float, float] | None = None  # of the RGB channels, for values scaled to [0, 1]
    std: tuple[float, float, float] | None = None
    clahe: Clahe | None = None
    resize: str = CHOICES["resize"][0]
    interpolation: str = CHOICES["interpolation"][0]
    decode: str = CHOICES["decode"][0]

    def __post_init__(self):
        for field, words in CHOICES.items():
            if getattr(self, field) not in words:
                raise ContractError(f"{field} {getattr(self, field)!r} is not one of {', '.join(words)}")

    @property
    def name(self) -> str:
        """The short name for people: `clahe`, `clahe 3/4`; empty for the defaults. A teacher's size is not in it."""
        marks = []
        if self.clahe is not None:
            usual = self.clahe == Clahe()
            marks.append("clahe" if usual else f"clahe {self.clahe.clip:g}/{self.clahe.tile}")
        return " · ".join([*marks, *(getattr(self, field) for field in CHOICES if field in self.declared)])

    @property
    def declared(self) -> dict[str, str]:
        """The fields that differ from their defaults, each in its canonical text, sorted by name."""
        texts = {field.name: _text(getattr(self, field.name)) for field in fields(self)}
        usual = {field.name: _text(field.default) for field in fields(self)}
        return {name: texts[name] for name in sorted(texts) if texts[name] != usual[name]}

    @property
    def key(self) -> str:
        """The canonical text. A new field with a default changes no key.

        >>> Preprocessing(img_size=96, clahe=Clahe(3.0, 4)).key
        'clahe=3.0/4 img_size=96'
        """
        return " ".join(f"{name}={text}" for name, text in self.declared.items())

    @property
    def pixel_key(self) -> str:
        """The key of the decoded pixels: teachers that have the same one share a batch."""
        return replace(self, mean=None, std=None).key

    @property
    def side(self) -> int:
        """The side of the image, for a preprocessing that is complete."""
        if self.img_size is None:
            raise ContractError("this preprocessing has no img_size")
        return self.img_size

    def as_json(self) -> dict[str, Any]:
        """Return every field as a JSON value, for the alignment report."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "Preprocessing":
        """Read a mapping of fields to JSON values; None and a missing field give the default.

        `img_size` may be `[3, S, S]` or `[S, S]`, as timm writes it. ContractError: an unknown field, or a value of the
        wrong kind.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [str(name) for name in value if name not in known]:
            raise ContractError(f"unknown key {', '.join(unknown)}; known are {', '.join(known)}")
        parsers: dict[str, Callable[[str, Any], Any]] = {"img_size": _parse_size, "clahe": _parse_clahe}
        parsers |= dict.fromkeys(("mean", "std"), _parse_channels)
        given = {name: each for name, each in value.items() if each is not None}
        return cls(**{name: parsers[name](name, each) if name in parsers else each for name, each in given.items()})


def _text(value: Any) -> str:
    if isinstance(value, Clahe):
        return f"{value.clip!r}/{value.tile}"
    return ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def _parse_clahe(name: str, value: Any) -> Clahe:
    try:
        clip, tile = float(value["clip"]), int(value["tile"])
    except (TypeError, KeyError, ValueError) as error:
        raise ContractError(f"{name} {value!r} is not a clip limit and a number of tiles") from error
    return Clahe(clip, tile)


def _parse_size(name: str, value: Any) -> int:
    sides = list(value)[-2:] if isinstance(value, list | tuple) else [value]
    if not sides or any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) > 1:
        raise ContractError(f"{name} {value!r} is not the side of a square in pixels")
    return sides[0]


def _parse_channels(name: str, value: Any) -> tuple[float, float, float]:
    """Return three finite numbers; those of std are above 0."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ContractError(f"{name} {value!r} is not a list of three numbers (red, green, blue, of values in [0, 1])")
    if name == "std" and min(numbers) <= 0:
        raise ContractError(f"std {value!r} holds a value that is not above 0")
    return numbers
