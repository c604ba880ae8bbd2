"""What `fetch` does, apart from its options, so that `--help` imports nothing heavy."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.local_rows import check_manifest_options, read_local_rows
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError, JobError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.reading import FILES, HASHES
from fer_mlflow.softlabels.rows import Alignment, align, describe_rows, find_other_images, reordered
from fer_mlflow.tracking.downloads import bundle_digest, downloaded_bundle, open_if_sound
from fer_mlflow.tracking.runs import joined_run
from fer_mlflow.tracking.selection import Chosen, choose_run, find_best
from fer_mlflow.tracking.store import connect
from fer_mlflow.workflows.ensemble import copy_bundle, warn


@dataclass(frozen=True)
class Rows:
    """The local manifest's rows, and where they stand in the soft labels."""

    benchmark: Benchmark
    alignment: Alignment


@dataclass(frozen=True)
class Fetched:
    """A verified bundle on this disk, and sentences on how it came there and what was proved of it."""

    bundle: SoftLabels
    how: str
    proofs: dict[str, str]


def fetch(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them.

    Nothing in the store changes by it, so it opens no run of its own; the run that `mlflow run` opened is joined.
    """
    _check_options(options)
    with joined_run("fetch", f"fetch · {options['run'] or options['best']}") as run:
        if run is not None:
            run.log_params(typed)
        client = connect()
        chosen = _choose(client, options)
        _warn_of(chosen)
        out = Path(options["out"] or f"softlabels-{chosen.run.info.run_id[:8]}").absolute()
        digest = bundle_digest(chosen.run)
        is_there = _look_at(out, digest, options["reorder"])
        try:
            fetched = _fetch(client, chosen, out, is_there, options)
        except OSError as error:
            raise JobError(f"--out {out}: {error.strerror or error}; nothing was put there") from error
        if run is not None:
            run.set_tags(
                {
                    "fer.benchmark": fetched.bundle.benchmark,
                    "fer.selection_sha256": fetched.bundle.selection_sha256,
                    "fer.source_run": chosen.run.info.run_id,
                    "fer.source_bundle_sha256": digest,
                }
            )
    _print_result(chosen, fetched, out)


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other, or say nothing."""
    if bool(options["run"]) == bool(options["best"]):
        raise ContractError("name one run: --run RUN_ID, or --best METRIC --benchmark NAME")
    if options["best"] and not options["benchmark"]:
        raise ContractError(f"--best {options['best']} needs --benchmark: only runs on the same rows can be ranked")
    for name in ("benchmark", "where"):
        if options["run"] and options[name]:
            raise ContractError(f"--{name} goes with --best; --run names one run already")
    check_manifest_options(options, "reorder", "check_images")


def _choose(client, options: Mapping[str, Any]) -> Chosen:
    if options["run"]:
        return choose_run(client, options["run"], even_bad=options["even_bad"])
    where = options["where"] or ""
    return find_best(client, options["best"], options["benchmark"], where=where, even_bad=options["even_bad"])


def _warn_of(chosen: Chosen) -> None:
    """Say what a user should know of a run before training on its soft labels."""
    tags = chosen.run.data.tags
    run = f"run {chosen.run.info.run_id}"
    if tags.get("triage.status") == "bad":
        warn(f"{run}: triage called it bad ({tags.get('triage.reasons', 'no reason given')})")
    if chosen.run.info.status != "FINISHED":
        warn(f"{run}: it is {chosen.run.info.status}, not FINISHED")
    if tags.get("fer.in_sample") == "true":
        warn(f"{run}: its teachers were trained on some of these images, so its scores are too good")
    if tags.get("fer.calibration_in_sample") == "true":
        warn(f"{run}: it was calibrated on the rows that it is scored on, so its nll and ece are too good")


def _look_at(out: Path, digest: str, reorder: bool) -> bool:
    """Return whether a folder has this very bundle; refuse one that holds anything else.

    A copy whose descriptor is this bundle's and whose other files are damaged may be replaced, and so may the same
    bundle in another order, where reordering is asked for.
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


def _fetch(client, chosen: Chosen, out: Path, is_there: bool, options: Mapping[str, Any]) -> Fetched:
    """Return the bundle, verified and proved; nothing gets the name of `out` before."""
    if is_there:
        bundle = SoftLabels.open(out)
        rows = _prove(bundle, options)
        if rows is None or not rows.alignment.moved:
            return Fetched(bundle, "was there already, verified again", _describe_proofs(rows, options))
    elif not options["reorder"]:
        with downloaded_bundle(client, chosen.run, out) as bundle:
            rows = _prove(bundle, options)
        return Fetched(replace(bundle, folder=out), "fetched", _describe_proofs(rows, options))
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as temporary,
        downloaded_bundle(client, chosen.run, Path(temporary) / "original") as bundle,
    ):
        rows = _prove(bundle, options)
        if rows is None or not rows.alignment.moved:
            return Fetched(copy_bundle(bundle, out), "fetched", _describe_proofs(rows, options))
        moved = reordered(bundle, rows.benchmark, rows.alignment).write(Path(temporary) / "reordered")
        proofs = _describe_proofs(rows, options)
        if (there := open_if_sound(out, moved.sha256)) is not None:
            return Fetched(there, "was there already, verified again", proofs)
        return Fetched(copy_bundle(moved, out), "fetched and reordered", proofs)


def _prove(bundle: SoftLabels, options: Mapping[str, Any]) -> Rows | None:
    """Hold a bundle against the local manifest and its images, where one is given.

    Raises
    ------
    ContractError
        rows, labels, order or images are not the same: the first such rows and their count
    """
    if not options["manifest"]:
        return None
    benchmark = read_local_rows(options, bundle)
    alignment = align(bundle, benchmark)
    if alignment.moved and not options["reorder"]:
        raise ContractError(
            f"manifest {benchmark.manifest_path}: the soft labels have its {len(benchmark):,} rows in another order "
            f"({alignment.moved:,} stand elsewhere; {alignment.first_moved}); rewrite them to the manifest's with "
            "--reorder true"
        )
    if options["check_images"] and (other := find_other_images(bundle, benchmark.root, range(len(bundle)))):
        raise ContractError(
            f"{benchmark.root}: {len(other):,} of {len(bundle):,} images are not the ones that teachers decoded: "
            f"{describe_rows(bundle, other)}; get the images that the soft labels were made of, or export again"
        )
    if alignment.other_fields:
        warn(f"{alignment.other_fields:,} rows have another split or source in {benchmark.manifest_path}")
    return Rows(benchmark, alignment)


def _describe_proofs(rows: Rows | None, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what was proved, for people."""
    if rows is None:
        return {}
    moved, N = rows.alignment.moved, len(rows.benchmark)
    order = f"; {moved:,} stood elsewhere and were moved to its order" if moved else " in the same order"
    proofs = {"manifest": f"{rows.benchmark.manifest_path}: the same {N:,} rows with the same labels{order}"}
    if options["check_images"]:
        proofs["images"] = f"under {rows.benchmark.root}: the ones that teachers decoded"
    return proofs


def _print_result(chosen: Chosen, fetched: Fetched, out: Path) -> None:
    """Print what was fetched, what was proved of it, and, in the last line, the folder alone."""
    bundle = fetched.bundle
    click.echo(f"{bundle.name}, {len(bundle):,} rows\n")
    if chosen.how:
        click.echo(f"  chosen    {chosen.how}")
    click.echo(f"  run       {chosen.run.info.run_id}")
    what = "every file has its hash"
    if "reordered" in bundle.report and bundle.sha256 != bundle_digest(chosen.run):
        what += f"; rewritten from the run's {bundle_digest(chosen.run)[:12]}…"
    else:
        what += ", and the run is tagged with it"
    click.echo(f"  bundle    {bundle.sha256[:12]}…: {what}")
    for name, text in fetched.proofs.items():
        click.echo(f"  {name:<8}  {text}")
    click.echo(f"  folder    {fetched.how}\n")
    click.echo(str(out))
