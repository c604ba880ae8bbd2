"""MLflow's logged models: they link runs by what they read and what they made.

A teacher or student is one model in an experiment for each checkpoint, preprocessing and precision, whatever the
benchmarks; its metrics are bound to the benchmark's digest. Soft labels are one model for each bundle, without metrics.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mlflow import MlflowClient, MlflowException
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus

from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.files import sha256_of_json
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.tracking import store
from fer_mlflow.tracking.runs import TrackedRun

KEY = "fer.model_key"
_NOT_IN_NAMES = str.maketrans("/:.%\"'", "--,---")


class Described(NamedTuple):
    """A model as MLflow is to have it: its type, its name, what its key follows from, and the run with its scores."""

    kind: str
    name: str
    params: dict[str, str]
    run: str = ""

    @property
    def key(self) -> str:
        """The key by which it is found."""
        return sha256_of_json(self.params)[:32]


def describe_teacher(
    kind: str, name: str, checkpoint: str, arch: str, steps: Mapping[str, Any], precision: str = "fp32"
) -> Described:
    """Return the model of a checkpoint's digest; `steps` are a complete preprocessing, as a report has it."""
    preprocessing = Preprocessing.parse(steps)
    title = " · ".join(filter(None, [name, preprocessing.name, "" if precision == "fp32" else precision]))
    params = {"checkpoint_sha256": checkpoint, "arch": arch, "preprocessing": preprocessing.key, "precision": precision}
    return Described(kind, title, params)


def teachers_of(bundle: SoftLabels, kind: str = "teacher") -> list[Described]:
    """Return the models that a bundle's logits are of."""
    reports, precision = bundle.report["teachers"], bundle.configuration.precision
    return [
        describe_teacher(kind, name, digest, each.get("arch", ""), each["preprocessing"], precision)
        for name, digest in bundle.checkpoints.items()
        for each in [reports[name]]
    ]


def find_models(client: MlflowClient, experiments: list[str], wanted: list[Described]) -> dict[str, LoggedModel]:
    """Return key -> model, of two the older one; deleted ones are not found."""
    condition = f"tags.`{KEY}` IN ({', '.join(repr(each.key) for each in wanted)})"
    with store.tracking_errors("searching models"):
        return {each.tags[KEY]: each for each in client.search_logged_models(experiments, condition)}


def ensure_models(run: TrackedRun, wanted: list[Described]) -> list[str]:
    """Return the ids of models in a run's experiment; those that it lacks are made."""
    there = find_models(run.client, [run.experiment_id], wanted)
    with store.tracking_errors("logging models"):
        for each in wanted:
            model = there[each.key] = there.get(each.key) or _create(run, each)
            if model.status != LoggedModelStatus.READY:
                run.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return [there[each.key].model_id for each in wanted]


def _create(run: TrackedRun, each: Described) -> LoggedModel:
    """Make a model, of the run that trained its checkpoint where one did, with the scores of the run that has them."""
    client, source, tags = run.client, run.run_id, {KEY: each.key}
    tags |= {f"fer.{name}": text for name, text in each.params.items() if name.endswith("_sha256")}
    if each.kind != FOLDER:
        source = next((found.info.run_id for found in store.search_trained(client, tags["fer.checkpoint_sha256"])), "")
    name = each.name.translate(_NOT_IN_NAMES)
    model = client.create_logged_model(run.experiment_id, name, source or None, tags, each.params, each.kind)
    if each.run:  # it was scored before models were logged, in another experiment, or its model was deleted
        with suppress(MlflowException):  # a run that is not there has no scores
            scored = client.get_run(each.run)
            own, data = TrackedRun.of(client, scored), scored.data
            bound = _bound(model.model_id, data.tags["fer.benchmark"], data.tags["fer.selection_sha256"])
            own.log(metrics=data.metrics, **bound)
            own.log_inputs([model.model_id])
    return model


def _bound(model_id: str, benchmark: str, selection_sha256: str) -> dict[str, Any]:
    """Return what binds metrics to a model and to the dataset that `TrackedRun.log_benchmark` logs."""
    return {"model_id": model_id, "dataset_name": benchmark[:500], "dataset_digest": selection_sha256[:32]}


def inputs_of(run: TrackedRun, bundle: SoftLabels, digest: str = "") -> list[str]:
    """Return the ids of the models that a run on soft labels reads: the bundle's, else those of its teachers.

    `digest` names the bundle where it is another one of the same teachers, such as the one that was calibrated.
    """
    experiments = [each.experiment_id for each in store.active_experiments(run.client)]
    wanted = Described(FOLDER, "", {"bundle_sha256": digest or bundle.sha256})
    there = find_models(run.client, experiments, [wanted])
    return [each.model_id for each in there.values()] or ensure_models(run, teachers_of(bundle))


def log_bundle(run: TrackedRun, bundle: SoftLabels, tags: Mapping[str, str]) -> dict[str, Any]:
    """Log what a run with a bundle reads and makes; return what binds its metrics to a model, nothing for an export."""
    kind, source = tags.get("fer.kind", "export"), bundle.report.get("calibration", {}).get("source_bundle_sha256")
    if kind != "export":
        inputs = ensure_models(run, teachers_of(bundle, kind))
    else:
        runs = [tags.get(f"{store.TEACHER_RUN}{name}", "") for name in bundle.checkpoints]
        teachers = [each._replace(run=own) for each, own in zip(teachers_of(bundle), runs, strict=True)]
        made = Described(FOLDER, bundle.run_name(), {"bundle_sha256": bundle.sha256})
        *inputs, model = ensure_models(run, [*teachers, made])
        log_output(run, model)
        inputs = inputs_of(run, bundle, source) if source else inputs
    run.log_benchmark(bundle.benchmark, bundle, models=inputs)
    return {} if kind == "export" else _bound(inputs[0], bundle.benchmark, bundle.selection_sha256)


def log_output(run: TrackedRun, model_id: str) -> None:
    """Log a model as a run's output."""
    with store.tracking_errors("logging an output"):
        run.client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step=0)])
