"""Densities that a family, or a user, leaves out of the picture."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

EMPTY = -1e3  # a density that renders nothing; its opposite is solid


def crop(points: Tensor, sigma: Tensor, limit: float) -> Tensor:
    """Empty sigma [P] where x or z of the points [P, 3] is beyond `limit`; y may be anything."""
    inside = (points[:, 0].abs() <= limit) & (points[:, 2].abs() <= limit)
    return torch.where(inside, sigma, EMPTY)


def cull(sigma: Tensor, threshold: float) -> Tensor:
    """Empty sigma [P] where the alpha over a unit of length is below the threshold."""
    return torch.where(_is_thin(sigma, threshold), EMPTY, sigma)


def binarize(sigma: Tensor, threshold: float) -> Tensor:
    """The same, and solid elsewhere."""
    return torch.where(_is_thin(sigma, threshold), EMPTY, -EMPTY)


def _is_thin(sigma: Tensor, threshold: float) -> Tensor:
    return 1 - torch.exp(-softplus(sigma - 1)) < threshold
