"""A few rays of each of many heads, differentiably: tri-grids, decoder, marching.

What a sample sees is what `eg3d_renderer.marching` makes it see. Samples are placed with the help
of the true depth, and texels are read by one sparse product a head, whose gradient is another.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from eg3d_renderer.demo.training.truth import Rays
from eg3d_renderer.errors import RendererError
from eg3d_renderer.marching import density
from eg3d_renderer.marching.compositing import interval_weights, sample_weights
from eg3d_renderer.marching.planes import Axes, project
from eg3d_renderer.networks.decoder import FEATURES, sigmoid_with_margin

COARSE, FINE = 12, 10  # samples a ray: in bins, and around the truth
AROUND = 0.045  # of the true depth, either way, in world units


class Decoders(NamedTuple):
    """Of H heads, as they act: from features to hidden units, and to density, red, green, blue."""

    w0: Tensor  # [H, 64, 32]
    b0: Tensor  # [H, 64]
    w1: Tensor  # [H, 4, 64]
    b1: Tensor  # [H, 4]


def channel_order(depth: int) -> Tensor:
    """Which channels of PanoHead's backbone, in what order, are texels of FEATURES each: plane by
    plane, slice by slice."""
    channels = torch.arange(3 * FEATURES * depth).view(3, FEATURES, depth)
    return channels.transpose(1, 2).reshape(-1)


def place_samples(depths: Tensor, start: float, end: float, draw: torch.Generator) -> Tensor:
    """Sorted samples [..., S] of rays with true depths [...]: drawn in bins, and around the truth
    where there is one."""
    width = (end - start) / COARSE
    jitter = torch.rand(*depths.shape, COARSE + FINE, generator=draw)
    coarse = start + width * (torch.arange(COARSE) + jitter[..., :COARSE])
    bins = (torch.arange(FINE) + jitter[..., COARSE:]) / FINE
    near = depths[..., None] + AROUND * (2 * bins - 1)
    fine = torch.where(depths.isfinite()[..., None], near, start + (end - start) * bins)
    return torch.cat([coarse, fine], dim=-1).sort(dim=-1).values


def march(
    texels: Tensor,
    depth: int,
    axes: Axes,
    decoders: Decoders,
    rays: Rays,
    samples: Tensor,
    box: float,
    limit: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """texels [H, R, R, 3 * depth * 32] and decoders of H heads, n rays of each and their samples
    [H, n, S].

    Returns colours [H, n, 3] on white in [0, 1], opacity [H, n], the weights [H, n, S - 1] of
    intervals and their middles.
    """
    heads, size = texels.shape[:2]
    points = rays.origins[:, :, None] + samples[..., None] * rays.directions[:, :, None]
    points = points.view(-1, 3)
    index, shares = locate(points * (2 / box), size, depth, axes)
    rows = texels.reshape(heads, -1, FEATURES).float()
    each = zip(rows, index.chunk(heads), shares.chunk(heads), strict=True)
    features = torch.stack([read_texels(*head) for head in each])
    hidden = F.softplus(torch.baddbmm(decoders.b0[:, None], features, decoders.w0.mT))
    seen = torch.baddbmm(decoders.b1[:, None], hidden, decoders.w1.mT)  # [H, n * S, 4]
    sigma = density.crop(points, seen[..., 0].reshape(-1), limit)
    colour = sigmoid_with_margin(seen[..., 1:]).reshape(-1, samples.shape[-1], 3)
    depths = samples.flatten(0, 1)
    weights = interval_weights(depths, sigma.view(depths.shape))
    blended = torch.bmm(sample_weights(weights)[:, None], colour)[:, 0]
    opacity = weights.sum(-1)
    colours = blended + (1 - opacity)[:, None]
    middles = (samples[..., :-1] + samples[..., 1:]) / 2
    return (
        colours.view(heads, -1, 3),
        opacity.view(heads, -1),
        weights.view(middles.shape),
        middles,
    )


def locate(points: Tensor, size: int, depth: int, axes: Axes) -> tuple[Tensor, Tensor]:
    """points [P, 3] in [-1, 1] -> the texels that make their features, int32, and in what shares:
    [P, 24] each. Trilinear in a tri-grid, the mean over its planes; shares outside are 0."""
    index, shares = [], []
    for plane, grid in enumerate(project(points, axes)):
        columns, rows, levels = (
            _neighbours(grid[:, i], n) for i, n in ((0, size), (1, size), (2, depth))
        )
        for row, of_row in rows:
            for column, of_column in columns:
                texel = (row * size + column).mul_(3).add_(plane).mul_(depth)
                share = of_row * of_column / 3
                for level, of_level in levels:
                    index.append(texel + level)
                    shares.append(share * of_level)
    return torch.stack(index, dim=1), torch.stack(shares, dim=1)


def _neighbours(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Positions [P] in [-1, 1] -> the texels below and above, int32, and their shares."""
    texel = ((position + 1) * size - 1) / 2
    below = texel.floor()
    beyond = texel - below
    found = []
    for at, share in ((below, 1 - beyond), (below + 1, beyond)):
        inside = (at >= 0) & (at < size)
        found.append((at.clamp(0, size - 1).to(torch.int32), share * inside))
    return found


def read_texels(texels: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    """texels [T, F], index and shares [P, K] -> [P, F], the texels in their shares; on a CPU.

    Raises RendererError where scipy is not installed.
    """
    return _ReadTexels.apply(texels, index, shares)


class _ReadTexels(torch.autograd.Function):
    """Torch's own ways to read rows scatter the gradient far more slowly."""

    @staticmethod
    def forward(ctx, texels: Tensor, index: Tensor, shares: Tensor) -> Tensor:
        try:
            from scipy.sparse import csr_matrix
        except ImportError:
            raise RendererError(
                "training: scipy is not installed; pip install 'diffstyle360[training]'"
            ) from None
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
