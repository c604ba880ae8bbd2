"""Near-duplicates are found, all pairs of them, and none else."""

import cv2
import numpy as np
import pytest
import toys

from fer_mlflow.data.scan import near_duplicate_pairs, perceptual_hash


def all_pairs(hashes, distance) -> list[list[int]]:
    """Return the pairs by comparing all with all."""
    return [
        [a, b]
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if bin(int(hashes[a]) ^ int(hashes[b])).count("1") <= distance
    ]


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 8, 12])
def test_the_pairs_are_those_of_comparing_all_with_all(distance):
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**64, 120, dtype=np.uint64)
    for row in range(40):  # changed in 0 to 13 bits each
        bits = rng.choice(64, rng.integers(0, 14), replace=False)
        hashes[row + 40] = hashes[row] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    expected = all_pairs(hashes, distance)
    assert near_duplicate_pairs(hashes, distance).tolist() == expected
    assert len(expected) > distance / 2


def test_buckets_that_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr("fer_mlflow.data.scan._MOST_PAIRS", 50)
    hashes = np.random.default_rng(0).integers(0, 30, 60, dtype=np.uint64)
    assert near_duplicate_pairs(hashes, 2).tolist() == all_pairs(hashes, 2)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count):
    assert near_duplicate_pairs(np.zeros(count, np.uint64), 4).shape == (0, 2)


def bits_apart(a: np.ndarray, b: np.ndarray) -> int:
    return bin(perceptual_hash(a) ^ perceptual_hash(b)).count("1")


@pytest.mark.parametrize("number", range(5))
def test_scaling_compressing_and_brightening_change_few_bits(number):
    image = cv2.resize(toys.face(number), (112, 112), interpolation=cv2.INTER_CUBIC)
    compressed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    changed = [
        compressed,
        cv2.resize(image, (60, 60), interpolation=cv2.INTER_AREA),
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
        np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8),
    ]
    assert max(bits_apart(image, other) for other in changed) <= 4
    assert bits_apart(image, cv2.flip(image, 1)) > 12
    assert bits_apart(image, toys.face(number + 50)) > 12


def test_an_image_without_features_has_a_look():
    assert perceptual_hash(np.full((8, 8, 3), 9, np.uint8)) in range(2**64)
