"""Students: their plans, the soft labels that they learn from, and their scores on other rows."""

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError, RunError
from fer_mlflow.files import cache_folder
from fer_mlflow.progress import Progress
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.settings.groups import fusion_settings
from fer_mlflow.settings.training import DistillSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.student.distillation import SoftObjective, make_targets
from fer_mlflow.tracking.bundles import derived_params, fetch_bundle, fetch_checkpoint, find_runs, publish_bundle
from fer_mlflow.tracking.records import choose_run, is_bad, search_soft_labels
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.tracking.store import connect
from fer_mlflow.training.loop import Epoch
from fer_mlflow.workflows import logger
from fer_mlflow.workflows.export import gathered_teachers, read_ensemble
from fer_mlflow.workflows.sources import Source, read_run_source
from fer_mlflow.workflows.train import FOLDER, Plan, read_plan, read_training_rows, run_plan

KIND = "student"
# What a student's run has of other rows, and which of it follows from counts.
SCORES = tuple(metric_names(having=lambda metric: metric.test))
COUNTED = tuple(metric_names(having=lambda metric: metric.test and metric.from_counts))


@dataclass(frozen=True)
class Student:
    """One student: its settings, its plan, its loss with soft labels and their source (None: labels alone)."""

    settings: DistillSettings
    plan: Plan
    objective: SoftObjective | None = None
    source: Source | None = None

    @property
    def loss(self) -> str:
        """The loss: ce, kd or dkd."""
        return self.objective.loss.loss if self.objective else "ce"

    @property
    def name(self) -> str:
        """The configuration in a few words, for people."""
        settings, marks = self.settings, []
        if self.objective:
            targets, softlabels = self.objective.targets, self.objective.bundle.configuration.name
            marks = [f"T {targets.temperature:g}", targets.kind, f"from {softlabels}"]
        return " · ".join([self.loss, *marks, settings.arch, f"{settings.img_size} px", self.plan.train.name])

    def short_name(self, given: str | None = None) -> str:
        """Return a name for a leaderboard: the given one, else loss, temperature, architecture and seed."""
        if given and (name := _cleaned(given)):
            return name
        settings = self.settings
        temperature = [f"T{self.objective.loss.temperature:g}"] if self.objective else []
        return _cleaned("-".join([self.loss, *temperature, settings.arch, f"s{settings.seed}"]))


def _cleaned(name: str) -> str:
    """Return a name with what teachers' names may hold.

    >>> _cleaned("kd · T 4!")
    'kd-T-4'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-._")


def scores_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those of a benchmark's metrics that a student's run has of the test rows."""
    return {name: metrics[name] for name in SCORES if name in metrics}


def train_student(run: TrackedRun, student: Student) -> Epoch:
    """Log the soft labels that a student learns from, and train it."""
    tags, source, objective = {"fer.loss": student.loss}, student.source, student.objective
    if source and objective:
        bundle, targets = source.bundle, objective.targets
        if objective.missing:
            logger.warning(f"{objective.missing:,} rows have no soft labels and are trained on their labels alone")
        derived = derived_params(bundle)
        run.log_params(
            {
                **{name: derived[name] for name in derived if name not in ("benchmark", "rows")},
                "softlabels_run": source.run_id or "folder",
                "target_kind": targets.kind,
                "effective_temperature": f"{targets.effective_temperature:.6g}",
                "rows_without_soft_labels": objective.missing,
            }
        )
        run.log_metrics({"target_mean_max_prob": targets.sharpness})
        tags |= {"fer.source_bundle_sha256": bundle.sha256, "fer.softlabels_in_sample": bundle.in_sample}
        tags |= {"fer.source_run": source.run_id} if source.run_id else {}
    run.set_tags(tags)
    return run_plan(run, student.plan)


@dataclass
class StudentReader:
    """Reads students' plans; what they share (rows, soft labels, teachers' logits) is read once."""

    train: Benchmark
    val: Benchmark
    sources: dict[str, Source] = field(default_factory=dict)
    teacher_logits: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: DistillSettings) -> "StudentReader":
        """Read the training and the validation rows."""
        return cls(*read_training_rows(settings))

    def read(self, settings: DistillSettings) -> Student:
        """Read and check everything about one student that can be checked before a run is opened."""
        if settings.loss == "ce":
            return Student(settings, read_plan(settings, self.train, self.val))
        name = settings.softlabels
        if not name:
            raise ContractError(
                f"--loss {settings.loss} needs soft labels: --softlabels RUN, FOLDER or best:METRIC@BENCHMARK "
                "(or use --loss ce)"
            )
        if name not in self.sources:
            self.sources[name] = choose_soft_labels(name, self.train, even_bad=settings.even_bad)
        source = self.sources[name]
        bundle, space = source.bundle, source.bundle.configuration.space
        needed = (settings.target or space) != space and len(bundle.checkpoints) > 1
        if needed and name not in self.teacher_logits:
            self.teacher_logits[name] = source.teacher_logits()
        targets = make_targets(bundle, self.teacher_logits.get(name, {}), settings.target, settings.temperature)
        allow_missing = settings.missing == "ce"
        objective = SoftObjective(self.train, settings, bundle, targets, settings, allow_missing=allow_missing)
        return Student(settings, read_plan(settings, self.train, self.val, objective), objective, source)


