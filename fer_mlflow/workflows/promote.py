"""`promote`: register what a run made where it beats the version before; `lineage`: what a run was made from."""

import json
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial

import numpy as np

from fer_mlflow.errors import BundleError, ContractError, JobError, RunError, TeacherError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring import metrics, significance
from fer_mlflow.settings.scoring import LineageSettings, PromoteSettings
from fer_mlflow.softlabels.configuration import split_first
from fer_mlflow.softlabels.rows import find_shared_rows
from fer_mlflow.teachers.spec import read_teachers
from fer_mlflow.tracking import bundles, records, runs, store
from fer_mlflow.workflows import RunResult, sources, workflow

_Product = namedtuple("_Product", "kind run address tag digest")  # digest: of the checkpoint or bundle; tag: its own
_SOURCES = (store.TEACHER_RUN, "fer.source_run", "fer.best_run")  # begin the tags that name runs
_READS_FILES = (*store.BUNDLED_KINDS, "train", "distill")
_COMMANDS = {"teacher": "export", "student": "distill"}  # of the kinds that are not called by their command


@dataclass(frozen=True, kw_only=True, repr=False)
class PromoteResult(RunResult):
    """Which version of a registered model has an alias, whether it `moved`, the run that made the version, and why."""

    name: str
    version: str
    alias: str
    moved: bool
    source_run: str
    why: str


@workflow(PromoteSettings)
def promote(settings: PromoteSettings, progress: Progress = no_progress) -> PromoteResult:
    """Register what a run made as a model's version, and give it the alias where it beats the version that has it.

    It opens no run of its own; the run that `mlflow run` opened is joined. Raises JobError: it is not promoted; the
    message has the numbers. Raises FerError: no such run, it made nothing to register, or the metric has no test.
    """
    with runs.joined_run("promote", f"promote · {settings.run}", settings.params) as run:
        result = _promote(store.connect(), settings)
        if run is not None:
            run.log(tags={"fer.source_run": result.source_run, "fer.verdict": result.why})
            run.show_below(result.source_run)
    return result


def _promote(client, settings: PromoteSettings) -> PromoteResult:
    """Compare, register, and move the alias last: it stays where it is when anything fails before."""
    named, alias, force = bundles.read_run(client, settings.run), settings.alias, settings.force
    product = _product_of(client, named)
    info, name = product.run.info, settings.name or f"fer-{product.kind}"
    ui = store.describe_way_to_ui(info.experiment_id, info.run_id)
    result = partial(PromoteResult, name=name, alias=alias, source_run=info.run_id, ui=ui)
    holder = bundles.read_versions(client, name).get(f"@{alias}")
    if holder and (holder.run_id == info.run_id or holder.tags.get(product.tag) == product.digest):
        return result(version=str(holder.version), moved=False, why=f"it has what run {info.run_id} made")
    tags, why, is_refused = {product.tag: product.digest}, "no version had it before", False
    try:
        for run in (named, product.run):
            if records.is_bad(run) or run.info.status != "FINISHED":
                what = f"bad ({run.data.tags.get(store.REASONS)})" if records.is_bad(run) else run.info.status
                raise RunError(f"run {run.info.run_id} is {what}")
        mine = _soft_labels(client, named, product, settings.benchmark or "")
        if mine and product.kind != "softlabels":
            tags[bundles.SOFT_LABELS] = mine.run_id
        if holder:
            why, evidence = _compare(client, mine, f"{name}/{holder.version}", settings)
            tags |= evidence
            if evidence["promotion.verdict"] not in significance.PROMOTED:
                raise RunError(why)
    except (BundleError, RunError) as error:
        why, is_refused = f"by force, {force}: {error}" if force else f"not promoted: {error}", not force
        tags["promotion.forced"] = force or ""
        if is_refused and "promotion.verdict" not in tags:
            raise JobError(f"{why}; or move the alias all the same by --force REASON") from error
    stamp = f"{store.user_name()} at {datetime.now(UTC):%Y-%m-%dT%H:%MZ}"
    tags |= {"promotion.alias": alias, "promotion.by": stamp, "promotion.why": why}
    version = bundles.register_version(client, name, info.run_id, product.address, f"{alias}, {stamp}: {why}", tags)
    if is_refused:
        more = "--margin takes one that is not worse, --force REASON any"
        raise JobError(f"{why}; it is version {version} now; {more}")
    with store.tracking_errors(f"moving {name}@{alias}"):
        client.set_registered_model_alias(name, alias, version)
    return result(version=version, moved=True, why=why)


