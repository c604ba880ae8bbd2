"""Which soft labels a student learns from: a run's, a folder's, or the best configuration's on another benchmark."""

from collections.abc import Iterable
from pathlib import Path

import click

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import RunError
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.tracking.selection import Chosen, choose_run, is_bad, search_soft_labels
from fer_mlflow.tracking.store import connect
from fer_mlflow.workflows.ensemble import warn
from fer_mlflow.workflows.sources import Source, read_run_source

_SAME = ("weights", "space")  # of an ensemble: its dtype does not make it another one


def choose_soft_labels(name: str, train: Benchmark, *, even_bad: bool) -> Source:
    """Return the soft labels that `--softlabels` names, verified; their rows are not looked at yet.

    `best:METRIC@BENCHMARK` takes the configuration that is best on a benchmark. Where that benchmark is not of the
    training rows (it should be one that no teacher was trained on), the soft labels are those of the same teachers,
    weights, space, preprocessing and calibration on the training rows.

    Raises
    ------
    RunError
        no such run, a bad one, or the best configuration was not exported for the training rows
    FerError
        the bundle does not verify, or the text means nothing
    """
    if Path(name).is_dir():
        return Source(SoftLabels.open(name))
    client = connect()
    chosen = choose_run(client, name, even_bad=even_bad)
    if is_bad(chosen.run):
        warn(f"run {chosen.run.info.run_id}: triage called it bad ({chosen.run.data.tags.get('triage.reasons', '')})")
    source = read_run_source(chosen.run.info.run_id)
    if not chosen.how or _has_rows(source.bundle, train):
        return _said(source, chosen)
    for run_id in _exported(client, train, chosen):
        other = read_run_source(run_id)
        if _is_same(source.bundle, other.bundle):
            return _said(other, chosen)
    weights = chosen.run.data.params.get("ensemble", "")
    raise RunError(
        f"--softlabels {name}: {source.name} is the best, and no run has its soft labels of {train.name}; export them "
        f"with --weights {weights} --space {source.bundle.report['ensemble']['space']} on that split"
    )


def _said(source: Source, chosen: Chosen) -> Source:
    """Say which soft labels a search came to, on stderr."""
    if chosen.how:
        click.echo(f"soft labels of run {source.run_id}: {source.name} ({chosen.how})", err=True)
    return source


def _has_rows(bundle: SoftLabels, train: Benchmark) -> bool:
    return bool(train.paths.isin(set(bundle.index["path"])).any())


def _exported(client, train: Benchmark, chosen: Chosen) -> Iterable[str]:
    """Yield the finished runs on the training rows with the chosen one's ensemble, exports first, then the newest."""
    ensemble = chosen.run.data.params.get("ensemble")
    for run in search_soft_labels(client, f"tags.`fer.selection_sha256` = '{train.selection_sha256}'"):
        if not is_bad(run) and run.data.params.get("ensemble") == ensemble:
            yield run.info.run_id


def _is_same(a: SoftLabels, b: SoftLabels) -> bool:
    """Return whether two bundles are of one configuration, each on its own rows."""
    return (
        a.checkpoints == b.checkpoints
        and all(a.report["ensemble"][each] == b.report["ensemble"][each] for each in _SAME)
        and a.report["preprocessing"] == b.report["preprocessing"]
        and a.report.get("calibration") == b.report.get("calibration")
    )
