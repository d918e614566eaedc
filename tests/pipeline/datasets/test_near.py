import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.datasets import near
from pipeline.datasets.near import hash_spectra, near_pairs, spectrum_of
from pipeline.errors import PipelineError


def brute_force(hashes: np.ndarray, bits: int) -> set[tuple[int, int, int]]:
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return {
        (i, j, int(distances[i, j]))
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if distances[i, j] <= bits
    }


@given(
    base=hnp.arrays(np.uint64, st.integers(0, 12)),
    flips=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 63)), max_size=40),
    bits=st.integers(0, near.MAX_BITS),
)
@settings(max_examples=150, deadline=None)
def test_bands_find_what_all_pairs_find(
    base: np.ndarray, flips: list[tuple[int, int]], bits: int
) -> None:
    hashes = np.concatenate([base, base, base])
    for at, bit in flips:
        if len(hashes):
            hashes[at % len(hashes)] ^= np.uint64(1 << bit)
    pairs, distances = near_pairs(hashes, bits)
    found = [(int(i), int(j), int(d)) for (i, j), d in zip(pairs, distances, strict=True)]
    assert set(found) == brute_force(hashes, bits)
    assert found == sorted(found, key=lambda pair: (pair[2], *pair[:2]))


def test_many_hashes_take_wide_bands() -> None:
    random = np.random.RandomState(0)
    hashes = random.randint(0, 2**32, (200_000, 2), np.uint64) @ np.array([2**32, 1], np.uint64)
    hashes[70_000] = hashes[17] ^ np.uint64(0b1011)
    pairs, distances = near_pairs(hashes, 3)
    assert (pairs.tolist(), distances.tolist()) == ([[17, 70_000]], [3])


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="near: 9 bits; take 0 to 8"):
        near_pairs(np.zeros(2, np.uint64), 9)
    monkeypatch.setattr(near, "PAIR_LIMIT", 100)
    with pytest.raises(near.TooManyPairs, match="more than 100; ask for fewer bits"):
        near_pairs(np.zeros(20, np.uint64), 0)
    assert len(near_pairs(np.zeros(14, np.uint64), 1)[0]) == 91  # found in every band: counted once


def picture(seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    small = random.randint(60, 200, (6, 6, 3)).astype(np.float64)
    return np.kron(small, np.ones((8, 8, 1))).astype(np.uint8)


def test_hashes_tell_pictures_apart_and_survive_noise() -> None:
    pictures = [picture(seed) for seed in range(40)]
    noisy = np.clip(pictures[3] + np.random.RandomState(9).randint(-2, 3, (48, 48, 3)), 0, 255)
    spectra = np.stack([spectrum_of(p) for p in [*pictures, noisy.astype(np.uint8)]])
    assert spectra.shape == (41, 64)
    hashes = hash_spectra(spectra)
    assert hashes.dtype == np.uint64
    pairs, _ = near_pairs(hashes, 4)
    assert pairs.tolist() == [[3, 40]]
    others = np.bitwise_count(hashes[:1] ^ hashes[1:])
    assert 26 < others.mean() < 38
    assert len(hash_spectra(np.empty((0, 64), np.float32))) == 0
