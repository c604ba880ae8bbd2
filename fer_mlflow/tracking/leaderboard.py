"""Which runs did best on one benchmark: a table, from what the tracking store says."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient

from fer_mlflow.tracking.bundles import all_experiments
from fer_mlflow.tracking.store import tracking_errors

RANKED_KINDS = ("export", "teacher")


@dataclass(frozen=True)
class Entry:
    """One finished run: its id, what it is, and its metrics as they are stored."""

    run_id: str
    kind: str
    ensemble: str
    space: str
    clahe: str
    metrics: dict[str, float]


def read_leaderboard(client: MlflowClient, selection_sha256: str, metric: str = "macro_f1") -> list[Entry]:
    """Return the runs on exactly these rows, best first; of runs with one configuration only the newest.

    Runs that triage called bad, and runs without the metric, are left out.
    """
    found: dict[str, Entry] = {}
    for run in _search(
        client, f"tags.`fer.selection_sha256` = '{selection_sha256}' AND attributes.status = 'FINISHED'"
    ):
        tags, params = run.data.tags, run.data.params
        is_ranked = tags.get("fer.kind") in RANKED_KINDS and tags.get("triage.status") != "bad"
        if is_ranked and metric in run.data.metrics and tags["fer.config_key"] not in found:
            found[tags["fer.config_key"]] = Entry(
                run.info.run_id,
                tags["fer.kind"],
                params["ensemble"],
                params["space"],
                params["clahe"],
                dict(run.data.metrics),
            )
    return sorted(found.values(), key=lambda entry: (-entry.metrics[metric], entry.ensemble, entry.space))


def _search(client: MlflowClient, condition: str) -> Iterable:
    """Yield runs of every experiment that fulfil a condition, newest first."""
    token = None
    with tracking_errors("searching runs"):
        experiments = [experiment.experiment_id for experiment in all_experiments(client)]
        while True:
            page = client.search_runs(experiments, condition, order_by=["attributes.start_time DESC"], page_token=token)
            yield from page
            token = page.token
            if not token:
                return
