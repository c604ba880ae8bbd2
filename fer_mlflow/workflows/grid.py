"""Grid search of students: each trial a run below one parent, the best compared with students of labels alone."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ContractError, FerError, JobError, TrackingError
from fer_mlflow.progress import Progress
from fer_mlflow.scoring.significance import Comparison, compare_logits
from fer_mlflow.settings import fields_of, params_of
from fer_mlflow.settings.training import DistillSettings, LossSettings, RecipeSettings
from fer_mlflow.tracking.bundles import adopt_run, find_runs
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.workflows.evaluate import SEED
from fer_mlflow.workflows.students import (
    COUNTED,
    SCORES,
    Student,
    StudentReader,
    score_student,
    short_name,
    train_student,
)

_OF_LOSS = ("softlabels", "target", *(name for name in LossSettings.__dataclass_fields__ if name != "loss"))
KEYS = ("loss", *_OF_LOSS, *RecipeSettings.__dataclass_fields__)
# Options that a loss does not use, so that they do not set its students apart.
_UNUSED: dict[str, tuple[str, ...]] = {"ce": (*_OF_LOSS, "missing"), "kd": ("beta",), "dkd": ()}
logger = logging.getLogger(__name__)


@dataclass
class Trial:
    """One student of a grid, and its result.

    Attributes
    ----------
    settings : everything that it is trained with
    axes : what sets it apart from the other students of the grid
    failure : why it could not be trained
    logits : (N, C) of the test rows, where they were computed
    """

    student: Student
    settings: DistillSettings
    axes: Mapping[str, Any]
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    logits: np.ndarray | None = None

    @property
    def configuration(self) -> str:
        """The axes without the seed: students that differ in nothing else are one configuration."""
        return ", ".join(f"{key} {_text(value)}" for key, value in self.axes.items() if key != "seed")

    @property
    def name(self) -> str:
        """All axes."""
        return ", ".join(f"{key} {_text(value)}" for key, value in self.axes.items())


def _text(value: Any) -> str:
    """Return an option's value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class GridResult:
    """All trials, the best of soft labels and of labels alone, and their difference on the test rows.

    Attributes
    ----------
    best : of the best configuration with soft labels, the trial with the best seed; `baseline` the same of labels
    comparison : `best` minus `baseline`; None without test rows
    """

    trials: list[Trial]
    best: Trial
    baseline: Trial
    comparison: Comparison | None = None
    test_name: str = ""

    def seed_differences(self) -> dict[str, list[float]]:
        """Return best minus baseline on the test rows for each seed that both have; empty for fewer than two."""
        pairs = [
            (mine.test, other.test)
            for mine in self.trials
            for other in self.trials
            if (mine.configuration, other.configuration) == (self.best.configuration, self.baseline.configuration)
            and mine.settings.seed == other.settings.seed
            and mine.test
            and other.test
        ]
        shared = [name for name in COUNTED if len(pairs) > 1 and all(name in a and name in b for a, b in pairs)]
        return {name: [a[name] - b[name] for a, b in pairs] for name in shared}

    def raise_failures(self) -> None:
        """Raise where a student could not be trained.

        Raises
        ------
        JobError
            one could not; the message says how many
        """
        failed = [trial for trial in self.trials if trial.failure]
        if failed:
            raise JobError(f"{len(failed)} of {len(self.trials)} students failed; the others are in the table")


def plan_grid(settings: DistillSettings, reader: StudentReader) -> list[Trial]:
    """Read and check every student of `grid` before any is trained.

    No two have the same key, and for every recipe one learns from labels alone; those come first.

    Raises
    ------
    FerError
        the text is no grid, a value is not one that its option takes, or a student's input cannot be used
    """
    axes = read_axes(settings.grid or "")
    trials: dict[str, Trial] = {}
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for loss in dict.fromkeys(["ce", chosen.get("loss", settings.loss)]):
            own = replace(settings, **{**chosen, "loss": loss}, out=None)
            student = reader.read(own)
            named = {"loss": loss} | {k: v for k, v in chosen.items() if k not in ("loss", *_UNUSED[loss])}
            trials.setdefault(student.plan.key, Trial(student, own, named))
    if all(trial.settings.loss == "ce" for trial in trials.values()):
        raise ContractError(f"--grid {settings.grid}: nothing in it learns from soft labels; add loss=kd or loss=dkd")
    return sorted(trials.values(), key=lambda trial: trial.settings.loss != "ce")


def read_axes(text: str) -> dict[str, list[Any]]:
    """Return option -> values of `temperature=4,5,6;loss=kd,dkd`.

    Raises
    ------
    ContractError
        anything else, or a value that the option does not take
    """
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


def run_grid(
    run: TrackedRun, trials: list[Trial], test: Benchmark | None, settings: DistillSettings, progress: Progress
) -> GridResult:
    """Train every student that no finished run has, and choose the best.

    A student whose loss or weights are not finite fails alone; the others are trained.

    Raises
    ------
    JobError
        no student of labels alone, or none of soft labels, could be trained
    """
    finished = find_runs(run.client, "distill", [trial.student.plan.key for trial in trials])
    for number, trial in enumerate(trials, start=1):
        key, student = trial.student.plan.key, trial.student
        title = f"\n== {number}/{len(trials)}  {trial.name}"
        if finished[key]:
            there = finished[key][0]
            logger.info(f"{title}: reused from run {there.info.run_id}")
            adopt_run(run, there)
            trial.run_id, trial.metrics = there.info.run_id, dict(there.data.metrics)
            continue
        logger.info(title)
        try:
            with run.sibling(student.name, time.time(), nested=True) as child:
                trial.run_id = child.run_id
                child.set_tags({"fer.kind": "distill"})
                child.log_params(_params(trial))
                best = train_student(child, student, trial.settings)
            trial.metrics = {
                "best_epoch": best.number,
                "best_val_accuracy": best.val_accuracy,
                "best_val_macro_f1": best.val_macro_f1,
            }
        except TrackingError:
            raise
        except JobError as error:
            trial.failure = str(error)
            logger.info(f"failed: {error}")
    return _choose_and_test(run, trials, test, settings, progress)


