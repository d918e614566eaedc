import math

import pytest

from stylize.training import guard

CALM = [1.0, 1.2, 0.8, 1.1] * 10


@pytest.mark.parametrize(
    ("losses", "exploding"),
    [
        (CALM, False),
        ([*CALM, *[11.5] * 8], True),
        ([*CALM, *[9.0] * 8], False),
        ([*CALM, 1000.0], False),  # one hard timestep
        ([*CALM, 1000.0, *[1.0] * 7], False),
        ([1.0] * 5 + [100.0] * 8, False),  # too few to tell
    ],
)
def test_an_explosion_lasts(losses, exploding):
    assert guard.is_exploding(losses) == exploding
    assert guard.is_exploding(guard.remembered(losses)) == exploding


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_is_a_fault(loss, norm):
    assert "not finite" in guard.find_fault(loss, norm, [])
    assert guard.find_fault(1.0, 1.0, CALM) is None
