"""What is read of runs: records, the evidence in their bundles, and the choice of a run with soft labels."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlflow import MlflowClient, MlflowException, get_tracking_uri
from mlflow.entities import Run

from fer_mlflow.errors import BundleError, ContractError, RunError, TrackingError, listed
from fer_mlflow.files import written_file
from fer_mlflow.scoring import metrics, significance
from fer_mlflow.softlabels import configuration, files
from fer_mlflow.softlabels.bundle import FOLDER, SoftLabels
from fer_mlflow.tracking import bundles, store

ENTRY = "mlflow.project.entryPoint"
_SOURCE = "mlflow.source.name"
_PARAMS = ("ensemble", *configuration.OPTIONS, "benchmark", "rows", "calibration", "temperature")
SIGNIFICANT = 0.05
_DIGEST = re.compile(r"[0-9a-f]{4,64}")
_PLAIN = re.compile(r"[^'\"\\`]*")  # what can stand in a filter between quotes
_NO_ROWS = np.empty(0, np.int16)
_ARRAYS = ("labels", "predictions", "losses")


@dataclass(frozen=True)
class RunRecord:
    """One run: its `fer.` and `triage.` tags, entry point, description, metrics, and params of its soft labels."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_ms: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def kind(self) -> str:
        """The tag `fer.kind`; empty where `mlflow run` opened the run and the command never took it over."""
        return self.tags.get("fer.kind", "")

    @property
    def selection(self) -> str:
        """The benchmark's selection digest, empty where the run has none."""
        return self.tags.get("fer.selection_sha256", "")

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.tags.get("fer.benchmark", "")

    @property
    def is_bundled(self) -> bool:
        """Whether the run must have a bundle: it is of such a kind, and has finished."""
        return self.kind in store.BUNDLED_KINDS and self.status == "FINISHED"

    def of_ensemble(self, name: str) -> str:
        """Return a setting of the bundle, such as `space`: `ensemble/space` where the run's own is another."""
        return self.params.get(f"ensemble/{name}", self.params.get(name, ""))


def record_of(run: Run) -> RunRecord:
    """Return the record of an MLflow run."""
    data, info = run.data, run.info
    return RunRecord(
        info.run_id,
        info.experiment_id,
        data.tags.get("mlflow.runName", info.run_id),
        info.status,
        info.start_time or 0,
        {key: text for key, text in data.params.items() if key in _PARAMS or key.startswith(("ensemble/", "w/"))},
        dict(data.metrics),
        {key: text for key, text in data.tags.items() if key.startswith(("fer.", "triage.", ENTRY, store.NOTE))},
    )


def read_records(client: MlflowClient) -> list[RunRecord]:
    """Return the records of all active runs of this package, oldest first.

    Runs without a kind that `mlflow run` left RUNNING are among them, where their source is that of other runs of this
    package, or the folder that the package lies in: another project's run is none of ours.
    """
    runs = store.search_runs(client, "tags.`fer.kind` LIKE '%'")
    sources = {run.data.tags[_SOURCE] for run in runs if ENTRY in run.data.tags and _SOURCE in run.data.tags}
    folder = str(Path(__file__).parents[2])
    sources |= {folder, f"file://{folder}"}
    opened = store.search_runs(client, f"attributes.status = 'RUNNING' AND tags.`{ENTRY}` LIKE '%'")
    runs += [run for run in opened if "fer.kind" not in run.data.tags and run.data.tags.get(_SOURCE) in sources]
    return sorted(map(record_of, runs), key=lambda record: (record.start_ms, record.run_id))


