"""Workflows: what each command does, settings in, a frozen result out; no printing and no command line."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Settings, renamed
from fer_mlflow.softlabels.bundle import SoftLabels

logger = logging.getLogger(__name__)
P = ParamSpec("P")
S = TypeVar("S", bound=Settings)
R = TypeVar("R")


class Workflow(Generic[P, S, R]):
    """A workflow: call it with keywords, or `of` settings that are made already.

    Each raises FerError where its input cannot be used, and TrackingError where the tracking server cannot be reached.

    Attributes
    ----------
    settings : the class of its settings
    """

    def __init__(self, settings: Callable[P, S], run: Callable[..., R]):
        self.settings, self._run = settings, run
        self.__doc__, self.__name__, self.__module__ = run.__doc__, run.__name__, run.__module__

    def __repr__(self) -> str:
        return f"<workflow {self.__name__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the settings from keywords, check them, and run the workflow."""
        values: Any = renamed(self.settings, kwargs)
        return self.of(self.settings(*args, **values))

    def of(self, settings: S, **context: Any) -> R:
        """Run the workflow with settings; `progress` is how it reports how far it is."""
        return self._run(settings, **context)


def workflow(settings: Callable[P, S]) -> Callable[[Callable[..., R]], Workflow[P, S, R]]:
    """Return the decorator that makes a function of settings a workflow."""
    return lambda run: Workflow(settings, run)


def may_log_images(settings: Any) -> bool:
    """Return whether a run may have pictures of faces: as the settings say, else as FER_MLFLOW_LOG_IMAGES does."""
    text = os.environ.get("FER_MLFLOW_LOG_IMAGES", "") or "true"
    if text not in ("true", "false"):
        raise ContractError(f"FER_MLFLOW_LOG_IMAGES is {text!r}; set it to true or false")
    return text == "true" if settings.log_images is None else settings.log_images


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult:
    """What a workflow returns.

    Attributes
    ----------
    run_id : the run that it logged; empty where it logged none
    ui : how to see it: an address, or the command that starts MLflow's UI on the store
    """

    run_id: str = ""
    ui: str = ""
    not_in_json: ClassVar[tuple[str, ...]] = ()

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON has them; docs/commands.md describes them."""
        return plain(self)

    def __repr__(self) -> str:
        """Return one line: the numbers, names and run ids, not the arrays, tables and the way to the UI."""
        values = {**vars(self), "name": getattr(self, "name", None), "ui": None}
        shown = [f"{name}={each!r}" for name, each in values.items() if isinstance(each, str | int | float)]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class SoftLabelsResult(RunResult):
    """What a workflow on soft labels returns.

    Attributes
    ----------
    soft_labels : the soft labels, verified
    """

    soft_labels: SoftLabels

    @property
    def name(self) -> str:
        """The configuration and the benchmark, for people."""
        return self.soft_labels.name


def plain(value: Any) -> Any:
    """Return a value in JSON's types: a frame as a list of rows, a number that is not finite as None.

    Arrays and functions are left out of the fields that a class has; of soft labels the names and digests are left.
    """
    if isinstance(value, SoftLabels):
        names = ("name", "benchmark", "selection_sha256", "sha256")
        return {"rows": len(value)} | {name: getattr(value, name) for name in names}
    if isinstance(value, pd.DataFrame):
        rows = value.reset_index(drop=value.index.name is None).to_dict("records")
        return [{"/".join(filter(None, np.atleast_1d(key))): plain(each) for key, each in row.items()} for row in rows]
    if is_dataclass(value):
        out = getattr(value, "not_in_json", ())
        shown = {name: each for name, each in vars(value).items() if name not in out}
        value = {name: each for name, each in shown.items() if not isinstance(each, np.ndarray | Callable)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def warn(message: str) -> None:
    """Log something that a user should read."""
    logger.warning("%s", message)
