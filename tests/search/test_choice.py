"""Choosing weights on problems whose answer is known, and against other ways to the same optimum."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from fer_mlflow.scoring.metrics import score
from fer_mlflow.search.choices import (
    Choice,
    choose_best,
    choose_greedily,
    choose_likeliest,
    equal_weights,
    likeliest_mixture,
    simplex_grid,
)
from fer_mlflow.search.teacher_logits import TeacherLogits, count_rows

SPACES = ("logit", "prob")


def make(rows=400, teachers=3, noise=1.0, seed=0, classes=4):
    """Return logits that are calibrated and then disturbed for each teacher on its own, and labels."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(0, 1.5, (rows, classes))
    labels = np.array([rng.choice(classes, p=p) for p in softmax(clean, axis=1)])
    return [clean + rng.normal(0, noise, clean.shape) for _ in range(teachers)], labels


def nll(pool, choice):
    return pool.row_scores(choice.space, choice.weights, choice.temperature).loss.mean()


@pytest.mark.parametrize("seed", range(4))
def test_the_likeliest_mixture_is_the_optimum_of_another_solver(seed):
    layers, labels = make(seed=seed, teachers=4, noise=1.0 + seed)
    log_probs = log_softmax(np.stack(layers), axis=2)[:, np.arange(len(labels)), labels]

    def loss(w):
        return -np.log(w @ np.exp(log_probs)).mean()

    found = likeliest_mixture(log_probs)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found.min() >= 0
    peer = minimize(
        loss,
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert loss(found) <= peer.fun + 1e-7
    assert found == pytest.approx(peer.x, abs=5e-3)


def test_a_mixture_by_hand():
    # Teacher A is certain of the label of three rows in four and rules the fourth out; B says one half everywhere:
    # 3/4 log(a + b/2) + 1/4 log(b/2) is greatest where a + b/2 = 3/4, so b = 1/2.
    log_probs = np.array([[0.0, 0.0, 0.0, -np.inf], [np.log(0.5)] * 4])
    assert likeliest_mixture(log_probs) == pytest.approx([0.5, 0.5], abs=1e-5)
    assert likeliest_mixture(np.array([[-1e4, -2e4], [-1e4 - 1, -2e4 - 1]])) == pytest.approx([1, 0], abs=1e-6)
    assert likeliest_mixture(np.zeros((3, 5))) == pytest.approx(equal_weights(3))
    assert likeliest_mixture(np.array([[-3.0]])).tolist() == [1.0]


@pytest.mark.parametrize("spaces", [("logit",), ("prob",), SPACES])
def test_the_likeliest_choice_is_at_least_as_good_as_a_fine_grid(spaces):
    layers, labels = make(noise=2.0, seed=3)
    pool = TeacherLogits(layers, labels)
    choice = choose_likeliest({"": pool}, spaces)
    assert choice.space in spaces
    assert not choice.note
    grid = simplex_grid(3, 20)
    best = min(count_rows(pool, space, grid).scores(tuple("abcd"))["nll"].min() for space in spaces)
    assert nll(pool, choice) <= best + 1e-9
    assert score(choice.fused({"": pool}), labels, tuple("abcd"))["nll"] == pytest.approx(nll(pool, choice), abs=1e-12)
    around = choice.temperature * np.array([0.9, 1.1]) if choice.space == "logit" else []
    for temperature in around:
        assert pool.row_scores("logit", choice.weights, temperature).loss.mean() > nll(pool, choice)


def test_a_teacher_of_noise_gets_nothing():
    layers, labels = make(1500, teachers=2, noise=0.5)
    layers.append(np.random.default_rng(9).normal(0, 5, layers[0].shape))
    pools = {"": TeacherLogits(layers, labels)}
    for space in SPACES:
        assert choose_likeliest(pools, [space]).weights[2] < 0.02
        assert choose_best(pools, {("", space): simplex_grid(3, 10)}, "macro_f1").weights[2] <= 0.1
    for metric in ("macro_f1", "accuracy"):
        assert choose_greedily(pools, SPACES, metric).weights[2] <= 0.1


def test_two_teachers_that_say_the_same_change_nothing():
    layers, labels = make(800, teachers=2, noise=1.5)
    pools, doubled = {"": TeacherLogits(layers, labels)}, {"": TeacherLogits([layers[0], layers[0], layers[1]], labels)}
    for space in SPACES:
        one, two = choose_likeliest(pools, [space]), choose_likeliest(doubled, [space])
        assert nll(doubled[""], two) == pytest.approx(nll(pools[""], one), abs=1e-7)
        assert two.weights[:2].sum() == pytest.approx(one.weights[0], abs=2e-3)
    same = {"": TeacherLogits([layers[0], layers[0]], labels)}
    alone = count_rows(TeacherLogits(layers[:1], labels), "logit", np.ones((1, 1))).scores(tuple("abcd"))["macro_f1"][0]
    choice = choose_greedily(same, SPACES, "macro_f1")
    own = count_rows(same[""], choice.space, choice.weights[None]).scores(tuple("abcd"))["macro_f1"][0]
    assert own == pytest.approx(alone, abs=1e-12)


def test_a_teacher_that_is_right_only_on_one_class_is_used_for_it():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 600)
    # A knows classes 0 and 1 and says 0 of class 2, not surely; B is sure of class 2 where it is, and knows no more.
    a = np.where(np.eye(3)[np.where(labels == 2, 0, labels)] > 0, 2.0, 0.0) + rng.normal(0, 0.1, (600, 3))
    b = np.where((labels == 2)[:, None], [0.0, 0.0, 6.0], [0.0, 0.0, -1.0]) + rng.normal(0, 0.1, (600, 3))
    pools = {"": TeacherLogits([a, b], labels)}
    for choice in (choose_greedily(pools, SPACES, "macro_f1"), choose_likeliest(pools, ["prob"])):
        assert choice.weights.min() > 0
        assert score(choice.fused(pools), labels, tuple("abc"))["macro_f1"] > 0.99
    alone = [score(each, labels, tuple("abc"))["macro_f1"] for each in (a, b)]
    assert max(alone) < 0.7