def _product_of(client, run) -> _Product:
    """Return what a run made; a run with the logits of a checkpoint stands for the training that made that."""
    checkpoint, kind = "fer.checkpoint_sha256", run.data.tags.get("fer.kind", "")
    softlabels = f"runs:/{run.info.run_id}/{bundles.FOLDER}"
    if kind == "export":
        return _Product("softlabels", run, softlabels, "fer.bundle_sha256", bundles.bundle_digest(run))
    if "fer.best_run" in run.data.tags:  # of a grid
        run = bundles.read_run(client, run.data.tags["fer.best_run"])
    digest = run.data.tags.get(checkpoint)
    if digest is None and kind in store.BUNDLED_KINDS:  # the run of an earlier version, which is not tagged
        (digest,) = sources.read_run_source(run.info.run_id).bundle.checkpoints.values()
    if digest is None:
        raise RunError(f"run {run.info.run_id} ({kind or 'foreign'}) made no student, teacher or soft labels")
    for kind, made in (("distill", "student"), ("train", "teacher")):
        for trained in store.search_finished(client, kind, f"tags.`{checkpoint}` = '{digest}'"):
            grids = store.search_finished(client, kind, f"tags.`fer.best_run` = '{trained.info.run_id}'")
            served = [each.data.tags["fer.model"] for each in (trained, *grids) if "fer.model" in each.data.tags]
            address = served[0] if served else f"runs:/{trained.info.run_id}/{bundles.TRAINED}"
            return _Product(made, trained, address, checkpoint, digest)
    return _Product("teacher", run, softlabels, checkpoint, digest)  # a checkpoint that no run here trained


def _soft_labels(client, named, product: _Product, benchmark: str) -> sources.Source | None:
    """Return a product's soft labels on a benchmark, by its name or digest, or on any: first those of the named run."""

    def fits(tags) -> bool:
        is_digest = len(benchmark) > 3 and tags["fer.selection_sha256"].startswith(benchmark)
        return not benchmark or is_digest or tags["fer.benchmark"] == benchmark

    if "fer.bundle_sha256" in named.data.tags and fits(named.data.tags):
        return sources.read_run_source(named.info.run_id)
    if product.kind == "softlabels":
        return next(sources.same_configuration(client, sources.read_run_source(product.run.info.run_id), fits), None)
    of_it = f"tags.`{product.tag}` = '{product.digest}'"
    found = (run for kind in store.BUNDLED_KINDS for run in store.search_finished(client, kind, of_it))
    return next((sources.read_run_source(run.info.run_id) for run in found if fits(run.data.tags)), None)


def _compare(client, mine: sources.Source | None, champion: str, settings: PromoteSettings) -> tuple[str, dict]:
    """Return how a challenger compares with a version, such as `fer-student/3`, in words, and as the version's tags."""
    product = _product_of(client, named := bundles.read_run(client, f"{bundles.MODELS}{champion}"))
    theirs = mine and _soft_labels(client, named, product, mine.bundle.selection_sha256)
    if theirs is None and not settings.benchmark:
        theirs = _soft_labels(client, named, product, "")  # on other rows, which may be the same in part
    champion, champion_run = champion.replace("/", " version "), product.run.info.run_id
    if mine is None or theirs is None:
        what = f"{champion if mine else 'the run'} has no soft labels on {settings.benchmark or 'any benchmark'}"
        raise RunError(f"{what}; export them there, or name another --benchmark")
    a, b, metric = theirs.bundle, mine.bundle, settings.metric
    shared = find_shared_rows(a, b)
    if not shared.is_comparable:
        raise RunError(f"{champion} (A) and run {mine.run_id} (B) are {shared.verdict}; name a --benchmark of both")
    if "true" in (a.in_sample, b.in_sample):
        raise RunError(f"one of the two was trained on images of {b.benchmark}; name another --benchmark")
    labels, logits = a.labels[shared.rows_a], (a.logits[shared.rows_a], b.logits[shared.rows_b][:, shared.columns_b])
    compared = significance.compare_logits(*logits, labels, a.classes, np.random.default_rng(bundles.SEED))
    if metric not in compared.differences:
        raise ContractError(f"--metric {metric} has no paired test; there are {', '.join(compared.differences)}")
    verdict, each = compared.verdict(metric, settings.level, settings.margin), compared.differences[metric]
    old, new = (metrics.score(own, labels, a.classes)[metric] for own in logits)
    low, high, rows, on = each.interval.low, each.interval.high, len(labels), split_first(b.benchmark)
    found: dict[str, object] = {"verdict": verdict, "metric": metric, "challenger": new, "champion": old, "rows": rows}
    found |= {"difference": each.value, "low": low, "high": high, "p_value": each.p_value, "benchmark": b.benchmark}
    found |= {"selection_sha256": b.selection_sha256, "champion_version": champion, "champion_run": champion_run}
    difference = f"difference {each.value:+.4f} [{low:+.4f}, {high:+.4f}], p = {each.p_value:.2g}"
    words = f"{verdict}: {metric} {new:.4f} against {old:.4f} of {champion} on {on} ({rows:,} rows), {difference}"
    return words, {f"promotion.{key}": str(value) for key, value in found.items()}


