"""`promote`: register what a run made, and move an alias to it where a comparison says that it is better."""

from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np

from fer_mlflow.errors import BundleError, ContractError, JobError, RunError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring import metrics, significance
from fer_mlflow.settings.scoring import PromoteSettings
from fer_mlflow.softlabels.configuration import split_first
from fer_mlflow.softlabels.rows import find_shared_rows
from fer_mlflow.tracking import bundles, records, runs, store
from fer_mlflow.workflows import RunResult, sources, workflow

_Product = namedtuple("_Product", "kind run address tag digest")  # digest: of the checkpoint or bundle; tag: its own


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
    for trained in (run for run in store.search_trained(client, digest) if run.info.status == "FINISHED"):
        grids = store.search_finished(client, "distill", f"tags.`fer.best_run` = '{trained.info.run_id}'")
        served = [each.data.tags["fer.model"] for each in (trained, *grids) if "fer.model" in each.data.tags]
        address = served[0] if served else f"runs:/{trained.info.run_id}/{bundles.TRAINED}"
        made = "student" if trained.data.tags["fer.kind"] == "distill" else "teacher"
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
