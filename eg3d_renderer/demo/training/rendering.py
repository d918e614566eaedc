"""A few rays of each of many heads, differentiably: tri-grids, decoder, marching.

What a sample sees is what `eg3d_renderer.marching` makes it see. Samples are placed with the help
of the true depth, and texels are read by one sparse product a head, whose gradient is another.
"""

import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.autograd.function import once_differentiable

from eg3d_renderer.demo.training.truth import Rays
from eg3d_renderer.marching import density
from eg3d_renderer.marching.compositing import interval_weights, sample_weights
from eg3d_renderer.marching.planes import Axes, project
from eg3d_renderer.networks.decoder import FEATURES, sigmoid_with_margin

COARSE, FINE = 12, 10  # samples a ray: in bins, and around the truth
AROUND = 0.045  # of the true depth, either way, in world units


def channel_order(depth: int) -> Tensor:
    """Which channels of PanoHead's backbone, in what order, are texels of FEATURES each: plane by
    plane, slice by slice."""
    channels = torch.arange(3 * FEATURES * depth).view(3, FEATURES, depth)
    return channels.transpose(1, 2).reshape(-1)


def place_samples(rays: Rays, start: float, end: float, draw: torch.Generator) -> Tensor:
    """Depths [N, S], sorted: drawn in bins, and around the true depth where there is one."""
    n = len(rays.depths)
    width = (end - start) / COARSE
    coarse = start + width * (torch.arange(COARSE) + torch.rand(n, COARSE, generator=draw))
    bins = (torch.arange(FINE) + torch.rand(n, FINE, generator=draw)) / FINE
    hit = rays.depths.isfinite()[:, None]
    near = rays.depths[:, None] + AROUND * (2 * bins - 1)
    fine = torch.where(hit, near, start + (end - start) * bins)
    return torch.cat([coarse, fine], dim=1).sort(dim=1).values


def march(
    texels: Tensor,
    depth: int,
    axes: Axes,
    decoder: tuple[Tensor, Tensor, Tensor, Tensor],
    rays: Rays,
    samples: Tensor,
    box: float,
    limit: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """texels [R, R, 3 * depth * 32] of one head, samples [N, S] of its rays.

    Returns colours [N, 3] on white in [0, 1], opacity [N], the weights [N, S - 1] of intervals and
    their middles.
    """
    points = rays.origins[:, None] + samples[..., None] * rays.directions[:, None]
    points = points.view(-1, 3)
    size = len(texels)
    index, shares = locate(points * (2 / box), size, depth, axes)
    features = read_texels(texels.reshape(-1, FEATURES).float(), index, shares)
    w0, b0, w1, b1 = decoder
    seen = F.linear(F.softplus(F.linear(features, w0, b0)), w1, b1)
    sigma = density.crop(points, seen[:, 0], limit).view(samples.shape)
    colour = sigmoid_with_margin(seen[:, 1:]).view(*samples.shape, 3)
    weights = interval_weights(samples, sigma)
    blended = torch.bmm(sample_weights(weights)[:, None], colour)[:, 0]
    opacity = weights.sum(-1)
    middles = (samples[:, :-1] + samples[:, 1:]) / 2
    return blended + (1 - opacity)[:, None], opacity, weights, middles


def locate(points: Tensor, size: int, depth: int, axes: Axes) -> tuple[Tensor, Tensor]:
    """points [P, 3] in [-1, 1] -> the texels that make their features, and in what shares:
    [P, 24 or less] each. Trilinear in a tri-grid, the mean over its planes."""
    index, shares = [], []
    for plane, grid in enumerate(project(points, axes)):
        (x, dx), (y, dy) = (_split(grid[:, i], size) for i in (0, 1))
        (s, ds) = _split(grid[:, 2], depth)
        for i, wx in ((0, 1 - dx), (1, dx)):
            for j, wy in ((0, 1 - dy), (1, dy)):
                for k, ws in ((0, 1 - ds), (1, ds)):
                    column, row, level = x + i, y + j, s + k
                    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
                    inside &= (level >= 0) & (level < depth)
                    where = ((row * size + column) * 3 + plane) * depth + level
                    index.append(torch.where(inside, where, 0))
                    shares.append(torch.where(inside, wx * wy * ws / 3, 0.0))
    return torch.stack(index, dim=1), torch.stack(shares, dim=1)


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions in [-1, 1] -> the texel below, int32, and how far beyond its centre."""
    texel = ((position + 1) * size - 1) / 2
    below = texel.floor()
    return below.to(torch.int32), texel - below


def read_texels(texels: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    """texels [T, F], index and shares [P, K] -> [P, F], the texels in their shares."""
    return _ReadTexels.apply(texels, index, shares)


class _ReadTexels(torch.autograd.Function):
    """Torch's own ways to read rows scatter the gradient far more slowly."""

    @staticmethod
    def forward(ctx, texels: Tensor, index: Tensor, shares: Tensor) -> Tensor:
        points, many = index.shape
        starts = torch.arange(0, index.numel() + 1, many, dtype=torch.int32)
        ctx.read = csr_matrix(
            (shares.reshape(-1).numpy(), index.reshape(-1).numpy(), starts.numpy()),
            shape=(points, len(texels)),
        )
        return torch.from_numpy(ctx.read @ texels.detach().numpy())

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        scatter = ctx.read.tocsc().T
        return torch.from_numpy(scatter @ gradient.contiguous().numpy()), None, None
