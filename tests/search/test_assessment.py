"""What a choice is worth: no gain is reported where there is none, and one where there is."""

import numpy as np
import pytest

from fer_mlflow.calibration import fit_temperature, stratified_folds
from fer_mlflow.scoring.metrics import score
from fer_mlflow.scoring.significance import compare_logits
from fer_mlflow.search.choices import (
    Choice,
    assess_crossfitted,
    assess_on,
    choose_best,
    choose_greedily,
    choose_likeliest,
    find_baselines,
    simplex_grid,
)
from fer_mlflow.search.teacher_logits import TeacherLogits

CLASSES = ("Angry", "Happy", "Sad")
GRID = {("", space): simplex_grid(3, 6) for space in ("logit", "prob")}
CHOOSERS = {
    "grid": ("macro_f1", lambda pools: choose_best(pools, GRID, "macro_f1")),
    "greedy": ("accuracy", lambda pools: choose_greedily(pools, ["logit"], "accuracy", rounds=10)),
    "likeliest": ("nll", lambda pools: choose_likeliest(pools, ["logit", "prob"])),
}


def noise_problem(seed, rows=210, teachers=3):
    """Return teachers that are equally good and err independently: equal weights are the best there are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    common = rng.normal(0, 0.5, (rows, 3))
    common[np.arange(rows), labels] += 1.0
    return [common + rng.normal(0, 1.0, common.shape) for _ in range(teachers)], labels


def judged(layers, labels, how, seed, replicates=200):
    metric, choose = CHOOSERS[how]
    rng = np.random.default_rng(seed)
    folds = stratified_folds(labels, 5, rng)
    pools = {"": TeacherLogits(layers, labels)}
    return assess_crossfitted(pools, lambda _, others: choose(others), folds, metric, CLASSES, rng, replicates)


@pytest.mark.parametrize("how", CHOOSERS)
def test_no_gain_is_found_where_there_is_none(how):
    problems, metric = 200, CHOOSERS[how][0]
    false = sum(judged(*noise_problem(seed), how, seed).is_better("equal weights", metric) for seed in range(problems))
    assert false / problems <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / problems)


def test_on_the_rows_of_the_choice_gains_are_found_that_are_not_there():
    gains = []
    for seed in range(40):
        layers, labels = noise_problem(seed)
        pools = {"": TeacherLogits(layers, labels)}
        choice = choose_best(pools, GRID, "macro_f1")
        inside = assess_on(pools, pools, choice, "macro_f1", CLASSES, np.random.default_rng(0), 50)
        outside = judged(layers, labels, "grid", seed, 50)
        gains.append([each.differences["equal weights"].differences["macro_f1"].value for each in (inside, outside)])
    inside, outside = np.array(gains).T
    assert inside.min() >= -1e-12  # equal weights are on the grid
    assert inside.mean() > 0.01
    assert outside.mean() < 0.003


@pytest.mark.parametrize("how", CHOOSERS)
def test_a_gain_that_is_there_is_found(how):
    layers, labels = noise_problem(3, rows=900, teachers=2)
    layers.append(np.random.default_rng(8).normal(0, 4, layers[0].shape))
    metric = CHOOSERS[how][0]
    assert judged(layers, labels, how, 0).is_better("equal weights", metric)


def test_every_part_is_judged_by_a_choice_that_did_not_see_it():
    layers, labels = noise_problem(1, rows=60)
    folds = stratified_folds(labels, 4, np.random.default_rng(2))
    marked = [layer + np.arange(60)[:, None] * 1e-9 for layer in layers]  # its logits tell each row from the others
    pools, seen = {"": TeacherLogits(marked, labels)}, {}

    def choose(held, others):
        rows = {tuple(row) for row in others[""].logits()[0].tolist()}
        seen[held] = [row for row in range(60) if tuple(marked[0][row].tolist()) in rows]
        return Choice("", "logit", np.eye(3)[held % 3])

    found = assess_crossfitted(pools, choose, folds, "accuracy", CLASSES, np.random.default_rng(0), 50)
    assert {held: sorted(rows) for held, rows in seen.items()} == {
        k: np.flatnonzero(folds != k).tolist() for k in range(4)
    }
    logits = np.empty((60, 3))
    for k in range(4):
        logits[folds == k] = marked[k % 3][folds == k].astype(np.float32)
    assert found.metrics["chosen"]["accuracy"] == score(logits, labels, CLASSES)["accuracy"]
    assert [choice.weights.argmax() for choice in found.choices] == [0, 1, 2, 0]
    equal = TeacherLogits(marked, labels).fused("logit", np.full(3, 1 / 3))
    expected = compare_logits(equal, logits, labels, CLASSES, np.random.default_rng(1), 50).differences["accuracy"]
    assert found.differences["equal weights"].differences["accuracy"].value == pytest.approx(expected.value, abs=1e-12)
    assert (
        found.differences["equal weights"].differences["accuracy"].p_value == expected.p_value
    )  # McNemar's draws nothing


def test_on_another_benchmark_baselines_are_chosen_where_the_choice_was():
    fit_layers, fit_labels = noise_problem(5)
    report_layers, report_labels = noise_problem(6)
    fit_layers[1] = fit_layers[1] * 0 + np.eye(3)[fit_labels] * 5  # the best alone, there
    report_layers[1] = -report_layers[1]  # and the worst, here
    fit, report = {"": TeacherLogits(fit_layers, fit_labels)}, {"": TeacherLogits(report_layers, report_labels)}
    choice = Choice("", "prob", np.array([0.5, 0.0, 0.5]))
    found = assess_on(fit, report, choice, "macro_f1", CLASSES, np.random.default_rng(0), 50)
    assert found.baselines["best teacher"][0].weights.tolist() == [0, 1, 0]
    assert found.metrics["best teacher"]["macro_f1"] == score(report_layers[1], report_labels, CLASSES)["macro_f1"]
    fused = report[""].fused("prob", choice.weights)
    assert found.metrics["chosen"]["macro_f1"] == score(fused, report_labels, CLASSES)["macro_f1"]
    assert (
        found.metrics["equal weights"]["macro_f1"]
        == score(report[""].fused("prob", [1 / 3] * 3), report_labels, CLASSES)["macro_f1"]
    )


def test_a_choice_with_a_temperature_has_baselines_with_theirs():
    layers, labels = noise_problem(7)
    pools = {"": TeacherLogits([layer * 3 for layer in layers], labels)}
    baselines = find_baselines(pools, Choice("", "logit", np.array([0.2, 0.3, 0.5]), temperature=2.5), "nll")
    for baseline in baselines.values():
        best = fit_temperature(pools[""].fused("logit", baseline.weights), labels)
        assert baseline.temperature == pytest.approx(best.temperature)
    alone = [fit_temperature(pools[""].fused("logit", own), labels).temperature for own in np.eye(3)]
    losses = [pools[""].row_scores("logit", own, each).loss.mean() for own, each in zip(np.eye(3), alone, strict=True)]
    assert baselines["best teacher"].weights.tolist() == np.eye(3)[np.argmin(losses)].tolist()
    plain = find_baselines(pools, Choice("", "logit", np.array([0.2, 0.3, 0.5])), "f1/2")
    assert {each.temperature for each in plain.values()} == {1.0}
