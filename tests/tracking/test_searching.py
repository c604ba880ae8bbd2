"""Python's collector is paused while MLflow makes thousands of objects, and only then."""

import gc

import pytest

from fer_mlflow.errors import TrackingError
from fer_mlflow.tracking.searching import collector_paused, search_runs


def test_the_collector_is_as_it_was_after_a_search():
    class Client:
        def search_runs(self, *_, **__):
            seen.append(gc.isenabled())
            raise ConnectionError("away")

    seen = []
    with pytest.raises(TrackingError, match="away"):
        search_runs(Client(), experiments=["0"])
    assert seen == [False]
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
