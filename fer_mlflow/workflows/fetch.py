"""`fetch` and `verify`: soft labels on this disk, all of them checked; `lineage`: what a run was made from."""

import functools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_mlflow.errors import BundleError, ContractError, FerError, JobError, RunError, TeacherError
from fer_mlflow.files import cache_folder, sha256_of_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.sanity import Check
from fer_mlflow.settings.scoring import FetchSettings, LineageSettings, VerifySettings
from fer_mlflow.softlabels import files, verification
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.rows import Alignment, align, reordered
from fer_mlflow.teachers.spec import read_teachers
from fer_mlflow.tracking import bundles, models, records, runs, store
from fer_mlflow.workflows import RunResult, SoftLabelsResult, sources, warn, workflow
from fer_mlflow.workflows.export import copy_bundle, read_rows

_SOURCES = (store.TEACHER_RUN, "fer.source_run", "fer.best_run")  # begin the tags that name runs
_READS_FILES = (*store.BUNDLED_KINDS, "train", "distill")
_COMMANDS = {"teacher": "export", "student": "distill"}  # of the kinds that are not called by their command


@dataclass(frozen=True, kw_only=True, repr=False)
class FetchResult(SoftLabelsResult):
    """Soft labels on this disk.

    Attributes
    ----------
    source_run, source_sha256 : the run that has them, and the digest of that run's bundle
    chosen : how the run was chosen, in words; empty where it was named
    how : how the bundle came into the folder, in words
    proofs : `manifest`, `images` -> what was proved, in words
    """

    source_run: str
    source_sha256: str
    chosen: str
    how: str
    proofs: dict[str, str]


@workflow(FetchSettings)
def fetch(settings: FetchSettings, progress: Progress = no_progress) -> FetchResult:
    """Download a run's soft labels, verify all of them, and prove them against a local manifest where one is given.

    Nothing in the store changes by it, so it opens no run of its own; the run that `mlflow run` opened is joined.

    Raises FerError: no such run, its bundle does not verify, the folder holds other things, or the manifest has other
    rows or images. Raises JobError: the disk has no room.
    """
    with runs.joined_run("fetch", f"fetch · {settings.run or settings.best}", settings.params) as run:
        client, source = store.connect(), settings.run or f"best:{settings.best}@{settings.benchmark}"
        chosen = records.choose_run(client, source, where=settings.where or "", even_bad=settings.even_bad)
        if settings.for_split:
            chosen = _of_split(client, chosen, settings.for_split)
            settings = replace(settings, split=settings.split or (settings.for_split if settings.manifest else None))
        run_id, digest = chosen.run.info.run_id, bundles.bundle_digest(chosen.run)
        _warn_of(chosen.run)
        out = Path(settings.out or f"softlabels-{run_id[:8]}").absolute()
        is_there = _is_there(out, digest, settings.reorder)
        try:
            bundle, how, proofs = _fetch(client, chosen.run, out, is_there, settings)
        except OSError as error:
            raise JobError(f"--out {out}: {error.strerror or error}; nothing was put there") from error
        if run is not None:
            run.log_inputs(models.inputs_of(run, bundle, digest))
            tags = sources.Source(bundle, run_id).tags() | {"fer.source_bundle_sha256": digest}
            verdict = "; ".join(filter(None, [how, chosen.how, *proofs.values()]))
            run.describe(verdict, bundles.describe_rows(bundle), {"source": run_id}, **tags)
    return FetchResult(
        run_id=run.run_id if run else "",
        soft_labels=bundle,
        source_run=run_id,
        source_sha256=digest,
        chosen=chosen.how,
        how=how,
        proofs=proofs,
    )


def _of_split(client, chosen: records.Chosen, split: str) -> records.Chosen:
    """Return the run that has the soft labels of the chosen configuration on another split of its manifest."""
    best = sources.read_run_source(chosen.run.info.run_id)
    benchmark = f"{best.bundle.benchmark.partition(':')[0]}:{split}"
    for other in sources.same_configuration(client, best, lambda tags: tags.get("fer.benchmark") == benchmark):
        if other.bundle.manifest_sha256 == best.bundle.manifest_sha256:
            how = f"{chosen.how}; its configuration on {benchmark}"
            return records.Chosen(bundles.read_run(client, other.run_id), how)
    raise RunError(
        f"--for-split {split}: {best.name} is the best, and no run has its soft labels of {benchmark}, of the same "
        f"manifest; export them with --weights {best.params.get('ensemble', '')} --space "
        f"{best.bundle.configuration.space} --split {split}"
    )


