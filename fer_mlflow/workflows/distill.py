"""`distill`: train a student, or a grid of them, on labels and soft labels.

Each trial of a grid is a run below one parent; the best one is compared with students of labels alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.images import grey_image_bytes, read_image_bytes
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.errors import ContractError, FerError, JobError, TrackingError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import DEFAULT
from fer_mlflow.scoring.significance import Comparison, compare_logits
from fer_mlflow.settings import fields_of
from fer_mlflow.settings.training import DistillSettings, LossSettings, RecipeSettings
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import split_first
from fer_mlflow.student.onnx_export import OnnxCheck, check_onnx, check_onnx_packages, export_onnx
from fer_mlflow.tracking import bundles, serving
from fer_mlflow.tracking.runs import TrackedRun, metric_keys, open_run
from fer_mlflow.training.loop import Epoch
from fer_mlflow.workflows import RunResult, logger, may_log_images, train as training, workflow
from fer_mlflow.workflows.evaluate import SEED
from fer_mlflow.workflows.sources import Source

_OF_LOSS = ("softlabels", "target", *(name for name in LossSettings.__dataclass_fields__ if name != "loss"))
KEYS = ("loss", *_OF_LOSS, *RecipeSettings.__dataclass_fields__)
# Options that a loss does not use, so that they do not set its students apart.
_UNUSED: dict[str, tuple[str, ...]] = {"ce": (*_OF_LOSS, "missing"), "kd": ("beta",), "dkd": ()}
_OF_VAL = ("best_epoch", "best_val_accuracy", "best_val_macro_f1")


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

    student: training.Student
    best: Epoch
    checkpoint: str
    scored: SoftLabels | None
    model: OnnxModel | None


@dataclass
class Trial:
    """One student of a grid, and its result."""

    student: training.Student
    axes: Mapping[str, str]  # what sets it apart from the other students: option -> value as it is typed
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""  # why it could not be trained
    scored: SoftLabels | None = None  # on the test rows

    @property
    def seed(self) -> int:
        return self.student.settings.seed

    @property
    def name(self) -> str:
        """All axes."""
        return ", ".join(map(" ".join, self.axes.items()))

    @property
    def configuration(self) -> str:
        """The axes without the seed: students that differ in nothing else are one configuration."""
        return ", ".join(f"{key} {text}" for key, text in self.axes.items() if key != "seed")

    @property
    def test(self) -> Mapping[str, float]:
        """The metrics of the test rows; empty where they were not computed."""
        return self.scored.metrics if self.scored else {}


@dataclass
class GridResult:
    """All trials, the best of soft labels and of labels alone, and their difference on the test rows."""

    trials: list[Trial]
    best: Trial  # of the best configuration with soft labels, the one with the best seed
    baseline: Trial  # the same of labels alone
    comparison: Comparison | None = None  # best - baseline; None without test rows

    def seed_differences(self) -> dict[str, list[float]]:
        """Return best minus baseline on the test rows for each seed that both have; empty for fewer than two."""
        best, baseline = (
            {each.seed: each.test for each in self.trials if each.configuration == chosen.configuration and each.test}
            for chosen in (self.best, self.baseline)
        )
        pairs = [(best[seed], baseline[seed]) for seed in best if seed in baseline]
        if len(pairs) < 2:
            return {}
        shared = [name for name in training.COUNTED if all(name in a and name in b for a, b in pairs)]
        return {name: [a[name] - b[name] for a, b in pairs] for name in shared}

    def raise_failures(self) -> None:
        """Raise JobError where a student could not be trained; the message says how many."""
        if failed := sum(bool(trial.failure) for trial in self.trials):
            raise JobError(f"{failed} of {len(self.trials)} students failed; the others are in the table")


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

    Raises FerError: rows, recipe or soft labels cannot be used, or a package for ONNX is missing. JobError: the
    loss or the weights are not finite; of a grid: no student could be trained.
    """
    may_log_images(settings)  # what is wrong with it is found before the first epoch
    if settings.onnx:
        check_onnx_packages()
    train, val = training.read_training_rows(settings)
    if settings.grid:
        return _distill_grid(settings, train, val, progress)
    student = training.read_student(settings, train, val, {})
    if student.source is None and settings.softlabels:
        logger.warning(f"--softlabels {settings.softlabels}: --loss ce learns from labels alone and leaves them unused")
    if settings.test_split:
        training.read_split(settings, settings.test_split)  # what is wrong with it is found before the first epoch
    with open_run("distill", settings.name or student.title, settings.experiment) as run:
        run.log(settings.params)
        best = training.train_student(run, student)
        scored = None
        if settings.test_split:
            scored = training.score_student(run, student, run.run_id, student.short_name(settings.name), progress)
            run.log(metrics=metric_keys(training.scores_of(scored.metrics), "test"))
        model = _log_model(run, run.run_id, student) if settings.onnx else None
        training.describe_training(run, student, best, scored)
    return DistillResult(
        run_id=run.run_id,
        ui=run.ui,
        student=student,
        best=best,
        checkpoint=training.checkpoint_location(run, settings),
        scored=scored,
        model=model,
    )


