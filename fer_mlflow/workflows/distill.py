"""`distill`: train a student, or a grid of them, on labels and soft labels."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_mlflow.data.images import read_image_bytes
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import params_of
from fer_mlflow.settings.training import DistillSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.student.onnx_export import OnnxCheck, check_onnx, check_onnx_packages, export_onnx
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.serving import log_student
from fer_mlflow.training.loop import Epoch
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.grid import GridResult, plan_grid, run_grid
from fer_mlflow.workflows.students import (
    SCORES,
    Student,
    StudentReader,
    fetched_checkpoint,
    score_student,
    train_student,
)
from fer_mlflow.workflows.train import checkpoint_location, copy_checkpoint, read_split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxModel:
    """A student that was logged as an MLflow model, and how near its ONNX file is to torch."""

    uri: str
    check: OnnxCheck


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillResult(RunResult):
    """A student that was trained.

    Attributes
    ----------
    best : the epoch whose weights the checkpoint has
    checkpoint : where it is
    scored : its soft labels on the test rows; None where there are none
    model : its MLflow model; None where none was wanted
    """

    student: Student
    best: Epoch
    checkpoint: str
    scored: SoftLabels | None
    model: OnnxModel | None


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillGridResult(RunResult):
    """A grid of students.

    Attributes
    ----------
    grid : every trial, the best one, and what it is compared with
    table_location : where the table of all trials is
    out : the file that has the best checkpoint
    model : the best student's MLflow model; None where none was wanted
    """

    grid: GridResult
    table_location: str
    out: Path | None
    model: OnnxModel | None


@workflow(DistillSettings)
def distill(settings: DistillSettings, progress: Progress = no_progress) -> DistillResult | DistillGridResult:
    """Train a student on labels and soft labels, and log its best checkpoint as an MLflow run.

    It is trained as `train` trains a teacher, and its checkpoint is a teacher's. With `grid` every combination is
    trained as a run below one parent.

    Raises
    ------
    FerError
        rows, recipe or soft labels cannot be used, or a package for ONNX is missing
    JobError
        the loss or the weights are not finite; of a grid: no student could be trained
    TrackingError
        the server cannot be reached
    """
    if settings.onnx:
        check_onnx_packages()
    reader = StudentReader.of(settings)
    if settings.grid:
        return _distill_grid(reader, settings, progress)
    student = reader.read(settings)
    if student.source is None and settings.softlabels:
        logger.warning(f"--softlabels {settings.softlabels}: --loss ce learns from labels alone and leaves them unused")
    if settings.test_split:
        read_split(settings, settings.test_split)  # what is wrong with it is found before the first epoch
    with open_run("distill", settings.name or student.name, settings.experiment) as run:
        run.log_params(params_of(settings))
        best = train_student(run, student)
        scored = None
        if settings.test_split:
            scored = score_student(run, student, run.run_id, student.short_name(settings.name), progress)
            run.log_metrics({f"test/{name}": scored.metrics[name] for name in SCORES if name in scored.metrics})
        model = _log_model(run, run.run_id, student) if settings.onnx else None
    return DistillResult(
        run_id=run.run_id,
        ui=run.ui,
        student=student,
        best=best,
        checkpoint=checkpoint_location(run, settings),
        scored=scored,
        model=model,
    )


def _distill_grid(reader: StudentReader, settings: DistillSettings, progress: Progress) -> DistillGridResult:
    """Train every student of a grid as a run below this one, and measure the best."""
    trials = plan_grid(settings, reader)
    test = read_split(settings, settings.test_split) if settings.test_split else None
    name = settings.name or f"distill {settings.grid} · {reader.train.name}"
    out = Path(settings.out).absolute() if settings.out else None
    with open_run("distill", name, settings.experiment) as run:
        run.log_params({**params_of(settings), "benchmark": reader.train.name, "rows": len(reader.train)})
        result = run_grid(run, trials, test, progress)
        best = result.best
        if out is not None:
            with fetched_checkpoint(run.client, best.run_id, best.student) as checkpoint:
                copy_checkpoint(checkpoint, out)
        model = _log_model(run, best.run_id, best.student) if settings.onnx else None
    return DistillGridResult(
        run_id=run.run_id,
        ui=run.ui,
        grid=result,
        table_location=run.artifact_location("tables/grid.parquet"),
        out=out,
        model=model,
    )


def _log_model(run: TrackedRun, trained_run: str, student: Student) -> OnnxModel:
    """Log a student as an MLflow model that takes images, once its ONNX file agrees with torch."""
    val, clahe = student.plan.val, Clahe.of(student.settings)
    with fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        onnx = checkpoint.with_name("student.onnx")
        side = export_onnx(checkpoint, val.classes, onnx)
        check = check_onnx(onnx, checkpoint, val, clahe)
        card = {"classes": list(val.classes.names), "img_size": side, "clahe": asdict(clahe) if clahe else None}
        uri = log_student(run, onnx, card, read_image_bytes(val.root, val.paths.iloc[0]))
    run.log_metrics(
        {"onnx/rows": check.rows, "onnx/max_difference": check.max_difference, "onnx/changed": check.changed}
    )
    run.set_tags({"fer.model": uri})
    return OnnxModel(uri, check)
