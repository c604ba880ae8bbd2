"""Selection of a run with soft labels: by its id, as `runs:/…`, or as the best by a metric on a benchmark."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient, MlflowException, get_tracking_uri
from mlflow.entities import Run

from fer_mlflow.errors import ContractError, RunError, TrackingError, listed
from fer_mlflow.scoring.metrics import is_lower_better
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.tracking.bundles import cached_bundle, read_run
from fer_mlflow.tracking.store import BAD, REASONS, STATUS, TEACHING_KINDS, connect, redact, search_finished

_DIGEST = re.compile(r"[0-9a-f]{4,64}")
_PLAIN = re.compile(r"[^'\"\\`]*")  # what can stand in a filter between quotes


def fetch_soft_labels(source: str, *, where: str = "", even_bad: bool = False) -> SoftLabels:
    """Return the soft labels of a run in the tracking store that MLFLOW_TRACKING_URI names.

    They are kept in the cache folder by their digest and verified, as `SoftLabels.open` does it and against the digest
    that the run is tagged with, every time; what does not verify is downloaded again.

    Parameters
    ----------
    source : a run id or its first digits; `runs:/RUN_ID/softlabels`; or `best:METRIC@BENCHMARK`, such as
        `best:macro_f1@rafdb_test`, where the benchmark may be the first digits of its digest
    where : with `best:`, an MLflow filter such as `params.space = "logit"`
    even_bad : take a run that triage called bad, too

    Raises
    ------
    RunError, ContractError
        the text means no run, or several; the message names those there are
    BundleError
        the run's bundle does not verify
    TrackingError
        the server cannot be reached
    """
    client = connect()
    return cached_bundle(client, choose_run(client, source, where=where, even_bad=even_bad).run)


@dataclass(frozen=True)
class Chosen:
    """A run, and how it was chosen, for people; empty where the run was named by its id."""

    run: Run
    how: str = ""


def choose_run(client: MlflowClient, source: str, *, where: str = "", even_bad: bool = False) -> Chosen:
    """Return the run that a text means; see `fetch_soft_labels`."""
    if source.startswith("best:"):
        metric, at, benchmark = source.removeprefix("best:").partition("@")
        if not metric or not at or not benchmark:
            raise ContractError(f"{source!r}: write best:METRIC@BENCHMARK, for example best:macro_f1@rafdb_test")
        return find_best(client, metric, benchmark, where=where, even_bad=even_bad)
    if where:
        raise ContractError(f"{where!r} chooses among runs, and {source} is one; leave it out")
    run_id = source
    if source.startswith("runs:/"):
        run_id, _, folder = source.removeprefix("runs:/").strip("/").partition("/")
        if folder not in ("", FOLDER):
            raise ContractError(f"{source!r}: soft labels are under runs:/{run_id}/{FOLDER}")
    run = read_run(client, run_id)
    if is_bad(run) and not even_bad:
        reasons = " ".join(run.data.tags.get(REASONS, "").split())
        because = f" ({reasons})" if reasons else ""
        raise RunError(
            f"run {run.info.run_id}: triage called it bad{because}; take it all the same with --even-bad true"
        )
    return Chosen(run)


def is_bad(run: Run) -> bool:
    """Return whether triage, or a person, called a run bad."""
    return run.data.tags.get(STATUS) == BAD


def find_best(client: MlflowClient, metric: str, benchmark: str, *, where: str = "", even_bad: bool = False) -> Chosen:
    """Return the finished export or teacher run with the best value of a metric on one benchmark.

    Of runs with the same configuration the newest counts. Runs with the same value are taken in the order of ensemble,
    space, age (newest first) and id, so the choice does not depend on the order in which a server lists them. The
    benchmark is its name, or the first 4 or more digits of its selection digest. `where` is a further MLflow filter,
    which can only take runs away.
    """
    runs = runs_on(client, benchmark)
    fit = [run for run in runs if even_bad or not is_bad(run)]
    n_bad = len(runs) - len(fit)
    if not fit:
        raise RunError(
            f"benchmark {benchmark}: triage called all {n_bad} of its runs bad; take one all the same with "
            "--even-bad true"
        )
    if len({run.data.tags["fer.selection_sha256"] for run in fit}) > 1:
        raise RunError(
            f"benchmark {benchmark} means different rows: {describe_selections(fit)}; name one by its digest"
        )
    if where:
        kept = {run.info.run_id for run in _search_where(client, where)}
        fit, before = [run for run in fit if run.info.run_id in kept], len(fit)
        if not fit:
            raise RunError(f"benchmark {benchmark}: none of its {before} runs fulfils {where}")
    fit = list(newest_of_each(fit))
    measured = [run for run in fit if math.isfinite(run.data.metrics.get(metric, math.nan))]
    if not measured:
        there = sorted({name for run in fit for name in run.data.metrics})
        raise RunError(
            f"metric {metric}: none of the {len(fit)} runs on {benchmark} has it; they have {', '.join(there)}"
        )
    best = min(measured, key=lambda run: _rank(run, metric))
    name = best.data.tags["fer.benchmark"]
    notes = "; ".join(filter(None, [f"where {where}" if where else "", f"{n_bad} bad left out" if n_bad else ""]))
    among = f"best of {len(measured)} on {name}" + (f" ({notes})" if notes else "")
    return Chosen(best, f"{metric} {best.data.metrics[metric]:.4f}, {among}")


def _rank(run: Run, metric: str) -> tuple:
    """Return what runs are sorted by, the best first."""
    value, params = run.data.metrics[metric], run.data.params
    better = value if is_lower_better(metric) else -value
    return better, params.get("ensemble", ""), params.get("ensemble/space", ""), -run.info.start_time, run.info.run_id


def newest_of_each(runs: Iterable[Run]) -> Iterable[Run]:
    """Yield the newest run of each configuration."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (-run.info.start_time, run.info.run_id)):
        newest.setdefault(run.data.tags.get("fer.config_key", run.info.run_id), run)
    return newest.values()


