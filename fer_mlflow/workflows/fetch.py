"""`fetch`: the chosen soft labels on this disk, verified, and proved to be aligned to the local manifest."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_mlflow.errors import BundleError, ContractError, JobError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.scoring import FetchSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.files import FILES, HASHES
from fer_mlflow.softlabels.rows import Alignment, align, reordered
from fer_mlflow.tracking.bundles import bundle_digest, downloaded_bundle, open_if_sound
from fer_mlflow.tracking.runs import joined_run
from fer_mlflow.tracking.selection import choose_run, find_best
from fer_mlflow.tracking.store import connect
from fer_mlflow.workflows import SoftLabelsResult, workflow
from fer_mlflow.workflows.ensemble import copy_bundle, read_rows, warn


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

    Raises
    ------
    FerError
        no such run, its bundle does not verify, the folder holds other things, or the manifest has other rows or images
    JobError
        the disk has no room
    TrackingError
        the server cannot be reached
    """
    with joined_run("fetch", f"fetch · {settings.run or settings.best}") as run:
        if run is not None:
            run.log_params(params_of(settings))
        client, even_bad = connect(), settings.even_bad
        if settings.run:
            chosen = choose_run(client, settings.run, even_bad=even_bad)
        else:
            metric, benchmark = settings.best or "", settings.benchmark or ""
            chosen = find_best(client, metric, benchmark, where=settings.where or "", even_bad=even_bad)
        run_id, digest = chosen.run.info.run_id, bundle_digest(chosen.run)
        _warn_of(run_id, chosen.run.info.status, chosen.run.data.tags)
        out = Path(settings.out or f"softlabels-{run_id[:8]}").absolute()
        is_there = _is_there(out, digest, settings.reorder)
        try:
            bundle, how, proofs = _fetch(client, chosen.run, out, is_there, settings)
        except OSError as error:
            raise JobError(f"--out {out}: {error.strerror or error}; nothing was put there") from error
        if run is not None:
            run.set_tags(
                {
                    "fer.benchmark": bundle.benchmark,
                    "fer.selection_sha256": bundle.selection_sha256,
                    "fer.source_run": run_id,
                    "fer.source_bundle_sha256": digest,
                }
            )
    return FetchResult(
        run_id=run.run_id if run else "",
        soft_labels=bundle,
        source_run=run_id,
        source_sha256=digest,
        chosen=chosen.how,
        how=how,
        proofs=proofs,
    )


def _warn_of(run_id: str, status: str, tags: Mapping[str, str]) -> None:
    """Warn of what a user should know of a run before training on its soft labels."""
    if tags.get("triage.status") == "bad":
        warn(f"run {run_id}: triage called it bad ({tags.get('triage.reasons', 'no reason given')})")
    if status != "FINISHED":
        warn(f"run {run_id}: it is {status}, not FINISHED")
    if tags.get("fer.in_sample") == "true":
        warn(f"run {run_id}: its teachers were trained on some of these images, so its scores are too good")
    if tags.get("fer.calibration_in_sample") == "true":
        warn(f"run {run_id}: it was calibrated on the rows that it is scored on, so its nll and ece are too good")


def _is_there(out: Path, digest: str, reorder: bool) -> bool:
    """Return whether a folder has this very bundle; refuse one that holds anything else.

    A copy whose descriptor is this bundle's and whose other files are damaged may be replaced, and so may the same
    bundle in another order, where it is to be reordered.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if open_if_sound(out, digest) is not None:
        return True
    if out.is_dir() and {path.name for path in out.iterdir()} <= set(FILES):
        try:
            if sha256_of_file(out / HASHES) == digest:
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
        downloaded_bundle(client, run, Path(temporary) / "original") as bundle,
    ):
        how = "fetched"
        alignment, proofs = _prove(bundle, settings)
        if alignment is not None and len(alignment.moved):
            how = "fetched and reordered"
            bundle = reordered(alignment).write(Path(temporary) / "reordered")
        if (there := open_if_sound(out, bundle.sha256)) is not None:
            return there, again, proofs
        return copy_bundle(bundle, out), how, proofs


def _prove(bundle: SoftLabels, settings: FetchSettings) -> tuple[Alignment | None, dict[str, str]]:
    """Compare a bundle with the local manifest and its images, where one is given; return what was proved, in words.

    Raises
    ------
    FerError
        rows, labels, order or images are not the same: the first such rows and their count
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
