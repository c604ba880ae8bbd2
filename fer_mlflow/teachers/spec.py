"""Who the teachers are: `teachers.yaml`, and the key that says what a teacher's logits depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fer_mlflow.errors import TeacherError
from fer_mlflow.files import sha256_of_file, sha256_of_json

PRECISIONS = ("fp32", "bf16", "fp16")
FIELDS = ("arch", "checkpoint", "img_size", "mean", "std", "classes")
# Raised when the same inputs would give other logits than before, so that old teacher runs are not taken for new.
NUMERICS_VERSION = 1


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as `teachers.yaml` describes it; None where the file leaves it to the checkpoint.

    Attributes
    ----------
    arch : a `timm` model name
    img_size : side of the square image in pixels
    mean, std : of each RGB channel, for values scaled to [0, 1]
    classes : names of the model's outputs, in their order
    """

    name: str
    checkpoint: Path
    arch: str | None = None
    img_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    classes: tuple[str, ...] | None = None


def read_teachers(path: str | Path, names: Sequence[str]) -> dict[str, TeacherSpec]:
    """Read the named teachers of a YAML file; others in it are not looked at.

    Raises
    ------
    TeacherError
        the file cannot be read, a name is not in it, a value is of the wrong kind, or a checkpoint is missing
    """
    path = Path(path)
    entries = _read_entries(path)
    if unknown := [name for name in names if name not in entries]:
        known = ", ".join(map(str, entries))
        raise TeacherError(f"teachers {path}: no teacher {', '.join(unknown)} among {known}; name one of these")
    return {name: _read_spec(path, name, entries[name]) for name in names}


def read_teacher_names(path: str | Path) -> list[str]:
    """Return the names of all teachers of a YAML file, in its order.

    Raises
    ------
    TeacherError
        the file cannot be read, or names no teacher
    """
    names = [str(name) for name in _read_entries(Path(path))]
    if not names:
        raise TeacherError(f"teachers {path}: names no teacher; write NAME: {{arch: …, checkpoint: FILE}}")
    return names


def _read_entries(path: Path) -> dict[Any, Any]:
    """Return a YAML file's mapping of names to entries."""
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise TeacherError(f"teachers {path}: {error.strerror}; give a YAML file with --teachers") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TeacherError(f"teachers {path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(entries, dict):
        raise TeacherError(f"teachers {path}: holds no mapping of a name to arch, checkpoint, …")
    return entries


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice; YAML's own loader keeps the last one and says nothing."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'"{key}" is there twice', node.start_mark)
        return super().construct_mapping(node, deep)


def _read_spec(file: Path, name: str, entry: Any) -> TeacherSpec:
    """Check one entry and return it with its checkpoint's path resolved against the file."""
    where = f"teachers {file}: {name}"
    if not isinstance(entry, dict) or "checkpoint" not in entry:
        raise TeacherError(f"{where}: no checkpoint; write {name}: {{arch: …, checkpoint: FILE}}")
    values = parse_fields({key: value for key, value in entry.items() if key != "checkpoint"}, where)
    checkpoint = file.parent / str(entry["checkpoint"])
    if not checkpoint.is_file():
        raise TeacherError(f"{where}: no checkpoint file {checkpoint}; paths start from the folder of {file.name}")
    return TeacherSpec(name=name, checkpoint=checkpoint, **values)


def parse_fields(entry: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return the fields of a teacher that an entry or a checkpoint gives, checked and in their types.

    Raises
    ------
    TeacherError
        an unknown key, or a value of the wrong kind
    """
    if unknown := [str(key) for key in entry if key not in FIELDS]:
        raise TeacherError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    values: dict[str, Any] = {key: value for key, value in entry.items() if value is not None}
    if "arch" in values and not isinstance(values["arch"], str):
        raise TeacherError(f"{where}: arch {values['arch']!r} is not the name of a timm model")
    if "img_size" in values:
        values["img_size"] = _parse_size(values["img_size"], where)
    for key in ("mean", "std"):
        if key in values:
            values[key] = _parse_channels(key, values[key], where)
    if "classes" in values:
        classes = values["classes"]
        if not isinstance(classes, list | tuple) or len(classes) < 2:
            raise TeacherError(f"{where}: classes {classes!r} is not a list of two or more names")
        values["classes"] = tuple(str(name) for name in classes)
    return values


def _parse_size(value: Any, where: str) -> int:
    """Return a side in pixels; [3, S, S] and [S, S], as timm writes it, are understood."""
    sides = list(value)[-2:] if isinstance(value, list | tuple) else [value]
    if not sides or any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) > 1:
        raise TeacherError(f"{where}: img_size {value!r} is not the side of a square in pixels")
    return sides[0]


def _parse_channels(key: str, value: Any, where: str) -> tuple[float, float, float]:
    """Return three numbers; those of std are above 0."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers):
        raise TeacherError(
            f"{where}: {key} {value!r} is not a list of three numbers (red, green, blue, of values in [0, 1])"
        )
    if key == "std" and min(numbers) <= 0:
        raise TeacherError(f"{where}: std {value!r} holds a value that is not above 0")
    return numbers


def hash_checkpoints(specs: Mapping[str, TeacherSpec]) -> dict[str, str]:
    """Return teacher name -> SHA-256 of its checkpoint file."""
    return {name: sha256_of_file(spec.checkpoint) for name, spec in specs.items()}


def content_key(
    spec: TeacherSpec,
    checkpoint_sha256: str,
    selection_sha256: str,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    precision: str,
) -> str:
    """Return the key under which a teacher's logits on a benchmark are kept and found.

    It is `<32 digits of the selection digest>.<32 digits over everything else>`: what the logits depend on.
    Device, batch size, workers and compilation are not in it, nor are the teacher's name and its file's. What a
    checkpoint says of itself is in it by the checkpoint's hash, so a key needs no checkpoint to be loaded.
    """
    settings = {
        "numerics": NUMERICS_VERSION,
        "checkpoint": checkpoint_sha256,
        "declared": [spec.arch, spec.img_size, spec.mean, spec.std, spec.classes],
        "classes": list(classes),
        "preprocessing": dict(preprocessing),
        "precision": precision,
    }
    return f"{selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"
