"""What `demo` does: the same commands that a user types, one after the other."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import cv2
import pandas as pd
from tqdm import tqdm

from fer_mlflow.cli.calibrate import command as calibrate_command
from fer_mlflow.cli.compare import command as compare_command
from fer_mlflow.cli.distill import command as distill_command
from fer_mlflow.cli.evaluate import command as evaluate_command
from fer_mlflow.cli.export import command as export_command
from fer_mlflow.cli.inspect import command as inspect_command
from fer_mlflow.cli.train import command as train_command
from fer_mlflow.cli.triage import command as triage_command
from fer_mlflow.commands.options import fusion_settings
from fer_mlflow.commands.reproduce import command as reproduce_command
from fer_mlflow.commands.reproducing import reproduce
from fer_mlflow.commands.sweep import command as sweep_command
from fer_mlflow.commands.sweeping import sweep
from fer_mlflow.files import sha256_of_file, written_file
from fer_mlflow.settings.training import DistillSettings, TrainSettings
from fer_mlflow.tour.faces import contact_sheet, draw_face, write_faces
from fer_mlflow.tracking.bundles import find_results, find_runs
from fer_mlflow.tracking.leaderboard import read_leaderboard
from fer_mlflow.tracking.runs import TrackedRun, open_run
from fer_mlflow.tracking.selection import find_best
from fer_mlflow.workflows.ensemble import Ensemble, read_ensemble
from fer_mlflow.workflows.students import StudentReader
from fer_mlflow.workflows.train import read_plan

# Three families that see different things, small enough to learn these faces on two cores while one waits.
TEACHERS = {
    "RN10": {"arch": "resnet10t", "lr": "0.003"},
    "RGX": {"arch": "regnetx_002", "lr": "0.004"},
    "CNXT": {"arch": "convnext_atto", "lr": "0.002"},
}
RECIPE = {"img_size": "64", "batch_size": "32", "label_smoothing": "0.05"}
WEIGHTS = ("RN10=0.34,RGX=0.33,CNXT=0.33", "RN10=0.6,RGX=0.2,CNXT=0.2")
SPACES, SPLITS = ("logit", "prob"), ("val", "test")
# What it is all for: a student that is small and quick, once from labels alone and once from soft labels too.
STUDENT = {"arch": "resnet10t", "img_size": "32", "batch_size": "32", "lr": "0.003"}
STUDENT_EPOCHS = 6  # at most
STUDENTS = {"student-ce": {"loss": "ce"}, "student-kd": {"loss": "kd"}}


def demo(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the tour; every step that finds its result in the tracking store is passed over."""
    folder = Path(options["out"])
    with open_run("demo", "demo") as run:
        run.log_params(typed)
        manifest = _draw(run, folder, options["faces"], options["seed"])
        _train(run, folder, manifest, options)
        teachers = _write_teachers(folder)
        digests = _export(run, manifest, teachers)
        boards = {split: read_leaderboard(run.client, digest) for split, digest in digests.items()}
        boards = {split: board[board["kind"] != "student"] for split, board in boards.items()}
        _judge(run, boards)
        _search(run, manifest, teachers, digests, boards)
        _distill(run, manifest, teachers, digests["val"], options)
        _say("triage")
        triage_command.callback()  # type: ignore[misc]


def _say(text: str) -> None:
    """Say what happens next, on stderr."""
    click.echo(f"\n== {text}", err=True)


def _draw(run: TrackedRun, folder: Path, count: int, seed: int) -> Path:
    """Draw the faces, and log a sheet of them to look at."""
    _say(f"{count:,} drawn faces in {folder / 'faces'}")
    with tqdm(total=count, unit=" faces", disable=not sys.stderr.isatty()) as bar:
        manifest = write_faces(folder / "faces", count, seed, on_face=bar.update)
    sheet = contact_sheet([draw_face(seed, index) for index in range(min(count, 600))])
    path = folder / "faces.png"
    with written_file(path) as file:
        file.write(cv2.imencode(".png", sheet)[1].tobytes())
    run.log_file(path)
    return manifest


def _parsed(command: click.Command, typed: Mapping[str, str]) -> dict[str, Any]:
    """Return a command's options as its own parser reads them."""
    words = []
    for each in command.params:
        words += [typed[str(each.name)]] if isinstance(each, click.Argument) else [each.opts[0], typed[str(each.name)]]
    return command.make_context(command.name, words).params


