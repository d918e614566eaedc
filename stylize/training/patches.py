"""How far the patches of two sets of images are apart, with a gradient.

The measure of `metrics.style_distance` in single precision: Laplacian pyramid, patches centred in
the foreground, projected on random directions, sorted, mean absolute difference.
"""

import torch
import torch.nn.functional as F

PATCH = 5
LEVELS = 3
PROJECTIONS = 64
PATCHES = 1024
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


def patch_distance(
    output: torch.Tensor, mask: torch.Tensor, style: torch.Tensor, style_mask: torch.Tensor
) -> torch.Tensor:
    """The distance [] of images [V, 3, H, W] to others [S, 3, H, W]; masks are bool [., 1, H, W].

    The directions and the patches drawn are the same in every call: an image has distance 0 to
    itself. Only `output` has a gradient. Without foreground on either side the distance is 0.
    """
    if not (mask.any() and style_mask.any()):
        return output.sum() * 0
    total = output.new_zeros(())
    bands, others = laplacian_pyramid(output), laplacian_pyramid(style)
    for level, (band, other) in enumerate(zip(bands, others, strict=True)):
        generator = torch.Generator().manual_seed(level)
        directions = torch.randn(3 * PATCH**2, PROJECTIONS, generator=generator)
        directions = F.normalize(directions, dim=0).to(output)
        places = torch.rand(PATCHES, generator=generator)
        here = draw_patches(band, coarsen(mask, level), places) @ directions
        there = draw_patches(other, coarsen(style_mask, level), places) @ directions
        total = total + (here.sort(0).values - there.sort(0).values).abs().mean()
    return total / LEVELS


def laplacian_pyramid(images: torch.Tensor) -> list[torch.Tensor]:
    """Band-pass levels from fine to coarse, the last one low-pass."""
    current, levels = images, []
    row = torch.tensor(BINOMIAL).to(images) / sum(BINOMIAL)
    kernel = torch.outer(row, row).expand(images.shape[1], 1, 5, 5)
    for _ in range(LEVELS - 1):
        padded = F.pad(current, (2, 2, 2, 2), mode="reflect")
        smaller = F.avg_pool2d(F.conv2d(padded, kernel, groups=images.shape[1]), 2)
        back = F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        levels.append(current - back)
        current = smaller
    return [*levels, current]


def coarsen(mask: torch.Tensor, level: int) -> torch.Tensor:
    """A mask at a pyramid level: what is covered by half or more, or at all where nothing is."""
    coverage = F.avg_pool2d(mask.float(), 2**level)
    half = coverage >= 0.5
    return half if half.any() else coverage > 0


def draw_patches(images: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Patches [n, 3 PATCH^2] of images [V, 3, H, W] whose centres lie in the mask: `places` [n],
    numbers in [0, 1), say which of them."""
    padded = F.pad(images, (PATCH // 2,) * 4, mode="reflect").movedim(1, -1)
    view, y, x = (mask[:, 0]).nonzero(as_tuple=True)
    drawn = (places.double() * len(view)).long().to(view.device)
    steps = torch.arange(PATCH, device=view.device)
    rows = (y[drawn, None] + steps)[:, :, None]  # [n, PATCH, 1]
    columns = (x[drawn, None] + steps)[:, None, :]
    return padded[view[drawn, None, None], rows, columns].flatten(1)
