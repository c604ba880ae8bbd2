"""Who started this process: our command line, which owns it, or somebody's Python code, which only calls us.

The command line joins and names the run that `mlflow run` opened, installs signal handlers, and ends its run whatever
happens. A workflow that is called from Python does none of this: its run is a new one, nested where the caller has a
run open, and the process is left as it was.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OWNS_PROCESS: ContextVar[bool] = ContextVar("fer_mlflow.owns_process", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Mark a block as run by our command line."""
    token = _OWNS_PROCESS.set(True)
    try:
        yield
    finally:
        _OWNS_PROCESS.reset(token)


def owns_process() -> bool:
    """Return whether our command line runs this code."""
    return _OWNS_PROCESS.get()


def is_joined() -> bool:
    """Return whether this command runs in the run that `mlflow run` opened for it."""
    return owns_process() and bool(os.environ.get("MLFLOW_RUN_ID"))
