"""What a sweep found."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.commands.configurations import Configurations
from fer_mlflow.commands.teacher_sets import TeacherSet
from fer_mlflow.scoring.metrics import is_lower_better
from fer_mlflow.search.assessment import Assessment
from fer_mlflow.search.choice import Choice

_DIGITS = 6


@dataclass(frozen=True)
class Sweep:
    """What was scored and chosen.

    Attributes
    ----------
    fit, report : ways to ask -> teachers' logits, of the benchmark of the choice and of the one it is judged on
    configurations : M of them
    tables : benchmark -> scores of each configuration
    best, plateau, front : on the benchmark of the choice: the best one, (M,) bool those within one paired standard
        error of it, and (M,) bool those that no other beats in both metrics of `axes`
    chosen_by : the metric of the choice
    choice : made on all rows of the benchmark of the choice
    judgement : what such a choice is worth
    protocol : how choosing and judging were kept apart, in words; `is_in_sample` where they were not
    """

    fit: dict[str, TeacherSet]
    report: dict[str, TeacherSet]
    metric: str
    configurations: Configurations
    tables: dict[str, pd.DataFrame]
    best: int
    plateau: np.ndarray
    axes: tuple[str, str]
    front: np.ndarray
    chosen_by: str
    choice: Choice
    judgement: Assessment
    protocol: str
    is_in_sample: bool

    @property
    def fitted(self) -> TeacherSet:
        """The rows of the choice; how they were asked does not matter."""
        return next(iter(self.fit.values()))

    @property
    def reported(self) -> TeacherSet:
        """The rows that the choice is judged on; how they were asked does not matter."""
        return next(iter(self.report.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return self.fitted.names

    @property
    def values(self) -> np.ndarray:
        """(M,) the metric of each configuration on the rows of the choice; NaN where none of them has its class."""
        table = self.tables[self.fitted.benchmark]
        return table[self.metric].to_numpy() if self.metric in table else np.full(len(table), np.nan)

    @property
    def order(self) -> np.ndarray:
        """Places of the configurations, the best first; of equal ones that of the lowest NLL."""
        nll = self.tables[self.fitted.benchmark]["nll"].to_numpy()
        return np.lexsort((nll, self.values if is_lower_better(self.metric) else -self.values))

    def weights_of(self, choice: Choice) -> dict[str, float]:
        """Return the teachers that a choice uses and their weights, to 6 digits, as they are shown and exported."""
        shares = zip(self.names, choice.weights, strict=True)
        return {name: round(float(share), _DIGITS) for name, share in shares if round(share, _DIGITS) > 0}
