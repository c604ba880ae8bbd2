"""What a grid of students came to: a table over seeds, and the best one beside its baseline on other rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.cli.compare import format_p_value
from fer_mlflow.commands.student_scores import SCORES
from fer_mlflow.commands.students import Student
from fer_mlflow.errors import JobError
from fer_mlflow.scoring.comparison import Comparison


@dataclass
class Point:
    """One student of a grid, and what became of it.

    Attributes
    ----------
    settings : what sets it apart from the other students of the grid
    failure : why it could not be trained
    logits : (N, C) of the test rows, where it was asked about them
    """

    student: Student
    settings: Mapping[str, Any]
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    logits: np.ndarray | None = None

    @property
    def configuration(self) -> str:
        """The settings without the seed: students that differ in nothing else are one configuration."""
        return ", ".join(f"{key} {text(value)}" for key, value in self.settings.items() if key != "seed")

    @property
    def name(self) -> str:
        """All settings."""
        return ", ".join(f"{key} {text(value)}" for key, value in self.settings.items())


def text(value: Any) -> str:
    """Return an option's value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class GridResult:
    """All students, the best of soft labels and of labels alone, and how they compare on the test rows.

    Attributes
    ----------
    best : of the best configuration with soft labels, the student with the best seed; `baseline` the same of labels
    comparison : `best` against `baseline`; None without test rows
    """

    points: list[Point]
    best: Point
    baseline: Point
    comparison: Comparison | None = None
    test_name: str = ""

    def lines(self) -> list[str]:
        """Return the result for people."""
        table = configurations(self.points)
        width = max(map(len, table["configuration"]))
        header = f"  {'configuration':<{width}}  seeds  val_macro_f1           val_accuracy"
        lines = [header, "  " + "-" * (len(header) + 6)]
        for row in table.itertuples():
            mark = {self.best.configuration: " <- best", self.baseline.configuration: " <- baseline"}
            lines.append(
                f"  {row.configuration:<{width}}  {row.seeds:5d}  {_spread(row.val_macro_f1, row.val_macro_f1_sd)}"
                f"  {_spread(row.val_accuracy, row.val_accuracy_sd)}{mark.get(row.configuration, '')}"
            )
        if table["val_macro_f1"].iloc[0] == _of(table, self.baseline) != _of(table, self.best):
            lines += ["", "  no student of soft labels is better on the validation rows than those of labels alone"]
        if self.comparison is not None:
            lines += self._test_lines(self.comparison)
        lines += [f"  failed: {point.name}: {point.failure}" for point in self.points if point.failure]
        return lines

    def _test_lines(self, comparison: Comparison) -> list[str]:
        lines = ["", f"  on {self.test_name}, {len(comparison.labels):,} labelled rows"]
        for what, point in (("best", self.best), ("baseline", self.baseline)):
            values = [other.test for other in self.points if other.configuration == point.configuration and other.test]
            spreads = (
                f"{name} {_spread(*_mean_sd([each[name] for each in values]))}" for name in ("macro_f1", "accuracy")
            )
            lines.append(f"  {what:<8}  {'  '.join(spreads).rstrip()}")
        seeds = f"seeds {self.best.student.plan.recipe.seed} and {self.baseline.student.plan.recipe.seed}"
        lines += ["", f"  best - baseline, paired over rows, the best {seeds} on the validation rows"]
        for name in SCORES:
            each = comparison.differences[name]
            interval = f"[{each.interval.low:+.4f}, {each.interval.high:+.4f}]"
            lines.append(f"  {name:<8}  {each.value:+.4f}  {interval}  p {format_p_value(each.p_value)}")
        for name, differences in self.seed_differences().items():
            mean, sd = _mean_sd(differences)
            lines.append(
                f"  {name:<8}  {mean:+.4f} ± {sd:.4f} over {len(differences)} seeds, each beside its own baseline"
            )
        return lines

    def seed_differences(self) -> dict[str, list[float]]:
        """Return best minus baseline on the test rows for each seed that both have; empty for fewer than two."""
        pairs = [
            (mine.test, other.test)
            for mine in self.points
            for other in self.points
            if (mine.configuration, other.configuration) == (self.best.configuration, self.baseline.configuration)
            and mine.student.plan.recipe.seed == other.student.plan.recipe.seed
            and mine.test
            and other.test
        ]
        return {name: [a[name] - b[name] for a, b in pairs] for name in SCORES[:2]} if len(pairs) > 1 else {}

    def raise_failures(self) -> None:
        """Raise where a student could not be trained.

        Raises
        ------
        JobError
            one could not; the message says how many
        """
        failed = [point for point in self.points if point.failure]
        if failed:
            raise JobError(f"{len(failed)} of {len(self.points)} students failed; the others are in the table")


def _spread(mean: float, sd: float) -> str:
    """Return a mean and its standard deviation over seeds, which one seed does not have."""
    return f"{mean:.4f}" + (" " * 9 if np.isnan(sd) else f" ± {sd:.4f}")


def _mean_sd(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _of(table: pd.DataFrame, point: Point) -> float:
    return float(table.set_index("configuration")["val_macro_f1"][point.configuration])


def configurations(points: list[Point]) -> pd.DataFrame:
    """Return one row for each configuration that was trained, best mean validation macro-F1 first.

    `_sd` columns are standard deviations over seeds (n - 1), NaN for one seed.
    """
    rows = []
    for name in dict.fromkeys(point.configuration for point in points if not point.failure):
        own = [point for point in points if point.configuration == name and not point.failure]
        macro_f1, accuracy = ([p.metrics[f"best_val_{key}"] for p in own] for key in ("macro_f1", "accuracy"))
        rows.append((name, own[0].student.loss, len(own), *_mean_sd(macro_f1), *_mean_sd(accuracy)))
    columns = ["configuration", "loss", "seeds", "val_macro_f1", "val_macro_f1_sd", "val_accuracy", "val_accuracy_sd"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["val_macro_f1", "val_accuracy"], ascending=False, kind="stable", ignore_index=True)


def metrics_of_grid(result: GridResult) -> dict[str, float]:
    """Return the test scores under `test/…`, without what is not a number."""
    named: dict[str, float] = {}
    for what, point in (("best", result.best), ("baseline", result.baseline)):
        named |= {f"test/{what}/{name}": point.test[name] for name in SCORES}
    for name in SCORES:
        each = result.comparison.differences[name] if result.comparison else None
        if each is not None:
            named |= {
                f"test/difference/{name}": each.value,
                f"test/difference/{name}/low": each.interval.low,
                f"test/difference/{name}/high": each.interval.high,
                f"test/difference/{name}/p": each.p_value,
            }
    named |= {f"test/seed_difference/{name}": _mean_sd(values)[0] for name, values in result.seed_differences().items()}
    return {name: value for name, value in named.items() if not np.isnan(value)}


def grid_table(points: list[Point]) -> pd.DataFrame:
    """Return one row for each student: its settings as text, its run, its scores, or why there are none."""
    rows: list[dict[str, Any]] = []
    for point in points:
        scores = {
            name: point.metrics.get(name, np.nan) for name in ("best_epoch", "best_val_accuracy", "best_val_macro_f1")
        }
        test = {f"test_{name}": point.test.get(name, np.nan) for name in SCORES}
        settings = {key: text(value) for key, value in point.settings.items()}
        seed = {"seed": point.student.plan.recipe.seed}
        rows.append(
            {"configuration": point.configuration, **settings, **seed, **scores, **test}
            | {"run_id": point.run_id, "failure": point.failure}
        )
    return pd.DataFrame(rows)
