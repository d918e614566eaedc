import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.landmarks import decode_landmarks, parse_landmarks

FIVE = [[10, 20], [30.5, 20], [20, 30], [12, 40], [28, 40]]


def test_five_points_are_taken_as_they_are() -> None:
    expected = ((10, 20), (30.5, 20), (20, 30), (12, 40), (28, 40))
    assert parse_landmarks(FIVE) == expected
    assert parse_landmarks({"landmarks": FIVE, "score": 0.9}) == expected
    assert decode_landmarks(json.dumps({"landmarks": FIVE})) == expected
    assert decode_landmarks(b" " + json.dumps(FIVE).encode()) == expected


def test_sixty_eight_points_become_five() -> None:
    """Eyes as the means of their rims; the rest are points of the 68."""
    points = np.random.default_rng(0).uniform(0, 500, (68, 2))
    angles = np.arange(6) * np.pi / 3
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * 9
    points[36:42], points[42:48] = np.add(rim, [100, 200]), np.add(rim, [180, 210])
    found = np.array(parse_landmarks(points.tolist()))
    np.testing.assert_allclose(found[:2], [[100, 200], [180, 210]])
    np.testing.assert_array_equal(found[2:], points[[30, 48, 54]])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"points": FIVE}, "no key 'landmarks'"),
        (FIVE[:4], "wants a list of 5 or of 68 points"),
        ([*FIVE[:4], [1]], "wants a list of 5 or of 68 points"),
        ([*FIVE[:4], [1, None]], "wants a list of 5 or of 68 points"),
        ([*FIVE[:4], ["1", "2"]], "wants a list of 5 or of 68 points"),
        ([[True, False]] * 5, "wants a list of 5 or of 68 points"),
        ([*FIVE[:4], [1, 1e999]], "a coordinate is not finite"),
        (None, "wants a list of 5 or of 68 points"),
        ({"landmarks": {"left": 1}}, "wants a list of 5 or of 68 points"),
    ],
)
def test_what_are_no_landmarks_is_told(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_landmarks(value)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_no_json_is_told(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^not readable as JSON$"):
        decode_landmarks(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.just("landmarks"), inner),
)


@given(JSON)
def test_any_json_is_five_points_or_refused(value: Any) -> None:
    try:
        points = parse_landmarks(value)
    except ValueError:
        return
    assert np.isfinite(np.array(points)).all()
    assert np.shape(points) == (5, 2)
