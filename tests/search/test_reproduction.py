"""The search for a setting, on counts of small problems whose answer is known."""

from contextlib import contextmanager

import numpy as np
import pytest

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.metrics import score
from fer_mlflow.search.choices import simplex_grid
from fer_mlflow.search.reproduction import BenchmarkCounts, Target, find_subsets, search_candidates
from fer_mlflow.search.teacher_logits import TeacherLogits, count_rows

CLASSES = ("Angry", "Happy", "Sad")
WEIGHTS = simplex_grid(2, 4)
RELATED = {"weights": np.array([0, 1, 3, 4])}


def problem(seed=0, rows=300, sources=("web", "lab")):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    common = rng.normal(0, 1, (rows, 3))
    common[np.arange(rows), labels] += 1.0
    logits = [common + rng.normal(0, 1.5, common.shape) for _ in range(2)]
    splits, names = np.full(rows, "test", dtype=object), np.array(sources, dtype=object)[np.arange(rows) % len(sources)]
    parts, groups = find_subsets(splits, names)
    pool = TeacherLogits(logits, labels, groups)
    return BenchmarkCounts(
        count_rows(pool, "logit", WEIGHTS), parts, labels, groups, lambda m: pool.fused("logit", WEIGHTS[m])
    )


def scores(searched, m, part, temperature=1.0):
    rows = searched.subsets[part].groups[searched.groups]
    return score(searched.fused(m)[rows] / temperature, searched.labels[rows], CLASSES)


def search(target, benchmarks, **more):
    return search_candidates(target, benchmarks, CLASSES, 2, RELATED, **more)


@pytest.mark.parametrize("temperature", [0.45, 1.0, 1.3, 6.2])
@pytest.mark.parametrize("part", [0, 1])
def test_configuration_part_and_temperature_are_found_from_four_digits(part, temperature):
    benchmarks = {"a": problem(0), "b": problem(1)}
    truth = scores(benchmarks["b"], 3, part, temperature)
    target = Target({name: round(truth[name], 4) for name in ("accuracy", "macro_f1", "nll", "ece")}, 0.005)
    found = search(target, benchmarks).matches[0]
    assert (found.benchmark, found.configuration) == ("b", 3)
    assert found.subset == benchmarks["b"].subsets[part].name
    assert found.temperature == pytest.approx(temperature, rel=2e-3)
    assert found.temperatures[0] <= found.temperature <= found.temperatures[1]
    assert found.distance < 0.05


def test_a_known_temperature_is_taken_as_it_is_and_not_sought():
    searched = problem(2)
    truth = scores(searched, 1, 0, 1.0)
    found = search(Target({"nll": truth["nll"], "accuracy": truth["accuracy"]}, 1e-6, temperature=1.0), {"a": searched})
    assert found.sought == (0, 0)
    assert [(each.configuration, each.subset, each.temperature) for each in found.matches] == [(1, "all rows", 1.0)]


def test_every_setting_within_the_tolerance_is_a_match_and_no_other():
    searched = problem(3)
    truth = scores(searched, 2, 0)
    target = Target({"accuracy": truth["accuracy"], "f1/Sad": truth["f1/Sad"]}, 0.02)
    found = search(target, {"a": searched})
    expected = set()
    for m in range(len(WEIGHTS)):
        for k, part in enumerate(searched.subsets):
            own = scores(searched, m, k)
            if all(abs(own[name] - value) <= 0.02 + 1e-9 for name, value in target.values.items()):
                expected.add((m, part.name))
    assert {(each.configuration, each.subset) for each in found.matches} == expected
    distances = [each.distance for each in found.matches]
    assert distances == sorted(distances)
    assert distances[0] == 0


def test_rows_that_are_known_exclude_other_parts():
    searched = problem(4, rows=301)
    truth = scores(searched, 2, 1)
    wanted = searched.subsets[1].rows
    found = search(Target({"accuracy": truth["accuracy"]}, 0.5, rows=wanted), {"a": searched})
    assert {each.rows for each in found.matches} == {wanted}
    with pytest.raises(ContractError, match="no subset of the benchmarks is of 17 labelled rows; "):
        search(Target({"accuracy": 0.5}, 0.5, rows=17), {"a": searched})


def test_a_class_that_no_part_has_is_refused():
    searched = problem(5)
    with pytest.raises(ContractError, match="with rows of all classes of the target"):
        search_candidates(Target({"f1/Fear": 0.5}, 0.01), {"a": searched}, CLASSES, 2, {})


def test_without_a_match_the_nearest_the_reach_and_single_changes_are_told():
    searched = problem(6)
    found = search(Target({"accuracy": 0.999}, 0.001), {"a": searched, "b": problem(7)})
    assert not found.matches
    every = [scores(each, m, k)["accuracy"] for each in (searched, problem(7)) for m in range(5) for k in range(3)]
    assert found.reachable["accuracy"] == (min(every), max(every))
    assert found.nearest.scores["accuracy"] == max(every)
    assert found.reference.scores["accuracy"] == scores(searched, 2, 0)["accuracy"]
    assert set(found.changes) == {"weights", "rows", "benchmark"}
    assert found.changes["weights"].scores["accuracy"] == max(
        scores(searched, m, 0)["accuracy"] for m in RELATED["weights"]
    )
    assert found.changes["rows"].scores["accuracy"] == max(scores(searched, 2, k)["accuracy"] for k in (1, 2))
    assert found.changes["benchmark"].scores["accuracy"] == scores(problem(7), 2, 0)["accuracy"]
    distances = [each.distance for each in found.changes.values()]
    assert distances == sorted(distances)


def test_temperatures_are_sought_only_where_the_other_numbers_match():
    searched = problem(8)
    truth = scores(searched, 4, 0, 2.0)
    counted = []

    @contextmanager
    def progress(total):
        counted.append(total)
        yield counted.append

    target = Target({"accuracy": truth["accuracy"], "nll": truth["nll"]}, 1e-4)
    found = search(target, {"a": searched}, progress=progress)
    same = sum(abs(scores(searched, m, k)["accuracy"] - truth["accuracy"]) <= 1e-4 for m in range(5) for k in range(3))
    assert found.sought == (same, same)
    assert counted == [same, *[1] * same]
    assert (4, "all rows") in {(each.configuration, each.subset) for each in found.matches}
