"""A saved view of the good runs in MLflow's UI, and the leaderboard as the experiment's note.

The view's format is MLflow's own affair, so a version that does not know it shows the plain list, and a store that
refuses any of this costs a warning.
"""

import json
import logging
import time

from mlflow import MlflowClient

from fer_mlflow.errors import TrackingError
from fer_mlflow.scoring.metrics import is_lower_better
from fer_mlflow.tracking.leaderboard import SHOWN_METRICS
from fer_mlflow.tracking.store import tracking_errors

logger = logging.getLogger(__name__)

VIEW = "leaderboard"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_NOTE, _PRIMARY = "mlflow.note.content", "mlflow.experiment.primaryMetric.name"
_GREATEST = 5000  # characters of an experiment's tag
_MARK = "<!-- written by fer-mlflow triage -->"
_COLUMNS = (
    *(f"params.`{name}`" for name in ("benchmark", "ensemble", "ensemble/space", "ensemble/clahe", "calibration")),
    *(f"metrics.`{name}`" for name in SHOWN_METRICS),
    *(f"tags.`{name}`" for name in ("fer.kind", "triage.status", "triage.rank", "triage.reasons")),
)


def furnish_experiment(client: MlflowClient, experiment_id: str, leaderboard: str | None, metric: str) -> None:
    """Give an experiment the view `leaderboard`, a note with the leaderboard, and its primary metric.

    What is there already stays: nothing is written that is so already, and a note that a person wrote is left alone.

    Parameters
    ----------
    leaderboard : Markdown; None leaves the note as it is
    """
    try:
        with tracking_errors("furnishing the experiment"):
            there = client.get_experiment(experiment_id).tags
            wanted = {_VIEW_TAG: _view(metric, there.get(_VIEW_TAG, "")), _PRIMARY: metric}
            if leaderboard is not None and there.get(_NOTE, _MARK).startswith(_MARK):
                wanted[_NOTE] = _note(leaderboard)
            for name, text in wanted.items():
                if there.get(name) != text:
                    client.set_experiment_tag(experiment_id, name, text)
    except TrackingError as error:
        logger.warning("MLflow's UI is left as it is: %s", error)


def _note(leaderboard: str) -> str:
    """Return the note, cut after a line where it is longer than a tag can be."""
    note = f"{_MARK}\n\n{leaderboard}"
    if len(note) <= _GREATEST:
        return note
    rest = "\n\n… the rest is in the triage run's `leaderboard.md`\n"
    return note[: note.rfind("\n", 0, _GREATEST - len(rest))] + rest


def _view(metric: str, before: str) -> str:
    """Return the saved view as MLflow's menu of views takes it; `before` is the one that is there."""
    state = _state(metric)
    try:
        there = json.loads(before)
        if there["state"] == state:
            return before
        made = int(there["createdAt"])
    except (ValueError, KeyError, TypeError):
        made = 0
    now = int(time.time() * 1000)
    return json.dumps({"name": VIEW, "createdAt": made or now, "updatedAt": now, "state": state})


def _state(metric: str) -> str:
    """Return the state of MLflow's run table: good runs, best first, with the columns that tell them apart."""
    order = f"metrics.`{metric}`"
    return json.dumps(
        {
            "searchFilter": "tags.`triage.status` = 'good' AND tags.`fer.bundle_sha256` LIKE '%'",
            "orderByKey": order,
            "orderByAsc": is_lower_better(metric),
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "selectedColumns": list(dict.fromkeys([*_COLUMNS, order])),
        }
    )