def _typed(command: click.Command, given: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every option of a command: what is given, and the defaults of the rest."""
    return {str(each.name): given.get(str(each.name), str(each.default or "")) for each in command.params}


def _train(run: TrackedRun, folder: Path, manifest: Path, options: Mapping[str, Any]) -> None:
    """Train each teacher, unless its checkpoint is the one that a finished run made."""
    for name, own in TEACHERS.items():
        checkpoint = folder / "teachers" / f"{name}.pt"
        given = {"manifest": str(manifest), "name": name, "out": str(checkpoint), "seed": str(options["seed"])}
        typed = _typed(train_command, RECIPE | own | given | {"epochs": str(options["epochs"])})
        settings = TrainSettings(**{name: text for name, text in typed.items() if text})  # type: ignore[arg-type]
        key = read_plan(settings).key
        made = [done.data.tags.get("fer.checkpoint_sha256") for done in find_runs(run.client, "train", [key])[key]]
        if checkpoint.exists() and sha256_of_file(checkpoint) in made:
            _say(f"teacher {name} is there: {checkpoint}")
            continue
        _say(f"training teacher {name}: {own['arch']}")
        train_command.callback(**_parsed(train_command, typed))  # type: ignore[misc]


def _write_teachers(folder: Path) -> Path:
    """Write teachers.yaml: the checkpoints carry everything but their path."""
    path = folder / "teachers" / "teachers.yaml"
    with written_file(path) as file:
        file.write("".join(f"{name}: {{checkpoint: {name}.pt}}\n" for name in TEACHERS).encode())
    return path


def _export(run: TrackedRun, manifest: Path, teachers: Path) -> dict[str, str]:
    """Export every ensemble on both splits; return split -> the benchmark's digest."""
    digests = {}
    for split in SPLITS:
        for weights in WEIGHTS:
            for space in SPACES:
                ensemble, _ = _exported(run, manifest, teachers, split, weights, space)
                digests[split] = ensemble.benchmark.selection_sha256
    return digests


def _exported(
    run: TrackedRun, manifest: Path, teachers: Path, split: str, weights: str, space: str
) -> tuple[Ensemble, str]:
    """Export an ensemble on a split, unless a finished run has it; return it with the newest such run."""
    given = {"manifest": str(manifest), "teachers": str(teachers), "split": split}
    typed = _typed(export_command, given | {"weights": weights, "space": space})
    ensemble = read_ensemble(fusion_settings(_parsed(export_command, typed)))
    key = ensemble.config_key
    if find_runs(run.client, "export", [key])[key]:
        _say(f"exported already: {ensemble.name} on {ensemble.benchmark.name}")
    else:
        _say(f"exporting {ensemble.name} on {ensemble.benchmark.name}")
        export_command.callback(**_parsed(export_command, typed))  # type: ignore[misc]
    return ensemble, find_runs(run.client, "export", [key])[key][0].info.run_id


def _distill(run: TrackedRun, manifest: Path, teachers: Path, val: str, options: Mapping[str, Any]) -> None:
    """Train a student from labels, and one from the soft labels of what is best on the validation rows too."""
    # Bad ones too: what triage says of a run after the first tour must not change the second.
    is_ensemble = "tags.`fer.kind` = 'export'"
    best = find_best(run.client, "macro_f1", val, where=is_ensemble, even_bad=True).run.data.params
    _, source = _exported(run, manifest, teachers, "train", best["ensemble"], best["ensemble/space"])
    epochs = str(min(options["epochs"], STUDENT_EPOCHS))
    common = STUDENT | {"manifest": str(manifest), "epochs": epochs, "seed": str(options["seed"])}
    for name, own in STUDENTS.items():
        softlabels = {} if own["loss"] == "ce" else {"softlabels": source, "even_bad": "true"}
        typed = _typed(distill_command, common | own | softlabels | {"name": name})
        settings = DistillSettings(**{name: text for name, text in typed.items() if text})  # type: ignore[arg-type]
        key = StudentReader.of(settings).read(settings).plan.key
        if find_runs(run.client, "distill", [key])[key]:
            _say(f"trained already: {name}")
            continue
        _say(f"distill {name}")
        distill_command.callback(**_parsed(distill_command, typed))  # type: ignore[misc]


def _judge(run: TrackedRun, boards: Mapping[str, pd.DataFrame]) -> None:
    """Look closer at the best ensemble on the test split: its scores, temperature and sharpness, and its lead."""
    if len(boards["test"]) < 2:
        _say("triage calls all but one run bad: there is nothing to compare")
        return
    best, second = boards["test"]["run_id"][:2]
    on_val = boards["val"].merge(boards["test"][:1], on="configuration")["run_id_x"].tolist()
    _follow(run, evaluate_command, None, {"run": best})
    _follow(run, calibrate_command, None, {"run": best, "fit_run": on_val[0]} if on_val else {"run": best})
    _follow(run, inspect_command, None, {"run": best})
    _follow(run, compare_command, None, {"run_a": best, "run_b": second})


def _search(
    run: TrackedRun,
    manifest: Path,
    teachers: Path,
    digests: Mapping[str, str],
    boards: Mapping[str, pd.DataFrame],
) -> None:
    """Search all weights where four were tried, and find again where the numbers of the best ensemble came from."""
    splits = {"fit_split": "val", "report_split": "test"}
    _follow(run, sweep_command, sweep, {"manifest": str(manifest), "teachers": str(teachers), **splits, "log_top": "3"})
    if len(boards["test"]):
        best = boards["test"].iloc[0]
        numbers = {name: f"{best[name]:.3f}" for name in ("accuracy", "macro_f1", "ece")}
        given = {"benchmark": ",".join(digest[:12] for digest in digests.values()), **numbers, "tolerance": "0.0005"}
        _follow(run, reproduce_command, reproduce, given)


def _follow(run: TrackedRun, command: click.Command, call: Callable | None, given: Mapping[str, str]) -> None:
    """Run a command on runs that are there, unless a finished run has done the same."""
    is_option = {str(each.name): isinstance(each, click.Option) for each in command.params}
    said = " ".join(f"--{name.replace('_', '-')} {text}" if is_option[name] else text for name, text in given.items())
    if find_results(run.client, str(command.name), given):
        _say(f"done already: {command.name} {said}")
        return
    _say(f"{command.name} {said}")
    typed = _typed(command, given)
    if call is None:
        command.callback(**_parsed(command, typed))  # type: ignore[misc]
    else:
        call(_parsed(command, typed), typed)