def _distill_grid(settings: DistillSettings, train: Benchmark, val: Benchmark, progress: Progress) -> DistillGridResult:
    """Train every student of a grid as a run below this one, and measure the best."""
    trials = plan_grid(settings, train, val)
    test = training.read_split(settings, settings.test_split) if settings.test_split else None
    name = settings.name or f"distill {settings.grid} · {split_first(train.name)}"
    out = Path(settings.out).absolute() if settings.out else None
    with open_run("distill", name, settings.experiment) as run:
        run.log({**settings.params, "benchmark": train.name, "rows": len(train)})
        result = run_grid(run, trials, test, progress)
        best = result.best
        made = run.client.get_run(best.run_id).outputs
        run.log_inputs([each.model_id for each in made.model_outputs] if made else [])
        if out is not None:
            with training.fetched_checkpoint(run.client, best.run_id, best.student) as checkpoint:
                training.copy_checkpoint(checkpoint, out)
        model = _log_model(run, best.run_id, best.student) if settings.onnx else None
        verdict = f"best: {best.name} · val_macro_f1 **{best.metrics['best_val_macro_f1']:.4f}**"
        if result.comparison is not None:
            difference = bundles.describe_difference(result.comparison.differences[DEFAULT])
            verdict += f" · on test rows {DEFAULT} {difference} over labels alone"
        about, links = f"{len(trials):,} students of {name}", {"best": best.run_id, "baseline": result.baseline.run_id}
        run.describe(verdict, about, links)
    return DistillGridResult(
        run_id=run.run_id,
        ui=run.ui,
        grid=result,
        table_location=run.artifact_location("tables/grid.parquet"),
        out=out,
        model=model,
    )


def _log_model(run: TrackedRun, trained_run: str, student: training.Student) -> OnnxModel:
    """Log a student as an MLflow model that takes images, once its ONNX file agrees with torch."""
    val, clahe = student.val, Clahe.of(student.settings)
    with training.fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        onnx = checkpoint.with_name("student.onnx")
        side = export_onnx(checkpoint, val.classes, onnx)
        check = check_onnx(onnx, checkpoint, val, clahe)
        card = {"classes": list(val.classes.names), "img_size": side, "clahe": asdict(clahe) if clahe else None}
        face = may_log_images(student.settings)
        example = read_image_bytes(val.root, val.paths.iloc[0]) if face else grey_image_bytes(side)
        uri = serving.log_student(run.run_id, onnx, card, example)
    run.log(
        metrics={"onnx/rows": check.rows, "onnx/max_difference": check.max_difference, "onnx/changed": check.changed},
        tags={"fer.model": uri},
    )
    return OnnxModel(uri, check)


def plan_grid(settings: DistillSettings, train: Benchmark, val: Benchmark) -> list[Trial]:
    """Read and check every student of `grid` before any is trained.

    No two have the same key, and for every recipe one learns from labels alone; those come first.
    """
    axes = read_axes(settings.grid or "")
    trials: dict[str, Trial] = {}
    sources: dict[str, Source] = {}
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for loss in dict.fromkeys(["ce", chosen.get("loss", settings.loss)]):
            own = replace(settings, **{**chosen, "loss": loss}, out=None)
            student = training.read_student(own, train, val, sources)
            named = {"loss": loss} | {k: v for k, v in chosen.items() if k not in ("loss", *_UNUSED[loss])}
            texts = {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in named.items()}
            trials.setdefault(student.key, Trial(student, texts))
    if all(trial.student.loss == "ce" for trial in trials.values()):
        raise ContractError(f"--grid {settings.grid}: nothing in it learns from soft labels; add loss=kd or loss=dkd")
    return sorted(trials.values(), key=lambda trial: trial.student.loss != "ce")


def read_axes(text: str) -> dict[str, list[Any]]:
    """Return option -> values of `temperature=4,5,6;loss=kd,dkd`; ContractError for anything else."""
    fields = {each.name: each for each in fields_of(DistillSettings)}
    axes: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        name = name.replace("-", "_")
        if not equals or name not in KEYS:
            raise ContractError(f'--grid: "{part}" is not OPTION=value,value; options are {", ".join(KEYS)}')
        if name in axes:
            raise ContractError(f"--grid: {name} is there twice; write its values into one list")
        words = [word.strip() for word in values.split(",")]
        if not all(words):
            raise ContractError(f"--grid: {name} has an empty value; write {name}=value,value")
        try:
            axes[name] = list(dict.fromkeys(fields[name].check(word) for word in words))
        except (ValueError, FerError) as error:
            raise ContractError(f"--grid: {name}: {error}") from error
    if not axes:
        raise ContractError('--grid: no option in it; write for example "temperature=4,5,6;loss=kd,dkd"')
    return axes


