"""Runs below a sweep's: the best configurations with all metrics, and the soft labels of those that are wanted."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_mlflow.files import sha256_of_json
from fer_mlflow.scoring.evaluation import evaluate
from fer_mlflow.search.choice import Choice
from fer_mlflow.softlabels.bundle import FOLDER
from fer_mlflow.softlabels.configuration import Calibration
from fer_mlflow.softlabels.ensemble import calibrated
from fer_mlflow.tracking.bundles import derived_params, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.workflows.configurations import shares_of
from fer_mlflow.workflows.ensemble import fused
from fer_mlflow.workflows.evaluate import SEED
from fer_mlflow.workflows.teacher_sets import TeacherSet


def log_choice(
    run: TrackedRun,
    teachers: TeacherSet,
    choice: Choice,
    rank: int,
    elsewhere: Mapping[str, float],
    params: Mapping[str, str],
) -> str:
    """Log a configuration as a nested run with all metrics of the benchmark that is reported on; return the run.

    Parameters
    ----------
    elsewhere : metrics on other benchmarks, `<benchmark>/<metric>`
    params : of the sweep
    """
    bundle = teachers.bundle
    weights = shares_of(teachers.names, choice)
    configuration = replace(teachers.configuration, weights=weights, space=choice.space)
    logits = teachers.labelled_logits().fused(choice.space, choice.weights)
    metrics = evaluate(logits, teachers.labels, bundle.classes, np.random.default_rng(SEED)).named()
    with run.sibling(f"#{rank} {configuration.name}", time.time(), nested=True) as own:
        given = {key: params[key] for key in ("manifest", "root", "teachers") if key in params}
        own.log_params({**given, **configuration.options, **derived_params(bundle, configuration)})
        own.log_benchmark(teachers.benchmark, bundle)
        own.log_metrics({**metrics, **elsewhere})
        own.set_tags(
            {
                "fer.kind": "evaluate",
                "fer.benchmark": teachers.benchmark,
                "fer.selection_sha256": bundle.selection_sha256,
                "fer.sweep_rank": str(rank),
            }
        )
    return own.run_id


def export_choice(
    run: TrackedRun, teachers: TeacherSet, choice: Choice, fitted: TeacherSet, params: Mapping[str, str]
) -> tuple[str, str]:
    """Log the soft labels of a configuration, unless a finished run has them; return its name and the run.

    Parameters
    ----------
    teachers : the benchmark that is reported on, under the choice's preprocessing
    fitted : the benchmark of the choice, where its temperature was fitted
    params : of the sweep
    """
    assert teachers.ensemble is not None  # the settings refuse an export from stored runs
    weights = shares_of(teachers.names, choice)
    total = sum(weights.values())  # rounded
    weights = {name: share / total for name, share in weights.items()} if abs(total - 1) > 1e-7 else weights
    configuration = replace(teachers.ensemble.configuration, weights=weights, space=choice.space)
    ensemble = replace(teachers.ensemble, configuration=configuration)
    key = ensemble.key
    calibration = {
        "method": "temperature",
        "temperature": choice.temperature,
        "fitted_on": {
            "name": fitted.benchmark,
            "selection_sha256": fitted.bundle.selection_sha256,
            "rows": len(fitted.labels),
            "classes": len(np.unique(fitted.labels)),
        },
        "in_sample": fitted.bundle.selection_sha256 == teachers.bundle.selection_sha256,
    }
    is_calibrated = choice.temperature != 1
    if is_calibrated:
        key = f"{key.partition('.')[0]}.{sha256_of_json({'of': key, 'calibration': calibration})[:32]}"
        configuration = replace(configuration, calibration=Calibration.of(calibration))
    name = configuration.name
    if there := find_runs(run.client, "export", [key])[key]:
        return name, there[0].info.run_id
    bundle, settings = fused(ensemble, teachers.gathered), ensemble.settings
    own = {"manifest": settings.manifest, "split": settings.split or "", **configuration.options}
    tags = {f"fer.teacher_run/{each}": teachers.run_ids[each] for each in weights}
    if is_calibrated:
        bundle = calibrated(bundle, bundle.logits / choice.temperature, calibration)
        tags["fer.calibration_in_sample"] = str(calibration["in_sample"]).lower()
    with (
        run.sibling(name, time.time(), nested=True) as exported,
        tempfile.TemporaryDirectory(prefix="swept.") as folder,
    ):
        exported.log_params({**{key: params[key] for key in ("teachers", "root") if key in params}, **own})
        publish_bundle(exported, bundle.write(Path(folder) / FOLDER), key, {"fer.kind": "export", **tags})
    return name, exported.run_id