def runs_on(client: MlflowClient, benchmark: str) -> list[Run]:
    """Return the finished runs with soft labels on a benchmark, the bad ones too."""
    if _PLAIN.fullmatch(benchmark):
        found = search_soft_labels(client, f"tags.`fer.benchmark` = '{benchmark}'")
        if not found and _DIGEST.fullmatch(benchmark):
            found = search_soft_labels(client, f"tags.`fer.selection_sha256` LIKE '{benchmark}%'")
    else:  # MLflow's filters know no way to write such a name
        found = [run for run in search_soft_labels(client) if run.data.tags.get("fer.benchmark") == benchmark]
    if found:
        return found
    everything, uri = search_soft_labels(client), redact(get_tracking_uri())
    if not everything:
        raise RunError(f"{uri} has no finished runs with soft labels; export some, or look at MLFLOW_TRACKING_URI")
    counts = Counter(run.data.tags.get("fer.benchmark", "(no name)") for run in everything)
    names = [f"{name} ({_count(count)})" for name, count in counts.most_common()]
    raise RunError(f"benchmark {benchmark}: {uri} has no run on it; there are {listed(names)}")


def describe_selections(runs: Iterable[Run]) -> str:
    """Return the digests that one name means, each with its rows and runs."""
    of_runs = ((run.data.tags, run.data.params.get("rows", "?")) for run in runs)
    counts = Counter((tags["fer.selection_sha256"], tags["fer.benchmark"], rows) for tags, rows in of_runs)
    words = (f"{each[:12]} ({name}, {rows} rows, {_count(n)})" for (each, name, rows), n in sorted(counts.items()))
    return ", ".join(words)


def _count(runs: int) -> str:
    return f"{runs:,} run{'s' * (runs > 1)}"


def _search_where(client: MlflowClient, where: str) -> list[Run]:
    """Return the runs that a user's filter leaves; where MLflow cannot read it, that is the user's error."""
    try:
        return search_soft_labels(client, where)
    except TrackingError as error:
        cause = error.__cause__
        if isinstance(cause, MlflowException) and cause.error_code == "INVALID_PARAMETER_VALUE":
            reason = redact(" ".join(cause.message.split()))[:300]
            raise ContractError(f"filter {where}: MLflow cannot read it ({reason})") from error
        raise


def search_soft_labels(client: MlflowClient, condition: str = "") -> list[Run]:
    """Return the finished runs of every experiment that have a bundle and fulfil a condition."""
    conditions = [condition] if condition else []
    kinds = (search_finished(client, kind, *conditions) for kind in TEACHING_KINDS)  # MLflow's filters have no OR
    needed = {"fer.bundle_sha256", "fer.selection_sha256"}
    return [run for runs in kinds for run in runs if needed <= run.data.tags.keys()]
