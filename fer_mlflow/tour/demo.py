"""The demo: the same workflows that a user calls, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from fer_mlflow import calibrate, compare, distill, evaluate, export, inspect, reproduce, sweep, train, triage
from fer_mlflow.files import sha256_of_file, written_file
from fer_mlflow.progress import Progress
from fer_mlflow.scoring.metrics import DEFAULT
from fer_mlflow.settings import option_name
from fer_mlflow.settings.scoring import ExportSettings, TriageSettings
from fer_mlflow.settings.training import DemoSettings, DistillSettings, TrainSettings
from fer_mlflow.tour.faces import contact_sheet, draw_face, write_faces
from fer_mlflow.tracking import bundles, records, runs, store
from fer_mlflow.workflows import Workflow, leaderboards
from fer_mlflow.workflows.export import Ensemble, read_ensemble
from fer_mlflow.workflows.train import read_plan, read_student, read_training_rows

# Three families that see different things, small enough to learn these faces on two cores while one waits.
TEACHERS: dict[str, dict[str, Any]] = {
    "RN10": {"arch": "resnet10t", "lr": 0.003},
    "RGX": {"arch": "regnetx_002", "lr": 0.004},
    "CNXT": {"arch": "convnext_atto", "lr": 0.002},
}
RECIPE: dict[str, Any] = {"img_size": 64, "batch_size": 32, "label_smoothing": 0.05}
WEIGHTS = ("RN10=0.34,RGX=0.33,CNXT=0.33", "RN10=0.6,RGX=0.2,CNXT=0.2")
SPACES, SPLITS = ("logit", "prob"), ("val", "test")
# What it is all for: a student that is small and quick, once from labels alone and once from soft labels too.
STUDENT: dict[str, Any] = {"arch": "resnet10t", "img_size": 32, "batch_size": 32, "lr": 0.003}
STUDENT_EPOCHS = 6  # at most
STUDENTS = {"student-ce": "ce", "student-kd": "kd"}


def run_demo(
    settings: DemoSettings,
    announce: Callable[[str], object],
    show: Callable[[str, Any], object],
    progress: Progress,
) -> None:
    """Run the demo; every step that finds its result in the tracking store is passed over.

    `announce` is called with what comes next, `show` with the name of a workflow and its result.
    """
    with runs.open_run("demo", "demo") as run:
        run.log(settings.params)
        demo = _Demo(settings, run, announce, show, progress)
        demo.draw_faces()
        demo.train_teachers()
        digests = demo.export_ensembles()
        boards = {split: leaderboards.read_leaderboard(run.client, digest) for split, digest in digests.items()}
        boards = {split: board[board["kind"] != "student"] for split, board in boards.items()}
        demo.judge(boards)
        demo.search(digests, boards["test"])
        demo.distill_students(digests["val"])
        announce("triage")
        demo.call(triage, TriageSettings())
        first = [each for board in boards.values() for each in board[:1].to_dict("records")]
        best = " · ".join(f"{each['benchmark']}: {DEFAULT} **{each[DEFAULT]:.4f}**" for each in first)
        about = f"{len(TEACHERS)} teachers and {len(STUDENTS)} students, trained on {settings.faces:,} drawn faces"
        run.describe(best or "no good run", about, {f"best on {each['benchmark']}": each["run_id"] for each in first})


@dataclass(frozen=True)
class _Demo:
    """The steps, and what they share."""

    settings: DemoSettings
    run: runs.TrackedRun
    announce: Callable[[str], object]
    show: Callable[[str, Any], object]
    progress: Progress

    @property
    def folder(self) -> Path:
        return Path(self.settings.out)

    @property
    def manifest(self) -> Path:
        return self.folder / "faces" / "manifest.csv"

    @property
    def teachers(self) -> Path:
        return self.folder / "teachers" / "teachers.yaml"

    def call(self, workflow: Workflow, settings: Any) -> Any:
        """Call a workflow, show its result and return it."""
        result = workflow.of(settings, progress=self.progress)
        self.show(workflow.__name__, result)
        return result

    def call_unless(self, is_done: bool, already: str, doing: str, workflow: Workflow, settings: Any) -> None:
        """Announce whether a step is done already, and take it where it is not."""
        self.announce(already if is_done else doing)
        if not is_done:
            self.call(workflow, settings)

    def call_once(self, workflow: Workflow, **given: Any) -> None:
        """Call a workflow, unless a finished run has the same params."""
        settings = workflow.settings(**given)
        params = {name: text for name, text in settings.params.items() if name in given}
        options = (text if name.startswith("run_") else f"{option_name(name)} {text}" for name, text in params.items())
        command = " ".join([workflow.__name__, *options])
        conditions = (f"params.`{name}` = '{text}'" for name, text in params.items())
        is_done = bool(store.search_finished(self.run.client, workflow.__name__, *conditions))
        self.call_unless(is_done, f"done already: {command}", command, workflow, settings)

    def draw_faces(self) -> None:
        """Draw the faces, and log a sheet of them."""
        count, seed = self.settings.faces, self.settings.seed
        self.announce(f"{count:,} drawn faces in {self.manifest.parent}")
        with self.progress("drawing faces", count) as drawn:
            write_faces(self.manifest.parent, count, seed, on_face=drawn)
        sheet = contact_sheet([draw_face(seed, index) for index in range(min(count, 600))])
        path = self.folder / "faces.png"
        with written_file(path) as file:
            file.write(cv2.imencode(".png", sheet)[1].tobytes())
        self.run.log_file(path)

    def train_teachers(self) -> None:
        """Train each teacher, unless its checkpoint is the one that a finished run made; write teachers.yaml."""
        epochs, seed = self.settings.epochs, self.settings.seed
        for name, own in TEACHERS.items():
            out = self.teachers.with_name(f"{name}.pt")
            settings = TrainSettings(
                manifest=str(self.manifest), name=name, out=str(out), epochs=epochs, seed=seed, **RECIPE, **own
            )
            key = read_plan(settings, *read_training_rows(settings)).key
            finished = bundles.find_runs(self.run.client, "train", [key])[key]
            made = [each.data.tags.get("fer.checkpoint_sha256") for each in finished]
            is_there = out.exists() and sha256_of_file(out) in made
            doing = f"training teacher {name}: {own['arch']}"
            self.call_unless(is_there, f"teacher {name} is there: {out}", doing, train, settings)
        with written_file(self.teachers) as file:  # the checkpoints carry everything but their path
            file.write("".join(f"{name}: {{checkpoint: {name}.pt}}\n" for name in TEACHERS).encode())

    def export_ensembles(self) -> dict[str, str]:
        """Export every ensemble on both splits; return split -> the benchmark's digest."""
        digests = {}
        for split, weights, space in product(SPLITS, WEIGHTS, SPACES):
            ensemble, _ = self.exported(split, weights, space)
            digests[split] = ensemble.benchmark.selection_sha256
        return digests

    def exported(self, split: str, weights: Any, space: Any) -> tuple[Ensemble, str]:
        """Export an ensemble on a split, unless a finished run has it; return it with the newest such run."""
        settings = ExportSettings(
            manifest=str(self.manifest), teachers=str(self.teachers), split=split, weights=weights, space=space
        )
        ensemble = read_ensemble(settings)
        if finished := bundles.find_runs(self.run.client, "export", [ensemble.key])[ensemble.key]:
            self.announce(f"exported already: {ensemble.name}")
            return ensemble, finished[0].info.run_id
        self.announce(f"exporting {ensemble.name}")
        return ensemble, self.call(export, settings).run_id

    def judge(self, boards: Mapping[str, pd.DataFrame]) -> None:
        """Show the best ensemble on the test split: its scores, temperature, sharpness, and how it compares."""
        if len(boards["test"]) < 2:
            self.announce("triage calls all but one run bad: there is nothing to compare")
            return
        best, second = boards["test"]["run_id"][:2]
        on_val = boards["val"].merge(boards["test"][:1], on="configuration")["run_id_x"].tolist()
        self.call_once(evaluate, run=best)
        self.call_once(calibrate, run=best, **({"fit_run": on_val[0]} if on_val else {}))
        self.call_once(inspect, run=best)
        self.call_once(compare, run_a=best, run_b=second)

    def search(self, digests: Mapping[str, str], board: pd.DataFrame) -> None:
        """Search all weights where four were tried, and find again where the numbers of the best ensemble came from."""
        own: dict[str, Any] = {"manifest": str(self.manifest), "teachers": str(self.teachers), "log_top": 3}
        self.call_once(sweep, **own, fit_split="val", report_split="test")
        if len(board):
            numbers = {name: round(float(board.iloc[0][name]), 3) for name in ("accuracy", "macro_f1", "ece")}
            benchmarks = [digest[:12] for digest in digests.values()]
            self.call_once(reproduce, benchmark=benchmarks, tolerance=0.0005, **numbers)

    def distill_students(self, val: str) -> None:
        """Train a student from labels, and one from the soft labels of what is best on the validation rows too."""
        # Bad ones too: what triage tags after the first demo must not change the second.
        best = records.find_best(self.run.client, "macro_f1", val, where="tags.`fer.kind` = 'export'", even_bad=True)
        record = records.record_of(best.run)
        _, source = self.exported("train", record.params["ensemble"], record.of_ensemble("space"))
        epochs = min(self.settings.epochs, STUDENT_EPOCHS)
        for name, loss in STUDENTS.items():
            own: dict[str, Any] = {} if loss == "ce" else {"softlabels": source, "even_bad": True}
            own |= {"loss": loss, "epochs": epochs, "seed": self.settings.seed}
            settings = DistillSettings(manifest=str(self.manifest), name=name, **STUDENT, **own)
            key = read_student(settings, *read_training_rows(settings), {}).key
            is_trained = bool(bundles.find_runs(self.run.client, "distill", [key])[key])
            self.call_unless(is_trained, f"trained already: {name}", f"distill {name}", distill, settings)