@dataclass(frozen=True)
class Node:
    """A run or a file, with what it was made from; `command` makes a run anew, `is_changed` is of a file."""

    text: str
    command: str = ""
    is_changed: bool = False
    sources: tuple["Node", ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether a file below has changed."""
        return self.is_changed or any(each.is_stale for each in self.sources)

    def stale_runs(self) -> list["Node"]:
        """Return the runs that a changed file has made stale, each after those that it was made from."""
        below = [run for each in self.sources for run in each.stale_runs()]
        return list(dict.fromkeys([*below, self] if self.command and self.is_stale else below))


@dataclass(frozen=True, kw_only=True, repr=False)
class LineageResult(RunResult):
    """What a run was made from; `redo` are the runs to make anew, in this order."""

    tree: Node
    redo: list[Node]


@workflow(LineageSettings)
def lineage(settings: LineageSettings, progress: Progress = no_progress) -> LineageResult:
    """Follow a run's sources down to manifests and checkpoints, and hash those that are still here.

    Like `fetch` it changes nothing in the store, and joins only a run that `mlflow run` has opened. Raises RunError:
    there is no such run.
    """
    with runs.joined_run("lineage", f"lineage · {settings.run}", settings.params) as run:
        client = store.connect()
        tree = _read_node(client, cache(sha256_of_file), bundles.read_run(client, settings.run).info.run_id)
    return LineageResult(run_id=run.run_id if run else "", tree=tree, redo=tree.stale_runs())


def _read_node(client, sha256, run_id: str, *below: str) -> Node:
    """Return a run with its sources; one that cannot be read, or is its own source, ends there."""
    try:
        if run_id in below:
            raise RunError(f"run {run_id}: it is its own source")
        run = bundles.read_run(client, run_id)
    except RunError as error:
        return Node(str(error))
    params, tags, metrics, kind = run.data.params, run.data.tags, run.data.metrics, run.data.tags.get("fer.kind", "")

    def file(what: str, path, digest: str) -> Node:
        found = sha256(path) if path is not None and path.is_file() else ""
        status = "not here" if not found else "the same" if found == digest else "changed"
        return Node(f"{what} {path or ''}  {digest[:8]}  {status}", is_changed=status == "changed")

    ids = [text for tag, text in sorted(tags.items()) if tag.startswith(_SOURCES) and text != "folder"]
    files = []
    for entry in run.inputs.dataset_inputs[:1] if run.inputs and kind in _READS_FILES else ():
        digest = json.loads(entry.dataset.source)["manifest_sha256"]
        files.append(file("manifest", sources.path_of(params, "manifest"), digest))
    if kind == "teacher":
        ((name, digest),) = bundles.read_checkpoints(run).items()
        ids += [each.info.run_id for each in store.search_trained(client, digest)[:1]]
        path = None
        with suppress(TeacherError):  # teachers.yaml does not name it any more, or its file is gone
            path = read_teachers(sources.path_of(params, "teachers") or "", [name])[name].checkpoint
        files.append(file("checkpoint", path, digest))
    title = run.info.run_name or ""
    parts = [title if title.startswith(kind) else f"{kind} {title}", f"run {run_id[:8]}"]
    parts += [f"macro_f1 {metrics['macro_f1']:.3f}"] if "macro_f1" in metrics else []
    made = {what: tags.get(f"fer.{what}_sha256", "")[:8] for what in ("bundle", "checkpoint")}
    parts += [f"{what} {digest}" for what, digest in made.items() if digest]
    made_from = [_read_node(client, sha256, each, run_id, *below) for each in ids]
    return Node("  ".join(parts), _COMMANDS.get(kind, kind), sources=(*made_from, *files))
