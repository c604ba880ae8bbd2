"""`train`: train a teacher; and what `distill` trains and scores students by."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_mlflow.data.classes import read_classes
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import BundleError, ContractError, JobError, RunError
from fer_mlflow.files import cache_folder, sha256_of_file, written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import DEFAULT, metric_names
from fer_mlflow.settings.groups import fusion_settings
from fer_mlflow.settings.training import DistillSettings, TrainingRowsSettings, TrainSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import split_first
from fer_mlflow.student.distillation import SoftObjective, make_targets
from fer_mlflow.teachers.shards import held_keys
from fer_mlflow.tracking import bundles, models, records, store
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.training import loop
from fer_mlflow.workflows import RunResult, logger, workflow
from fer_mlflow.workflows.export import gathered_teachers, read_ensemble
from fer_mlflow.workflows.sources import Source, read_run_source, same_configuration

KIND = "student"
# What a student's run has of other rows, and which of it follows from counts.
SCORES = tuple(metric_names(having=lambda metric: metric.test))
COUNTED = tuple(metric_names(having=lambda metric: metric.test and metric.from_counts))
_WAITING = "another process trains the same; waiting for it"


@dataclass(frozen=True)
class Plan:
    """The input of a training, read and checked; `objective` is None for the cross-entropy with the labels."""

    train: Benchmark
    val: Benchmark
    settings: TrainSettings
    key: str
    objective: loop.LabelObjective | None = None

    @property
    def name(self) -> str:
        """Architecture, image size, the seed where it is not 0, and the rows, for people."""
        recipe = self.settings
        seed = [f"seed {recipe.seed}"] if recipe.seed else []
        return " · ".join([recipe.arch, f"{recipe.img_size} px", *seed, split_first(self.train.name)])


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult(RunResult):
    """A teacher that was trained.

    Attributes
    ----------
    best : the epoch whose weights the checkpoint has
    checkpoint : where it is
    """

    plan: Plan
    best: loop.Epoch
    checkpoint: str


@workflow(TrainSettings)
def train(settings: TrainSettings, progress: Progress = no_progress) -> TrainResult:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path. Each epoch
    is reported through `logging`. A training that was stopped goes on from its last epoch.

    Raises FerError: the rows, the recipe or the checkpoint to start from cannot be used. JobError: the loss or the
    weights are not finite; the best checkpoint so far is logged. TrackingError: the server cannot be reached.
    """
    plan = read_plan(settings, *read_training_rows(settings))
    with open_run("train", settings.name or plan.name, settings.experiment) as run:
        run.log(settings.params)
        best = run_plan(run, plan, settings.name or settings.arch)
        describe_training(run, plan, best)
    checkpoint = checkpoint_location(run, settings)
    return TrainResult(run_id=run.run_id, ui=run.ui, plan=plan, best=best, checkpoint=checkpoint)


def read_training_rows(settings: TrainingRowsSettings) -> tuple[Benchmark, Benchmark]:
    """Read and check the training and the validation rows."""
    rows = read_split(settings, settings.train_split), read_split(settings, settings.val_split)
    loop.check_training_rows(*rows)
    return rows


def read_split(settings: TrainingRowsSettings, split: str) -> Benchmark:
    """Read the rows of a split."""
    classes = read_classes(settings.classes)
    return read_benchmark(
        settings.manifest, classes, root=settings.root, split=split, verify_paths=settings.verify_paths
    )


def read_plan(
    settings: TrainSettings, train: Benchmark, val: Benchmark, objective: loop.LabelObjective | None = None
) -> Plan:
    """Check the recipe and the checkpoint to start from, before a run is opened."""
    loop.check_recipe(settings)
    if settings.init and not Path(settings.init).is_file():
        raise ContractError(f"--init {settings.init}: no such file")
    return Plan(train, val, settings, loop.training_key(settings, train, val, settings.init, objective), objective)


def checkpoint_location(run: TrackedRun, settings: TrainSettings) -> str:
    """Return where a run's checkpoint is: the file of the caller's, else the artifact."""
    out = settings.out
    return str(Path(out).absolute()) if out else f"{run.artifact_location(bundles.TRAINED)}/{settings.arch}.pt"


