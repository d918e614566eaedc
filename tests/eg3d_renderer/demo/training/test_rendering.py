import torch

from eg3d_renderer.demo.training import rendering
from eg3d_renderer.demo.training.rendering import (
    Decoders,
    channel_order,
    locate,
    place_samples,
    read_texels,
)
from eg3d_renderer.demo.training.truth import Rays
from eg3d_renderer.marching.planes import PANOHEAD_AXES, by_slice, sample_trigrid

SIZE, DEPTH = 8, 3


def rays(depths: torch.Tensor) -> Rays:
    """Of one head, straight from the front."""
    n = len(depths)
    origins = torch.tensor([0.0, 0.0, 2.7]).expand(1, n, 3)
    directions = torch.tensor([0.0, 0.0, -1.0]).expand(1, n, 3)
    return Rays(origins, directions, torch.zeros(1, n, 3), torch.zeros(1, n), depths[None])


def test_texels_are_read_as_a_trigrid_is_sampled() -> None:
    planes = torch.randn(3, 32 * DEPTH, SIZE, SIZE, requires_grad=True)
    points = torch.rand(500, 3) * 2.4 - 1.2  # some outside
    expected = sample_trigrid(by_slice(planes), points, PANOHEAD_AXES)
    image = planes.flatten(0, 1)[channel_order(DEPTH)].permute(1, 2, 0)
    found = read_texels(image.reshape(-1, 32), *locate(points, SIZE, DEPTH, PANOHEAD_AXES))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((f * weights).sum(), planes)[0] for f in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_samples_are_sorted_and_dense_around_the_truth() -> None:
    samples = place_samples(torch.tensor([2.6, torch.inf]), 2.25, 3.2, torch.Generator())
    assert (samples.diff(dim=1) >= 0).all()
    near = (samples - 2.6).abs() <= rendering.AROUND
    assert near[0].sum() >= rendering.FINE > near[1].sum()
    assert ((samples >= 2.25) & (samples <= 3.2)).all()


def test_marching_sees_a_wall() -> None:
    """Features whose first is solid behind z = 0, read from a (x, z) plane: what the march returns
    is the wall's colour and place, and outside of it white."""
    size = 128
    image = torch.zeros(size, size, 3, 1, 32)
    behind = ((torch.arange(size) + 0.5) / size * 2 - 1) < 0
    image[:, :, 1, 0, 0] = torch.where(behind, 30.0, -30.0)[:, None]  # rows of (x, z) are z
    first = torch.eye(64, 32)
    second = torch.zeros(4, 64)
    second[0, 0] = 200.0
    last = torch.tensor([-300.0, 9.0, -9.0, 0.0])
    decoder = Decoders(*(t[None] for t in (first, torch.zeros(64), second, last)))
    seen = rays(torch.full([4], 2.7))
    samples = torch.linspace(2.3, 3.1, 200).expand(1, 4, -1)
    colours, opacity, weights, middles = rendering.march(
        image.flatten(2)[None], 1, PANOHEAD_AXES, decoder, seen, samples, 0.9, 0.35
    )
    torch.testing.assert_close(
        colours, torch.tensor([[1.0, 0.0, 0.5]]).expand(1, 4, 3), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(opacity, torch.ones(1, 4), atol=1e-3, rtol=0)
    depth = (weights * middles).sum(-1)
    torch.testing.assert_close(depth, torch.full([1, 4], 2.7), atol=0.01, rtol=0)
    beside = seen._replace(origins=seen.origins + torch.tensor([0.36, 0.0, 0.0]))
    colours, opacity, *_ = rendering.march(
        image.flatten(2)[None], 1, PANOHEAD_AXES, decoder, beside, samples, 0.9, 0.35
    )
    assert opacity.max() < 1e-3, "beyond the crop nothing is rendered"
    torch.testing.assert_close(colours, torch.ones(1, 4, 3), atol=1e-3, rtol=0)
