"""Whether an output is recognised among others: chance is one half, always right is 1."""

from collections.abc import Sequence

import torch

from stylize.metrics.fidelity import weighted_mean

Masked = tuple[torch.Tensor, torch.Tensor]  # images [V, 3, H, W] and their mask [V, 1, H, W]


def nearer_share(output: torch.Tensor, own: Masked, others: Sequence[Masked]) -> torch.Tensor:
    """The share of `others` that lie farther from the output than `own` does, [V]; ties are half.

    Distance is the mean squared error under the union of own and the other's mask, so that the
    outline counts too. With other identities' truths in the same style it says whether the identity
    survived (and did not leak); with the same identity's truths in other styles, whether the style
    was taken. NaN where there are no others.
    """
    images, mask = own
    to_own = (output.double() - images.double()).square().mean(1, keepdim=True)
    won = []
    for other, other_mask in others:
        union = torch.maximum(mask, other_mask)
        to_other = (output.double() - other.double()).square().mean(1, keepdim=True)
        margin = weighted_mean(to_other - to_own, union)
        won.append((margin.sign() + 1) / 2)  # NaN stays NaN
    if not won:
        return torch.full((len(output),), torch.nan, dtype=torch.float64)
    return torch.stack(won).nanmean(0)
