"""`verify`: every check of a bundle with its verdict, and, on request, logits that are computed again."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_mlflow.errors import FerError
from fer_mlflow.files import cache_folder, sha256_of_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.sanity import Check
from fer_mlflow.settings import params_of
from fer_mlflow.settings.scoring import VerifySettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.files import HASHES, Reading, read_parts
from fer_mlflow.softlabels.rows import align
from fer_mlflow.softlabels.verification import check_contents, check_digest, recompute
from fer_mlflow.teachers.spec import read_teachers
from fer_mlflow.tracking.bundles import bundle_digest, download_files, read_run
from fer_mlflow.tracking.runs import joined_run
from fer_mlflow.tracking.store import connect
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.ensemble import read_rows


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

    Raises
    ------
    FerError
        there is no such run or folder, or the manifest or the teachers cannot be used
    TrackingError
        the server cannot be reached
    """
    source = settings.run_or_folder
    with joined_run("verify", f"verify · {source}") as run, _opened(source) as (folder, verified):
        if run is not None:
            run.log_params(params_of(settings))
        reading = read_parts(folder)
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
            failed = [check.name for check in checks if check.verdict == "fail"]
            tags = {"fer.source_run": verified.info.run_id} if verified else {}
            run.set_tags(tags | {"fer.verdict": f"fail: {', '.join(failed)}" if failed else "pass"})
            counts = result.counts
            run.log_metrics({f"checks/{word}": float(counts[word]) for word in ("pass", "warn", "skip", "fail")})
    return result


@contextmanager
def _opened(name: str) -> Iterator[tuple[Path, Any]]:
    """Give the folder of that name and None, or the run's files, downloaded as they are, and the run, for a block."""
    if Path(name).is_dir():
        yield Path(name), None
        return
    client, cache = connect(), cache_folder()
    run = read_run(client, name)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verified.", dir=cache) as temporary:
        if not download_files(client, run, Path(temporary)):
            bundle_digest(run)  # the message says where the run is of a kind that has no bundle
        yield Path(temporary), run


def _all_checks(folder: Path, run: Any, reading: Reading, settings: VerifySettings) -> Iterator[Check]:
    """Yield every check, those that need the whole bundle only where all its files are sound."""
    yield from reading.checks
    digest = sha256_of_file(folder / HASHES) if (folder / HASHES).is_file() else None
    yield check_digest(digest, run and run.data.tags.get("fer.bundle_sha256"), run.info.run_id if run else "")
    contents = check_contents(reading, run and run.data.metrics)
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
        yield from recompute(alignment, specs, rows=rows, seed=seed, device=device)


def _is_usable(reading: Reading, checks) -> bool:
    """Return whether a bundle opens, and its report can be relied on."""
    return reading.error is None and all(check.verdict == "pass" for check in checks if check.name == "report")
