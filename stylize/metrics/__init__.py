"""Numbers beside the pictures, none of which needs weights; `stylize.perceptual` has those that do.

Images are float tensors in [-1, 1], masks coverages in [0, 1], both [V, C, H, W] over the V views
of one identity; a measure of single views is a float64 tensor [V]. Sums run in float64. Where
there is nothing to measure (an empty mask, no valid pair of pixels, a truth without error or
gradient to compare with) a measure is NaN.
"""

from stylize.metrics.baselines import transfer_statistics
from stylize.metrics.consistency import (
    geometric_consistency,
    mean_of_numbers,
    seam_ratio,
    step_errors,
    warp_errors,
)
from stylize.metrics.distributions import frechet_distance, kernel_distance
from stylize.metrics.fidelity import masked_psnr, masked_ssim, sharpness
from stylize.metrics.geometry import depth_agreement, estimate_foreground, silhouette_iou, spill
from stylize.metrics.retrieval import nearer_share
from stylize.metrics.style import profile_distance, style_distance, style_profile

__all__ = [
    "depth_agreement",
    "estimate_foreground",
    "frechet_distance",
    "geometric_consistency",
    "kernel_distance",
    "masked_psnr",
    "masked_ssim",
    "mean_of_numbers",
    "nearer_share",
    "profile_distance",
    "seam_ratio",
    "sharpness",
    "silhouette_iou",
    "spill",
    "step_errors",
    "style_distance",
    "style_profile",
    "transfer_statistics",
    "warp_errors",
]
