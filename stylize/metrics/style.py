"""Style distance: sliced Wasserstein over the foregrounds' Laplacian-pyramid patches.

Per pyramid level: patches centred in each foreground, projected on fixed random directions, sorted,
mean absolute difference (Rabin et al. 2011; patches as in Karras et al. 2018, without their
normalisation, so that the palette counts); then the mean over the levels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from stylize.metrics.filters import BINOMIAL, blur

PATCH = 5
LEVELS = 3
PROJECTIONS = 64
PATCHES = 2048


def style_distance(
    output: torch.Tensor, mask: torch.Tensor, style: torch.Tensor, style_mask: torch.Tensor
) -> float:
    """The distance of output [V, 3, H, W] to style [S, 3, H, W], e.g. one reference image."""
    return profile_distance(style_profile(output, mask), style_profile(style, style_mask))


def style_profile(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """What `profile_distance` compares, [LEVELS, PROJECTIONS, PATCHES]; None without foreground."""
    profile = []
    for level, (band, coverage) in enumerate(_laplacian_levels(images, mask)):
        patches = _draw_patches(band, coverage, seed=level)
        if patches is None:
            return None
        generator = torch.Generator().manual_seed(level)
        directions = torch.randn(3 * PATCH**2, PROJECTIONS, generator=generator).double()
        projected = F.normalize(directions, dim=0).T @ patches.T  # [PROJECTIONS, PATCHES]
        profile.append(np.sort(projected.numpy(), axis=1))  # several times faster than torch's
    return torch.from_numpy(np.stack(profile))


def profile_distance(first: torch.Tensor | None, second: torch.Tensor | None) -> float:
    """The style distance between two profiles; NaN where one is None."""
    if first is None or second is None:
        return math.nan
    return float((first - second).abs().mean())


def _laplacian_levels(
    images: torch.Tensor, mask: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Band-pass levels from fine to coarse, the last one low-pass, each with its mask."""
    current, levels = images.double(), []
    coverage = mask.double()
    for _ in range(LEVELS - 1):
        smaller = F.avg_pool2d(blur(current, BINOMIAL), 2)
        back = F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        levels.append((current - back, coverage))
        current, coverage = smaller, F.avg_pool2d(coverage, 2)
    return [*levels, (current, coverage)]


def _draw_patches(images: torch.Tensor, mask: torch.Tensor, *, seed: int) -> torch.Tensor | None:
    """PATCHES patches [n, 3 PATCH^2] whose centres lie in the mask, drawn with replacement.

    Both sides use the same seed: an image has distance 0 to itself.
    """
    margin = PATCH // 2
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    view, y, x = (mask[:, 0] > 0.5).nonzero(as_tuple=True)
    if len(view) == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(view), (PATCHES,), generator=generator).to(view.device)
    steps = torch.arange(PATCH, device=view.device)
    rows = (y[drawn, None] + steps)[:, :, None]  # [n, PATCH, 1]
    columns = (x[drawn, None] + steps)[:, None, :]
    return padded.movedim(1, -1)[view[drawn, None, None], rows, columns].flatten(1).cpu()
