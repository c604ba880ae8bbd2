"""Teachers as `teachers.yaml` describes them, their logits, and the key of what those depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fer_mlflow.data.images import Unreadable, clahe_pattern
from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.errors import ContractError, TeacherError
from fer_mlflow.files import sha256_of_file, sha256_of_json

CARRIED = ("arch", "img_size", "mean", "std", "classes")  # what a checkpoint may say of itself
FIELDS = (*CARRIED, "checkpoint", "resize", "interpolation")
UNKNOWN = "unknown"  # what a checkpoint does not say of its training
# Raised when the same inputs would give other logits than before, so that old teacher runs are not taken for new.
NUMERICS_VERSION = 1
# How far a logit may be from the same one computed again, alone, later or elsewhere: in nats, or relative to 1 + the
# row's largest logit.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as `teachers.yaml` describes it; None where the file leaves it to the checkpoint."""

    name: str
    checkpoint: Path
    arch: str | None = None  # a `timm` model name
    classes: tuple[str, ...] | None = None  # names of the model's outputs, in their order
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def read_teachers(path: str | Path, names: Sequence[str], clahe: Clahe | None = None) -> dict[str, TeacherSpec]:
    """Read the named teachers of a YAML file, with a CLAHE for all of them; others in the file are not looked at."""
    path = Path(path)
    entries = _read_entries(path)
    if unknown := [name for name in names if name not in entries]:
        known = ", ".join(map(str, entries))
        raise TeacherError(f"teachers {path}: no teacher {', '.join(unknown)} among {known}; name one of these")
    return {name: _read_spec(path, name, entries[name], clahe) for name in names}


def read_teacher_names(path: str | Path) -> list[str]:
    """Return the names of all teachers of a YAML file, in its order; TeacherError where it names none."""
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


def _read_spec(file: Path, name: str, entry: Any, clahe: Clahe | None) -> TeacherSpec:
    """Check one entry and return it with its checkpoint's path resolved against the file."""
    where = f"teachers {file}: {name}"
    if not isinstance(entry, dict) or "checkpoint" not in entry:
        raise TeacherError(f"{where}: no checkpoint; write {name}: {{arch: …, checkpoint: FILE}}")
    arch, classes, preprocessing = parse_fields({k: each for k, each in entry.items() if k != "checkpoint"}, where)
    checkpoint = file.parent / str(entry["checkpoint"])
    if not checkpoint.is_file():
        raise TeacherError(f"{where}: no checkpoint file {checkpoint}; paths start from the folder of {file.name}")
    return TeacherSpec(name, checkpoint, arch, classes, replace(preprocessing, clahe=clahe))


def parse_fields(entry: Mapping[Any, Any], where: str) -> tuple[str | None, tuple[str, ...] | None, Preprocessing]:
    """Return architecture, classes and preprocessing that an entry or a checkpoint gives, checked and in their types.

    Raises TeacherError, which begins with `where`: an unknown key, or a value of the wrong kind.
    """
    if unknown := [str(key) for key in entry if key not in FIELDS]:
        raise TeacherError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    own = dict(entry)
    arch, classes = own.pop("arch", None), own.pop("classes", None)
    if arch is not None and not isinstance(arch, str):
        raise TeacherError(f"{where}: arch {arch!r} is not the name of a timm model")
    if classes is not None:
        if not isinstance(classes, list | tuple) or len(classes) < 2:
            raise TeacherError(f"{where}: classes {classes!r} is not a list of two or more names")
        classes = tuple(map(str, classes))
    try:
        return arch, classes, Preprocessing.parse(own)
    except ContractError as error:
        raise TeacherError(f"{where}: {error}") from error


def hash_checkpoints(specs: Mapping[str, TeacherSpec]) -> dict[str, str]:
    """Return teacher name -> SHA-256 of its checkpoint file."""
    return {name: sha256_of_file(spec.checkpoint) for name, spec in specs.items()}


def content_key(
    spec: TeacherSpec, checkpoint_sha256: str, selection_sha256: str, classes: Sequence[str], precision: str
) -> str:
    """Return the key under which a teacher's logits on a benchmark are kept and found.

    It is `<32 digits of the selection digest>.<32 digits over everything else>`: what the logits depend on. What is
    hashed is what was declared; a field that equals its default is left out, so that a new field changes no key.
    Device, batch size, workers and compilation are not in it, nor are the teacher's name and its file's. What a
    checkpoint says of itself is in it by the checkpoint's hash, so a key needs no checkpoint to be loaded.
    """
    clahe = spec.preprocessing.clahe
    declared = {
        "arch": spec.arch,
        "outputs": spec.classes,
        "preprocessing": spec.preprocessing.declared,
        "clahe_pattern": clahe and clahe_pattern(clahe),
        "precision": None if precision == "fp32" else precision,
    }
    settings: dict[str, Any] = {name: value for name, value in declared.items() if value}
    settings |= {"numerics": NUMERICS_VERSION, "checkpoint": checkpoint_sha256, "classes": list(classes)}
    return f"{selection_sha256[:32]}.{sha256_of_json(settings)[:32]}"


@dataclass(frozen=True, eq=False)
class PredictedLogits:
    """One teacher's logits on the readable rows of a benchmark, or of one range of its rows."""

    rows: np.ndarray  # (N,) int64, positions in the benchmark, ascending
    logits: np.ndarray  # (N, C) float32 in the project's class order
    image_sha256: np.ndarray  # (N, 32) uint8, of the bytes that were decoded
    unreadable: tuple[Unreadable, ...]  # the other rows of the benchmark or the range
    teacher: Mapping[str, Any]  # its description
    environments: tuple[Mapping[str, Any], ...]  # device, batch size and versions of each session that computed a part
    in_sample_rows: int | None = None  # how many of the rows the teacher was trained on, None where that is not known

    @classmethod
    def joined(cls, shards: Sequence["PredictedLogits"], n_classes: int) -> "PredictedLogits":
        """Return a teacher's shards, in order, as its logits on the whole benchmark."""
        environments: list[Mapping[str, Any]] = []
        for shard in shards:
            environments += [each for each in shard.environments if each not in environments]
        counts = [shard.in_sample_rows for shard in shards]
        return cls(
            rows=np.concatenate([shard.rows for shard in shards]),
            logits=np.concatenate([shard.logits.reshape(-1, n_classes) for shard in shards]),
            image_sha256=np.concatenate([shard.image_sha256 for shard in shards]),
            unreadable=tuple(bad for shard in shards for bad in shard.unreadable),
            teacher=shards[0].teacher,
            environments=tuple(environments),
            in_sample_rows=None if None in counts else sum(count or 0 for count in counts),
        )