def choose_soft_labels(name: str, train: Benchmark, *, even_bad: bool) -> Source:
    """Return the soft labels that `--softlabels` names, verified; their rows are not checked yet.

    `best:METRIC@BENCHMARK` takes the configuration that is best on a benchmark. Where that benchmark is not of the
    training rows (it should be one that no teacher was trained on), the soft labels are those of the same teachers,
    weights, space, preprocessing and calibration on the training rows.
    """
    if Path(name).is_dir():
        return Source(SoftLabels.open(name))
    client = connect()
    chosen = choose_run(client, name, even_bad=even_bad)
    if is_bad(chosen.run):
        logger.warning(
            f"run {chosen.run.info.run_id}: triage called it bad ({chosen.run.data.tags.get('triage.reasons', '')})"
        )
    best = source = read_run_source(chosen.run.info.run_id)
    if not chosen.how:
        return source
    weights = chosen.run.data.params.get("ensemble", "")
    if not train.paths.isin(set(best.bundle.index["path"])).any():
        # Exports come first, then the newest.
        runs = search_soft_labels(client, f"tags.`fer.selection_sha256` = '{train.selection_sha256}'")
        exported = (run for run in runs if not is_bad(run) and run.data.params.get("ensemble", "") == weights)
        others = (read_run_source(run.info.run_id) for run in exported)
        found = next((other for other in others if _is_same(best.bundle, other.bundle)), None)
        if found is None:
            raise RunError(
                f"--softlabels {name}: {best.name} is the best, and no run has its soft labels of {train.name}; export "
                f"them with --weights {weights} --space {best.bundle.configuration.space} on that split"
            )
        source = found
    logger.info(f"soft labels of run {source.run_id}: {source.name} ({chosen.how})")
    return source


def _is_same(a: SoftLabels, b: SoftLabels) -> bool:
    """Return whether two bundles are of one configuration, each on its own rows; the dtype does not matter."""
    mine, other = (replace(each.configuration, dtype="float32") for each in (a, b))
    return a.checkpoints == b.checkpoints and mine == other


@contextmanager
def fetched_checkpoint(client, trained_run: str, student: Student) -> Iterator[Path]:
    """Give a student's checkpoint, verified, in a folder of the cache that is gone after the block."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="student.", dir=cache) as folder:
        yield fetch_checkpoint(client, trained_run, Path(folder), f"{FOLDER}/{student.settings.arch}.pt")


def score_student(run: TrackedRun, student: Student, trained_run: str, name: str, progress: Progress) -> SoftLabels:
    """Return a student's soft labels on the test rows: of a finished run of kind `student`, or computed and logged.

    The student is a teacher of an ensemble of one here, with the CLAHE that it was trained with. `trained_run` has its
    checkpoint, its scores are shown below `run`, and `name` stands for it in the leaderboard.
    """
    cache, settings = cache_folder(), student.settings
    with fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        teachers = checkpoint.with_name("teachers.yaml")
        teachers.write_text(f"{name}: {{checkpoint: {checkpoint.name}}}\n", encoding="utf-8")
        own = {"teachers": str(teachers), "weights": {name: 1.0}, "split": settings.test_split}
        forward = {"precision": "fp32", "batch_size": 32}  # not those of the training
        ensemble = read_ensemble(fusion_settings(settings, **own, **forward))
        key = ensemble.key
        for there in find_runs(run.client, KIND, [key])[key]:
            try:
                return fetch_bundle(run.client, there, cache)
            except BundleError:
                continue  # triage reports it; the logits are computed again
        with gathered_teachers(ensemble, run.client, progress) as gathered:
            bundle = gathered.keep(gathered.teachers[name], key)
            with run.sibling(f"{name}  on  {ensemble.benchmark.name}", time.time(), nested=True) as scored:
                scored.log_params({"manifest": settings.manifest, "split": settings.test_split})
                publish_bundle(scored, bundle, key, {"fer.kind": KIND, "fer.source_run": trained_run})
            gathered.forget()
    return bundle