@dataclass(frozen=True)
class Judgement:
    """A run's status and its reasons; rules do not change it where a person set it."""

    status: str
    reasons: tuple[str, ...] = ()
    by_person: bool = False


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a run's bundle contains."""

    problem: str = ""  # why the bundle cannot be trusted; empty where it can
    is_missing: bool = False  # whether files are absent, rather than wrong
    classes: tuple[str, ...] = ()
    rows: int = 0  # of the bundle
    selected_rows: int = 0  # of the benchmark that it was made for
    selection: str = ""  # the bundle's own selection digest
    metrics: Mapping[str, float] = field(default_factory=dict)  # recomputed from the logits
    labels: np.ndarray = field(default_factory=lambda: _NO_ROWS)  # (N,) int16 class columns of the labelled rows
    predictions: np.ndarray = field(default_factory=lambda: _NO_ROWS)  # (N,) int16 class columns
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # (N,) -log p of the label, nats


class EvidenceStore:
    """Reads the evidence on runs; that of sound bundles is kept in the cache folder, by run and bundle digest."""

    def __init__(self, client: MlflowClient, cache: Path):
        self.client, self.cache = client, cache

    def load(self, run: RunRecord) -> Evidence | None:
        """Return what the cache folder has on a run's bundle; None where it has nothing, or nothing whole."""
        try:
            with self._path(run).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["meta"]))
                meta["classes"] = tuple(meta["classes"])
                return Evidence(**meta, **{name: arrays[name] for name in _ARRAYS})
        except Exception:  # a cache that cannot be read is treated as absent
            return None

    def read(self, run: RunRecord) -> Evidence:
        """Return the evidence on a run, whose bundle is downloaded and verified."""
        evidence, path = self._download(run), self._path(run)
        if evidence.problem:
            path.unlink(missing_ok=True)
            return evidence
        meta = {name: value for name, value in vars(evidence).items() if name not in _ARRAYS}
        arrays = {name: getattr(evidence, name) for name in _ARRAYS}
        with written_file(path) as file:
            np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)
        return evidence

    def _path(self, run: RunRecord) -> Path:
        key = f"{run.run_id}.{run.tags.get('fer.bundle_sha256', 'none')}"
        return self.cache / "evidence" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def _download(self, run: RunRecord) -> Evidence:
        with store.tracking_errors(f"listing {FOLDER}/ of run {run.run_id}"):
            names = {Path(each.path).name for each in self.client.list_artifacts(run.run_id, FOLDER)}
            whole = self.client.get_run(run.run_id)
        required = set(files.FILES) - set(files.OPTIONAL)
        if missing := sorted(required - names):
            problem = "no file of it is there" if len(missing) == len(required) else f"without {', '.join(missing)}"
            return Evidence(problem=problem, is_missing=True)
        try:
            bundle = bundles.fetch_bundle(whole, self.cache)
        except (BundleError, RunError) as error:
            return Evidence(problem=str(error).partition(": ")[2] or str(error))
        try:
            selected_rows = int(bundle.report["benchmark"]["selected_rows"])
        except (KeyError, TypeError, ValueError):
            return Evidence(problem=f"{files.REPORT} does not give the number of rows of the benchmark")
        known = bundle.labels >= 0
        logits, labels = bundle.logits[known].astype(np.float64), bundle.labels[known]
        return Evidence(
            classes=bundle.classes,
            rows=len(bundle),
            selected_rows=selected_rows,
            selection=bundle.selection_sha256,
            metrics=metrics.score(logits, labels, bundle.classes) if len(labels) else {},
            labels=labels.astype(np.int16),
            predictions=logits.argmax(axis=1).astype(np.int16),
            losses=metrics.row_losses(logits, labels).astype(np.float32),
        )


