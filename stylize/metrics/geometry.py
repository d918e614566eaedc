"""Whether an output keeps the head's outline and depth, view by view."""

import torch

from stylize.metrics.fidelity import weighted_mean

COVERED = 0.05  # of a mask: an edge pixel shows something of the head


def estimate_foreground(images: torch.Tensor, tolerance: float = 0.02) -> torch.Tensor:
    """A mask [V, 1, H, W] for images without one: the pixels that are not the white background."""
    return (images.amin(1, keepdim=True) < 1 - tolerance).to(images.dtype)


def silhouette_iou(foreground: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Intersection over union of what two coverages [V, 1, H, W] cover at all, [V]."""
    a, b = foreground > COVERED, mask > COVERED
    union = (a | b).sum((1, 2, 3)).double()
    return torch.where(union > 0, (a & b).sum((1, 2, 3)) / union, torch.nan)


def spill(foreground: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Share of the foreground where the mask covers nothing, [V]: 0 is none."""
    return weighted_mean((mask <= COVERED).double(), foreground)


def depth_agreement(
    depth: torch.Tensor, other: torch.Tensor, *, background: float, tolerance: float = 0.01
) -> torch.Tensor:
    """Share of what is foreground in both depths [V, 1, H, W] where they agree within the relative
    `tolerance`, [V]: how far a style leaves the head's shape alone."""
    both = (depth < background) & (other < background)
    agree = (depth.double() - other.double()).abs() < tolerance * other.double()
    return weighted_mean(agree.double(), both)
