"""`rendering_kwargs`: what the published checkpoints say of how they are to be rendered."""

import math
from typing import Any

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops.march.reference import Settings


def option(rendering_kwargs: dict[str, Any], name: str, *default: Any) -> Any:
    """One of them; RendererError where it is missing and has no default."""
    if name not in rendering_kwargs and not default:
        raise RendererError(f"rendering_kwargs: {name!r} is missing")
    return rendering_kwargs.get(name, *default)


def marching_settings(rendering_kwargs: dict[str, Any], signed: bool) -> Settings:
    """Those that the marching reads. Raises RendererError for values that cannot be marched."""
    start, end = (option(rendering_kwargs, name) for name in ("ray_start", "ray_end"))
    auto = start == end == "auto"
    if not auto and not (_is_number(start) and _is_number(end) and 0 < start < end):
        raise RendererError(
            f"rendering_kwargs.ray_start: {start!r} to ray_end {end!r} is no range; "
            "give two positive numbers, or 'auto' for both"
        )
    if option(rendering_kwargs, "clamp_mode", "softplus") != "softplus":
        raise RendererError("rendering_kwargs.clamp_mode: only 'softplus' is known")
    samples, fine = (
        option(rendering_kwargs, name)
        for name in ("depth_resolution", "depth_resolution_importance")
    )
    if not (isinstance(samples, int) and isinstance(fine, int) and samples >= 4 and fine >= 0):
        raise RendererError(
            f"rendering_kwargs.depth_resolution: {samples!r} and {fine!r} samples; "
            "give at least 4, and for importance 0 or more"
        )
    box = option(rendering_kwargs, "box_warp")
    if not (_is_number(box) and box > 0):
        raise RendererError(f"rendering_kwargs.box_warp: {box!r} is not a positive number")
    return Settings(
        samples=samples,
        fine_samples=fine,
        start=None if auto else float(start),
        end=None if auto else float(end),
        box=box,
        disparity=option(rendering_kwargs, "disparity_space_sampling", False),
        white_back=option(rendering_kwargs, "white_back", False),
        signed=signed,
    )


def noise_mode(rendering_kwargs: dict[str, Any]) -> str:
    """That of the super-resolution. Raises RendererError for one that is random."""
    mode = option(rendering_kwargs, "superresolution_noise_mode", "none")
    if mode not in ("none", "const"):
        raise RendererError(
            f"rendering_kwargs.superresolution_noise_mode: {mode!r} would give other images "
            "every time; set 'none' or 'const'"
        )
    return mode


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