def _warn_of(run: Any) -> None:
    """Warn of what a user should know of a run before training on its soft labels."""
    tags, name = run.data.tags, f"run {run.info.run_id}"
    if tags.get("triage.status") == "bad":
        warn(f"{name}: triage called it bad ({tags.get('triage.reasons', 'no reason given')})")
    if run.info.status != "FINISHED":
        warn(f"{name}: it is {run.info.status}, not FINISHED")
    if tags.get("fer.in_sample") == "true":
        warn(f"{name}: its teachers were trained on some of these images, so its scores are too good")
    if tags.get("fer.calibration_in_sample") == "true":
        warn(f"{name}: it was calibrated on the rows that it is scored on, so its nll and ece are too good")


def _is_there(out: Path, digest: str, reorder: bool) -> bool:
    """Return whether a folder has this very bundle; refuse one that holds anything else.

    A copy whose descriptor is this bundle's and whose other files are damaged may be replaced, and so may the same
    bundle in another order, where it is to be reordered.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if bundles.open_if_sound(out, digest) is not None:
        return True
    if out.is_dir() and {path.name for path in out.iterdir()} <= set(files.FILES):
        try:
            if sha256_of_file(out / files.HASHES) == digest:
                warn(f"--out {out}: the copy there is damaged; it is fetched again")
                return False
            if reorder and SoftLabels.open(out).report["reordered"]["source_bundle_sha256"] == digest:
                return False
        except (OSError, KeyError, TypeError, BundleError):
            pass
    raise ContractError(f"--out {out} holds other things; name a new folder, or remove that one")


def _fetch(client, run, out: Path, is_there: bool, settings: FetchSettings) -> tuple[SoftLabels, str, dict[str, str]]:
    """Return the bundle, how it came there, and what was proved; nothing gets the name of `out` before."""
    again = "was there already, verified again"
    if is_there:
        bundle = SoftLabels.open(out)
        alignment, proofs = _prove(bundle, settings)
        if alignment is None or not len(alignment.moved):
            return bundle, again, proofs
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as temporary,
        bundles.downloaded_bundle(run, Path(temporary) / "original") as bundle,
    ):
        how = "fetched"
        alignment, proofs = _prove(bundle, settings)
        if alignment is not None and len(alignment.moved):
            how = "fetched and reordered"
            bundle = reordered(alignment).write(Path(temporary) / "reordered")
        if (there := bundles.open_if_sound(out, bundle.sha256)) is not None:
            return there, again, proofs
        return copy_bundle(bundle, out), how, proofs


def _prove(bundle: SoftLabels, settings: FetchSettings) -> tuple[Alignment | None, dict[str, str]]:
    """Compare a bundle with the local manifest and its images, where one is given; return what was proved, in words.

    Rows, labels, order or images that are not the same are refused.
    """
    if not settings.manifest:
        return None, {}
    benchmark = read_rows(settings, bundle.classes)
    alignment, manifest, rows = align(bundle, benchmark), benchmark.manifest_path, f"{len(benchmark):,} rows"
    moved = len(alignment.moved)
    if moved and not settings.reorder:
        raise ContractError(
            f"manifest {manifest}: the soft labels have its {rows} in another order ({moved:,} stand elsewhere; "
            f"{alignment.first_moved}); rewrite them to the manifest's with --reorder true"
        )
    order = f"; {moved:,} stood elsewhere and were moved to its order" if moved else " in the same order"
    proofs = {"manifest": f"{manifest}: the same {rows} with the same labels{order}"}
    if settings.check_images:
        alignment.check_images()
        proofs["images"] = f"under {benchmark.root}: the ones that the teachers decoded"
    if alignment.other_fields:
        warn(f"{alignment.other_fields:,} rows have another split or source in {manifest}")
    return alignment, proofs


@dataclass(frozen=True, kw_only=True, repr=False)
class VerifyResult(RunResult):
    """Every check of soft labels.

    Attributes
    ----------
    source : the run or folder that was verified
    name : the configuration and the benchmark; empty where the bundle cannot be opened, or its report is wrong
    rows : how many it has; 0 where it has no name
    checks : in the order in which they were made
    """

    source: str
    name: str
    rows: int
    checks: tuple[Check, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many checks have each verdict: pass, warn, skip, fail."""
        return Counter(check.verdict for check in self.checks)


