import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer.demo import distances as sd

lengths = st.floats(0.05, 1.5)
reals = st.floats(-3, 3)


def cloud(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, y, z = 4 * torch.rand(3, n, generator=rng) - 2
    return x, y, z


@given(radius=lengths, centre=st.tuples(reals, reals, reals))
def test_round_ellipsoid_and_short_capsule_are_spheres(
    radius: float, centre: tuple[float, float, float]
) -> None:
    p = cloud()
    ball = sd.sphere(*p, centre, radius)
    torch.testing.assert_close(sd.ellipsoid(*p, centre, (radius,) * 3), ball, rtol=1e-4, atol=1e-4)
    end = (centre[0] + 1e-3, centre[1], centre[2])
    torch.testing.assert_close(sd.capsule(*p, centre, end, radius, radius), ball, rtol=0, atol=2e-3)


@given(radii=st.tuples(lengths, lengths, lengths))
def test_ellipsoid_is_zero_on_its_surface(radii: tuple[float, float, float]) -> None:
    p = torch.stack(cloud())
    x, y, z = p / p.norm(dim=0) * torch.tensor(radii)[:, None]
    zero = torch.zeros_like(x)
    torch.testing.assert_close(sd.ellipsoid(x, y, z, (0, 0, 0), radii), zero, rtol=0, atol=1e-4)


def test_capsule_turns_round() -> None:
    p, a, b = cloud(), (0.3, -0.2, 0.1), (-0.5, 0.6, 0.4)
    torch.testing.assert_close(
        sd.capsule(*p, a, b, 0.2, 0.1), sd.capsule(*p, b, a, 0.1, 0.2), rtol=0, atol=1e-5
    )


@given(k=st.floats(0.01, 0.5), seed=st.integers(0, 99))
def test_smooth_union_is_the_minimum_beyond_its_reach(k: float, seed: int) -> None:
    a, b, _ = cloud(seed=seed)
    union, least = sd.smooth_min(a, b, k), torch.minimum(a, b)
    assert torch.equal(union, sd.smooth_min(b, a, k))
    assert (union <= least).all()
    assert (least - union <= k / 4 + 1e-6).all()
    apart = (a - b).abs() >= k
    assert torch.equal(union[apart], least[apart])
    torch.testing.assert_close(sd.smooth_max(a, b, k), -sd.smooth_min(-a, -b, k))
    assert torch.equal(sd.carve(a, b, k), sd.smooth_max(a, -b, k))


@pytest.mark.parametrize(
    "body",
    [
        lambda x, y, z: sd.sphere(x, y, z, (0.1, 0.2, -0.1), 0.6),
        lambda x, y, z: sd.capsule(x, y, z, (0, 0, 0), (0.8, 0.3, 0.2), 0.3, 0.2),
        lambda x, y, z: sd.smooth_min(
            sd.sphere(x, y, z, (0, 0, 0), 0.5), sd.sphere(x, y, z, (0.5, 0.3, 0), 0.4), 0.2
        ),
    ],
)
def test_distance_grows_no_faster_than_space(body: Callable[..., Tensor]) -> None:
    p, q = cloud(seed=1), cloud(seed=2)
    step = sd.length(*(a - b for a, b in zip(p, q, strict=True)))
    assert ((body(*p) - body(*q)).abs() <= 1.07 * step).all()


def test_inputs_are_left_alone() -> None:
    p = cloud()
    kept = [v.clone() for v in p]
    sd.ellipsoid(*p, (0, 0.1, 0), (0.5, 0.4, 0.3))
    sd.capsule(*p, (0, 0, 0), (0, 1, 0), 0.2, 0.1)
    sd.smooth_min(*p[:2], 0.2)
    assert all(torch.equal(a, b) for a, b in zip(p, kept, strict=True))
    assert sd.length(*kept)[0].item() == pytest.approx(math.hypot(*(v[0].item() for v in kept)))
