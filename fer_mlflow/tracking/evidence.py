"""What a run's bundle says, downloaded once: whether it verifies, and per row what is needed to compare runs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from fer_mlflow.errors import BundleError, RunError
from fer_mlflow.files import written_file
from fer_mlflow.scoring.metrics import row_losses, score
from fer_mlflow.softlabels.bundle import FOLDER
from fer_mlflow.softlabels.reading import FILES, HASHES, METRICS, REPORT
from fer_mlflow.tracking.bundles import fetch_bundle
from fer_mlflow.tracking.run_table import RunRecord
from fer_mlflow.tracking.store import tracking_errors

_NO_ROWS = np.empty(0, np.int16)
_SINGLE = ("problem", "is_missing", "classes", "rows", "selected_rows", "selection")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found in a run's bundle.

    Attributes
    ----------
    problem : why the bundle cannot be trusted; empty where it can
    is_missing : whether files are not there, rather than wrong
    labels, predictions : (N,) int16 class columns of the labelled rows
    losses : (N,) float32, -log p of the label in nats
    metrics : recomputed from the logits
    rows, selected_rows : rows of the bundle, and of the benchmark that it was made for
    selection : the bundle's own selection digest
    """

    problem: str = ""
    is_missing: bool = False
    classes: tuple[str, ...] = ()
    rows: int = 0
    selected_rows: int = 0
    selection: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: _NO_ROWS)
    predictions: np.ndarray = field(default_factory=lambda: _NO_ROWS)
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class EvidenceStore:
    """Evidence by run and bundle digest, kept in the cache folder."""

    def __init__(self, client: MlflowClient, cache: Path):
        self.client, self.cache, self.folder = client, cache, cache / "evidence"
        self._read: dict[str, Evidence] = {}

    def kept(self, run: RunRecord) -> Evidence | None:
        """Return what is known of a run's bundle without asking the server."""
        key = self._key(run)
        if key not in self._read:
            found = _load(self.folder / f"{key}.npz")
            if found is None:
                return None
            self._read[key] = found
        return self._read[key]

    def gather(self, run: RunRecord) -> Evidence:
        """Download and verify a run's bundle, and remember what it says.

        Raises
        ------
        TrackingError
            the server cannot be reached: that is no verdict
        """
        found = self._look(run)
        self._read[self._key(run)] = found
        meta = {name: getattr(found, name) for name in _SINGLE}
        with written_file(self.folder / f"{self._key(run)}.npz") as file:
            np.savez_compressed(
                file,
                meta=np.array(json.dumps({**meta, "metrics": dict(found.metrics)})),
                labels=found.labels,
                predictions=found.predictions,
                losses=found.losses,
            )
        return found

    @staticmethod
    def _key(run: RunRecord) -> str:
        known = f"{run.run_id}.{run.tags.get('fer.bundle_sha256', 'none')}"
        return hashlib.sha256(known.encode()).hexdigest()[:32]  # what a tag holds may be no name of a file

    def _look(self, run: RunRecord) -> Evidence:
        with tracking_errors(f"listing {FOLDER}/ of run {run.run_id}"):
            names = {Path(each.path).name for each in self.client.list_artifacts(run.run_id, FOLDER)}
            whole = self.client.get_run(run.run_id)
        lacking = sorted({*FILES, HASHES} - {METRICS} - names)
        if lacking:
            found = "no file of it is there" if len(lacking) == len(FILES) else f"without {', '.join(lacking)}"
            return Evidence(problem=found, is_missing=True)
        try:
            bundle = fetch_bundle(self.client, whole, self.cache)
        except (BundleError, RunError) as error:
            return Evidence(problem=str(error).partition(": ")[2] or str(error))
        try:
            selected_rows = int(bundle.report["benchmark"]["selected_rows"])
        except (KeyError, TypeError, ValueError):
            return Evidence(problem=f"{REPORT} does not say how many rows the benchmark has")
        known = bundle.labels >= 0
        logits, labels = bundle.logits[known].astype(np.float64), bundle.labels[known]
        return Evidence(
            classes=bundle.classes,
            rows=len(bundle),
            selected_rows=selected_rows,
            selection=bundle.selection_sha256,
            metrics=score(logits, labels).named(bundle.classes) if len(labels) else {},
            labels=labels.astype(np.int16),
            predictions=logits.argmax(axis=1).astype(np.int16) if len(labels) else _NO_ROWS,
            losses=row_losses(logits, labels).astype(np.float32),
        )


def _load(path: Path) -> Evidence | None:
    """Return what a file keeps; None where it is not there or not whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            meta = json.loads(str(arrays["meta"]))
            meta["classes"] = tuple(meta["classes"])
            return Evidence(**meta, **{name: arrays[name] for name in ("labels", "predictions", "losses")})
    except Exception:  # a cache that cannot be read is a cache that is not there
        return None
