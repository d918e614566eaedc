"""How well the views of a circle agree with each other."""

import math
from collections.abc import Sequence

import torch

from stylize.geometry import warp
from stylize.metrics.fidelity import weighted_mean


def warp_errors(
    sets: Sequence[torch.Tensor],
    depth: torch.Tensor,
    cameras: torch.Tensor,
    *,
    background: float,
) -> torch.Tensor:
    """For each set of images and each view v of a closed orbit: mean squared error between view
    v + 1 (modulo V) and view v warped onto it, over the pixels both see.

    sets of [V, C, H, W]; depth [V, 1, H, W] as in `geometry.warp`, of the images' size; cameras
    [V, 25]. Returns [len(sets), V]; the last column is the seam.
    """
    stacked = torch.stack(list(sets), 1).double().flatten(1, 2)  # [V, M C, H, W]
    cameras, errors = cameras.double(), []
    for i in range(len(stacked)):
        j = (i + 1) % len(stacked)
        warped, valid = warp(
            stacked[i], depth[i], depth[j], cameras[i], cameras[j], background=background
        )
        error = (warped - stacked[j]).square().unflatten(0, (len(sets), -1)).mean(1, keepdim=True)
        errors.append(weighted_mean(error, valid.unsqueeze(0)))
    return torch.stack(errors, 1)


def step_errors(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """For each view v: mean squared difference to view v + 1 (modulo V) under either's mask, [V].

    What is left of `warp_errors` where no depth is known: it holds the turning itself, so read it
    beside that of other images of the same circle.
    """
    error = (images.double() - images.double().roll(-1, 0)).square().mean(1, keepdim=True)
    return weighted_mean(error, torch.maximum(mask, mask.roll(-1, 0)))


def geometric_consistency(errors: torch.Tensor, of_truth: torch.Tensor) -> float:
    """Warp errors [V] between neighbouring views over the ground truth's own [V], as a ratio of
    means. Blur lowers it: read it beside `sharpness`."""
    return _ratio(mean_of_numbers(errors), mean_of_numbers(of_truth))


def seam_ratio(errors: torch.Tensor) -> float:
    """Error [V] across the seam (last view to first) over the mean of the other neighbours'."""
    return _ratio(float(errors[-1]), mean_of_numbers(errors[:-1]))


def mean_of_numbers(values: torch.Tensor) -> float:
    """Mean of what is finite among values [.]; NaN where nothing is."""
    numbers = values[values.isfinite()]
    return float(numbers.double().mean()) if len(numbers) else math.nan


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference > 0 else math.nan
