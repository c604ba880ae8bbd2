"""Scores as figures: PNG bytes, one function for each kind of figure."""

from fer_mlflow.figures.confidence import draw_reliability, draw_sharpness
from fer_mlflow.figures.pareto import draw_pareto
from fer_mlflow.figures.scores import draw_class_scores, draw_confusion, draw_differences, draw_mistakes
from fer_mlflow.figures.weight_map import WeightMap, draw_weight_map

__all__ = [
    "WeightMap",
    "draw_class_scores",
    "draw_confusion",
    "draw_differences",
    "draw_mistakes",
    "draw_pareto",
    "draw_reliability",
    "draw_sharpness",
    "draw_weight_map",
]
