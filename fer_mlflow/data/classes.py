"""The class order: which expression each column of logits stands for, and what else it is called."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from fer_mlflow.errors import ManifestError

# What data sets and model heads call the same expression; the first of each is FER2013's word.
SYNONYMS = (
    ("angry", "anger"),
    ("disgust", "disgusted"),
    ("fear", "fearful", "afraid", "scared"),
    ("happy", "happiness", "joy", "joyful"),
    ("sad", "sadness"),
    ("surprise", "surprised"),
    ("neutral", "neutrality"),
    ("contempt", "contemptuous"),
)
_INTEGER = re.compile(r"\d{1,9}(\.0+)?")  # pandas writes integers as 3.0 once a column has a gap


def _folded(name: str) -> str:
    """Return a name as it is compared: without case and surrounding blanks."""
    return name.strip().casefold()


@dataclass(frozen=True)
class ClassOrder:
    """Names of the C classes in column order, and the words that mean each of them.

    >>> FER7.index_of("HAPPINESS"), FER7.index_of("3"), FER7.index_of("bored")
    (3, 3, None)
    """

    names: tuple[str, ...]
    words: Mapping[str, int]
    integers: bool

    @classmethod
    def of(cls, names: Sequence[str], aliases: Mapping[str, Iterable[str]] | None = None) -> "ClassOrder":
        """Make the order of `names`; `aliases` (name -> words) add to the usual synonyms.

        Integers mean positions in `names`, unless an alias is an integer: then a data set's own codes are in
        use, and only the integers named there mean anything.
        """
        aliases = aliases or {}
        if len(names) < 2 or not all(name.strip() for name in names):
            raise ManifestError(f"a class order needs two or more names, none of them empty; found {list(names)}")
        words: dict[str, int] = {}
        for position, name in enumerate(names):
            for word in (name, *map(str, aliases.get(name, ()))):
                if words.setdefault(_folded(word), position) != position:
                    raise ManifestError(f'class word "{word}" stands for two classes of {", ".join(names)}')
        integers = not any(_INTEGER.fullmatch(word) for word in words)
        for group in SYNONYMS:
            positions = {words[word] for word in group if word in words}
            if len(positions) == 1:  # two classes of one group (joy, happy) keep just their own words
                for word in group:
                    words.setdefault(word, *positions)
        return cls(tuple(name.strip() for name in names), words, integers)

    @classmethod
    def read(cls, path: str | Path) -> "ClassOrder":
        """Read a YAML file: a list of names, or a mapping of each name to a list of further words for it."""
        try:
            value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ManifestError(f"class file {path}: {error.strerror}; give a YAML file with --classes") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ManifestError(f"class file {path}: not YAML ({' '.join(str(error).split())})") from error
        if not isinstance(value, dict | list):
            raise ManifestError(
                f"class file {path}: found {type(value).__name__}; give a list of names, or name: [other words]"
            )
        words = value.items() if isinstance(value, dict) else ()
        aliases = {str(name): own if isinstance(own, list) else [own] for name, own in words if own is not None}
        return cls.of([str(name) for name in value], aliases)

    def __len__(self) -> int:
        return len(self.names)

    def index_of(self, label: str) -> int | None:
        """Return the column that a word or an integer means, or None when it means none."""
        word = _folded(label)
        if (position := self.words.get(word)) is not None:
            return position
        if _INTEGER.fullmatch(word):
            code = int(float(word))
            return code if self.integers and code < len(self) else self.words.get(str(code))
        return None

    def columns_from(self, names: Sequence[str]) -> np.ndarray:
        """Return the (C,) int positions p such that `logits[:, p]` has this order when `logits` has `names`.

        Raises ManifestError: `names` are not these classes in some order.
        """
        found = [self.index_of(name) for name in names]
        if sorted(-1 if position is None else position for position in found) != list(range(len(self))):
            raise ManifestError(
                f"classes {', '.join(map(str, names))} are not {', '.join(self.names)} in some order; "
                "add other words for them with --classes"
            )
        return np.argsort(np.array(found))


FER7 = ClassOrder.of(("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"))


def read_classes(path: str | Path | None, default: Sequence[str] = FER7.names) -> ClassOrder:
    """Return the class order of a file as `ClassOrder.read` does; that of the default names where none is given."""
    return ClassOrder.read(path) if path else ClassOrder.of(default)