def run_plan(run: TrackedRun, plan: Plan, name: str) -> loop.Epoch:
    """Train as planned, or go on where an earlier attempt stopped, log all of it, and return the best epoch.

    The run's output is a model that has the name.
    """
    settings, cache = plan.settings, cache_folder()
    folder = cache / "training" / plan.key
    checkpoint = folder / f"{settings.arch}.pt"
    run.log({"benchmark": plan.train.name, "rows": len(plan.train), "val_rows": len(plan.val)})
    for part, context in ((plan.train, "training"), (plan.val, "validation")):
        run.log_benchmark(part.name, part, context)
    with held_keys(cache, [plan.key], on_wait=lambda: logger.info(_WAITING)):
        try:
            trained = loop.train_teacher(
                plan.train,
                plan.val,
                settings,
                folder / "last.pt",
                objective=plan.objective,
                device=settings.device,
                workers=settings.workers,
                init=settings.init,
                on_epoch=_reporter(run, settings.epochs),
                warn=logger.warning,
            )
        except loop.NotFiniteError as error:
            if error.kept is None:
                raise
            error.kept.write(checkpoint)
            run.log_file(checkpoint, bundles.TRAINED)
            raise JobError(f"{error}, and the checkpoint of epoch {error.kept.best.number} is {checkpoint}") from error
        trained.write(checkpoint)
        if settings.out:
            copy_checkpoint(checkpoint, Path(settings.out))
        best = trained.best
        run.log(
            metrics={
                "best_epoch": best.number,
                "best_val_accuracy": best.val_accuracy,
                "best_val_macro_f1": best.val_macro_f1,
            }
        )
        run.log_file(checkpoint, bundles.TRAINED)
        digest, fields = sha256_of_file(checkpoint), ("img_size", "mean", "std", "clahe")
        steps = {each: trained.checkpoint[each] for each in fields}
        kind = "student" if isinstance(settings, DistillSettings) else "teacher"
        run.log(  # last, since the checkpoint is found by them
            tags={
                "fer.benchmark": plan.train.name,
                "fer.selection_sha256": plan.train.selection_sha256,
                "fer.config_key": plan.key,
                "fer.checkpoint_sha256": digest,
            }
        )
        model = models.describe_teacher(kind, name, digest, settings.arch, steps)
        models.log_output(run, *models.ensure_models(run, [model]))
        shutil.rmtree(folder, ignore_errors=True)
    return best


def describe_training(run: TrackedRun, plan: Plan, best: loop.Epoch, scored: SoftLabels | None = None) -> None:
    """Describe a training's run: the best epoch, the scores on test rows, the rows, and the soft labels' run."""
    verdict = f"val_macro_f1 **{best.val_macro_f1:.4f}** · val_accuracy {best.val_accuracy:.4f} · epoch {best.number}"
    if scored is not None and scored.metrics:
        verdict += f" · {split_first(scored.benchmark)}: {DEFAULT} **{scored.metrics[DEFAULT]:.4f}**"
    source = plan.source if isinstance(plan, Student) else None
    soft = f" · soft labels {source.bundle.configuration.name}" if source else ""
    about = f"{plan.name}, {len(plan.train):,} rows, validated on {len(plan.val):,}{soft}"
    run.describe(verdict, about, source.links if source else {})


def _reporter(run: TrackedRun, epochs: int) -> Callable[[loop.Epoch], None]:
    """Return a function that logs each epoch, to the run and as a line."""
    reported: list[loop.Epoch] = []

    def report(epoch: loop.Epoch) -> None:
        metrics = asdict(epoch)
        number = metrics.pop("number")
        run.log(metrics=metrics, step=number)
        mark = "  best" if all(epoch.rank > each.rank for each in reported) else ""
        reported.append(epoch)
        logger.info(
            f"epoch {number:>{len(str(epochs))}}/{epochs}  loss {epoch.train_loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  accuracy {epoch.val_accuracy:.3f}  macro-F1 {epoch.val_macro_f1:.3f}{mark}"
        )

    return report


def copy_checkpoint(checkpoint: Path, out: Path) -> None:
    """Put the checkpoint where the user wants it, whole or not at all."""
    with written_file(out) as target, checkpoint.open("rb") as source:
        shutil.copyfileobj(source, target)


@dataclass(frozen=True)
class Student(Plan):
    """The plan of a student; `source` has the soft labels that its objective is made of, None for labels alone."""

    settings: DistillSettings
    objective: SoftObjective | None = None
    source: Source | None = None

    @property
    def loss(self) -> str:
        """The loss: ce, kd or dkd."""
        return self.settings.loss

    @property
    def title(self) -> str:
        """The name with the loss and the soft labels."""
        first, last = [self.loss], [self.name]
        if self.objective:
            targets, softlabels = self.objective.targets, self.objective.bundle.configuration.name
            first, last = [*first, f"T {targets.temperature:g}", targets.kind], [*last, f"from {softlabels}"]
        return " · ".join(first + last)

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


