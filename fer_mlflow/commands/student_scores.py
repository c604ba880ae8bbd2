"""Students on other rows: asked as an export asks teachers, and kept as runs for the same leaderboard."""

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fer_mlflow.commands.options import fusion_settings
from fer_mlflow.commands.students import Student
from fer_mlflow.commands.training import FOLDER
from fer_mlflow.data.images import describe_preprocessing
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError
from fer_mlflow.files import cache_folder
from fer_mlflow.scoring.significance import bootstrap_intervals
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.teachers.spec import TeacherSpec, content_key, hash_checkpoints
from fer_mlflow.tracking.bundles import fetch_bundle, fetch_checkpoint, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.workflows.ensemble import Ensemble, forget, gathered_outputs, write_bundle
from fer_mlflow.workflows.evaluate import SEED

KIND = "student"
SCORES = ("accuracy", "macro_f1", "nll")  # that a student's run has of other rows
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


def short_name(student: Student, given: str | None = None) -> str:
    """Return a name for a leaderboard: what was given, else loss, temperature, architecture and seed."""
    if given and (name := _cleaned(given)):
        return name
    recipe = student.plan.recipe
    temperature = [f"T{student.targets.temperature:g}"] if student.targets else []
    parts = [student.loss, *temperature, recipe.arch, f"s{recipe.seed}"]
    return _cleaned("-".join(parts))


def _cleaned(name: str) -> str:
    """Return a name with what teachers' names may hold.

    >>> _cleaned("kd · T 4!")
    'kd-T-4'
    """
    return _NOT_IN_NAMES.sub("-", name).strip("-._")


@contextmanager
def fetched_checkpoint(client, trained_run: str, student: Student) -> Iterator[Path]:
    """Give a student's checkpoint, verified, in a folder of the cache that is gone after the block."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="student.", dir=cache) as folder:
        yield fetch_checkpoint(client, trained_run, Path(folder), f"{FOLDER}/{student.plan.recipe.arch}.pt")


def score_student(
    run: TrackedRun, student: Student, trained_run: str, test: Benchmark, options: Mapping[str, Any], name: str
) -> SoftLabels:
    """Return a student's bundle on a benchmark: of a finished run of kind `student`, or computed and logged as one.

    Parameters
    ----------
    run : the run below which it is shown
    trained_run : the run that has the checkpoint

    Raises
    ------
    FerError
        the checkpoint or an image cannot be used
    TrackingError
        the server cannot be reached
    """
    cache = cache_folder()
    with fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        ensemble = _alone(TeacherSpec(name, checkpoint), test, student, options)
        key = ensemble.config_key
        for there in find_runs(run.client, KIND, [key])[key]:
            try:
                return fetch_bundle(run.client, there, cache)
            except BundleError:
                continue  # triage says it; the student is asked again
        with gathered_outputs(ensemble, run.client, cache) as gathered:
            bundle = write_bundle(ensemble, gathered, cache)
            with run.sibling(f"{name}  on  {test.name}", time.time(), nested=True) as scored:
                scored.log_params({"manifest": options["manifest"], "split": options["test_split"]})
                publish_bundle(scored, bundle, key, {"fer.kind": KIND, "fer.source_run": trained_run})
            forget(ensemble, gathered, cache)
    return bundle


def _alone(spec: TeacherSpec, test: Benchmark, student: Student, options: Mapping[str, Any]) -> Ensemble:
    """Return an ensemble of one student, asked with the CLAHE that it was trained with."""
    checkpoints, clahe = hash_checkpoints({spec.name: spec}), student.plan.recipe.clahe
    preprocessing, precision = describe_preprocessing(clahe), "fp32"
    sha256 = checkpoints[spec.name]
    key = content_key(spec, sha256, test.selection_sha256, test.classes.names, preprocessing, precision)
    how = {"space": "logit", "dtype": "float32", "precision": precision, "compile": "auto", "batch_size": 32}
    asked = {name: options[name] for name in ("verify_paths", "device", "workers")}
    return Ensemble(
        test,
        {spec.name: 1.0},
        {spec.name: spec},
        checkpoints,
        {spec.name: key},
        preprocessing,
        clahe,
        fusion_settings(
            {
                **how,
                **asked,
                "manifest": options["manifest"],
                "teachers": "student",
                "weights": {spec.name: 1.0},
                "on_bad_image": "fail",
            }
        ),
    )


def lines_of_scores(bundle: SoftLabels) -> list[str]:
    """Return a student's scores with their 95 % intervals, for people; nothing where no row has a label."""
    known = bundle.labels >= 0
    if not known.any():
        return []
    predictions = bundle.logits[known].argmax(axis=1)
    found = bootstrap_intervals(bundle.labels[known], predictions, len(bundle.classes), np.random.default_rng(SEED))
    intervals = {"accuracy": found.accuracy, "macro_f1": found.macro_f1}
    return [
        f"{name:<8}  {bundle.metrics[name]:.4f}  [{each.low:.4f}, {each.high:.4f}]" for name, each in intervals.items()
    ]
