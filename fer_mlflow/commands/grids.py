"""A grid of students: each a run below one parent, the best held against the students of labels alone."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import click
import numpy as np
import pandas as pd

from fer_mlflow.commands.distill import command as distill_command
from fer_mlflow.commands.grid_report import GridResult, Point, configurations, grid_table, metrics_of_grid, text
from fer_mlflow.commands.student_scores import score_student, short_name
from fer_mlflow.commands.students import Reader, train_student
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ContractError, JobError, TrackingError
from fer_mlflow.scoring.comparison import compare_logits
from fer_mlflow.tracking.bundles import adopt_run, find_runs
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.training.recipe import Recipe
from fer_mlflow.workflows.evaluate import SEED

_OF_LOSS = ("loss", "softlabels", "target", "temperature", "alpha", "beta", "ce_weight", "distill_warmup_epochs")
_OF_RECIPE = tuple(name for name in Recipe.__dataclass_fields__ if name != "clahe")
KEYS = (*_OF_LOSS, *_OF_RECIPE)
# Options that a loss does not use, so that they do not set its students apart.
_UNUSED = {"ce": (*_OF_LOSS[1:], "missing"), "kd": ("beta",), "dkd": ()}


@dataclass
class Grid:
    """The students to train: no two with the same key, and for every recipe one that learns from labels alone.

    Attributes
    ----------
    points : in the order in which they are trained
    options : config key -> that student's options, parsed
    """

    train: Benchmark
    points: list[Point] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def parse_grid(options: Mapping[str, Any], reader: Reader) -> Grid:
    """Read and check every student of `--grid` before any is trained.

    Raises
    ------
    FerError
        the text is no grid, a value is not one that its option takes, or a student's input cannot be used
    """
    axes = read_axes(options["grid"])
    grid = Grid(reader.train)
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for loss in dict.fromkeys(["ce", chosen.get("loss", options["loss"])]):
            _add(grid, {**chosen, "loss": loss}, options, reader)
    grid.points.sort(key=lambda point: point.student.loss != "ce")  # what the others are held against comes first
    if all(point.student.loss == "ce" for point in grid.points):
        raise ContractError(f"--grid {options['grid']}: nothing in it learns from soft labels; add loss=kd or loss=dkd")
    return grid


def _add(grid: Grid, chosen: dict[str, Any], options: Mapping[str, Any], reader: Reader) -> None:
    """Add a student, unless one that is the same is there."""
    own = {**options, **chosen, "out": None}
    student = reader.read(own)
    if student.plan.key in grid.options:
        return
    unused = _UNUSED[student.loss]
    settings = {"loss": student.loss} | {key: value for key, value in chosen.items() if key not in unused}
    grid.options[student.plan.key] = own
    grid.points.append(Point(student, settings))


def read_axes(text: str) -> dict[str, list[Any]]:
    """Return option -> parsed values of `temperature=4,5,6;loss=kd,dkd`.

    Raises
    ------
    ContractError
        anything else, or a value that the option does not take
    """
    types = {str(param.name): param.type for param in distill_command.params}
    axes: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        name = name.replace("-", "_")
        if not equals or name not in KEYS:
            raise ContractError(f'--grid: "{part}" is not OPTION=value,value; options are {", ".join(KEYS)}')
        if name in axes:
            raise ContractError(f"--grid: {name} is there twice; write its values into one list")
        words = [word.strip() for word in values.split(",")]
        if not all(words):
            raise ContractError(f"--grid: {name} has an empty value; write {name}=value,value")
        try:
            axes[name] = list(dict.fromkeys(types[name].convert(word, None, None) for word in words))
        except click.BadParameter as error:
            raise ContractError(f"--grid: {name}: {error.message}") from error
    if not axes:
        raise ContractError('--grid: no option in it; write for example "temperature=4,5,6;loss=kd,dkd"')
    return axes


def run_grid(
    run: TrackedRun,
    grid: Grid,
    test: Benchmark | None,
    options: Mapping[str, Any],
    typed: Mapping[str, str],
) -> GridResult:
    """Train every student that no finished run has, and judge them all.

    A student that comes to numbers that are not finite fails alone; the others are trained.

    Raises
    ------
    JobError
        no student of labels alone, or none of soft labels, could be trained
    """
    found = find_runs(run.client, "distill", [point.student.plan.key for point in grid.points])
    for number, point in enumerate(grid.points, start=1):
        key, student = point.student.plan.key, point.student
        said = f"{number}/{len(grid.points)}  {point.name}"
        if found[key]:
            there = found[key][0]
            click.echo(f"\n== {said}: reused from run {there.info.run_id}", err=True)
            adopt_run(run, there)
            point.run_id, point.metrics = there.info.run_id, dict(there.data.metrics)
            continue
        click.echo(f"\n== {said}", err=True)
        try:
            with run.sibling(student.name, time.time(), nested=True) as child:
                point.run_id = child.run_id
                own = grid.options[key]
                child.set_tags({"fer.kind": "distill"})
                child.log_params(_params(point, typed))
                best = train_student(child, student, own)
            point.metrics = {
                "best_epoch": best.number,
                "best_val_accuracy": best.val_accuracy,
                "best_val_macro_f1": best.val_macro_f1,
            }
        except TrackingError:
            raise
        except JobError as error:
            point.failure = str(error)
            click.echo(f"failed: {error}", err=True)
    return _judge(run, grid.points, test, options)


def _judge(run: TrackedRun, points: list[Point], test: Benchmark | None, options: Mapping[str, Any]) -> GridResult:
    """Choose by the validation rows, measure on the test rows, and log both.

    Raises
    ------
    JobError
        nothing was trained that could be compared
    """
    table = configurations(points)
    best, baseline = (_choose(points, table, kind) for kind in ("soft labels", "labels alone"))
    result = GridResult(points, best, baseline)
    if test is not None and (test.labels >= 0).any():
        chosen = {best.configuration, baseline.configuration}
        asked = [point for point in points if point.configuration in chosen and not point.failure]
        for point in asked:
            name = short_name(point.student)
            bundle = score_student(run, point.student, point.run_id, test, options, name)
            point.logits, point.test = bundle.logits, bundle.metrics
        known = test.labels >= 0
        if baseline.logits is not None and best.logits is not None:
            rng = np.random.default_rng(SEED)
            names = test.classes.names
            result.comparison = compare_logits(
                baseline.logits[known], best.logits[known], test.labels[known], names, rng
            )
            result.test_name = test.name
            run.log_metrics(metrics_of_grid(result))
    run.log_metrics({"best_val_macro_f1": best.metrics["best_val_macro_f1"]})
    run.log_table("grid", grid_table(points))
    run.set_tags({"fer.best_run": best.run_id, "fer.baseline_run": baseline.run_id})
    return result


def _choose(points: list[Point], table: pd.DataFrame, kind: str) -> Point:
    """Return the student with the best seed of the best configuration of a kind."""
    own = table[(table["loss"] == "ce") == (kind == "labels alone")]
    if own.empty:
        why = next((point.failure for point in points if point.failure), "none was planned")
        raise JobError(f"no student of {kind} could be trained: {why}")
    name = own["configuration"].iloc[0]
    trained = [point for point in points if point.configuration == name and not point.failure]
    return max(trained, key=lambda point: point.metrics["best_val_macro_f1"])


def _params(point: Point, typed: Mapping[str, str]) -> dict[str, str]:
    """Return a student's options as they would be typed for it alone; those that its loss does not use are empty."""
    unused = dict.fromkeys(_UNUSED[point.student.loss], "")
    chosen = {name: text(value) for name, value in point.settings.items()}
    return {**typed, "grid": "", "out": "", "onnx": "false", "name": "", **unused, **chosen}
