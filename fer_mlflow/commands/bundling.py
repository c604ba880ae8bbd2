"""From teachers' outputs to bundles: the ensemble's, and one for each teacher that was asked, kept as runs."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fer_mlflow.commands.ensemble import Ensemble, Gathered
from fer_mlflow.files import written_folder
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.ensemble import write_ensemble
from fer_mlflow.teachers.shards import ShardStore
from fer_mlflow.tracking.bundles import publish_bundle
from fer_mlflow.tracking.runs import TrackedRun


def write_bundle(ensemble: Ensemble, gathered: Gathered, cache: Path) -> SoftLabels:
    """Write the ensemble's bundle into the cache, as it was asked for."""
    return _write(ensemble, gathered, cache, ensemble.config_key, ensemble.weights, ensemble.fusion)


def publish_teachers(
    ensemble: Ensemble, gathered: Gathered, cache: Path, run: TrackedRun, typed: Mapping[str, str], started_s: float
) -> None:
    """Log every teacher that was computed as a run of its own, for every later ensemble to reuse.

    A teacher's own bundle always has float32 logits.
    """
    for name in gathered.computed:
        key = ensemble.keys[name]
        bundle = _write(ensemble, gathered, cache, key, {name: 1.0}, {"space": "logit", "dtype": "float32"})
        with run.sibling(" · ".join([name, *ensemble.protocol_marks]), started_s) as teacher_run:
            teacher_run.log_params({**typed, "weights": f"{name}=1", "space": "logit", "dtype": "float32"})
            publish_bundle(teacher_run, bundle, key, {"fer.kind": "teacher"})
        gathered.run_ids[name] = teacher_run.run_id


def _write(ensemble, gathered, cache: Path, key: str, weights: Mapping[str, float], fusion: Mapping) -> SoftLabels:
    return write_ensemble(
        cache / "bundles" / key / FOLDER,
        ensemble.benchmark,
        gathered.outputs,
        weights,
        space=fusion["space"],
        dtype=fusion["dtype"],
        preprocessing=ensemble.preprocessing,
        images_verified=ensemble.options["verify_paths"],
    )


def forget(ensemble: Ensemble, gathered: Gathered, cache: Path) -> None:
    """Remove from the cache what the tracking store now has."""
    for key in [ensemble.config_key, *(ensemble.keys[name] for name in gathered.computed)]:
        ShardStore(cache, key).clear()
        shutil.rmtree(cache / "bundles" / key, ignore_errors=True)


def copy_bundle(bundle: SoftLabels, out: Path) -> SoftLabels:
    """Copy a verified bundle, whole or not at all, and return it as the one in `out`."""
    with written_folder(out) as temporary:
        for path in bundle.folder.iterdir():
            shutil.copyfile(path, temporary / path.name)
    return replace(bundle, folder=out)
