"""Where along a ray to look: limits, coarse samples in bins, fine samples by importance."""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5


class Draws(NamedTuple):
    """The random numbers in [0, 1) behind the samples of one view's M rays."""

    coarse: Tensor  # [M, D] or [1, 1]: where in its bin a coarse sample lies
    fine: Tensor  # [M, F] or [1, F]: where in the distribution of weights a fine sample lies

    def rows(self, first: int, last: int) -> "Draws":
        return Draws(*(t if len(t) == 1 else t[first:last] for t in self))


def draw_depths(
    jitter: torch.Generator | Draws | None, rays: int, coarse: int, fine: int, device: torch.device
) -> Draws:
    """None: mid-bin, the same every time; a generator: stratified, as the published code draws."""
    if isinstance(jitter, Draws):
        return Draws(*(t.to(device) for t in jitter))
    if jitter is None:
        middle = (torch.arange(fine, device=device) + 0.5) / max(fine, 1)
        return Draws(torch.full([1, 1], 0.5, device=device), middle[None])
    return Draws(
        torch.rand([rays, coarse], generator=jitter, device=jitter.device).to(device),
        torch.rand([rays, fine], generator=jitter, device=jitter.device).to(device),
    )


def box_limits(origins: Tensor, directions: Tensor, box: float) -> tuple[Tensor, Tensor]:
    """Where rays [M, 3] enter and leave the cube of side `box` around the origin: [M, 1] each.

    A ray that misses it gets the least of the other rays' starts and the greatest of their STARTS,
    as the published code has it; where all miss, -1 and -2.
    """
    inverse = 1 / directions
    first = (-box / 2 - origins) * inverse
    second = (box / 2 - origins) * inverse
    start = torch.minimum(first, second).amax(dim=-1, keepdim=True)
    end = torch.maximum(first, second).amin(dim=-1, keepdim=True)
    hit = start <= end
    if not len(hit):
        return start, end
    some = hit.any()  # stays where it is: asking for it would make a GPU wait
    least = torch.where(some, torch.where(hit, start, torch.inf).min(), -1)
    most = torch.where(some, torch.where(hit, start, -torch.inf).max(), -2)
    return torch.where(hit, start, least), torch.where(hit, end, most)


def coarse_depths(
    start: Tensor, end: Tensor, samples: int, draws: Tensor, disparity: bool
) -> Tensor:
    """start, end [M, 1] or [1, 1], draws [M, samples] or [1, 1] -> depths [M or 1, samples].

    Evenly spaced in depth (the last may lie up to a bin beyond the end) or in disparity.
    """
    steps = torch.linspace(0, 1, samples, device=draws.device)[None]
    step = 1 / (samples - 1)
    if disparity:
        along = steps + draws * step
        return 1 / (1 / start * (1 - along) + 1 / end * along)
    return start + steps * (end - start) + draws * ((end - start) * step)


def fine_depths(depths: Tensor, weights: Tensor, draws: Tensor) -> Tensor:
    """More samples where the coarse ones weigh most: [M, D], [M, D - 1], draws [M, F] -> [M, F].

    Inverse transform sampling over the mid-points, of weights smoothed as in mip-NeRF (Barron et
    al., 2021, section 3.1). The weights taken are those of the intervals 1 to D - 3, against
    mid-points counted from 0: the published models were trained with that shift.
    """
    padded = torch.nn.functional.pad(weights, [1, 1], value=-torch.inf)
    dilated = torch.maximum(padded[:, :-1], padded[:, 1:])  # [M, D]
    blurred = (dilated[:, :-1] + dilated[:, 1:]) / 2 + 0.01  # [M, D - 1]
    density = blurred[:, 1:-1] + EPSILON  # [M, D - 3]
    density = density / density.sum(dim=-1, keepdim=True)
    cumulated = torch.cumsum(density, dim=-1)
    cumulated = torch.nn.functional.pad(cumulated, [1, 0])  # [M, D - 2]
    middles = (depths[:, :-1] + depths[:, 1:]) / 2
    middles = middles.expand(len(weights), -1)
    u = draws.expand(len(weights), -1).contiguous()
    index = torch.searchsorted(cumulated, u, right=True)
    below = (index - 1).clamp_min(0)
    above = index.clamp_max(cumulated.shape[1] - 1)
    low, high = cumulated.gather(1, below), cumulated.gather(1, above)
    width = high - low
    width = torch.where(width < EPSILON, 1.0, width)
    start, end = middles.gather(1, below), middles.gather(1, above)
    return start + (u - low) / width * (end - start)
