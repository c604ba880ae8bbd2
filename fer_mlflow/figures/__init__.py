"""Scores as pictures: PNG bytes of a fixed size for each kind, so that several runs' figures can stand side by side."""

from fer_mlflow.figures.class_scores import draw_class_scores
from fer_mlflow.figures.confusion import draw_confusion
from fer_mlflow.figures.differences import draw_differences
from fer_mlflow.figures.mistakes import draw_mistakes
from fer_mlflow.figures.pareto import draw_pareto
from fer_mlflow.figures.reliability import draw_reliability
from fer_mlflow.figures.sharpness import draw_sharpness
from fer_mlflow.figures.weight_map import draw_weight_map

__all__ = [
    "draw_class_scores",
    "draw_confusion",
    "draw_differences",
    "draw_mistakes",
    "draw_pareto",
    "draw_reliability",
    "draw_sharpness",
    "draw_weight_map",
]
