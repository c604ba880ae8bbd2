"""What `verify` does, apart from its options, so that `--help` imports nothing heavy."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.local_rows import check_manifest_options, read_local_rows
from fer_mlflow.errors import ContractError
from fer_mlflow.files import cache_folder, sha256_of_file
from fer_mlflow.scoring.sanity import Check
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.reading import HASHES, Reading, read_parts
from fer_mlflow.softlabels.rows import align
from fer_mlflow.softlabels.verification import check_contents, check_digest, recompute
from fer_mlflow.teachers.spec import read_teachers

FAILED = 1  # exit status


@dataclass(frozen=True)
class Subject:
    """What is verified: a folder with the files of a bundle, and what its run, if it has one, says of it."""

    folder: Path
    name: str
    run_id: str = ""
    digest: str | None = None
    metrics: Mapping[str, float] | None = None


def verify(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them.

    Like `fetch` it changes nothing in the store, and joins only a run that `mlflow run` has opened.
    """
    from fer_mlflow.tracking.runs import joined_run

    _check_options(options)
    with (
        joined_run("verify", f"verify · {options['run_or_folder']}") as run,
        _opened(options["run_or_folder"]) as subject,
    ):
        if run is not None:
            run.log_params(typed)
        reading = read_parts(subject.folder)
        checks = list(_all_checks(subject, reading, options))
        counts = Counter(check.verdict for check in checks)
        configuration = ""
        if _is_usable(reading, checks):
            bundle = SoftLabels.open(subject.folder)
            configuration = f"{bundle.name}, {len(bundle):,} rows"
        if run is not None:
            failed = [check.name for check in checks if check.verdict == "fail"]
            source = {"fer.source_run": subject.run_id} if subject.run_id else {}
            run.set_tags({"fer.verdict": f"fail: {', '.join(failed)}" if failed else "pass", **source})
            run.log_metrics({f"checks/{word}": float(counts[word]) for word in ("pass", "warn", "skip", "fail")})
    _print_checks(subject, configuration, checks, counts)
    if counts["fail"]:
        click.get_current_context().exit(FAILED)


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that lack their other half."""
    check_manifest_options(options)
    if options["recompute"]:
        missing = [f"--{name}" for name in ("manifest", "teachers") if not options[name]]
        if missing:
            raise ContractError(f"--recompute needs {' and '.join(missing)} too")
    elif options["teachers"]:
        raise ContractError("--teachers goes with --recompute N, the number of rows to ask them about again")


@contextmanager
def _opened(name: str) -> Iterator[Subject]:
    """Give the folder of that name, or the files of the run, downloaded as they are, for a block."""
    if Path(name).is_dir():
        yield Subject(Path(name), f"folder {Path(name).absolute()}")
        return
    from fer_mlflow.tracking.bundles import read_run
    from fer_mlflow.tracking.downloads import bundle_digest, download_files
    from fer_mlflow.tracking.store import connect

    client, cache = connect(), cache_folder()
    run = read_run(client, name)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verified.", dir=cache) as temporary:
        if not download_files(client, run, Path(temporary)):
            bundle_digest(run)  # says so where the run is of a kind that has no bundle
        run_id, digest = run.info.run_id, run.data.tags.get("fer.bundle_sha256")
        yield Subject(Path(temporary), f"run {run_id}", run_id, digest, run.data.metrics)


def _all_checks(subject: Subject, reading: Reading, options: Mapping[str, Any]) -> Iterator[Check]:
    """Yield every check, the ones that need the whole bundle only where all its files are sound."""
    yield from reading.checks
    descriptor = subject.folder / HASHES
    yield check_digest(sha256_of_file(descriptor) if descriptor.is_file() else None, subject.digest, subject.run_id)
    contents = check_contents(reading, subject.metrics)
    yield from contents
    if not options["manifest"]:
        return
    if not _is_usable(reading, contents):
        yield Check("manifest", "skip", "the bundle itself does not verify")
        return
    bundle = SoftLabels.open(subject.folder)
    benchmark = read_local_rows(options, bundle)
    specs = read_teachers(options["teachers"], sorted(bundle.checkpoints)) if options["recompute"] else {}
    try:
        alignment = align(bundle, benchmark)
    except ContractError as error:
        yield Check("manifest", "fail", str(error))
        return
    if alignment.moved:
        yield Check("manifest", "fail", f"its rows stand in another order: {alignment.first_moved}")
    else:
        yield Check("manifest", "pass", f"the same {len(benchmark):,} rows with the same labels in the same order")
    if specs:
        yield from recompute(
            bundle,
            benchmark,
            alignment.positions,
            specs,
            rows=options["recompute"],
            seed=options["seed"],
            device=options["device"],
        )


def _is_usable(reading: Reading, checks: list[Check]) -> bool:
    """Return whether a bundle opens, and its report can be relied on."""
    return reading.error is None and all(check.verdict == "pass" for check in checks if check.name == "report")


def _print_checks(subject: Subject, configuration: str, checks: list[Check], counts: Counter) -> None:
    """Print every check with its verdict, and what they come to."""
    click.echo(f"{subject.name}\n{configuration}".rstrip() + "\n")
    width = max(len(check.name) for check in checks)
    for check in checks:
        word = "FAIL" if check.verdict == "fail" else check.verdict
        click.echo(f"  {word}  {check.name:<{width}}  {' '.join(check.detail.split())}")
    others = ", ".join(f"{counts[word]} {word}" for word in ("warn", "skip") if counts[word])
    verdict = f"does not verify: {counts['fail']} of {len(checks)} checks fail" if counts["fail"] else "verifies"
    click.echo(f"\n{verdict} ({counts['pass']} pass{', ' + others if others else ''})")
