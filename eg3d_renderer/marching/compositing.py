"""Densities along rays to the weights of their samples."""

import torch
import torch.nn.functional as F
from torch import Tensor


def interval_weights(depths: Tensor, sigma: Tensor) -> Tensor:
    """depths, sigma [M, S], sorted along the ray -> weights [M, S - 1] of its intervals.

    Emission and absorption (Max, 1995) with the density of an interval's middle, softplus-shifted.
    """
    density = F.softplus((sigma[:, :-1] + sigma[:, 1:]) / 2 - 1)
    alpha = 1 - torch.exp(-density * (depths[:, 1:] - depths[:, :-1]))
    clear = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * F.pad(clear[:, :-1], [1, 0], value=1.0)


def sample_weights(weights: Tensor) -> Tensor:
    """Weights of intervals [M, S - 1] -> of samples [M, S]: half of each neighbour's."""
    return (F.pad(weights, [0, 1]) + F.pad(weights, [1, 0])) / 2


def expected_depth(weights: Tensor, depths: Tensor) -> Tensor:
    """Weights [M, S - 1], depths [M, S] -> the mean depth [M], infinite where all is clear.

    Distance along the ray, not z.
    """
    middles = (depths[:, :-1] + depths[:, 1:]) / 2
    depth = (weights * middles).sum(-1) / weights.sum(-1)
    return torch.nan_to_num(depth, torch.inf)
