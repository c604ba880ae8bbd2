"""Fusing and scoring many configurations at once, against one export and one `score` for each."""

import numpy as np
import pytest

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.metrics import score
from fer_mlflow.search import teacher_logits
from fer_mlflow.search.choices import simplex_grid
from fer_mlflow.search.teacher_logits import CountTables, TeacherLogits, count_rows


def names(C):
    return tuple(f"class {k}" for k in range(C))


def as_exported(layers, weights, space, temperature=1.0):
    """Return what `evaluate --temperature T` scores of an export with these weights."""
    teachers = {f"t{k}": layer for k, layer in enumerate(layers)}
    shares = {f"t{k}": float(share) for k, share in enumerate(weights)}
    return stored(fuse(teachers, shares, space), "float32").astype(np.float64) / temperature


def make(rows, classes, teachers, spread=3.0, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, spread, (rows, classes)).astype(dtype) for _ in range(teachers)], rng.integers(
        0, classes, rows
    )


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize(
    ("rows", "classes", "teachers", "spread", "dtype"),
    [
        (1, 2, 1, 1.0, np.float32),
        (60, 7, 3, 3.0, np.float32),
        (200, 3, 2, 1e4, np.float64),  # neither overflow nor underflow
        (4100, 7, 2, 2.0, np.float16),  # more than one block
        (300, 5, 5, 4.0, np.float32),
    ],
)
def test_every_score_is_that_of_the_export_of_the_configuration(space, rows, classes, teachers, spread, dtype):
    layers, labels = make(rows, classes, teachers, spread, dtype=dtype)
    weights = simplex_grid(teachers, 3)
    rng = np.random.default_rng(1)
    temperatures = np.where(rng.random(len(weights)) < 0.5, 1.0, rng.uniform(0.3, 5, len(weights)))
    found = count_rows(TeacherLogits(layers, labels), space, weights, temperatures).scores(names(classes))
    for m, (own, temperature) in enumerate(zip(weights, temperatures, strict=True)):
        expected = score(as_exported(layers, own, space, temperature), labels, names(classes))
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name][m] == pytest.approx(value, abs=1e-9), (name, own)


def test_ties_go_to_the_first_class_and_a_class_without_rows_has_no_f1():
    layers = [np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0]], np.float32)] * 2
    labels = np.array([0, 1, 1])
    pool = TeacherLogits(layers, labels)
    assert pool.row_scores("logit", np.array([0.5, 0.5])).predictions.tolist() == [0, 1, 0]
    assert pool.row_scores("prob", np.array([0.5, 0.5])).predictions.tolist() == [0, 1, 0]
    assert "f1/class 2" not in count_rows(pool, "prob", np.array([[1.0, 0.0]])).scores(names(3))


def test_tallies_of_a_union_of_groups_are_those_of_its_rows():
    layers, labels = make(500, 4, 3)
    groups = np.random.default_rng(2).integers(0, 4, 500)
    weights = simplex_grid(3, 2)
    found = count_rows(TeacherLogits(layers, labels, groups), "prob", weights)
    for chosen in ([True, False, True, False], [False, False, False, True], [True] * 4):
        rows = np.isin(groups, np.flatnonzero(chosen))
        own = count_rows(TeacherLogits([layer[rows] for layer in layers], labels[rows]), "prob", weights).scores(
            names(4)
        )
        union = found.scores(names(4), np.array(chosen))
        assert set(own) - set(union) == {"p99_max_prob"}
        for name, values in union.items():
            assert values == pytest.approx(own[name], abs=1e-12), name
        assert (found.confusions(np.array(chosen)).sum(axis=(1, 2)) == rows.sum()).all()


def test_threads_and_blocks_change_no_bit(monkeypatch):
    layers, labels = make(700, 5, 3)
    weights = simplex_grid(3, 5)
    one = count_rows(TeacherLogits(layers, labels), "prob", weights)
    two = count_rows(TeacherLogits(layers, labels), "prob", weights, workers=2)
    for name, values in vars(one).items():
        assert np.array_equal(values, vars(two)[name]), name
    monkeypatch.setattr(teacher_logits, "_BLOCK", 64)
    small = TeacherLogits(layers, labels)
    assert np.array_equal(small.fused("prob", weights[7]), TeacherLogits(layers, labels).fused("prob", weights[7]))
    assert np.array_equal(count_rows(small, "prob", weights).loss, one.loss)


def test_lists_of_configurations_are_joined_and_taken_apart():
    layers, labels = make(50, 3, 2)
    weights = simplex_grid(2, 6)
    whole = count_rows(TeacherLogits(layers, labels), "logit", weights)
    again = CountTables.concatenated([whole.of(slice(0, 3)), whole.of(np.array([3, 4, 5, 6]))])
    assert len(again) == 7
    assert all(np.array_equal(values, vars(again)[name]) for name, values in vars(whole).items())


def test_the_pool_of_some_rows_is_the_pool_of_those_rows():
    layers, labels = make(80, 4, 3)
    rows = np.flatnonzero(np.arange(80) % 3 == 1)
    taken, own = (
        TeacherLogits(layers, labels).of_rows(rows),
        TeacherLogits([layer[rows] for layer in layers], labels[rows]),
    )
    weights = np.array([0.2, 0.5, 0.3])
    assert np.array_equal(taken.fused("prob", weights), own.fused("prob", weights))
    assert taken.labels.tolist() == labels[rows].tolist()
    assert taken.label_log_probs() == pytest.approx(own.label_log_probs())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers, labels: ([], labels), "found no teacher"),
        (lambda layers, labels: ([layers[0], layers[1][:5]], labels), "must be of the same rows and classes"),
        (lambda layers, labels: (layers, labels[:5]), "must be integers of shape"),
        (lambda layers, labels: (layers, labels + 9), "is not a class in 0..2"),
        (lambda layers, labels: ([layers[0] * np.inf, layers[1]], labels), "is not finite"),
    ],
)
def test_what_makes_no_pool_is_refused(change, message):
    layers, labels = make(20, 3, 2)
    with pytest.raises(ContractError, match=message):
        TeacherLogits(*change(layers, labels))


@pytest.mark.parametrize(
    ("space", "weights"), [("mean", [0.5, 0.5]), ("logit", [1.0]), ("prob", [1.5, -0.5]), ("logit", [0.0, 0.0])]
)
def test_what_is_no_configuration_is_refused(space, weights):
    layers, labels = make(20, 3, 2)
    with pytest.raises(ContractError, match="no configuration of 2 teachers"):
        TeacherLogits(layers, labels).row_scores(space, np.array(weights))