@workflow(VerifySettings)
def verify(settings: VerifySettings, progress: Progress = no_progress) -> VerifyResult:
    """Make every check of a run's soft labels, or a folder's, and go on after one that fails.

    Like `fetch` it changes nothing in the store, and joins only a run that `mlflow run` has opened. Checks that fail
    are part of the result; only what keeps them from being made is raised.

    Raises FerError: there is no such run or folder, or the manifest or the teachers cannot be used.
    """
    source = settings.run_or_folder
    joined = runs.joined_run("verify", f"verify · {source}", settings.params)
    with joined as run, _opened(source) as (folder, verified):
        if run is not None and verified:
            run.show_below(verified.info.run_id)
        reading = files.read_parts(folder)
        checks = tuple(_all_checks(folder, verified, reading, settings))
        bundle = SoftLabels.open(folder) if _is_usable(reading, checks) else None
        result = VerifyResult(
            run_id=run.run_id if run else "",
            source=f"run {verified.info.run_id}" if verified else f"folder {folder.absolute()}",
            name=bundle.name if bundle else "",
            rows=len(bundle) if bundle else 0,
            checks=checks,
        )
        if run is not None:
            run.log_inputs(models.inputs_of(run, bundle) if bundle else [])
            failed = [check.name for check in checks if check.verdict == "fail"]
            tags = {"fer.source_run": verified.info.run_id} if verified else {}
            tags |= {"fer.verdict": f"fail: {', '.join(failed)}" if failed else "pass"}
            run.log(metrics={f"checks_{word}": result.counts[word] for word in ("pass", "warn", "skip", "fail")})
            verdict, links = f"{tags['fer.verdict']} · {len(checks)} checks", {"source": tags.get("fer.source_run", "")}
            run.describe(verdict, f"{result.name or result.source}, {result.rows:,} rows", links, **tags)
    return result


@contextmanager
def _opened(name: str) -> Iterator[tuple[Path, Any]]:
    """Give the folder of that name and None, or the run's files, downloaded as they are, and the run, for a block."""
    if Path(name).is_dir():
        yield Path(name), None
        return
    client, cache = store.connect(), cache_folder()
    run = bundles.read_run(client, name)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verified.", dir=cache) as temporary:
        if not bundles.download_files(run, Path(temporary)):
            bundles.bundle_digest(run)  # the message says where the run is of a kind that has no bundle
        yield Path(temporary), run


def _all_checks(folder: Path, run: Any, reading: files.Reading, settings: VerifySettings) -> Iterator[Check]:
    """Yield every check, those that need the whole bundle only where all its files are sound."""
    yield from reading.checks
    hashes, expected = folder / files.HASHES, run and run.data.tags.get("fer.bundle_sha256")
    digest = sha256_of_file(hashes) if hashes.is_file() else None
    yield verification.check_digest(digest, expected, run.info.run_id if run else "")
    contents = verification.check_contents(reading, run and run.data.metrics)
    yield from contents
    if not settings.manifest:
        return
    if not _is_usable(reading, contents):
        yield Check("manifest", "skip", "the bundle itself does not verify")
        return
    bundle = SoftLabels.open(folder)
    benchmark = read_rows(settings, bundle.classes)
    specs = read_teachers(settings.teachers, sorted(bundle.checkpoints)) if settings.teachers else {}
    try:
        alignment = align(bundle, benchmark)
    except FerError as error:
        yield Check("manifest", "fail", str(error))
        return
    if len(alignment.moved):
        yield Check("manifest", "fail", f"its rows stand in another order: {alignment.first_moved}")
    else:
        yield Check("manifest", "pass", f"the same {len(benchmark):,} rows with the same labels in the same order")
    if settings.recompute:
        rows, seed, device = settings.recompute, settings.seed, settings.device
        yield from verification.recompute(alignment, specs, rows=rows, seed=seed, device=device)


def _is_usable(reading: files.Reading, checks) -> bool:
    """Return whether a bundle opens, and its report can be relied on."""
    return reading.error is None and all(check.verdict == "pass" for check in checks if check.name == "report")


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
        tree = _read_node(client, functools.cache(sha256_of_file), bundles.read_run(client, settings.run).info.run_id)
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
    read = []
    for entry in run.inputs.dataset_inputs[:1] if run.inputs and kind in _READS_FILES else ():
        digest = json.loads(entry.dataset.source)["manifest_sha256"]
        read.append(file("manifest", sources.path_of(params, "manifest"), digest))
    if kind == "teacher":
        ((name, digest),) = bundles.read_checkpoints(run).items()
        ids += [each.info.run_id for each in store.search_trained(client, digest)[:1]]
        path = None
        with suppress(TeacherError):  # teachers.yaml does not name it any more, or its file is gone
            path = read_teachers(sources.path_of(params, "teachers") or "", [name])[name].checkpoint
        read.append(file("checkpoint", path, digest))
    title = run.info.run_name or ""
    parts = [title if title.startswith(kind) else f"{kind} {title}", f"run {run_id[:8]}"]
    parts += [f"macro_f1 {metrics['macro_f1']:.3f}"] if "macro_f1" in metrics else []
    made = {what: tags.get(f"fer.{what}_sha256", "")[:8] for what in ("bundle", "checkpoint")}
    parts += [f"{what} {digest}" for what, digest in made.items() if digest]
    made_from = [_read_node(client, sha256, each, run_id, *below) for each in ids]
    return Node("  ".join(parts), _COMMANDS.get(kind, kind), sources=(*made_from, *read))
