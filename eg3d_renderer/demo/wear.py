"""What a head wears, as signed distances: a shirt, glasses, hats."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eg3d_renderer.demo.distances import (
    capsule,
    length,
    number,
    smooth_max,
    smooth_min,
)

if TYPE_CHECKING:
    from eg3d_renderer.demo.heads import Head


def neckline(y: Tensor, z: Tensor, head: "Head") -> Tensor:
    """Positive above the neckline, which lies lower in front; near zero along the shirt's edge."""
    return (y + number(1.34 - 0.06 * head.neckline)).add_(z, alpha=0.32).mul_(number(0.9))


def cloth(skin: Tensor, y: Tensor, z: Tensor, head: "Head") -> Tensor:
    return smooth_max(skin - number(0.045), neckline(y, z, head), 0.04)


def glasses(ax: Tensor, y: Tensor, z: Tensor, head: "Head") -> dict[str, Tensor]:
    if not head.glasses:
        return {}
    wire = 0.021
    around = length(ax - number(head.eye_x + 0.01), y * number(1.12), torch.zeros_like(y))
    rim = length(
        around.sub_(number(head.glasses)), (z - number(0.90)).add_(ax, alpha=0.16), around * 0
    ).sub_(number(wire))
    bridge = capsule(ax, y, z, (0, 0.07, 0.895), (0.11, 0.06, 0.88), wire, wire)
    temple = capsule(ax, y, z, (0.52, 0.05, 0.80), (0.80, 0.06, -0.12), wire, wire)
    return {"glasses": torch.minimum(torch.minimum(rim, bridge), temple).mul_(number(0.9))}


def hat(x: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> dict[str, Tensor]:
    """A knitted cap, or a hat with a brim; both sit on the scalp, lower at the back."""
    if head.hat == "none":
        return {}
    height = (y - number(0.46)).sub_(z, alpha=0.12)
    crown = smooth_max(scalp - number(0.16), -height, 0.05)
    if head.hat == "beanie":
        cuff = smooth_max(
            scalp - number(0.21), (height - number(0.13)).abs_().sub_(number(0.13)), 0.05
        )
        return {"hat": smooth_min(crown, cuff, 0.03)}
    out = length(x, torch.zeros_like(y), z + number(0.12)).sub_(number(1.16)).clamp_min_(0)
    brim = length(out, height.addcmul_(x, x, value=-0.06), torch.zeros_like(y)).sub_(number(0.03))
    return {"hat": smooth_min(crown, brim.mul_(number(0.9)), 0.08)}
