"""`inspect`: how peaked soft labels are at each temperature."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.figures import draw_sharpness
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.sharpness import Sharpness, measure_sharpness, recommended_temperatures
from fer_mlflow.settings.scoring import InspectSettings
from fer_mlflow.tracking.runs import metric_keys
from fer_mlflow.workflows import SoftLabelsResult, workflow
from fer_mlflow.workflows.sources import read_source, source_run

COLUMNS = ("mean", "median", "p90", "p99", "entropy", "nearly_sure")


@dataclass(frozen=True, kw_only=True, repr=False)
class InspectResult(SoftLabelsResult):
    """How peaked soft labels are.

    Attributes
    ----------
    sharpness : statistics of the top probability at each temperature
    band : the mean top probabilities that suit distillation, lowest and highest
    recommended : temperatures whose mean top probability lies in the band; None where there are none
    """

    sharpness: Sharpness
    band: tuple[float, ...]
    recommended: tuple[float, float] | None


@workflow(InspectSettings)
def inspect(settings: InspectSettings, progress: Progress = no_progress) -> InspectResult:
    """Measure how peaked softmax(z / T) is over temperatures, and which of them suit distillation.

    Raises
    ------
    FerError
        the soft labels cannot be had
    TrackingError
        the server cannot be reached
    """
    with source_run("inspect", settings, read_source(settings), progress) as (run, source):
        soft_labels, low_and_high = source.bundle, (settings.band[0], settings.band[1])
        recommended = recommended_temperatures(soft_labels.logits, low_and_high)
        sharpness = measure_sharpness(soft_labels.logits, np.array(settings.temperatures))
        table = sharpness_table(sharpness, soft_labels.classes)
        metrics = metric_keys({f"T {row.pop('temperature'):g}": row for row in table.to_dict("records")})
        if recommended is not None:
            metrics["recommended_temperature_low"], metrics["recommended_temperature_high"] = recommended
        run.log_metrics(metrics)
        run.log_table("sharpness", table)
        figure = draw_sharpness(sharpness, soft_labels.classes, band=low_and_high, recommended=recommended)
        run.log_figure("sharpness.png", figure)
    return InspectResult(
        run_id=run.run_id,
        ui=run.ui,
        soft_labels=soft_labels,
        sharpness=sharpness,
        band=settings.band,
        recommended=recommended,
    )


def sharpness_table(sharpness: Sharpness, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return a row for each temperature: the top probability over all rows, then its mean by predicted class."""
    table = pd.DataFrame({"temperature": sharpness.temperatures})
    for name in COLUMNS:
        table[name] = getattr(sharpness, name)
    for name, column in zip(classes, sharpness.mean_by_class.T, strict=True):
        table[f"mean/{name}"] = column
    return table
