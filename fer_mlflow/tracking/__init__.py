"""Who started this process: our command line, which owns it, or somebody's Python code, which only calls us.

The command line joins and names the run that `mlflow run` opened, installs signal handlers, and ends its run whatever
happens. A workflow that is called from Python does none of this: its run is a new one, nested where the caller has a
run open, and the process is left as it was.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

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


@cache
def source_commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """Return the commit of the checkout that a package is part of, None without one.

    A package that is installed below somebody's checkout is no part of it: git does not track its files.
    """
    command = ["git", "-C", str(package), "--no-optional-locks"]
    try:
        for arguments in (["ls-files", "--error-unmatch", "__init__.py"], ["rev-parse", "HEAD"]):
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
