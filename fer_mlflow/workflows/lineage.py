"""`lineage`: what a run was made from, down to manifests and checkpoints, and what to redo where one changed."""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from fer_mlflow.errors import RunError, TeacherError
from fer_mlflow.files import sha256_of_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings.scoring import LineageSettings
from fer_mlflow.teachers.spec import read_teachers
from fer_mlflow.tracking import bundles, runs, store
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.sources import path_of

_SOURCES = (store.TEACHER_RUN, "fer.source_run", "fer.best_run")  # begin the tags that name runs
_READS_FILES = (*store.BUNDLED_KINDS, "train", "distill")
_COMMANDS = {"teacher": "export", "student": "distill"}  # of the kinds that are not called by their command


@dataclass(frozen=True)
class Node:
    """A run or a file, with what it was made from; `command` makes a run anew, `is_changed` is of a file."""

    text: str
    command: str = ""
    is_changed: bool = False
    sources: tuple["Node", ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether a file below has changed."""
        return self.is_changed or any(each.is_stale for each in self.sources)

    def stale_runs(self) -> list["Node"]:
        """Return the runs that a changed file has made stale, each after those that it was made from."""
        below = [run for each in self.sources for run in each.stale_runs()]
        return list(dict.fromkeys([*below, self] if self.command and self.is_stale else below))


@dataclass(frozen=True, kw_only=True, repr=False)
class LineageResult(RunResult):
    """What a run was made from; `redo` are the runs to make anew, in this order."""

    tree: Node
    redo: list[Node]


@workflow(LineageSettings)
def lineage(settings: LineageSettings, progress: Progress = no_progress) -> LineageResult:
    """Follow a run's sources down to manifests and checkpoints, and hash those that are still here.

    Like `fetch` it changes nothing in the store, and joins only a run that `mlflow run` has opened. Raises RunError:
    there is no such run.
    """
    with runs.joined_run("lineage", f"lineage · {settings.run}", settings.params) as run:
        client = store.connect()
        tree = _read(client, cache(sha256_of_file), bundles.read_run(client, settings.run).info.run_id)
    return LineageResult(run_id=run.run_id if run else "", tree=tree, redo=tree.stale_runs())


def _read(client, sha256, run_id: str, *below: str) -> Node:
    """Return a run with its sources; one that cannot be read, or is its own source, ends there."""
    try:
        if run_id in below:
            raise RunError(f"run {run_id}: it is its own source")
        run = bundles.read_run(client, run_id)
    except RunError as error:
        return Node(str(error))
    params, tags, metrics, kind = run.data.params, run.data.tags, run.data.metrics, run.data.tags.get("fer.kind", "")

    def file(what: str, path, digest: str) -> Node:
        found = sha256(path) if path is not None and path.is_file() else ""
        status = "not here" if not found else "the same" if found == digest else "changed"
        return Node(f"{what} {path or ''}  {digest[:8]}  {status}", is_changed=status == "changed")

    ids = [text for tag, text in sorted(tags.items()) if tag.startswith(_SOURCES) and text != "folder"]
    files = []
    for entry in run.inputs.dataset_inputs[:1] if run.inputs and kind in _READS_FILES else ():
        digest = json.loads(entry.dataset.source)["manifest_sha256"]
        files.append(file("manifest", path_of(params, "manifest"), digest))
    if kind == "teacher":
        ((name, digest),) = bundles.read_checkpoints(run).items()
        ids += [each.info.run_id for each in store.search_trained(client, digest)[:1]]
        path = None
        with suppress(TeacherError):  # teachers.yaml does not name it any more, or its file is gone
            path = read_teachers(path_of(params, "teachers") or "", [name])[name].checkpoint
        files.append(file("checkpoint", path, digest))
    title = run.info.run_name or ""
    parts = [title if title.startswith(kind) else f"{kind} {title}", f"run {run_id[:8]}"]
    parts += [f"macro_f1 {metrics['macro_f1']:.3f}"] if "macro_f1" in metrics else []
    made = {what: tags.get(f"fer.{what}_sha256", "")[:8] for what in ("bundle", "checkpoint")}
    parts += [f"{what} {digest}" for what, digest in made.items() if digest]
    sources = [_read(client, sha256, each, run_id, *below) for each in ids]
    return Node("  ".join(parts), _COMMANDS.get(kind, kind), sources=(*sources, *files))
