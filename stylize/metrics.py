"""Numbers beside the pictures, none of which needs weights.

Images are float tensors in [-1, 1], masks coverages in [0, 1], both [V, C, H, W] over the V views
of one identity. Sums run in float64. Where there is nothing to measure (an empty mask, no valid
pair of pixels, a truth without error or gradient to compare with) a measure is NaN.
"""

import math

import torch
import torch.nn.functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from stylize.geometry import warp

RANGE = 2.0  # of image values
PATCH = 5
LEVELS = 3
PROJECTIONS = 64
PATCHES = 2048
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


def masked_psnr(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB over the mask; inf where the images agree exactly."""
    error = _weighted_mean((output.double() - truth.double()).square().mean(1, keepdim=True), mask)
    if error == 0:
        return math.inf
    return 10 * math.log10(RANGE**2 / error)  # NaN stays NaN


def masked_ssim(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Structural similarity (Wang et al. 2004, 11 x 11 Gaussian windows), its map averaged over
    the mask."""
    first, second = ((x.double() + 1) / 2 for x in (output, truth))  # its constants want 0..1
    _, similarity = structural_similarity_index_measure(
        first, second, data_range=1.0, return_full_image=True
    )
    return _weighted_mean(similarity.mean(1, keepdim=True), mask)


def sharpness(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Gradient energy over the mask, as a ratio to the truth's: below 1 is blurrier."""
    return _ratio(
        _weighted_mean(_gradient_energy(output), mask),
        _weighted_mean(_gradient_energy(truth), mask),
    )


def warp_errors(
    images: torch.Tensor, depth: torch.Tensor, cameras: torch.Tensor, *, background: float
) -> list[float]:
    """For each view v of a closed orbit: mean squared error between view v + 1 (modulo V) and
    view v warped onto it, over the pixels both see. depth [V, 1, H, W] as in `geometry.warp`, of
    the images' size; cameras [V, 25]. The last entry is the seam."""
    errors = []
    for i in range(len(images)):
        j = (i + 1) % len(images)
        warped, valid = warp(
            images[i].double(), depth[i], depth[j], cameras[i].double(), cameras[j].double(),
            background=background,
        )  # fmt: skip
        error = (warped - images[j].double()).square().mean(0, keepdim=True)
        errors.append(_weighted_mean(error[None], valid[None]))
    return errors


def geometric_consistency(
    output: torch.Tensor,
    truth: torch.Tensor,
    depth: torch.Tensor,
    cameras: torch.Tensor,
    *,
    background: float,
) -> float:
    """Warp error between neighbouring views over the ground truth's own. Blur lowers it: read it
    beside `sharpness`."""
    of_output = warp_errors(output, depth, cameras, background=background)
    of_truth = warp_errors(truth, depth, cameras, background=background)
    return _ratio(_mean(of_output), _mean(of_truth))


def seam_ratio(
    output: torch.Tensor, depth: torch.Tensor, cameras: torch.Tensor, *, background: float
) -> float:
    """Warp error across the seam (last view to first) over the mean of the other neighbours."""
    *inner, seam = warp_errors(output, depth, cameras, background=background)
    return _ratio(seam, _mean(inner))


def style_distance(
    output: torch.Tensor, mask: torch.Tensor, style: torch.Tensor, style_mask: torch.Tensor
) -> float:
    """Sliced Wasserstein distance between the foregrounds' Laplacian-pyramid patches.

    Per pyramid level: patches centred in each foreground, projected on fixed random directions,
    sorted, mean absolute difference (Rabin et al. 2011; patches as in Karras et al. 2018, without
    their normalisation, so that the palette counts); then the mean over the levels. output
    [V, 3, H, W] against style [S, 3, H, W], e.g. one reference image.
    """
    total = 0.0
    pairs = zip(_laplacian_levels(output, mask), _laplacian_levels(style, style_mask), strict=True)
    for level, (first, second) in enumerate(pairs):
        here, there = _draw_patches(*first, seed=level), _draw_patches(*second, seed=level)
        if here is None or there is None:
            return math.nan
        generator = torch.Generator().manual_seed(level)
        directions = torch.randn(3 * PATCH**2, PROJECTIONS, generator=generator).double()
        directions = F.normalize(directions, dim=0)
        a, b = ((patches @ directions).sort(dim=0).values for patches in (here, there))
        total += float((a - b).abs().mean())
    return total / LEVELS


def estimate_foreground(images: torch.Tensor, tolerance: float = 0.02) -> torch.Tensor:
    """A mask [V, 1, H, W] for images without one: the pixels that are not the white background."""
    return (images.amin(1, keepdim=True) < 1 - tolerance).to(images.dtype)


def transfer_statistics(
    content: torch.Tensor, mask: torch.Tensor, style: torch.Tensor, style_mask: torch.Tensor
) -> torch.Tensor:
    """The baseline a stylizer has to beat: each view's foreground colours get the mean and
    covariance of the style image's foreground (whitening and colouring), the background stays.

    content [V, 3, H, W], style [1, 3, H, W]; views without foreground come back unchanged, and so
    does everything if the style has none. Its companion, copy-content, is `content` itself.
    """
    target = _colour_statistics(style[0], style_mask[0])
    views = []
    for image, coverage in zip(content, mask, strict=True):
        source = _colour_statistics(image, coverage)
        if source is None or target is None:
            views.append(image)
            continue
        transform = _root(target[1]) @ torch.linalg.inv(_root(source[1]))
        centred = image.double().flatten(1) - source[0].unsqueeze(1)
        moved = (transform @ centred + target[0].unsqueeze(1)).view_as(image).to(image.dtype)
        views.append(torch.lerp(image, moved.clamp(-1, 1), coverage.to(image.dtype)))
    return torch.stack(views)


def _weighted_mean(values: torch.Tensor, mask: torch.Tensor) -> float:
    weights = mask.to(torch.float64).expand_as(values)
    total = float(weights.sum())
    return float((values.double() * weights).sum()) / total if total > 0 else math.nan


def _mean(values: list[float]) -> float:
    """Mean of the numbers among the values."""
    numbers = [v for v in values if not math.isnan(v)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference > 0 else math.nan


def _gradient_energy(images: torch.Tensor) -> torch.Tensor:
    x = images.double()
    down = F.pad(x.diff(dim=-2), (0, 0, 0, 1))
    right = F.pad(x.diff(dim=-1), (0, 1))
    return (down.square() + right.square()).sum(1, keepdim=True)  # [V, 1, H, W]


def _laplacian_levels(
    images: torch.Tensor, mask: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Band-pass levels from fine to coarse, the last one low-pass, each with its mask."""
    current, levels = images.double(), []
    coverage = mask.double()
    for _ in range(LEVELS - 1):
        smaller = F.avg_pool2d(_blur(current), 2)
        back = F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        levels.append((current - back, coverage))
        current, coverage = smaller, F.avg_pool2d(coverage, 2)
    return [*levels, (current, coverage)]


def _blur(images: torch.Tensor) -> torch.Tensor:
    row = torch.tensor(BINOMIAL, dtype=images.dtype, device=images.device) / sum(BINOMIAL)
    kernel = torch.outer(row, row).expand(images.shape[1], 1, 5, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])


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


def _colour_statistics(
    image: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean [3] and covariance [3, 3] of the colours [3, H, W] over the mask [1, H, W]."""
    weights = mask.double().flatten()
    if weights.sum() <= 0:
        return None
    colours = image.double().flatten(1)
    mean = (colours * weights).sum(1) / weights.sum()
    centred = colours - mean.unsqueeze(1)
    return mean, (centred * weights) @ centred.T / weights.sum()


def _root(covariance: torch.Tensor, floor: float = 1e-4) -> torch.Tensor:
    """Symmetric square root, eigenvalues raised to a floor so that it can be inverted."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=floor).sqrt()) @ vectors.T
