"""From a checkpoint file to a model in evaluation mode, or a message that says why not."""

import argparse
import difflib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.images import describe_preprocessing
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import FerError, TeacherError, listed
from fer_mlflow.teachers.spec import CARRIED, UNKNOWN, TeacherSpec, parse_fields

STATE_KEYS = ("model", "state_dict", "model_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.")
DEFAULT_SIZE = 224


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model with its weights, in evaluation mode on the CPU."""

    name: str
    model: torch.nn.Module
    preprocessing: Preprocessing  # complete, size, mean and std too
    columns: np.ndarray  # (C,) int; `logits[:, columns]` is in the project's class order
    description: dict[str, Any]  # the teacher in the alignment report
    assumed: tuple[str, ...]  # what neither `teachers.yaml` nor the checkpoint gives
    trained_on: np.ndarray | None = None  # sorted `image_prefixes` of the images it was trained on, None if unknown


def load_teacher(spec: TeacherSpec, classes: ClassOrder) -> Teacher:
    """Build a teacher's model and load its checkpoint, strictly.

    What `teachers.yaml` leaves open is taken from the checkpoint. Where neither gives it, img_size is 224, mean
    and std are those of timm's configuration of the architecture, and the outputs follow `classes`; each such
    assumption is listed.

    Raises TeacherError: the file cannot be read without running code from it, it contradicts `teachers.yaml`, the
    architecture is unknown, or tensors are missing, left over or of another shape.
    """
    where = f"teacher {spec.name} ({spec.checkpoint})"
    content = _read_checkpoint(spec.checkpoint, where)
    state, found_under = _find_state(content, where)
    arch, outputs, preprocessing = _merge_fields(spec, content, where)
    if arch is None:
        raise TeacherError(f"{where}: no arch; name a timm model in teachers.yaml")
    assumed = [] if outputs else [f"outputs in the order {', '.join(classes.names)}"]
    try:
        columns = classes.columns_from(outputs or classes.names)
    except FerError as error:
        raise TeacherError(f"{where}: {error}") from error
    if preprocessing.img_size is None:
        preprocessing = replace(preprocessing, img_size=DEFAULT_SIZE)
        assumed.append(f"img_size {DEFAULT_SIZE}")
    model = build_model(arch, preprocessing.side, len(columns), where)
    for key, usual in usual_channels(arch).items():
        if getattr(preprocessing, key) is None:
            preprocessing = replace(preprocessing, **{key: usual})
            assumed.append(f"{key} {list(usual)} (timm's for {arch})")
    _load_state(model, state, arch, where)
    return Teacher(
        name=spec.name,
        model=model.eval(),
        preprocessing=preprocessing,
        columns=columns,
        description={
            "arch": arch,
            "checkpoint": spec.checkpoint.name,
            "weights_under": found_under,
            "preprocessing": describe_preprocessing(preprocessing),
            "classes": list(outputs or classes.names),
            "assumed": assumed,
            "trained_with_clahe": _trained_clahe(content),
        },
        assumed=tuple(assumed),
        trained_on=_trained_prefixes(content),
    )


def _trained_prefixes(content: Mapping[str, Any]) -> np.ndarray | None:
    """Return the sorted prefixes of the images that a checkpoint was trained on, None where it does not give them."""
    trained_on = content.get("trained_on")
    if not isinstance(trained_on, Mapping) or "image_prefixes" not in trained_on:
        return None
    prefixes = np.asarray(trained_on["image_prefixes"])
    return np.sort(prefixes) if prefixes.dtype == np.int64 and prefixes.ndim == 1 else None


def _trained_clahe(content: Mapping[str, Any]) -> Any:
    """Return the CLAHE that a checkpoint was trained with (None for none), `unknown` where it does not give it."""
    clahe = content.get("clahe", UNKNOWN)
    if isinstance(clahe, Mapping) and len(clahe) == 2:
        return {"clip": clahe["clip"], "tile": clahe["tile"]}
    return None if clahe is None else UNKNOWN


def _read_checkpoint(path: Path, where: str) -> Mapping[str, Any]:
    """Return what a file holds; nothing in it is run."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        # Namespace: timm's and many other training scripts save their options so; it only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols; what it cannot read, it refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # what the pickle would call
        raise TeacherError(
            f"{where}: loading it would run code from the file{f' ({named[1]})' if named else ''}; "
            "save the state dict alone, or as .safetensors, where you trust it"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise TeacherError(
            f"{where}: not a checkpoint that torch or safetensors can read ({_first_line(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise TeacherError(f"{where}: holds a {type(content).__name__}, not a state dict")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Return tensors under `model` and the fields that the header's text metadata carries."""
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = dict(file.metadata() or {})
        for key, text in content.items():
            with suppress(ValueError):  # it stays text
                content[key] = json.loads(text)
        content["model"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return content


def _first_line(error: Exception) -> str:
    """Return the start of a library's message, which may be a page long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]


def _find_state(content: Mapping[str, Any], where: str) -> tuple[dict[str, torch.Tensor], str]:
    """Return the state dict without wrappers' prefixes, and the key it was found under."""
    places: dict[str, Any] = {"(bare)": content}
    for key in STATE_KEYS:
        inner = places[key] = content.get(key)
        if isinstance(inner, Mapping):
            places |= {f"{key}/{deeper}": inner.get(deeper) for deeper in STATE_KEYS}
    for place, value in places.items():
        if isinstance(value, Mapping) and value and all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            state = dict(value)
            while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
            return state, place
    raise TeacherError(
        f"{where}: found {listed(list(map(str, content))) or 'nothing'}; "
        f"weights must be the whole file or under one of {', '.join(STATE_KEYS)}"
    )


def usual_channels(arch: str) -> dict[str, Any]:
    """Return mean and std of timm's configuration of an architecture, ImageNet's where it has none."""
    config, usual = timm.get_pretrained_cfg(arch), {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return {key: tuple(map(float, getattr(config, key, default))) for key, default in usual.items()}


def _merge_fields(
    spec: TeacherSpec, content: Mapping[str, Any], where: str
) -> tuple[str | None, tuple[str, ...] | None, Preprocessing]:
    """Return what `teachers.yaml` and the checkpoint give together; a contradiction is an error."""
    arch, outputs, carried = parse_fields({name: content[name] for name in CARRIED if name in content}, where)
    both: dict[str, tuple[Any, Any]] = {
        name: (getattr(spec.preprocessing, name), getattr(carried, name)) for name in ("img_size", "mean", "std")
    }
    merged: dict[str, Any] = {}
    for name, (a, b) in {"arch": (spec.arch, arch), "classes": (spec.classes, outputs), **both}.items():
        is_given_twice = a is not None and b is not None
        if is_given_twice and not (np.allclose(a, b, atol=1e-6) if name in ("mean", "std") else a == b):
            raise TeacherError(
                f"{where}: {name} is {a} in teachers.yaml and {b} in the checkpoint; remove the wrong one"
            )
        merged[name] = b if a is None else a
    return merged.pop("arch"), merged.pop("classes"), replace(spec.preprocessing, **merged)


def build_model(arch: str, img_size: int, n_outputs: int, where: str) -> torch.nn.Module:
    """Return timm's model with random weights; architectures of a fixed input are built for `img_size`.

    Raises TeacherError, which begins with `where`: timm has no such model, or cannot build it for this size.
    """
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() has all"
        raise TeacherError(f"{where}: timm {timm.__version__} has no model {arch!r}{hint}")
    config = timm.get_pretrained_cfg(arch)
    sized: dict[str, Any] = {"img_size": img_size} if config is not None and config.fixed_input_size else {}
    try:
        return timm.create_model(arch, pretrained=False, num_classes=n_outputs, **sized)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise TeacherError(f"{where}: timm cannot build {arch} for {img_size} px ({_first_line(error)})") from error


def _load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor], arch: str, where: str) -> None:
    """Load every tensor, in the model's precision; say which are missing, left over or of another shape."""
    wanted = model.state_dict()
    other = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    shapes = [f"{n} {tuple(state[n].shape)} where {arch} has {tuple(wanted[n].shape)}" for n in other]
    missing = [name for name in wanted if name not in state]
    problems = {"missing": missing, "left over": [n for n in state if n not in wanted], "of another shape": shapes}
    if found := [f"{len(names)} {problem} ({listed(names)})" for problem, names in problems.items() if names]:
        raise TeacherError(
            f"{where}: its weights are not those of {arch} with {model.num_classes} classes: {'; '.join(found)}; "
            "correct arch or classes in teachers.yaml"
        )
    model.load_state_dict(state)


def load_weights(model: torch.nn.Module, path: Path) -> str:
    """Load a checkpoint to start a training from; return the tensors that do not fit and stay at random.

    Only tensors of another shape may be left over (a head of other classes); every other one must be there.
    """
    where = f"--init {path}"
    state, _ = _find_state(_read_checkpoint(path, where), where)
    wanted = model.state_dict()
    if missing := [name for name in wanted if name not in state]:
        raise TeacherError(f"{where}: not of this architecture: {len(missing)} missing ({listed(missing)})")
    fits = {name: state[name] for name in wanted if state[name].shape == wanted[name].shape}
    model.load_state_dict(fits, strict=False)
    return ", ".join(name for name in wanted if name not in fits)