def difference_p_value(a: Evidence, b: Evidence, metric: str) -> float | None:
    """Return the p-value of "A and B do not differ in a metric"; None where there is no test or no common rows."""
    if a.classes != b.classes or not np.array_equal(a.labels, b.labels) or not len(a.labels):
        return None
    row = metrics.metric_of(metric)
    if row is None or not row.test:
        return None
    if row.row_values == "loss":
        return significance.paired_mean_difference(a.losses.astype(np.float64), b.losses.astype(np.float64)).p_value
    labels, ours, theirs = (each.astype(np.int64) for each in (a.labels, a.predictions, b.predictions))
    differences = significance.paired_differences(labels, ours, theirs, a.classes, np.random.default_rng(bundles.SEED))
    return differences[metric].p_value if metric in differences else None


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
    client = store.connect()
    return bundles.cached_bundle(choose_run(client, source, where=where, even_bad=even_bad).run)


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
    run = bundles.read_run(client, run_id)
    if is_bad(run) and not even_bad:
        reasons = " ".join(run.data.tags.get(store.REASONS, "").split())
        what = f"run {run.info.run_id}: triage called it bad" + (f" ({reasons})" if reasons else "")
        raise RunError(f"{what}; take it all the same with --even-bad true")
    return Chosen(run)


def is_bad(run: Run) -> bool:
    """Return whether triage, or a person, called a run bad."""
    return run.data.tags.get(store.STATUS) == store.BAD


def find_best(client: MlflowClient, metric: str, benchmark: str, *, where: str = "", even_bad: bool = False) -> Chosen:
    """Return the finished export or teacher run with the best value of a metric on one benchmark.

    Of runs with the same configuration the newest counts. Runs with the same value are taken in the order of ensemble,
    space, age (newest first) and id, so the choice does not depend on the order in which a server lists them. The
    benchmark is its name, or the first 4 or more digits of its selection digest. `where` is a further MLflow filter,
    which can only take runs away.
    """
    runs, on = runs_on(client, benchmark), f"benchmark {benchmark}"
    fit = [run for run in runs if even_bad or not is_bad(run)]
    n_bad = len(runs) - len(fit)
    if not fit:
        raise RunError(f"{on}: triage called all {n_bad} of its runs bad; take one all the same with --even-bad true")
    if len({run.data.tags["fer.selection_sha256"] for run in fit}) > 1:
        raise RunError(f"{on} means different rows: {describe_selections(fit)}; name one by its digest")
    if where:
        kept = {run.info.run_id for run in _search_where(client, where)}
        fit, before = [run for run in fit if run.info.run_id in kept], len(fit)
        if not fit:
            raise RunError(f"{on}: none of its {before} runs fulfils {where}")
    fit = list(newest_of_each(fit))
    measured = [run for run in fit if math.isfinite(run.data.metrics.get(metric, math.nan))]
    if not measured:
        there = ", ".join(sorted({name for run in fit for name in run.data.metrics}))
        raise RunError(f"metric {metric}: none of the {len(fit)} runs on {benchmark} has it; they have {there}")
    best = min(measured, key=lambda run: _rank(run, metric))
    name = best.data.tags["fer.benchmark"]
    notes = "; ".join(filter(None, [f"where {where}" if where else "", f"{n_bad} bad left out" if n_bad else ""]))
    among = f"best of {len(measured)} on {name}" + (f" ({notes})" if notes else "")
    return Chosen(best, f"{metric} {best.data.metrics[metric]:.4f}, {among}")


def _rank(run: Run, metric: str) -> tuple:
    """Return what runs are sorted by, the best first."""
    value, record = run.data.metrics[metric], record_of(run)
    better = value if metrics.is_lower_better(metric) else -value
    return better, record.params.get("ensemble", ""), record.of_ensemble("space"), -record.start_ms, record.run_id


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
    everything, uri = search_soft_labels(client), store.redact(get_tracking_uri())
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
            reason = store.redact(" ".join(cause.message.split()))[:300]
            raise ContractError(f"filter {where}: MLflow cannot read it ({reason})") from error
        raise


def search_soft_labels(client: MlflowClient, condition: str = "") -> list[Run]:
    """Return the finished runs of every experiment that have a bundle and fulfil a condition."""
    conditions = [condition] if condition else []
    # MLflow's filters have no OR.
    kinds = (store.search_finished(client, kind, *conditions) for kind in store.TEACHING_KINDS)
    needed = {"fer.bundle_sha256", "fer.selection_sha256"}
    return [run for runs in kinds for run in runs if needed <= run.data.tags.keys()]
