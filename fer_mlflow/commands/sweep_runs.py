"""Runs below a sweep's: the best configurations with all metrics, and the soft labels of those that are wanted."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_mlflow.commands.sweep_result import Sweep
from fer_mlflow.files import sha256_of_json
from fer_mlflow.scoring.evaluation import evaluate
from fer_mlflow.search.choice import Choice
from fer_mlflow.softlabels.bundle import FOLDER
from fer_mlflow.softlabels.calibration import calibrated
from fer_mlflow.softlabels.configuration import Calibration
from fer_mlflow.tracking.bundles import derived_params, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.workflows.ensemble import fused

_SEED = 0  # of the resampling, as `evaluate` has it


def log_best(
    run: TrackedRun, result: Sweep, benchmarks: Mapping[str, Any], count: int, typed: Mapping[str, str]
) -> list[str]:
    """Log the best configurations as nested runs with all metrics of the benchmark that is reported on.

    Metrics of other benchmarks stand under `<benchmark>/`.
    """
    nested = []
    for rank, m in enumerate(result.order[:count].tolist(), start=1):
        choice = result.configurations.choice(m)
        teachers = result.report[choice.variant]
        bundle, weights = teachers.bundle, result.weights_of(choice)
        configuration = replace(teachers.configuration, weights=weights, space=choice.space)
        labels = bundle.labels[teachers.known]
        pool = teachers.pool()
        logits = pool.fused(choice.space, choice.weights)
        metrics = evaluate(logits, labels, bundle.classes, np.random.default_rng(_SEED)).named()
        for benchmark, table in result.tables.items():
            if benchmark != teachers.benchmark:
                scores = table.drop(columns=["asked", "space", *(f"w/{name}" for name in result.names)])
                metrics |= {f"{benchmark}/{name}": float(value) for name, value in scores.iloc[m].items()}
        with run.sibling(f"#{rank} {configuration.name}", time.time(), nested=True) as own:
            given = {key: typed[key] for key in ("manifest", "root", "teachers") if typed.get(key)}
            own.log_params({**given, **configuration.options, **derived_params(bundle, configuration)})
            own.log_benchmark(teachers.benchmark, bundle.selection_sha256, bundle.manifest_sha256, len(bundle))
            own.log_metrics(metrics)
            own.set_tags(
                {
                    "fer.kind": "evaluate",
                    "fer.benchmark": teachers.benchmark,
                    "fer.selection_sha256": bundle.selection_sha256,
                    "fer.sweep_rank": str(rank),
                }
            )
        nested.append(own.run_id)
    return nested


def export_choices(run: TrackedRun, result: Sweep, count: int, typed: Mapping[str, str]) -> dict[str, str]:
    """Log the soft labels of the best configurations and of the choice, and return name -> run.

    Those that a finished run has are not exported again.
    """
    if not count:
        return {}
    choices = [result.choice, *(result.configurations.choice(m) for m in result.order[:count].tolist())]
    exported: dict[str, str] = {}
    for choice in choices:
        name, run_id = _export(run, result, choice, typed)
        exported.setdefault(name, run_id)
    return exported


def _export(run: TrackedRun, result: Sweep, choice: Choice, typed: Mapping[str, str]) -> tuple[str, str]:
    """Export one configuration on the benchmark that is reported on."""
    teachers = result.report[choice.variant]
    assert teachers.ensemble is not None  # checked with the options
    weights = result.weights_of(choice)
    total = sum(weights.values())  # rounded
    weights = {name: share / total for name, share in weights.items()} if abs(total - 1) > 1e-7 else weights
    configuration = replace(teachers.ensemble.configuration, weights=weights, space=choice.space)
    ensemble = replace(teachers.ensemble, configuration=configuration)
    key = ensemble.key
    if choice.temperature != 1:
        calibration = {
            "method": "temperature",
            "temperature": choice.temperature,
            "fitted_on": {
                "name": result.fitted.benchmark,
                "selection_sha256": result.fitted.bundle.selection_sha256,
                "rows": int(result.fitted.known.sum()),
                "classes": len(np.unique(result.fitted.bundle.labels[result.fitted.known])),
            },
            "in_sample": result.fit is result.report,
        }
        key = f"{key.partition('.')[0]}.{sha256_of_json({'of': key, 'calibration': calibration})[:32]}"
        configuration = replace(configuration, calibration=Calibration.of(calibration))
    name = configuration.name
    if there := find_runs(run.client, "export", [key])[key]:
        return name, there[0].info.run_id
    bundle, settings = fused(ensemble, teachers.gathered), ensemble.settings
    own = {"manifest": settings.manifest, "split": settings.split or "", **configuration.options}
    tags = {f"fer.teacher_run/{each}": teachers.run_ids[each] for each in weights}
    with (
        run.sibling(name, time.time(), nested=True) as exported,
        tempfile.TemporaryDirectory(prefix="swept.") as folder,
    ):
        if choice.temperature != 1:
            bundle = calibrated(bundle, bundle.logits / choice.temperature, calibration)
            tags["fer.calibration_in_sample"] = str(calibration["in_sample"]).lower()
        kept = {key: typed[key] for key in ("teachers", "root") if typed.get(key)}
        exported.log_params({**kept, **own})
        publish_bundle(exported, bundle.write(Path(folder) / FOLDER), key, {"fer.kind": "export", **tags})
    return name, exported.run_id
