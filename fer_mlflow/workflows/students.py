"""Students: their plans, the soft labels that they learn from, and their scores on other rows."""

import logging
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import BundleError, ContractError, RunError
from fer_mlflow.files import cache_folder
from fer_mlflow.progress import Progress
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.settings.groups import FusionSettings
from fer_mlflow.settings.training import DistillSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.student.distillation import Distillation, SoftObjective, describe_distillation
from fer_mlflow.student.targets import SoftTargets, make_targets
from fer_mlflow.tracking.bundles import derived_params, fetch_bundle, fetch_checkpoint, find_runs, publish_bundle
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.tracking.selection import Chosen, choose_run, is_bad, search_soft_labels
from fer_mlflow.tracking.store import connect
from fer_mlflow.training.loop import training_key
from fer_mlflow.training.state import Epoch
from fer_mlflow.workflows.ensemble import bundle_folder, forget, gathered_teachers, read_ensemble
from fer_mlflow.workflows.sources import Source, read_run_source
from fer_mlflow.workflows.train import FOLDER, Plan, read_recipe, read_training_rows, run_plan

KIND = "student"
# What a student's run has of other rows, and which of it follows from counts.
SCORES = tuple(metric_names(having=lambda metric: metric.test))
COUNTED = tuple(metric_names(having=lambda metric: metric.test and metric.from_counts))
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Student:
    """One student's plan, and where its soft labels are from; no source where it learns from labels alone."""

    plan: Plan
    source: Source | None = None
    targets: SoftTargets | None = None

    @property
    def objective(self) -> SoftObjective | None:
        """The loss with soft labels."""
        return self.plan.objective if isinstance(self.plan.objective, SoftObjective) else None

    @property
    def loss(self) -> str:
        """The loss: ce, kd or dkd."""
        return self.objective.how.loss if self.objective else "ce"

    @property
    def name(self) -> str:
        """The configuration in a few words, for people."""
        plan, marks = self.plan, []
        if self.objective and self.targets and self.source:
            softlabels = self.source.bundle.configuration.name
            marks = [f"T {self.targets.temperature:g}", self.targets.kind, f"from {softlabels}"]
        return " · ".join([self.loss, *marks, plan.recipe.arch, f"{plan.recipe.img_size} px", plan.train.name])

    def params(self) -> dict[str, object]:
        """Return the params that follow from the soft labels, under names that no option has."""
        if self.source is None or self.targets is None or self.objective is None:
            return {}
        of_ensemble = {k: v for k, v in derived_params(self.source.bundle).items() if k not in ("benchmark", "rows")}
        return {
            **of_ensemble,
            "softlabels_run": self.source.run_id or "folder",
            "target_kind": self.targets.kind,
            "effective_temperature": f"{self.targets.effective_temperature:.6g}",
            "rows_without_soft_labels": self.objective.missing,
        }

    def tags(self) -> dict[str, str]:
        """Return tags on what the student learned from."""
        tags = {"fer.loss": self.loss}
        if self.source is None:
            return tags
        bundle = self.source.bundle
        tags["fer.source_bundle_sha256"] = bundle.sha256
        tags["fer.softlabels_in_sample"] = bundle.in_sample
        return tags | ({"fer.source_run": self.source.run_id} if self.source.run_id else {})

    def metrics(self) -> dict[str, float]:
        """Return how peaked the targets are."""
        return {"target_mean_max_prob": self.targets.sharpness} if self.targets else {}


def train_student(run: TrackedRun, student: Student, settings: DistillSettings) -> Epoch:
    """Train one student and log it."""
    if student.objective and student.objective.missing:
        logger.warning(f"{student.objective.missing:,} rows have no soft labels and are trained on their labels alone")
    run.log_params(student.params())
    run.log_metrics(student.metrics())
    run.set_tags(student.tags())
    return run_plan(run, student.plan, settings)


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
        """Read and check everything about one student that can be checked before a run is opened.

        Raises
        ------
        FerError
            whatever is wrong with recipe, soft labels or their rows
        """
        recipe, init = read_recipe(settings)
        if settings.loss == "ce":
            return Student(Plan(self.train, self.val, recipe, init, training_key(recipe, self.train, self.val, init)))
        how = Distillation.of(settings)
        source = self._source(settings)
        targets = self._targets(source, settings)
        allow_missing = settings.missing == "ce"
        objective = SoftObjective(self.train, recipe, source.bundle, targets, how, allow_missing=allow_missing)
        key = training_key(recipe, self.train, self.val, init, objective.settings)
        distilled = describe_distillation(objective, targets)
        return Student(Plan(self.train, self.val, recipe, init, key, objective, distilled), source, targets)

    def _source(self, settings: DistillSettings) -> Source:
        """Return the soft labels that the settings name."""
        name = settings.softlabels
        if not name:
            raise ContractError(
                f"--loss {settings.loss} needs soft labels: --softlabels RUN, FOLDER or best:METRIC@BENCHMARK "
                "(or use --loss ce)"
            )
        if name not in self.sources:
            self.sources[name] = choose_soft_labels(name, self.train, even_bad=settings.even_bad)
        return self.sources[name]

    def _targets(self, source: Source, settings: DistillSettings) -> SoftTargets:
        """Return the targets; teachers' logits are fetched where they are needed."""
        name, space = settings.softlabels or "", source.bundle.configuration.space
        needed = (settings.target or space) != space and len(source.bundle.checkpoints) > 1
        if needed and name not in self.teacher_logits:
            self.teacher_logits[name] = source.teacher_logits()
        return make_targets(source.bundle, self.teacher_logits.get(name, {}), settings.target, settings.temperature)


