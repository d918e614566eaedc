"""Volume rendering with importance sampling, in chunks of rays: plain PyTorch, differentiable."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eg3d_renderer.marching.compositing import expected_depth, interval_weights, sample_weights
from eg3d_renderer.marching.depths import Draws, box_limits, coarse_depths, fine_depths

Field = Callable[[Tensor], tuple[Tensor, Tensor]]  # points [P, 3] -> sigma [P], features [P, F]


class Settings(NamedTuple):
    """What `rendering_kwargs` say of the marching."""

    samples: int
    fine_samples: int
    start: float | None  # None, with the end: where the ray meets the box
    end: float | None
    box: float
    disparity: bool
    white_back: bool
    signed: bool  # composited features from [0, 1] to [-1, 1]


class Marched(NamedTuple):
    """What M rays saw."""

    features: Tensor  # [M, F]
    depth: Tensor  # [M], distance along the ray, within the samples of the whole view
    opacity: Tensor  # [M], the sum of the weights


def march_view(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    settings: Settings,
    draws: Draws,
    chunk: int,
) -> Marched:
    """The rays [M, 3] of one view, `chunk` at a time; depth is clamped over the view as a whole."""
    start, end = ray_limits(origins, directions, settings)
    parts, nearest, farthest = [], [], []
    for first in range(0, len(origins), chunk):
        rows = slice(first, first + chunk)
        marched, depths = _march(
            field,
            origins[rows],
            directions[rows],
            settings,
            start if len(start) == 1 else start[rows],
            end if len(end) == 1 else end[rows],
            draws.rows(first, first + chunk),
        )
        parts.append(marched)
        nearest.append(depths.min())
        farthest.append(depths.max())
    features, depth, opacity = (torch.cat(t) for t in zip(*parts, strict=True))
    depth = depth.clamp(torch.stack(nearest).min(), torch.stack(farthest).max())
    return Marched(features, depth, opacity)


def ray_limits(origins: Tensor, directions: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Where to march from and to: [1, 1] for all rays, or [M, 1]."""
    if settings.start is None or settings.end is None:
        return box_limits(origins, directions, settings.box)
    return origins.new_full([1, 1], settings.start), origins.new_full([1, 1], settings.end)


def _march(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    settings: Settings,
    start: Tensor,
    end: Tensor,
    draws: Draws,
) -> tuple[Marched, Tensor]:
    """The rays of a chunk, with all their depths [M, S]."""

    def look(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None] + depths[..., None] * directions[:, None]  # [M, S, 3]
        sigma, features = field(points.view(-1, 3))
        return sigma.view(depths.shape), features.view(*depths.shape, -1)

    depths = coarse_depths(start, end, settings.samples, draws.coarse, settings.disparity)
    depths = depths.expand(len(origins), -1)
    sigma, features = look(depths)
    if settings.fine_samples:
        weights = interval_weights(depths, sigma).detach()
        fine = fine_depths(depths, weights, draws.fine)
        fine_sigma, fine_features = look(fine)
        depths, order = torch.cat([depths, fine], dim=1).sort(dim=1, stable=True)
        sigma = torch.cat([sigma, fine_sigma], dim=1).gather(1, order)
        weights = interval_weights(depths, sigma)
        # the weights go to the features' places, rather than the features to the weights'
        shares = torch.empty_like(sigma).scatter(1, order, sample_weights(weights))
        coarse_shares, fine_shares = shares.split([settings.samples, settings.fine_samples], dim=1)
        colour = _blend(coarse_shares, features) + _blend(fine_shares, fine_features)
    else:
        weights = interval_weights(depths, sigma)
        colour = _blend(sample_weights(weights), features)
    opacity = weights.sum(-1)
    if settings.white_back:
        colour = colour + (1 - opacity)[:, None]
    if settings.signed:
        colour = colour * 2 - 1
    return Marched(colour, expected_depth(weights, depths), opacity), depths


def _blend(shares: Tensor, features: Tensor) -> Tensor:
    """[M, S], [M, S, F] -> [M, F]."""
    return torch.bmm(shares[:, None], features)[:, 0]