def train_student(run: TrackedRun, student: Student) -> loop.Epoch:
    """Log the soft labels that a student learns from, and train it."""
    tags, source, objective = {"fer.loss": student.loss}, student.source, student.objective
    if source and objective:
        bundle, targets = source.bundle, objective.targets
        if objective.missing:
            logger.warning(f"{objective.missing:,} rows have no soft labels and are trained on their labels alone")
        own = {
            "softlabels_run": source.run_id or "folder",
            "target_kind": targets.kind,
            "effective_temperature": f"{targets.effective_temperature:.6g}",
            "rows_without_soft_labels": objective.missing,
        }
        run.log(bundle.configuration.params(own), {"target_mean_max_prob": targets.sharpness}, of_ensemble=True)
        tags |= {"fer.source_bundle_sha256": bundle.sha256, "fer.softlabels_in_sample": bundle.in_sample}
        tags |= {"fer.source_run": source.run_id} if source.run_id else {}
        run.log_inputs(models.inputs_of(run, bundle))
    run.log(tags=tags)
    return run_plan(run, student, student.short_name(student.settings.name))


def read_student(settings: DistillSettings, train: Benchmark, val: Benchmark, sources: dict[str, Source]) -> Student:
    """Read and check everything about one student that can be checked before a run is opened.

    `sources` gets its soft labels by name, so that students which share them read them once.
    """
    if settings.loss == "ce":
        return Student(**vars(read_plan(settings, train, val)))
    name = settings.softlabels
    if not name:
        raise ContractError(
            f"--loss {settings.loss} needs soft labels: --softlabels RUN, FOLDER or best:METRIC@BENCHMARK "
            "(or use --loss ce)"
        )
    if name not in sources:
        sources[name] = choose_soft_labels(name, train, even_bad=settings.even_bad)
    bundle, space = sources[name].bundle, sources[name].bundle.configuration.space
    needs_teachers = (settings.target or space) != space and len(bundle.checkpoints) > 1
    logits = sources[name].teacher_logits() if needs_teachers else {}
    targets = make_targets(bundle, logits, settings.target, settings.temperature)
    objective = SoftObjective(train, settings, bundle, targets, settings, allow_missing=settings.missing == "ce")
    return Student(**vars(read_plan(settings, train, val, objective)), source=sources[name])


def choose_soft_labels(name: str, train: Benchmark, *, even_bad: bool) -> Source:
    """Return the soft labels that `--softlabels` names, verified; their rows are not checked yet.

    `best:METRIC@BENCHMARK` takes the configuration that is best on a benchmark. Where that benchmark is not of the
    training rows (it should be one that no teacher was trained on), the soft labels are those of the same teachers,
    weights, space, preprocessing and calibration on the training rows.
    """
    if Path(name).is_dir():
        return Source(SoftLabels.open(name))
    client = store.connect()
    chosen = records.choose_run(client, name, even_bad=even_bad)
    if records.is_bad(chosen.run):
        logger.warning(
            f"run {chosen.run.info.run_id}: triage called it bad ({chosen.run.data.tags.get('triage.reasons', '')})"
        )
    best = read_run_source(chosen.run.info.run_id)
    if not chosen.how:
        return best
    source: Source | None = best
    if not train.paths.isin(set(best.bundle.index["path"])).any():
        rows = train.selection_sha256
        source = next(same_configuration(client, best, lambda tags: tags["fer.selection_sha256"] == rows), None)
    if source is None:
        raise RunError(
            f"--softlabels {name}: {best.name} is the best, and no run has its soft labels of {train.name}; export "
            f"them with --weights {best.params.get('ensemble', '')} --space {best.bundle.configuration.space} on that "
            "split"
        )
    logger.info(f"soft labels of run {source.run_id}: {source.name} ({chosen.how})")
    return source


@contextmanager
def fetched_checkpoint(client, trained_run: str, student: Student) -> Iterator[Path]:
    """Give a student's checkpoint, verified, in a folder of the cache that is gone after the block."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="student.", dir=cache) as folder:
        yield bundles.fetch_checkpoint(client, trained_run, Path(folder), f"{student.settings.arch}.pt")


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
        forward = {"precision": "fp32", "batch_size": None}  # not those of the training
        ensemble = read_ensemble(fusion_settings(settings, **own, **forward))
        key = ensemble.key
        for there in bundles.find_runs(run.client, KIND, [key])[key]:
            try:
                return bundles.fetch_bundle(there, cache)
            except BundleError:
                continue  # triage reports it; the logits are computed again
        with gathered_teachers(ensemble, run.client, progress) as gathered:
            bundle = gathered.keep(gathered.teachers[name], key)
            with run.sibling(ensemble.run_name(), nested=True) as scored:
                scored.log({"manifest": settings.manifest, "split": settings.test_split})
                bundles.publish_bundle(scored, bundle, key, {"fer.kind": KIND, "fer.source_run": trained_run})
            gathered.forget()
    return bundle