def _choose_and_test(
    run: TrackedRun, trials: list[Trial], test: Benchmark | None, settings: DistillSettings, progress: Progress
) -> GridResult:
    """Choose by the validation rows, measure on the test rows, and log both.

    Raises
    ------
    JobError
        nothing was trained that could be compared
    """
    table = configurations_table(trials)
    best, baseline = (_choose(trials, table, kind) for kind in ("soft labels", "labels alone"))
    result = GridResult(trials, best, baseline)
    if test is not None and (test.labels >= 0).any():
        chosen = {best.configuration, baseline.configuration}
        for trial in trials:
            if trial.configuration in chosen and not trial.failure:
                name = short_name(trial.student)
                bundle = score_student(run, trial.student, trial.run_id, settings, name, progress)
                trial.logits, trial.test = bundle.logits, bundle.metrics
        known = test.labels >= 0
        if baseline.logits is not None and best.logits is not None:
            rng = np.random.default_rng(SEED)
            names = test.classes.names
            result.comparison = compare_logits(
                baseline.logits[known], best.logits[known], test.labels[known], names, rng
            )
            result.test_name = test.name
            run.log_metrics(_metrics(result))
    run.log_metrics({"best_val_macro_f1": best.metrics["best_val_macro_f1"]})
    run.log_table("grid", grid_table(trials))
    run.set_tags({"fer.best_run": best.run_id, "fer.baseline_run": baseline.run_id})
    return result


def _choose(trials: list[Trial], table: pd.DataFrame, kind: str) -> Trial:
    """Return the trial with the best seed of the best configuration of a kind."""
    own = table[(table["loss"] == "ce") == (kind == "labels alone")]
    if own.empty:
        why = next((trial.failure for trial in trials if trial.failure), "none was planned")
        raise JobError(f"no student of {kind} could be trained: {why}")
    name = own["configuration"].iloc[0]
    trained = [trial for trial in trials if trial.configuration == name and not trial.failure]
    return max(trained, key=lambda trial: trial.metrics["best_val_macro_f1"])


def _params(trial: Trial) -> dict[str, str]:
    """Return a trial's params; those that its loss does not use, and those of the whole grid, are left out."""
    left_out = ("grid", "onnx", "name", *_UNUSED[trial.settings.loss])
    return {name: text for name, text in params_of(trial.settings).items() if name not in left_out}


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (n - 1), NaN for one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def configurations_table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row for each configuration that was trained, best mean validation macro-F1 first.

    `_sd` columns are standard deviations over seeds (n - 1), NaN for one seed.
    """
    rows = []
    for name in dict.fromkeys(trial.configuration for trial in trials if not trial.failure):
        own = [trial for trial in trials if trial.configuration == name and not trial.failure]
        macro_f1, accuracy = ([p.metrics[f"best_val_{key}"] for p in own] for key in ("macro_f1", "accuracy"))
        rows.append((name, own[0].settings.loss, len(own), *mean_and_sd(macro_f1), *mean_and_sd(accuracy)))
    columns = ["configuration", "loss", "seeds", "val_macro_f1", "val_macro_f1_sd", "val_accuracy", "val_accuracy_sd"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["val_macro_f1", "val_accuracy"], ascending=False, kind="stable", ignore_index=True)


def _metrics(result: GridResult) -> dict[str, float]:
    """Return the test scores under `test/…`, without what is not a number."""
    named: dict[str, float] = {}
    for what, trial in (("best", result.best), ("baseline", result.baseline)):
        named |= {f"test/{what}/{name}": trial.test[name] for name in SCORES if name in trial.test}
    for name in SCORES:
        each = result.comparison.differences[name] if result.comparison else None
        if each is not None:
            named |= {
                f"test/difference/{name}": each.value,
                f"test/difference/{name}/low": each.interval.low,
                f"test/difference/{name}/high": each.interval.high,
                f"test/difference/{name}/p": each.p_value,
            }
    named |= {
        f"test/seed_difference/{name}": mean_and_sd(values)[0] for name, values in result.seed_differences().items()
    }
    return {name: value for name, value in named.items() if not np.isnan(value)}


def grid_table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row for each student: its axes as text, its run, its scores, or why there are none."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        scores = {
            name: trial.metrics.get(name, np.nan) for name in ("best_epoch", "best_val_accuracy", "best_val_macro_f1")
        }
        test = {f"test_{name}": trial.test.get(name, np.nan) for name in SCORES}
        axes = {key: _text(value) for key, value in trial.axes.items()}
        seed = {"seed": trial.settings.seed}
        rows.append(
            {"configuration": trial.configuration, **axes, **seed, **scores, **test}
            | {"run_id": trial.run_id, "failure": trial.failure}
        )
    return pd.DataFrame(rows)
