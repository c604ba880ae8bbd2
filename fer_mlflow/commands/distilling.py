"""What `distill` does, apart from its options, so that `--help` imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.grids import Grid, parse_grid, run_grid
from fer_mlflow.commands.student_scores import (
    SCORES,
    fetched_checkpoint,
    lines_of_scores,
    score_student,
    short_name,
)
from fer_mlflow.commands.students import Reader, Student, train_student
from fer_mlflow.commands.training import FOLDER, copy_checkpoint, read_split
from fer_mlflow.data.images import read_image_bytes
from fer_mlflow.student.onnx_export import OnnxCheck, check_onnx, check_onnx_packages, export_onnx
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.store import describe_way_to_ui
from fer_mlflow.training.state import Epoch
from fer_mlflow.workflows.ensemble import warn


def distill(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    if options["onnx"]:
        check_onnx_packages()
    reader = Reader.of(options)
    if options["grid"]:
        _distill_grid(parse_grid(options, reader), options, typed)
        return
    student = reader.read(options)
    if student.source is None and options["softlabels"]:
        warn(f"--softlabels {options['softlabels']}: --loss ce learns from labels alone and leaves them unused")
    test = read_split(options, options["test_split"]) if options["test_split"] else None
    with open_run("distill", options["name"] or student.name, options["experiment"] or "") as run:
        run.log_params(typed)
        best = train_student(run, student, options)
        scored = None
        if test is not None:
            name = short_name(student, options["name"])
            scored = score_student(run, student, run.run_id, test, options, name)
            run.log_metrics({f"test/{name}": scored.metrics[name] for name in SCORES if name in scored.metrics})
        model = _log_model(run, run.run_id, student, options) if options["onnx"] else None
    _print_student(student, best, run, options["out"], scored, model)


def _distill_grid(grid: Grid, options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Train every student of a grid as a run below this one, and look closer at the best."""
    test = read_split(options, options["test_split"]) if options["test_split"] else None
    name = options["name"] or f"distill {options['grid']} · {grid.train.name}"
    with open_run("distill", name, options["experiment"] or "") as run:
        run.log_params({**typed, "benchmark": grid.train.name, "rows": len(grid.train)})
        result = run_grid(run, grid, test, options, typed)
        if options["out"]:
            with fetched_checkpoint(run.client, result.best.run_id, result.best.student) as checkpoint:
                copy_checkpoint(checkpoint, Path(options["out"]))
        model = None
        if options["onnx"]:
            model = _log_model(run, result.best.run_id, result.best.student, options)
    for line in result.lines():
        click.echo(line)
    click.echo(f"\n  run      {run.run_id}")
    click.echo(f"  table    {run.artifact_location('tables/grid.parquet')}")
    if options["out"]:
        click.echo(f"  best     {Path(options['out']).absolute()}")
    _print_model(model, 9)
    click.echo(f"  look     {describe_way_to_ui(run.experiment_id, run.run_id)}")
    result.raise_failures()


def _log_model(
    run: TrackedRun, trained_run: str, student: Student, options: Mapping[str, Any]
) -> tuple[str, OnnxCheck]:
    """Log a student as an MLflow model that takes images, once its ONNX file agrees with torch."""
    from fer_mlflow.tracking.serving import log_student

    val, clahe = student.plan.val, student.plan.recipe.clahe
    with fetched_checkpoint(run.client, trained_run, student) as checkpoint:
        onnx = checkpoint.with_name("student.onnx")
        side = export_onnx(checkpoint, val.classes, onnx)
        check = check_onnx(onnx, checkpoint, val, clahe)
        card = {
            "classes": list(val.classes.names),
            "img_size": side,
            "clahe": asdict(clahe) if clahe else None,
        }
        uri = log_student(run, onnx, card, read_image_bytes(val.root, val.paths.iloc[0]))
    run.log_metrics(
        {"onnx/rows": check.rows, "onnx/max_difference": check.max_difference, "onnx/changed": check.changed}
    )
    run.set_tags({"fer.model": uri})
    return uri, check


def _print_student(student: Student, best: Epoch, run: TrackedRun, out: str | None, scored, model) -> None:
    """Print the best epoch, what was learned from, the scores on other rows, and where the checkpoint is."""
    plan = student.plan
    click.echo(f"{student.name}, {len(plan.train):,} rows\n")
    if student.targets is not None and student.objective is not None:
        how = student.objective.how
        effective = student.targets.effective_temperature
        calibrated = f", effectively {effective:g} (calibrated)" if effective != how.temperature else ""
        weights = f"alpha {how.alpha:g}" + (f", beta {how.beta:g}" if how.loss == "dkd" else "")
        click.echo(f"  loss          {how.ce_weight:g} CE + {how.loss.upper()} ({weights})")
        click.echo(f"  target        {student.targets.kind}, T {how.temperature:g}{calibrated}")
    click.echo(f"  best epoch    {best.number} of {plan.recipe.epochs}")
    click.echo(f"  val_accuracy  {best.val_accuracy:.4f}")
    click.echo(f"  val_macro_f1  {best.val_macro_f1:.4f}\n")
    if scored is not None and (lines := lines_of_scores(scored)):
        click.echo(f"  on {scored.report['benchmark']['name']}, {int((scored.labels >= 0).sum()):,} labelled rows")
        click.echo("".join(f"  {line}\n" for line in lines))
    where = Path(out).absolute() if out else f"{run.artifact_location(FOLDER)}/{plan.recipe.arch}.pt"
    click.echo(f"  run         {run.run_id}")
    click.echo(f"  checkpoint  {where}")
    _print_model(model, 12)
    click.echo(f"  look        {describe_way_to_ui(run.experiment_id, run.run_id)}")


def _print_model(model: tuple[str, OnnxCheck] | None, width: int) -> None:
    """Print where the model is, and how near it is to torch, behind names of a width."""
    if model is not None:
        uri, check = model
        click.echo(f"  {'model':<{width}}{uri}")
        click.echo(
            f"  {'':<{width}}ONNX beside torch on {check.rows:,} validation rows: logits within "
            f"{check.max_difference:.1e}, {check.changed} other predictions"
        )
