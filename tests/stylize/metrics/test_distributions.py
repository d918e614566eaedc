import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylize import metrics
from stylize.metrics import distributions


def draw(rows: int, features: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed)).double()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
def test_frechet_is_its_formula(n, m, features):
    """Fewer and more rows than features."""
    a, b = draw(n, features, 0), 2 * draw(m, features, 1) + 1
    first, second = (torch.atleast_2d(x.T.cov()) for x in (a, b))
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    expected = float(gap + first.trace() + second.trace() - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))


def test_frechet_of_a_shift_is_its_square():
    a = draw(50, 4, 0)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(4 * 9)


def test_kernel_distance_is_its_formula(monkeypatch):
    monkeypatch.setattr(distributions, "CHUNK", 3)
    a, b = draw(7, 4, 0), draw(5, 4, 1) + 0.5

    def mean(x, y, same):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum(float((x[i] @ y[j] / 4 + 1) ** 3) for i, j in pairs) / len(pairs)

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert metrics.kernel_distance(a, b) == pytest.approx(expected)


def test_one_sample_is_no_distribution():
    assert math.isnan(metrics.frechet_distance(draw(1, 3, 0), draw(5, 3, 1)))
    assert math.isnan(metrics.kernel_distance(draw(5, 3, 0), draw(1, 3, 1)))
