"""Near duplicates: 64-bit perceptual hashes, and all pairs of them that differ in few bits."""

import math
from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np
from PIL import Image

from pipeline.errors import PipelineError

MAX_BITS = 8  # of difference that `near_pairs` searches for
PAIR_LIMIT = 5_000_000
_SIDE = 32  # pixels of the picture that is hashed
_KEPT = (6, 36), (4, 14), (4, 14)  # of luma and chromas: frequencies of an axis, and how many


class TooManyPairs(PipelineError):
    """More near pairs than anybody would look at."""


def spectrum_of(image: np.ndarray) -> np.ndarray:
    """The 64 lowest frequencies of a picture, uint8 [H, W, 3] -> float32 [64].

    DCT coefficients of its luma (36) and of both its chromas (14 each), shrunk to SIDE x SIDE.
    """
    small = Image.fromarray(image).convert("YCbCr").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    planes = np.asarray(small, np.float64)
    cosines = _cosines()
    parts = []
    for channel, (side, count) in enumerate(_KEPT):
        kept = cosines[:side] @ planes[..., channel] @ cosines[:side].T
        parts.append(kept.ravel()[:count])
    return np.concatenate(parts).astype(np.float32)


def hash_spectra(spectra: np.ndarray) -> np.ndarray:
    """A perceptual hash of each picture: float32 [N, 64] -> uint64 [N].

    A bit is whether a coefficient is above its median over all N: heads from one camera are so
    alike that it takes what sets them apart from the mean head to tell them apart.
    """
    bits = spectra > np.median(spectra, axis=0) if len(spectra) else np.empty((0, 64), bool)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def near_pairs(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of hashes uint64 [N] that differ in at most `bits` bits, and in how many.

    int64 [P, 2] and uint8 [P]; rows are i < j, sorted by distance, then i and j. The bits are cut
    into bands, more than may differ; two hashes that are near have some of the bands in common, so
    only those that agree there are compared, and bands are made so wide that few others do. Raises
    PipelineError for `bits` above MAX_BITS, TooManyPairs above PAIR_LIMIT.
    """
    if not 0 <= bits <= MAX_BITS:
        raise PipelineError(f"near: {bits} bits; take 0 to {MAX_BITS}")
    found: list[np.ndarray] = [np.empty(0, np.int64)]
    total = 0
    for mask in _band_masks(bits, len(hashes)):
        for left, right in _equal_pairs(hashes & mask):
            near = np.bitwise_count(hashes[left] ^ hashes[right]) <= bits
            low, high = np.minimum(left[near], right[near]), np.maximum(left[near], right[near])
            found.append(low * len(hashes) + high)
            total += len(low)
            if total > PAIR_LIMIT:
                found = [np.unique(np.concatenate(found))]
                total = len(found[0])
                if total > PAIR_LIMIT:
                    raise TooManyPairs(f"more than {PAIR_LIMIT}; ask for fewer bits by --near")
    packed = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(packed, max(1, len(hashes))), axis=1)
    distances = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    order = np.argsort(distances, kind="stable")
    return pairs[order], distances[order]


@cache
def _cosines() -> np.ndarray:
    """The DCT-II, a row a frequency, float64 [SIDE, SIDE]."""
    k, n = np.arange(_SIDE)[:, None], np.arange(_SIDE)
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))


def _band_masks(bits: int, count: int) -> Iterator[np.uint64]:
    """Masks such that any two hashes within `bits` agree under one of them.

    Of bits + shared bands at most `bits` differ, so `shared` agree; enough are shared that `count`
    hashes fall on about as many values. Bands take every nth bit, for neighbours are alike.
    """
    shared = 1
    while 64 * shared / (bits + shared) < math.log2(max(2, count)):
        shared += 1
    bands = bits + shared
    masks = [sum(1 << bit for bit in range(band, 64, bands)) for band in range(bands)]
    for chosen in combinations(masks, shared):
        yield np.uint64(sum(chosen))


def _equal_pairs(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs of equal values, those that are 1, 2, ... apart in sorted order."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    at = np.arange(len(values))
    step = 1
    while len(at := at[at + step < len(values)]):
        at = at[ranked[at] == ranked[at + step]]
        if not len(at):
            return
        yield order[at], order[at + step]
        step += 1
