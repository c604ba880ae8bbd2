"""Which statistical check finds which fault, and which faults only hashes and row numbers can find.

The data are three teachers with about 60 % accuracy that find the same faces hard, on 3,000 rows of unequal
classes: once in a manifest sorted by class, once in a shuffled one.
"""

from itertools import combinations

import numpy as np
import pytest

from fer_mlflow.scoring.sanity import Check, check_agreement, check_assignment, check_statistics, check_support

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
SHARES = (0.13, 0.06, 0.12, 0.23, 0.16, 0.13, 0.17)
ORDERS = ("sorted", "shuffled")
CHECKS = ("agreement", "blocks", "assignment", "support", "teacher_pairs")
N = 3000


def simulate(seed: int, order: str, rows: int = N) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return three teachers' logits and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(7, size=rows, p=SHARES)
    if order == "sorted":
        labels = np.sort(labels)
    face = 2.2 * np.eye(7)[labels] + rng.normal(size=(rows, 7))  # what all three see
    return {name: face + 0.9 * rng.normal(size=(rows, 7)) for name in "ABC"}, labels


def check(teachers, labels) -> dict:
    """Return every check by its name, for the ensemble of equal shares."""
    found = check_statistics(sum(teachers.values()) / len(teachers), labels, teachers, CLASSES)
    assert [each.name for each in found] == list(CHECKS)
    return {each.name: each for each in found}


def alarms(teachers, labels) -> set[str]:
    """Return the names of the checks that warn; all others must pass."""
    found = check(teachers, labels)
    assert {each.verdict for each in found.values()} <= {"pass", "warn"}
    return {name for name, each in found.items() if each.verdict == "warn"}


def changed(teachers, change, names="ABC"):
    """Return teachers of whom the named ones have their rows or columns moved."""
    return {name: change(logits) if name in names else logits for name, logits in teachers.items()}


def shift(logits):
    return np.roll(logits, 1, axis=0)


def shuffle_block(start, stop, seed=0):
    rows = np.arange(N)
    np.random.default_rng(seed).shuffle(rows[start:stop])
    return lambda logits: logits[rows]


def exchange(a, b):
    columns = np.arange(7)
    columns[[a, b]] = b, a
    return lambda logits: logits[:, columns]


def test_the_simulated_teachers_are_as_good_and_as_alike_as_wanted():
    teachers, labels = simulate(0, "shuffled")
    right = [logits.argmax(axis=1) == labels for logits in teachers.values()]
    assert all(0.57 < each.mean() < 0.66 for each in right)
    assert all(0.2 < np.corrcoef(a, b)[0, 1] < 0.7 for a, b in combinations(right, 2))


@pytest.mark.parametrize("order", ORDERS)
def test_no_false_alarm_on_sound_data(order):
    for seed in range(50):
        assert alarms(*simulate(seed, order)) == set(), seed