def run_grid(run: TrackedRun, trials: list[Trial], test: Benchmark | None, progress: Progress) -> GridResult:
    """Train every student that no finished run has, choose the best by the validation rows, and log both.

    The best configuration and its baseline are measured on the test rows.
    """
    finished = bundles.find_runs(run.client, "distill", [trial.student.key for trial in trials])
    for number, trial in enumerate(trials, start=1):
        title = f"\n== {number}/{len(trials)}  {trial.name}"
        if there := finished[trial.student.key]:
            trial.run_id, trial.metrics = there[0].info.run_id, dict(there[0].data.metrics)
            logger.info(f"{title}: reused from run {trial.run_id}")
            bundles.adopt_run(run, there[0])
        else:
            logger.info(title)
            _train(run, trial)
    best, baseline = (_choose(trials, kind) for kind in ("soft labels", "labels alone"))
    result = GridResult(trials, best, baseline)
    if test is not None and (known := test.labels >= 0).any():
        for trial in trials:
            if trial.configuration in (best.configuration, baseline.configuration) and not trial.failure:
                trial.scored = training.score_student(
                    run, trial.student, trial.run_id, trial.student.short_name(), progress
                )
        if baseline.scored and best.scored:
            a, b = baseline.scored.logits[known], best.scored.logits[known]
            rng, classes = np.random.default_rng(SEED), test.classes.names
            result.comparison = compare_logits(a, b, test.labels[known], classes, rng)
            run.log(metrics=_test_metrics(result, result.comparison))
    run.log_table("grid", grid_table(trials))
    tags = {"fer.best_run": best.run_id, "fer.baseline_run": baseline.run_id}
    run.log(metrics={"best_val_macro_f1": best.metrics["best_val_macro_f1"]}, tags=tags)
    return result


def _train(run: TrackedRun, trial: Trial) -> None:
    """Train a student as a run below the grid's; one whose loss is not finite fails alone."""
    settings, student = trial.student.settings, trial.student
    unused = ("grid", "onnx", "name", *_UNUSED[student.loss])
    try:
        with run.sibling(f"{trial.name} · {split_first(student.train.name)}", nested=True) as child:
            trial.run_id = child.run_id
            child.log(tags={"fer.kind": "distill"})
            child.log({name: text for name, text in settings.params.items() if name not in unused})
            best = training.train_student(child, student)
            training.describe_training(child, student, best)
        trial.metrics = dict(zip(_OF_VAL, (best.number, best.val_accuracy, best.val_macro_f1), strict=True))
    except TrackingError:
        raise
    except JobError as error:
        trial.failure = str(error)
        logger.info(f"failed: {error}")


def _choose(trials: list[Trial], kind: str) -> Trial:
    """Return the trial with the best seed of the best configuration of a kind."""
    table = configurations_table(trials)
    own = table[(table["loss"] == "ce") == (kind == "labels alone")]
    if own.empty:
        why = next((trial.failure for trial in trials if trial.failure), "none was planned")
        raise JobError(f"no student of {kind} could be trained: {why}")
    name = own["configuration"].iloc[0]
    trained = [trial for trial in trials if trial.configuration == name and not trial.failure]
    return max(trained, key=lambda trial: trial.metrics["best_val_macro_f1"])


def configurations_table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row for each configuration that was trained, best mean validation macro-F1 first.

    `_sd` columns are standard deviations over seeds (n - 1), NaN for one seed.
    """
    students = grid_table(trials).rename(columns=lambda name: name.removeprefix("best_"))
    trained = students[students["failure"] == ""]
    seeds = trained.groupby(["configuration", "loss"], sort=False)[["val_macro_f1", "val_accuracy"]]
    table = seeds.mean().join(seeds.std().add_suffix("_sd")).assign(seeds=seeds.size()).reset_index()
    return table.sort_values(["val_macro_f1", "val_accuracy"], ascending=False, kind="stable", ignore_index=True)


def _test_metrics(result: GridResult, comparison: Comparison) -> dict[str, float]:
    """Return the test scores under `test/…`."""
    differences: dict[str, float] = {}
    for name in training.SCORES:
        each = comparison.differences[name]
        differences |= {name: each.value, f"{name}/p": each.p_value}
        differences |= {f"{name}/low": each.interval.low, f"{name}/high": each.interval.high}
    scores = {
        "best": training.scores_of(result.best.test),
        "baseline": training.scores_of(result.baseline.test),
        "difference": differences,
        "seed_difference": {name: float(np.mean(each)) for name, each in result.seed_differences().items()},
    }
    return metric_keys(scores, "test")


def grid_table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row for each student: its axes as text, its run, its scores, or why there are none."""
    rows = [
        {
            "configuration": trial.configuration,
            **trial.axes,
            "seed": trial.seed,
            **{name: trial.metrics.get(name, np.nan) for name in _OF_VAL},
            **{f"test_{name}": trial.test.get(name, np.nan) for name in training.SCORES},
            "run_id": trial.run_id,
            "failure": trial.failure,
        }
        for trial in trials
    ]
    return pd.DataFrame(rows)