def choose_soft_labels(name: str, train: Benchmark, *, even_bad: bool) -> Source:
    """Return the soft labels that `--softlabels` names, verified; their rows are not checked yet.

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
        logger.warning(
            f"run {chosen.run.info.run_id}: triage called it bad ({chosen.run.data.tags.get('triage.reasons', '')})"
        )
    source = read_run_source(chosen.run.info.run_id)
    if not chosen.how or _has_rows(source.bundle, train):
        return _logged(source, chosen)
    for run_id in _exported(client, train, chosen):
        other = read_run_source(run_id)
        if _is_same(source.bundle, other.bundle):
            return _logged(other, chosen)
    weights = chosen.run.data.params.get("ensemble", "")
    raise RunError(
        f"--softlabels {name}: {source.name} is the best, and no run has its soft labels of {train.name}; export them "
        f"with --weights {weights} --space {source.bundle.configuration.space} on that split"
    )


def _logged(source: Source, chosen: Chosen) -> Source:
    """Log which soft labels a search found."""
    if chosen.how:
        logger.info(f"soft labels of run {source.run_id}: {source.name} ({chosen.how})")
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
    """Return whether two bundles are of one configuration, each on its own rows; the dtype does not matter."""
    mine, other = (replace(each.configuration, dtype="float32") for each in (a, b))
    return a.checkpoints == b.checkpoints and mine == other


def short_name(student: Student, given: str | None = None) -> str:
    """Return a name for a leaderboard: what was given, else loss, temperature, architecture and seed."""
    if given and (name := _cleaned(given)):
        return name
    recipe = student.plan.recipe
    temperature = [f"T{student.targets.temperature:g}"] if student.targets else []
    parts = [student.loss, *temperature, recipe.arch, f"s{recipe.seed}"]
    return _cleaned("-".join(parts))


def _cleaned(name: str) -> str:
    """Return a name with what teachers' names may hold.

    >>> _cleaned("kd · T 4!")
    'kd-T-4'
    """
    return _NOT_IN_NAMES.sub("-", name).strip("-._")


@contextmanager
def fetched_checkpoint(client, trained_run: str, student: Student) -> Iterator[Path]:
    """Give a student's checkpoint, verified, in a folder of the cache that is gone after the block."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="student.", dir=cache) as folder:
        yield fetch_checkpoint(client, trained_run, Path(folder), f"{FOLDER}/{student.plan.recipe.arch}.pt")


def score_student(
    run: TrackedRun, student: Student, trained_run: str, settings: DistillSettings, name: str, progress: Progress
) -> SoftLabels:
    """Return a student's soft labels on the test rows: of a finished run of kind `student`, or computed and logged.

    The student is a teacher of an ensemble of one here, with the CLAHE that it was trained with.

    Parameters
    ----------
    run : the run below which it is shown
    trained_run : the run that has the checkpoint
    name : the student's name in the leaderboard

    Raises
    ------
    FerError
        the checkpoint or an image cannot be used
    TrackingError
        the server cannot be reached
    """
    cache = cache_folder()
    with fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        teachers = checkpoint.with_name("teachers.yaml")
        teachers.write_text(f"{name}: {{checkpoint: {checkpoint.name}}}\n", encoding="utf-8")
        shared = (
            "manifest",
            "root",
            "classes",
            "verify_paths",
            "clahe",
            "clahe_clip",
            "clahe_tile",
            "device",
            "workers",
        )
        ensemble = read_ensemble(
            FusionSettings(
                **{each: getattr(settings, each) for each in shared},
                split=settings.test_split,
                teachers=str(teachers),
                weights={name: 1.0},
            )
        )
        key = ensemble.key
        for there in find_runs(run.client, KIND, [key])[key]:
            try:
                return fetch_bundle(run.client, there, cache)
            except BundleError:
                continue  # triage reports it; the logits are computed again
        with gathered_teachers(ensemble, run.client, cache, progress) as gathered:
            bundle = gathered.teachers[name].write(bundle_folder(cache, key))
            with run.sibling(f"{name}  on  {ensemble.benchmark.name}", time.time(), nested=True) as scored:
                scored.log_params({"manifest": settings.manifest, "split": settings.test_split})
                publish_bundle(scored, bundle, key, {"fer.kind": KIND, "fer.source_run": trained_run})
            forget(ensemble, gathered, cache)
    return bundle
