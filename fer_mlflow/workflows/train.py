"""`train`: train a teacher on a manifest's split, and log its best checkpoint."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_mlflow.data.classes import read_classes
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.errors import ContractError, JobError
from fer_mlflow.files import cache_folder, sha256_of_file, written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.training import TrainingRowsSettings, TrainSettings
from fer_mlflow.teachers.shards import held_keys
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.training import loop
from fer_mlflow.workflows import RunResult, logger, workflow

FOLDER = "teacher"  # the artifact folder of a train run
_WAITING = "another process trains the same; waiting for it"


@dataclass(frozen=True)
class Plan:
    """The input of a training, read and checked; `objective` is None for the cross-entropy with the labels."""

    train: Benchmark
    val: Benchmark
    settings: TrainSettings
    key: str
    objective: loop.LabelObjective | None = None


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

    Raises
    ------
    FerError
        the rows, the recipe or the checkpoint to start from cannot be used
    JobError
        the loss or the weights are not finite; the best checkpoint so far is logged
    TrackingError
        the server cannot be reached
    """
    plan = read_plan(settings, *read_training_rows(settings))
    name = settings.name or f"{settings.arch} · {settings.img_size} px · {plan.train.name}"
    with open_run("train", name, settings.experiment) as run:
        run.log_params(params_of(settings))
        best = run_plan(run, plan)
    return TrainResult(
        run_id=run.run_id,
        ui=run.ui,
        plan=plan,
        best=best,
        checkpoint=checkpoint_location(run, settings),
    )


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
    return str(Path(out).absolute()) if out else f"{run.artifact_location(FOLDER)}/{settings.arch}.pt"


def run_plan(run: TrackedRun, plan: Plan) -> loop.Epoch:
    """Train as planned, or go on where an earlier attempt stopped, log all of it, and return the best epoch."""
    settings, cache = plan.settings, cache_folder()
    folder = cache / "training" / plan.key
    checkpoint = folder / f"{settings.arch}.pt"
    run.log_params({"benchmark": plan.train.name, "rows": len(plan.train), "val_rows": len(plan.val)})
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
                on_epoch=_Reporter(run, settings.epochs),
                warn=logger.warning,
            )
        except loop.NotFiniteError as error:
            if error.kept is None:
                raise
            error.kept.write(checkpoint)
            run.log_file(checkpoint, FOLDER)
            raise JobError(f"{error}, and the checkpoint of epoch {error.kept.best.number} is {checkpoint}") from error
        trained.write(checkpoint)
        if settings.out:
            copy_checkpoint(checkpoint, Path(settings.out))
        best = trained.best
        run.log_metrics(
            {"best_epoch": best.number, "best_val_accuracy": best.val_accuracy, "best_val_macro_f1": best.val_macro_f1}
        )
        run.log_file(checkpoint, FOLDER)
        run.set_tags(  # last, since the checkpoint is found by them
            {
                "fer.benchmark": plan.train.name,
                "fer.selection_sha256": plan.train.selection_sha256,
                "fer.config_key": plan.key,
                "fer.checkpoint_sha256": sha256_of_file(checkpoint),
            }
        )
        shutil.rmtree(folder, ignore_errors=True)
    return best


class _Reporter:
    """Logs each epoch, to the run and as a line."""

    def __init__(self, run: TrackedRun, epochs: int):
        self.run, self.epochs = run, epochs
        self.best: loop.Epoch | None = None

    def __call__(self, epoch: loop.Epoch) -> None:
        metrics = asdict(epoch)
        number = metrics.pop("number")
        self.run.log_metrics(metrics, step=number)
        mark = ""
        if self.best is None or epoch.rank > self.best.rank:
            self.best, mark = epoch, "  best"
        logger.info(
            f"epoch {number:>{len(str(self.epochs))}}/{self.epochs}  loss {epoch.train_loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  accuracy {epoch.val_accuracy:.3f}  macro-F1 {epoch.val_macro_f1:.3f}{mark}"
        )


def copy_checkpoint(checkpoint: Path, out: Path) -> None:
    """Put the checkpoint where the user wants it, whole or not at all."""
    with written_file(out) as target, checkpoint.open("rb") as source:
        shutil.copyfileobj(source, target)
