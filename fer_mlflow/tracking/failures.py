"""Why a run that `mlflow run` opened has failed, where the command never took the run over."""

import os
import textwrap

from mlflow import MlflowClient
from mlflow.entities import RunTag

from fer_mlflow.tracking.store import redact


def record_failure(
    run_id: str, command: str, reason: str, status: str = "FAILED", client: MlflowClient | None = None
) -> None:
    """End a run with the reason in the tag `fer.error`; a run whose reason is known is left as it is.

    A run without `fer.kind` was never taken over by its command: it gets the command as its kind, and a name that says
    what went wrong in place of MLflow's random one.

    Parameters
    ----------
    command : name of the command, "" when it is not known
    status : FAILED, or KILLED for an interruption
    client : None in a process that is about to end: then a server that is away costs 5 s
    """
    if client is None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        client = MlflowClient()
    known = client.get_run(run_id).data.tags
    if "fer.error" in known:
        return
    reason = redact(reason)
    tags = {"fer.error": reason[:5000]}
    if "fer.kind" not in known:
        name = textwrap.shorten(f"{command}: {reason}" if command else reason, 100, placeholder=" …")
        tags |= {"fer.kind": command or "unknown", "mlflow.runName": name}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run_id, status)