@pytest.mark.parametrize("seed", range(4))
class TestFaults:
    """Every fault in both orders; the asserted set is all that warns, so it shows which checks miss the fault too."""

    def test_all_teachers_off_by_a_row_in_a_shuffled_manifest(self, seed):
        teachers, labels = simulate(seed, "shuffled")
        assert alarms(changed(teachers, shift), labels) - {"assignment"} == {"agreement"}

    def test_all_teachers_off_by_a_row_in_a_sorted_manifest_are_invisible_so_rows_are_proven_by_number(self, seed):
        teachers, labels = simulate(seed, "sorted")
        assert alarms(changed(teachers, shift), labels) == set()

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("name", "ABC")
    def test_one_teacher_off_by_a_row_is_named_in_both_orders(self, seed, name, order):
        teachers, labels = simulate(seed, order)
        teachers = changed(teachers, shift, name)
        # Where one predicts at chance, any matching of its columns may seem better than the identity.
        assert alarms(teachers, labels) - {"assignment"} == {"teacher_pairs"}
        found = check(teachers, labels)["teacher_pairs"]
        low = {pair for pair, r in found.values["correlation"].items() if abs(r) < 0.1}
        assert low == {f"{a}~{b}" for a, b in combinations("ABC", 2) if name in (a, b)}
        assert all(pair.replace("~", " and ") in found.detail for pair in low)

    @pytest.mark.parametrize("block", [(1024, 1280), (1000, 1400), (2816, 3000)])
    def test_a_shuffled_block_of_all_teachers_in_a_shuffled_manifest(self, seed, block):
        teachers, labels = simulate(seed, "shuffled")
        teachers = changed(teachers, shuffle_block(*block))
        assert alarms(teachers, labels) == {"blocks"}
        (named,) = check(teachers, labels)["blocks"].values["out_of_step"]
        start, stop = map(int, named.split("-"))
        assert block[0] - 255 <= start < block[1]
        assert block[0] < stop <= block[1] + 255

    def test_a_shuffled_block_of_all_teachers_within_a_class_of_a_sorted_manifest_is_invisible(self, seed):
        teachers, labels = simulate(seed, "sorted")
        start = int(np.argmax(labels == CLASSES.index("Happy")))
        assert (labels[start : start + 400] == CLASSES.index("Happy")).all()
        assert alarms(changed(teachers, shuffle_block(start, start + 400)), labels) == set()

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("name", "ABC")
    def test_a_shuffled_block_of_one_teacher_is_named_in_both_orders(self, seed, name, order):
        teachers, labels = simulate(seed, order)
        teachers = changed(teachers, shuffle_block(1024, 1280), name)
        assert alarms(teachers, labels) == {"teacher_pairs"}
        others = [other for other in "ABC" if other != name]
        found = check(teachers, labels)["teacher_pairs"].detail
        assert all(f"{min(name, o)} and {max(name, o)} in rows 1024-1279" in found for o in others)
        assert f"{others[0]} and {others[1]}" not in found

    @pytest.mark.parametrize("order", ORDERS)
    def test_two_exchanged_columns_of_all_teachers_are_named_in_both_orders(self, seed, order):
        teachers, labels = simulate(seed, order)
        for a, b in combinations(range(7), 2):
            swapped = changed(teachers, exchange(a, b))
            assert alarms(swapped, labels) - {"blocks"} == {"assignment"}, (a, b)
            named = check(swapped, labels)["assignment"].values["exchanged"]
            one, other = CLASSES[a], CLASSES[b]
            assert named == [f"{one} labelled, {other} predicted", f"{other} labelled, {one} predicted"]

    @pytest.mark.parametrize("order", ORDERS)
    def test_two_exchanged_columns_of_one_teacher_are_found_in_both_orders(self, seed, order):
        teachers, labels = simulate(seed, order)
        for a, b in combinations(range(7), 2):
            assert alarms(changed(teachers, exchange(a, b), "B"), labels), (a, b)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_without_labels_are_left_out_of_all_but_the_comparison_of_teachers(order):
    teachers, labels = simulate(5, order)
    some = np.where(np.arange(N) % 3 == 0, -1, labels)
    assert alarms(teachers, some) == set()
    assert check(teachers, some)["agreement"].values["rows"] == (some >= 0).sum()
    assert alarms(changed(teachers, shift, "B"), some) - {"assignment"} == {"teacher_pairs"}
    assert alarms(changed(teachers, exchange(3, 4)), some) - {"blocks"} == {"assignment"}


def test_teachers_are_compared_without_any_label():
    teachers, _ = simulate(6, "shuffled")
    none = np.full(N, -1)
    for case, verdict in [(teachers, "pass"), (changed(teachers, shift, "C"), "warn")]:
        assert {name: each.verdict for name, each in check(case, none).items()} == {
            **dict.fromkeys(CHECKS[:4], "skip"),
            "teacher_pairs": verdict,
        }


@pytest.mark.parametrize("rows", [1, 63])
def test_few_rows_are_no_evidence(rows):
    teachers, labels = simulate(0, "shuffled", rows)
    found = check(changed(teachers, shift), labels)
    assert {name for name, each in found.items() if each.verdict == "skip"} == set(CHECKS) - {"support"}
    assert f"{rows} labelled rows; 64 are needed" in found["agreement"].detail


def test_from_64_rows_on_agreement_is_judged_and_from_512_on_blocks_are():
    verdicts = {}
    for rows in (64, 256, 512):
        found = check(*simulate(0, "shuffled", rows))
        verdicts[rows] = (found["agreement"].verdict, found["blocks"].verdict, found["teacher_pairs"].verdict)
    assert verdicts == {64: ("pass", "skip", "pass"), 256: ("pass", "skip", "pass"), 512: ("pass", "pass", "pass")}


