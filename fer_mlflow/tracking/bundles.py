"""Bundles in the tracking store: published with everything a reader compares, downloaded by name, trusted verified."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from mlflow import MlflowClient, MlflowException, artifacts, get_tracking_uri
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from fer_mlflow.errors import BundleError, JobError, RunError, listed
from fer_mlflow.files import cache_folder, sha256_of_file, written_folder
from fer_mlflow.scoring.metrics import DEFAULT, row_losses
from fer_mlflow.scoring.significance import Difference, Interval, bootstrap_intervals
from fer_mlflow.softlabels import files
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.tables import format_interval, format_p_value
from fer_mlflow.tracking import models, store
from fer_mlflow.tracking.runs import PARENT, TrackedRun

_RUN_ID = re.compile(r"[0-9a-f]{4,32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MODELS = "models:/"
TRAINED = "teacher"  # the artifact folder of a training run, with its checkpoint
SOFT_LABELS = "fer.softlabels_run"  # of a model's version: the run with its soft labels, where it is not its own
_MIB = 1 << 20
SEED = 0  # of bootstrap and randomisation: the same soft labels give the same numbers every time
# What the largest file may be: ten million rows of an index, and beside arrays and index no file of a bundle is large.
_MOST_BYTES = dict.fromkeys(files.FILES, 64 * _MIB) | dict.fromkeys((files.ARRAYS, files.INDEX), 4096 * _MIB)


def publish_bundle(run: TrackedRun, bundle: SoftLabels, config_key: str, tags: Mapping[str, str]) -> None:
    """Log a bundle to a run: files, figures, models, dataset, and last numbers and the tags by which it is found."""
    assert bundle.folder is not None  # a run gets what is on disk
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(_score, bundle)  # while files are uploaded
        run.log_folder(bundle.folder, FOLDER, last=files.HASHES)
    interval, pngs = drawn.result()
    for name, png in pngs.items():
        run.log_figure(name, png)
    warned, of_metrics = _warned(bundle), models.log_bundle(run, bundle, tags)
    teachers = sorted(tag for tag in tags if tag.startswith(store.TEACHER_RUN))
    links = {tag.removeprefix(store.TEACHER_RUN): tags[tag] for tag in teachers}
    links["source"] = tags.get("fer.source_run", "")
    found_by = {
        store.NOTE: run.description(describe_scores(bundle.metrics, interval), describe_rows(bundle), links),
        **tags,
        "fer.benchmark": bundle.benchmark,
        "fer.selection_sha256": bundle.selection_sha256,
        "fer.alignment": f"warn: {warned}" if warned else "pass",
        "fer.in_sample": bundle.in_sample,
        "fer.config_key": config_key,
        "fer.bundle_sha256": bundle.sha256,
    }
    if len(bundle.checkpoints) == 1:
        (found_by["fer.checkpoint_sha256"],) = bundle.checkpoints.values()
    run.log(derived_params(bundle), bundle.metrics, found_by, of_ensemble=True, **of_metrics)


def _score(bundle: SoftLabels) -> tuple[Interval | None, dict[str, bytes]]:
    """Return the interval of macro-F1 that leaderboards have, and the common figures; none where no row has a label."""
    if not bundle.metrics:
        return None, {}
    from fer_mlflow.figures.scores import draw_predictions  # here, since Matplotlib takes half a second

    labels, logits, classes = bundle.labels[bundle.labelled], bundle.logits[bundle.labelled], bundle.classes
    predictions = logits.argmax(axis=1)
    interval = bootstrap_intervals(labels, predictions, classes, np.random.default_rng(SEED))[DEFAULT]
    confidence = np.exp(-row_losses(logits, predictions))
    return interval, draw_predictions((labels, predictions, confidence), classes, bundle.benchmark)


def _warned(bundle: SoftLabels) -> str:
    """Return the names of the sanity checks that warn."""
    checks = [check for check in bundle.report["checks"] if check["kind"] != "protocol"]
    return ", ".join(check["name"] for check in checks if check["verdict"] == "warn")


def describe_rows(bundle: SoftLabels, configuration: Configuration | None = None) -> str:
    """Return a configuration (the bundle's own where none is given), benchmark, rows and warned checks, for people."""
    name = (configuration or bundle.configuration).run_name(bundle.benchmark)
    return f"{name}, {len(bundle):,} rows" + (f" · warned: {warned}" if (warned := _warned(bundle)) else "")


def describe_difference(each: Difference) -> str:
    """Return a difference with its interval and p-value, as a part of a verdict."""
    return f"{each.value:+.4f} {format_interval(each.interval, '+')}, p {format_p_value(each.p_value)}"


def describe_scores(metrics: Mapping[str, float], interval: Interval | None) -> str:
    """Return the scores of a leaderboard as a verdict, macro-F1 with its interval; there is none without labels."""
    if interval is None:
        return "no row has a label, so there are no scores"
    others = [f"{name} {metrics[name]:.4f}" for name in store.SHOWN_METRICS[1:] if name in metrics]
    return " · ".join([f"{DEFAULT} **{metrics[DEFAULT]:.4f}** {format_interval(interval)}", *others])


def derived_params(
    bundle: SoftLabels, configuration: Configuration | None = None, given: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the params that follow from a bundle, the same for every kind of run, so that the UI compares them.

    `configuration` is what would be fused of a bundle's teachers, where that is not its own. `given` are a run's own
    params; those that the configuration has too are left out.
    """
    own = {**(given or {}), "benchmark": bundle.benchmark, "rows": len(bundle)}
    return (configuration or bundle.configuration).params(own)


def find_runs(client: MlflowClient, kind: str, config_keys: Iterable[str]) -> dict[str, list[Run]]:
    """Return config key -> finished runs of a kind that have it, newest first, with one query for all keys.

    The keys share the benchmark's digest as their first part, which the query names. Runs that a person called bad are
    left out, unlike those that a rule calls bad: a teacher no better than chance has sound logits all the same.
    """
    found: dict[str, list[Run]] = {key: [] for key in config_keys}
    (prefix,) = {key.partition(".")[0] for key in found}
    for run in store.search_finished(client, kind, f"tags.`fer.config_key` LIKE '{prefix}.%'"):
        tags = run.data.tags
        if tags["fer.config_key"] in found and not (tags.get(store.STATUS) == store.BAD and store.person_of(tags)):
            found[tags["fer.config_key"]].append(run)
    return found


def read_run(client: MlflowClient, run_id: str) -> Run:
    """Return the run that has this id, or the only one whose id begins so; a RunError where there is none.

    `models:/NAME@ALIAS` and `models:/NAME/VERSION` mean the run with that version's soft labels.
    """
    if run_id.startswith(MODELS):
        name, version = re.findall(r"^models:/([\w.-]*)(.*)", run_id)[0]
        if version not in (there := read_versions(client, name)):
            with store.tracking_errors("reading the model registry"):
                registered = sorted(each.name for each in client.search_registered_models())
            known = listed([f"{MODELS}{name}{each}" for each in sorted(there)] or registered) or "none; see `promote`"
            raise RunError(f"{run_id}: no such version; there are {known}")
        run_id = there[version].tags.get(SOFT_LABELS) or str(there[version].run_id)
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(
            f"run {run_id!r}: a run id is 4 to 32 digits of 0-9a-f; copy it from a command's output or the UI"
        )
    found = store.search_runs(client, f"attributes.run_id LIKE '{run_id}%'", view=ViewType.ALL)
    if not found:
        raise RunError(f"run {run_id}: {store.redact(get_tracking_uri())} has no such run; look at MLFLOW_TRACKING_URI")
    if len(found) > 1:
        others = ", ".join(run.info.run_id for run in found[:10])
        raise RunError(f"run {run_id}: several runs begin so ({others}); give more digits")
    (run,) = found
    if run.info.lifecycle_stage == "deleted":
        raise RunError(f"run {run.info.run_id} was deleted; bring it back with `mlflow runs restore`, or name another")
    return run


def read_versions(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """Return a registered model's versions, by `/NUMBER` and by `@ALIAS`."""
    with store.tracking_errors(f"reading the registered model {name}"):
        versions = {f"/{each.version}": each for each in client.search_model_versions(f"name = '{name}'")}
        for model in client.search_registered_models(f"name = '{name}'"):
            versions |= {f"@{alias}": versions[f"/{number}"] for alias, number in model.aliases.items()}
    return versions


def register_version(
    client: MlflowClient, name: str, run_id: str, address: str, note: str, tags: dict[str, str]
) -> str:
    """Return the number of a run's version of a model, made where it lacks, with a description and tags."""
    versions = read_versions(client, name).values()
    with store.tracking_errors(f"registering a version of {name}"):
        version = next((each for each in versions if each.run_id == run_id), None)
        if version is None:
            with suppress(MlflowException):  # the model is there already, or the next call fails too
                client.create_registered_model(name)
            model_id = address.removeprefix(MODELS) if address.startswith(MODELS) else None
            version = client.create_model_version(name, address, run_id, await_creation_for=0, model_id=model_id)
        number, before = str(version.version), {key: "" for key in version.tags if key.startswith("promotion.")}
        client.update_model_version(name, number, note)
        for key, text in (before | tags).items():
            client.set_model_version_tag(name, number, key, store.redact(text)[: store.TAG_LENGTH])
    return number


def bundle_digest(run: Run) -> str:
    """Return the digest of the bundle that a run is tagged with; the RunError of a run without says where it is."""
    tags = run.data.tags
    if "fer.bundle_sha256" not in tags:
        kind = tags.get("fer.kind", "foreign")
        what = f"run {run.info.run_id} ({kind}, {run.info.status}) has no soft labels"
        source = f"; they are in run {tags['fer.source_run']}" if "fer.source_run" in tags else ""
        raise RunError(f"{what}{source or '; name an export or a teacher run'}")
    if not _SHA256.fullmatch(tags["fer.bundle_sha256"]):  # it becomes the name of a folder
        raise RunError(f"run {run.info.run_id}: its tag fer.bundle_sha256 is not 64 hex digits; export it again")
    return tags["fer.bundle_sha256"]


def download_files(run: Run, into: Path) -> list[str]:
    """Download the files of a run's bundle that are there into a folder, and return their names.

    What a server lists is not trusted: only a bundle's own names are requested, and a file that is larger than any
    bundle's (BundleError), or than what is free on the disk (JobError), is not. Files are copied even from a local
    store, where MLflow would hand out the originals. Nothing is verified.
    """
    run_id = run.info.run_id
    location = f"{run.info.artifact_uri}/{FOLDER}"  # by the run's id MLflow would look both up again for each file
    with store.tracking_errors(f"listing {FOLDER}/ of run {run_id}"):
        offered = artifacts.list_artifacts(location)
    sizes_there = {each.path: each.file_size or 0 for each in offered if not each.is_dir}
    sizes = {name: sizes_there[f"{FOLDER}/{name}"] for name in files.FILES if f"{FOLDER}/{name}" in sizes_there}
    for name, size in sizes.items():
        _check_size(run_id, name, size)
    needed, free = sum(sizes.values()), shutil.disk_usage(into).free
    if needed > free:
        needs = f"{needed / _MIB:,.0f} MiB are to be downloaded, {free / _MIB:,.0f} are free"
        raise JobError(f"{into.parent}: {needs}; make room")
    for name in sizes:
        with store.tracking_errors(f"downloading {FOLDER}/{name} of run {run_id}"):
            artifacts.download_artifacts(f"{location}/{name}", dst_path=str(into))
        _check_size(run_id, name, (into / name).stat().st_size)
    return list(sizes)


def read_checkpoints(run: Run) -> dict[str, str]:
    """Return teacher name -> digest of its checkpoint, as a run's bundle has them; nothing is verified."""
    with store.tracking_errors(f"downloading {files.HASHES} of run {run.info.run_id}"):
        return artifacts.load_dict(f"{run.info.artifact_uri}/{FOLDER}/{files.HASHES}")["checkpoints"]


def _check_size(run_id: str, name: str, size: int) -> None:
    if size > _MOST_BYTES[name]:
        what = f"{FOLDER}/{name} has {size:,} bytes, more than any bundle's"
        raise BundleError(f"run {run_id}: {what}; it is not downloaded")


@contextmanager
def downloaded_bundle(run: Run, folder: Path) -> Iterator[SoftLabels]:
    """Download a run's bundle for a block; when the block has accepted it, it is put in the place of `folder`.

    Until then it is in a temporary folder beside, so that what is under the final name is whole and verified, after a
    kill too. An exception of the block removes it. A BundleError says that files are missing, do not verify, or are not
    the ones that the run is tagged with.
    """
    where, expected = f"run {run.info.run_id}: its bundle", bundle_digest(run)
    with written_folder(folder) as temporary:
        download_files(run, temporary)
        try:
            bundle = SoftLabels.open(temporary)
        except files.BrokenFileError as error:
            raise BundleError(f"{where} is broken: {error.found}; export it again") from error
        if (own := bundle.sha256) != expected:
            tagged = f"not the one that it is tagged with, {expected[:12]}…"
            raise BundleError(f"{where} {own[:12]}… is {tagged}; export it again")
        yield bundle


def open_if_sound(folder: Path, digest: str) -> SoftLabels | None:
    """Return the bundle in a folder where it verifies and has this digest, else None."""
    try:
        bundle = SoftLabels.open(folder)
    except BundleError:
        return None
    return bundle if bundle.sha256 == digest else None


def cached_bundle(run: Run) -> SoftLabels:
    """Return a run's bundle from the cache folder, after a download where it is not there or is damaged.

    Bundles are kept by their digest, so a run that was exported anew is downloaded anew, and two runs with the same
    bundle share it. Each is verified every time.
    """
    digest = bundle_digest(run)
    folder = cache_folder() / "downloads" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two processes that want one bundle download it once
        if (bundle := open_if_sound(folder, digest)) is None:
            with downloaded_bundle(run, folder):
                pass
            bundle = SoftLabels.open(folder)
    return bundle


def fetch_bundle(run: Run, cache: Path) -> SoftLabels:
    """Download a run's bundle, verify it, and return it in memory; nothing of it stays on disk."""
    cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fetched.", dir=cache) as temporary,
        downloaded_bundle(run, Path(temporary) / FOLDER) as bundle,
    ):
        return replace(bundle, folder=None)


def fetch_checkpoint(client: MlflowClient, run_id: str, folder: Path, name: str) -> Path:
    """Download the checkpoint of a training run into a folder; a RunError where it is not the one that is tagged."""
    artifact = f"{TRAINED}/{name}"
    with store.tracking_errors(f"downloading {artifact} of run {run_id}"):
        expected = client.get_run(run_id).data.tags.get("fer.checkpoint_sha256")
        path = Path(client.download_artifacts(run_id, artifact, dst_path=str(folder)))
    if sha256_of_file(path) != expected:
        raise RunError(f"run {run_id}: its checkpoint is not the one it is tagged with; train it again")
    return path


def adopt_run(parent: TrackedRun, run: Run) -> None:
    """Show a finished run below this one, unless it is below another that finished too, or was opened for itself."""
    before = run.data.tags.get(PARENT)
    with store.tracking_errors("looking for a run's parent"):
        if before and parent.client.get_run(before).info.status != "FINISHED":
            parent.client.set_tag(run.info.run_id, PARENT, parent.run_id)
