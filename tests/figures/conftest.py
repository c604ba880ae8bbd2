"""What tests of figures share."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figure_of(monkeypatch):
    """Return a function that draws and gives the figure, of which no bytes are made."""
    kept: list[Figure] = []

    def keep(figure):
        kept.append(figure)
        return b""

    monkeypatch.setattr("fer_mlflow.figures.style.png", keep)

    def draw(kind, *given, **named) -> Figure:
        kind(*given, **named)
        return kept[-1]

    return draw