def test_greedy_selection_is_what_it_says_step_by_step():
    layers, labels = make(200, teachers=3, noise=2.5, seed=6)
    pool, classes = TeacherLogits(layers, labels), tuple("abcd")
    counts, seen = np.zeros(3), []
    for _ in range(6):  # the definition, one score at a time
        tried = []
        for k in range(3):
            weights = (counts + np.eye(3)[k]) / (counts.sum() + 1)
            own = score(pool.fused("logit", weights), labels, tuple("abcd"))
            tried.append((-own["macro_f1"], own["nll"], k))
        counts = counts + np.eye(3)[min(tried)[2]]
        own = score(pool.fused("logit", counts / counts.sum()), labels, tuple("abcd"))
        seen.append((-own["macro_f1"], own["nll"], len(seen), counts / counts.sum()))
    expected = min(seen, key=lambda each: each[:3])[3]
    found = choose_greedily({"": pool}, ["logit"], "macro_f1", rounds=6)
    assert found.weights == pytest.approx(expected)
    assert count_rows(pool, "logit", found.weights[None]).scores(classes)["macro_f1"][0] == pytest.approx(-min(seen)[0])


def test_the_best_of_a_list_is_taken_from_any_pool_and_space():
    layers, labels = make(300, noise=2.0, seed=7)
    worse, _ = make(300, noise=6.0, seed=7)
    pools = {"clahe": TeacherLogits(worse, labels), "": TeacherLogits(layers, labels)}
    grid = simplex_grid(3, 4)
    choice = choose_best(pools, {(name, space): grid for name in pools for space in SPACES}, "accuracy")
    scores = {}
    for name in pools:
        for space in SPACES:
            for m, own in enumerate(grid):
                result = score(pools[name].fused(space, own), labels, tuple("abcd"))
                scores[name, space, m] = (-result["accuracy"], result["nll"])
    name, space, m = min(scores, key=scores.get)
    assert (choice.variant, choice.space) == (name, space)
    assert choice.weights.tolist() == grid[m].tolist()
    lowest = choose_best(pools, {("", "prob"): grid}, "nll")
    assert nll(pools[""], lowest) == min(scores["", "prob", m][1] for m in range(len(grid)))


@pytest.mark.parametrize("problem", ["separable", "worthless"])
def test_where_coefficients_have_no_optimum_weights_are_equal_and_it_is_said(problem):
    labels = np.arange(60) % 3
    logits = np.eye(3)[labels] * 3 if problem == "separable" else -np.eye(3)[labels]
    choice = choose_likeliest({"": TeacherLogits([logits, logits * 2], labels)}, ["logit"])
    assert choice.weights.tolist() == [0.5, 0.5]
    assert choice.temperature == 1
    assert choice.note.startswith("equal weights: ")
    both = choose_likeliest({"": TeacherLogits([logits, logits * 2], labels)}, SPACES)
    assert both.space == "prob"  # there is an optimum there
    assert isinstance(both, Choice)
