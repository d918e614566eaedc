"""How near an output is to its truth, view by view, on the foreground."""

import torch
import torch.nn.functional as F

from stylize.metrics.filters import GAUSSIAN, blur

RANGE = 2.0  # of image values
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for images in 0..1


def masked_psnr(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB over the mask, [V]; inf where the images agree exactly."""
    error = (output.double() - truth.double()).square().mean(1, keepdim=True)
    return 10 * torch.log10(RANGE**2 / weighted_mean(error, mask))


def masked_ssim(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004, 11 x 11 Gaussian windows), [V], its map averaged
    over the mask."""
    a, b = ((x.double() + 1) / 2 for x in (output, truth))
    mean_a, mean_b = blur(a, GAUSSIAN), blur(b, GAUSSIAN)
    variance_a = blur(a * a, GAUSSIAN) - mean_a.square()
    variance_b = blur(b * b, GAUSSIAN) - mean_b.square()
    covariance = blur(a * b, GAUSSIAN) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    similarity = luminance * (2 * covariance + C2) / (variance_a + variance_b + C2)
    return weighted_mean(similarity.mean(1, keepdim=True), mask)


def sharpness(output: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Gradient energy over the mask, as a ratio to the truth's, [V]: below 1 is blurrier."""
    reference = weighted_mean(_gradient_energy(truth), mask)
    reference = torch.where(reference > 0, reference, torch.nan)
    return weighted_mean(_gradient_energy(output), mask) / reference


def weighted_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of values [V, 1, H, W] under the mask [V, 1, H, W], [V]; NaN where that is empty."""
    weights = mask.to(torch.float64).expand_as(values)
    total = weights.sum((1, 2, 3))
    mean = (values.double() * weights).sum((1, 2, 3)) / total
    return torch.where(total > 0, mean, torch.nan)


def _gradient_energy(images: torch.Tensor) -> torch.Tensor:
    x = images.double()
    down = F.pad(x.diff(dim=-2), (0, 0, 0, 1))
    right = F.pad(x.diff(dim=-1), (0, 1))
    return (down.square() + right.square()).sum(1, keepdim=True)  # [V, 1, H, W]