def test_one_teacher_has_nobody_to_compare_with():
    teachers, labels = simulate(0, "shuffled")
    found = check({"A": teachers["A"]}, labels)
    assert {name: each.verdict for name, each in found.items() if each.verdict != "pass"} == {"teacher_pairs": "skip"}


def test_a_teacher_with_equal_logits_in_every_row_is_no_match_for_another():
    teachers, labels = simulate(0, "shuffled")
    assert "teacher_pairs" in alarms(teachers | {"B": np.zeros((N, 7))}, labels)


@pytest.mark.parametrize(
    ("confusion", "z", "verdict"),
    [
        ([[30, 10], [10, 30]], (0.75 - 0.5) * np.sqrt(80 / 0.25), "pass"),
        ([[20, 20], [20, 20]], 0.0, "warn"),
        ([[10, 30], [30, 10]], -(0.75 - 0.5) * np.sqrt(80 / 0.25), "warn"),
        ([[0, 80], [0, 0]], 0.0, "warn"),  # labels and predictions have no class in common
    ],
)
def test_agreement_by_hand(confusion, z, verdict):
    found = check_agreement(np.array(confusion))
    assert (found.values["z"], found.verdict) == (pytest.approx(z), verdict)


def test_agreement_of_one_class_with_itself_is_skipped():
    assert check_agreement(np.array([[80, 0], [0, 0]])).verdict == "skip"


def test_a_weak_teacher_that_takes_one_class_for_another_has_not_exchanged_them():
    confusion = np.diag([300] * 7)
    confusion[2] = [0, 0, 90, 0, 0, 210, 0]  # fear is mostly taken for surprise, and surprise is not for fear
    found = check_assignment(confusion, CLASSES)
    assert (found.verdict, found.values["gain"]) == ("pass", 0)


def confused(first, second):
    """Return a confusion matrix that is right but for two classes: rows for Fear and Surprise, (right, exchanged)."""
    confusion = np.diag([300] * 7)
    confusion[2, [2, 5]], confusion[5, [5, 2]] = first, second
    return confusion


@pytest.mark.parametrize(
    ("first", "second", "gain", "verdict"),
    [
        ((9, 11), (10, 12), 2 / 20 + 2 / 22, "pass"),  # better, and within noise
        ((90, 310), (100, 300), 220 / 400 + 200 / 400, "warn"),
        ((550, 450), (1, 19), -100 / 1000 + 18 / 20, "warn"),  # a rare class counts as much as a frequent one
        ((300, 700), (18, 2), 0, "pass"),
    ],
)
def test_a_matching_must_be_surely_better_and_every_class_counts_the_same(first, second, gain, verdict):
    found = check_assignment(confused(first, second), CLASSES)
    assert (found.verdict, found.values["gain"]) == (verdict, pytest.approx(gain))


def test_a_rotation_of_three_columns_is_named():
    confusion = np.diag([100] * 7)[[0, 2, 3, 1, 4, 5, 6]]
    found = check_assignment(confusion, CLASSES)
    assert found.values["exchanged"] == [
        "Disgust labelled, Fear predicted",
        "Fear labelled, Happy predicted",
        "Happy labelled, Disgust predicted",
    ]
    assert found.values["gain"] == pytest.approx(3)


def test_a_class_without_rows_exchanges_nothing():
    teachers, labels = simulate(1, "shuffled")
    kept = labels != CLASSES.index("Disgust")
    few = {name: logits[kept] for name, logits in teachers.items()}
    found = check(few, labels[kept])
    assert {name for name, each in found.items() if each.verdict == "warn"} == {"support"}
    assert found["support"].detail == "no labelled row of Disgust: macro-F1 leaves them out"


def test_support_counts_what_is_labelled_and_what_is_predicted():
    found = check_support(np.array([0, 0, 1]), np.array([0, 1, 1]), ("a", "b"))
    values = {"labelled": {"a": 2, "b": 1}, "predicted": {"a": 1, "b": 2}}
    assert found == Check("support", "pass", "labelled rows: a 2, b 1", values)
