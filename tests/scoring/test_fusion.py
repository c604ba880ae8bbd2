"""Fusion against naive loops, weights and what is wrong with them, and float16 that moves no argmax."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.fusion import SPACES, fuse, prepare_layers, stored
from fer_mlflow.settings.texts import check_weights, format_weights, parse_weights

WEIGHTS = {"B3": 0.5, "RN18": 0.3, "CNX-T": 0.2}


def teachers(N: int = 40, C: int = 7, seed: int = 0, scale: float = 3.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: scale * rng.normal(size=(N, C)) for name in WEIGHTS}


def softmax(row, temperature: float = 1.0) -> list[float]:
    shares = [math.exp((value - max(row)) / temperature) for value in row]
    return [share / math.fsum(shares) for share in shares]


def targets(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.array([softmax(row, temperature) for row in logits.astype(float).tolist()])


def fused_by_loops(logits, weights, space) -> np.ndarray:
    N, C = next(iter(logits.values())).shape
    fused = np.empty((N, C))
    for row in range(N):
        terms = {name: logits[name][row] if space == "logit" else softmax(logits[name][row]) for name in weights}
        for c in range(C):
            fused[row, c] = math.fsum(weights[name] * terms[name][c] for name in weights)
    return fused if space == "logit" else np.log(fused)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shape", [(40, 7), (1, 2), (3, 50)])
def test_fusion_is_the_formula(space, shape):
    logits = teachers(*shape)
    fused = fuse(logits, WEIGHTS, space)
    np.testing.assert_allclose(fused, fused_by_loops(logits, WEIGHTS, space), rtol=0, atol=1e-12)
    assert fused.dtype == np.float64


def test_softmax_of_what_prob_fusion_gives_is_the_mixture():
    logits = teachers()
    fused = fuse(logits, WEIGHTS, "prob")
    mixture = sum(share * targets(logits[name]) for name, share in WEIGHTS.items())
    np.testing.assert_allclose(targets(fused), mixture, rtol=0, atol=1e-12)
    np.testing.assert_allclose(targets(stored(fused, "float32")), mixture, rtol=0, atol=1e-6)


def test_prob_fusion_of_logits_far_apart_stays_finite_and_exact():
    logits = {"A": np.array([[1e4, -1e4]]), "B": np.array([[-1e4, 1e4]]), "C": np.array([[0.0, 1e4]])}
    fused = fuse(logits, {"A": 0.25, "B": 0.25, "C": 0.5}, "prob")
    np.testing.assert_allclose(fused, np.log([[0.25, 0.75]]), atol=1e-12)
    alone = fuse(logits, {"A": 1.0}, "prob")
    np.testing.assert_allclose(alone, [[0, -2e4]])


@pytest.mark.parametrize("space", SPACES)
def test_the_order_of_teachers_changes_not_a_bit(space):
    logits = teachers(500)
    expected = fuse(logits, WEIGHTS, space)
    for seed in range(6):
        names = random.Random(seed).sample(sorted(WEIGHTS), 3)
        again = fuse({name: logits[name] for name in names}, {name: WEIGHTS[name] for name in names[::-1]}, space)
        assert again.tobytes() == expected.tobytes()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("N", [2, 17, 1001])
def test_the_other_rows_change_not_a_bit_of_a_row(space, N):
    logits = teachers(N)
    expected = fuse(logits, WEIGHTS, space)
    rows = np.random.default_rng(0).permutation(N)
    assert fuse({name: z[rows] for name, z in logits.items()}, WEIGHTS, space).tobytes() == expected[rows].tobytes()
    alone = [fuse({name: z[[row]] for name, z in logits.items()}, WEIGHTS, space) for row in range(min(N, 50))]
    assert np.concatenate(alone).tobytes() == expected[:50].tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_a_weight_of_zero_drops_the_teacher_whatever_it_said(space):
    logits = teachers()
    weights = {"B3": 0.6, "RN18": 0.4}
    expected = fuse(logits, weights, space)
    assert fuse(logits, weights | {"CNX-T": 0.0}, space).tobytes() == expected.tobytes()
    nothing = np.full((3, 2), np.nan)
    assert fuse(logits | {"CNX-T": nothing}, weights | {"CNX-T": 0.0}, space).tobytes() == expected.tobytes()
    assert fuse(logits, weights | {"absent": 0.0}, space).tobytes() == expected.tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_one_teacher_alone_says_what_it_said(space):
    logits = teachers()
    np.testing.assert_allclose(targets(fuse(logits, {"B3": 1.0}, space)), targets(logits["B3"]), atol=1e-12)
    if space == "logit":
        np.testing.assert_array_equal(fuse(logits, {"B3": 1.0}, space), logits["B3"])


def test_narrow_logits_are_fused_in_float64_and_left_alone():
    logits = {name: z.astype(np.float16) for name, z in teachers().items()}
    copies = {name: z.copy() for name, z in logits.items()}
    wide = {name: z.astype(np.float64) for name, z in logits.items()}
    assert fuse(logits, WEIGHTS, "logit").tobytes() == fuse(wide, WEIGHTS, "logit").tobytes()
    assert all(logits[name].tobytes() == copies[name].tobytes() for name in logits)


@pytest.mark.parametrize(
    ("change", "weights", "space", "message"),
    [
        ({}, WEIGHTS, "log", "space 'log' is not one of logit, prob"),
        ({}, {"B3": 0.5, "ViT": 0.5}, "logit", "weights name ViT; there are logits of B3, CNX-T, RN18"),
        ({"B3": np.zeros((3, 7))}, WEIGHTS, "logit", r"logits of different shapes: B3 \(3, 7\), CNX-T \(40, 7\), RN18"),
        ({"RN18": np.full((40, 7), np.nan)}, WEIGHTS, "prob", "logits row 0: .* is not finite"),
        (
            {},
            {"B3": 0.5, "RN18": 0.6},
            "logit",
            "shares sum to 1.1, not to 1; normalised they are B3=0.454545,RN18=0.5",
        ),
    ],
)
def test_what_cannot_be_fused_is_refused(change, weights, space, message):
    with pytest.raises(ContractError, match=message):
        fuse(teachers() | change, weights, space)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("RN18=0.4,B3=0.6", {"RN18": 0.4, "B3": 0.6}),
        (" B3 = 1 ", {"B3": 1.0}),
        ("a.b-c_1=1e0,", {"a.b-c_1": 1.0}),
        ("A=0.5,B=0,C=.5", {"A": 0.5, "C": 0.5}),
        ("A=0.3333333,B=0.3333333,C=0.3333333", {"A": 0.3333333, "B": 0.3333333, "C": 0.3333333}),  # within 1e-6
    ],
)
def test_weights_are_read(text, weights):
    assert list(parse_weights(text).items()) == list(weights.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no teacher is named; write for example RN18=0.4,B3=0.6"),
        (" , ", "no teacher is named"),
        ("RN18", '"RN18" is not NAME=share'),
        ("=1", '"=1" is not NAME=share'),
        ("a b=1", '"a b=1" is not NAME=share'),
        ("a/b=1", "is not NAME=share"),
        ("../x=1", "is not NAME=share"),
        ("A=half", 'the share "half" of A is not a number'),
        ("A=", 'the share "" of A is not a number'),
        ("A=0.5,A=0.5", "teacher A is there twice; give it one share"),
        ("A=1.5,B=-0.5", "the share -0.5 of B is not a finite number of at least 0"),
        ("A=nan", "the share nan of A is not a finite number"),
        ("A=inf", "the share inf of A is not a finite number"),
        ("A=0,B=0", "all shares are 0"),
        ("A=4,B=6", "shares sum to 10, not to 1; normalised they are A=0.4,B=0.6"),
        ("A=0.5,B=0.500002", "normalised they are A=0.499999,B=0.500001"),
    ],
)
def test_weights_that_are_none_are_refused(text, message):
    with pytest.raises(ContractError) as caught:
        parse_weights(text)
    assert message in str(caught.value)


@settings(deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,5}", fullmatch=True), st.integers(1, 10**6), min_size=1)
)
def test_normalised_weights_are_written_and_read_back_exactly(parts):
    weights = {name: part / sum(parts.values()) for name, part in parts.items()}
    check_weights(weights)
    text = format_weights(weights)
    assert parse_weights(text) == weights
    assert text == format_weights(dict(reversed(weights.items())))


def test_canonical_weights_are_sorted_shortest_decimals():
    weights = {"RN18": 0.1 + 0.2, "B3": 0.5, "A": 1e-7, "Z": 1}
    assert format_weights(weights) == "A=0.0000001,B3=0.5,RN18=0.30000000000000004,Z=1"


FINITE = st.floats(-1000, 1000, allow_subnormal=False)
NEAR_TIES = st.builds(lambda base, steps: base + steps * 1e-9, st.sampled_from([0.0, 3.7, -900.0]), st.integers(-3, 3))


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 7)), elements=FINITE | NEAR_TIES))
def test_float16_moves_no_argmax_and_no_target(logits):
    narrow = stored(logits, "float16")
    assert narrow.dtype == np.float16
    np.testing.assert_array_equal(narrow.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_array_equal(narrow == 0, logits == logits.max(axis=1, keepdims=True))
    for temperature in (1, 2, 4):
        np.testing.assert_allclose(targets(narrow, temperature), targets(logits, temperature), rtol=0, atol=1e-3)


def test_float32_holds_the_numbers_themselves():
    logits = teachers(scale=100.0)["B3"]
    narrow = stored(logits, "float32")
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, logits.astype(np.float32))


def test_what_float16_cannot_hold_is_refused_and_what_it_can_is_not():
    wide = np.array([[0.0, 1.0], [1e4, -6e4]])
    with pytest.raises(
        ContractError, match=r"logits row 1: \[10000\.0, -60000\.0\] does not fit into float16; use a wider"
    ):
        stored(wide, "float16")
    np.testing.assert_array_equal(stored(wide[:, ::-1] / 2, "float16")[1], np.float16([-35000, 0]))
    np.testing.assert_array_equal(stored(np.array([[1e6, 1e6 - 1]]), "float16"), [[0, -1]])  # the maximum goes first


def test_what_float32_cannot_hold_and_other_types_are_refused():
    with pytest.raises(ContractError, match=r"logits row 0: .* does not fit into float32"):
        stored(np.array([[0.0, -1e39]]), "float32")
    with pytest.raises(ContractError, match="dtype 'bfloat16' is not one of float32, float16"):
        stored(np.zeros((1, 2)), "bfloat16")


def test_storing_changes_no_argument():
    logits = teachers()["B3"]
    before = logits.copy()
    for dtype in ("float32", "float16"):
        stored(logits, dtype)
    np.testing.assert_array_equal(logits, before)


def test_no_space_is_taken_for_another():
    with pytest.raises(ContractError, match=r"space 'mean' is not one of logit, prob"):
        prepare_layers(np.zeros((2, 3, 7)), "mean")
