"""The commands that train: train, distill, demo."""

import importlib
from collections.abc import Iterator

import click

from fer_mlflow.cli import COMMANDS, options
from fer_mlflow.progress import show_progress
from fer_mlflow.settings.training import DemoSettings, DistillSettings, TrainSettings
from fer_mlflow.tables import Part, Table, format_interval, format_p_value


@options.workflow_command("train", TrainSettings)
def train(result) -> Iterator[Part]:
    """Train a teacher on a manifest's split, and log its best checkpoint as an MLflow run.

    The images come by the same path as in an export; teachers.yaml needs nothing but the checkpoint's path.
    """
    plan, settings = result.plan, result.plan.settings
    yield f"{settings.arch} at {settings.img_size} px, trained on {plan.train.name}, {len(plan.train):,} rows\n"
    yield from _epoch_lines(plan, result.best)
    yield ""
    yield from options.where_lines(result, checkpoint=result.checkpoint)


def _epoch_lines(plan, best) -> Iterator[str]:
    """Yield the best epoch's number and scores."""
    yield f"  best epoch    {best.number} of {plan.settings.epochs}"
    yield f"  val_accuracy  {best.val_accuracy:.4f}"
    yield f"  val_macro_f1  {best.val_macro_f1:.4f}"


@options.workflow_command("distill", DistillSettings)
def distill(result) -> Iterator[Part]:
    """Train a student on labels and soft labels, and log its best checkpoint as an MLflow run.

    It is trained as `train` trains a teacher, and its checkpoint is a teacher's: name it in teachers.yaml, export it.
    """
    from fer_mlflow.workflows.distill import DistillGridResult

    return _grid_lines(result) if isinstance(result, DistillGridResult) else _student_lines(result)


def _student_lines(result) -> Iterator[Part]:
    """Yield the best epoch, the loss, the scores on other rows, and where the checkpoint is."""
    student = result.student
    yield f"{student.title}, {len(student.train):,} rows\n"
    if student.objective is not None:
        loss, targets = student.objective.loss, student.objective.targets
        effective = targets.effective_temperature
        calibrated = f", effectively {effective:g} (calibrated)" if effective != loss.temperature else ""
        weights = f"alpha {loss.alpha:g}" + (f", beta {loss.beta:g}" if loss.loss == "dkd" else "")
        yield f"  loss          {loss.ce_weight:g} CE + {loss.loss.upper()} ({weights})"
        yield f"  target        {targets.kind}, T {loss.temperature:g}{calibrated}"
    yield from _epoch_lines(student, result.best)
    yield ""
    yield from _score_lines(result.scored)
    yield from options.where_lines(result, checkpoint=result.checkpoint, model=_model(result, 14))


def _score_lines(soft_labels) -> Iterator[Part]:
    """Yield a student's scores with their 95 % intervals; nothing where no row has a label."""
    import numpy as np

    from fer_mlflow.scoring.significance import bootstrap_intervals
    from fer_mlflow.workflows.evaluate import SEED
    from fer_mlflow.workflows.train import COUNTED

    if soft_labels is None or not (known := soft_labels.labels >= 0).any():
        return
    predictions = soft_labels.logits[known].argmax(axis=1)
    labels = soft_labels.labels[known]
    intervals = bootstrap_intervals(labels, predictions, soft_labels.classes, np.random.default_rng(SEED))
    yield f"  on {soft_labels.benchmark}, {len(labels):,} labelled rows"
    shown = [name for name in COUNTED if name in soft_labels.metrics]
    rows = [[name, soft_labels.metrics[name], format_interval(intervals[name])] for name in shown]
    yield Table(rows=rows)
    yield ""


def _model(result, indent: int) -> str:
    """Return where the model is, and in an indented line how near it is to torch; empty where there is none."""
    if result.model is None:
        return ""
    check = result.model.check
    return (
        f"{result.model.uri}\n{'':<{indent}}ONNX beside torch on {check.rows:,} validation rows: logits within "
        f"{check.max_difference:.1e}, {check.changed} other predictions"
    )


def _grid_lines(result) -> Iterator[Part]:
    """Yield every configuration over its seeds, and the best one beside its baseline on other rows."""
    from fer_mlflow.workflows.distill import configurations_table

    grid = result.grid
    table = configurations_table(grid.trials)
    mark = {grid.best.configuration: "<- best", grid.baseline.configuration: "<- baseline"}
    rows = [
        [row.configuration, row.seeds, _spread(row.val_macro_f1, row.val_macro_f1_sd)]
        + [f"{_spread(row.val_accuracy, row.val_accuracy_sd)} {mark.get(row.configuration, '')}"]
        for row in table.itertuples()
    ]
    yield Table(["configuration", "seeds", "val_macro_f1", "val_accuracy"], rows, rule=True)
    scores = table.set_index("configuration")["val_macro_f1"]
    if table["val_macro_f1"].iloc[0] == scores[grid.baseline.configuration] != scores[grid.best.configuration]:
        yield "\n  no student of soft labels is better on the validation rows than those of labels alone"
    if grid.comparison is not None:
        yield from _test_lines(grid)
    yield from (f"  failed: {trial.name}: {trial.failure}" for trial in grid.trials if trial.failure)
    yield ""
    yield from options.where_lines(result, table=result.table_location, best=result.out, model=_model(result, 11))
    grid.raise_failures()


def _test_lines(grid) -> Iterator[str]:
    """Yield the scores on the test rows, and the difference between the best and its baseline."""
    import pandas as pd

    from fer_mlflow.workflows.train import COUNTED, SCORES

    yield f"\n  on {grid.best.scored.benchmark}, {len(grid.comparison.labels):,} labelled rows"
    for what, trial in (("best", grid.best), ("baseline", grid.baseline)):
        tests = [other.test for other in grid.trials if other.configuration == trial.configuration and other.test]
        scores = pd.DataFrame(tests).reindex(columns=list(COUNTED)).dropna(axis=1)
        spreads = (f"{name} {_spread(scores[name].mean(), scores[name].std())}" for name in scores)
        yield f"  {what:<8}  {'  '.join(spreads).rstrip()}"
    seeds = f"seeds {grid.best.seed} and {grid.baseline.seed}"
    yield f"\n  best - baseline, paired over rows, the best {seeds} on the validation rows"
    width = max(map(len, SCORES))
    for name in SCORES:
        each = grid.comparison.differences[name]
        interval = format_interval(each.interval, "+")
        yield f"  {name:<{width}}  {each.value:+.4f}  {interval}  p {format_p_value(each.p_value)}"
    for name, differences in grid.seed_differences().items():
        each = pd.Series(differences)
        own = f"over {len(each)} seeds, each beside its own baseline"
        yield f"  {name:<{width}}  {each.mean():+.4f} ± {each.std():.4f} {own}"


def _spread(mean: float, sd: float) -> str:
    """Return a mean and its standard deviation over seeds, which one seed does not have."""
    return f"{mean:.4f}" + (" " * 9 if sd != sd else f" ± {sd:.4f}")


@options.settings_command("demo", DemoSettings)
def demo(settings: DemoSettings) -> None:
    """Draw faces, train three teachers, export four ensembles on two splits, judge the best, show the leaderboard.

    A second run reuses everything that the first one made.
    """
    from fer_mlflow.tour.demo import run_demo

    def show(name: str, result) -> None:
        importlib.import_module(f"fer_mlflow.cli.{COMMANDS[name]}")
        options.print_parts(options.LINES[name](result))

    run_demo(settings, announce=lambda text: click.echo(f"\n== {text}", err=True), show=show, progress=show_progress)
