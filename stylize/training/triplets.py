"""What a stylizer is trained on."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

ENCODED = ("front", "back", "style", "target")  # the fields of Latents


@dataclass(frozen=True)
class Triplets:
    """B clips; images float32 in [-1, 1] at the model's image size.

    front, back: content, 0 and 180 degrees. style: another identity in the target's style instance.
    hint, target: V views in the rig's order, plain and stylized. keys: one sample key per clip.
    presence: of the style in each clip, and how far from plain to stylized its target is; a clip
    of 0 is trained without its style image.
    `encoded` names those of front, back, style and target that are given as latents
    ([., C, h, w] instead of [., 3, H, W]). depth and cameras, as `geometry.warp` takes them, and
    `background`, the distance that means that there is nothing, are the target's; the loss's term
    `view_consistency` takes them.
    """

    front: torch.Tensor  # [B, 3, H, W]
    back: torch.Tensor  # [B, 3, H, W]
    style: torch.Tensor  # [B, 3, H, W]
    hint: torch.Tensor  # [B, V, 3, H, W]
    target: torch.Tensor  # [B, V, 3, H, W]
    keys: list[str]
    presence: torch.Tensor | None = None  # [B], in [0, 1]; None: 1 in all
    encoded: frozenset[str] = frozenset()
    depth: torch.Tensor | None = None  # [B, V, 1, H', W']
    cameras: torch.Tensor | None = None  # [B, V, 25]
    background: float = math.inf

    def to(self, device: torch.device) -> "Triplets":
        """The same with its tensors on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


class Latents(NamedTuple):
    """What the networks see of a batch."""

    front: torch.Tensor  # [B, C, h, w]
    back: torch.Tensor  # [B, C, h, w]
    style: torch.Tensor  # [B, C, h, w]
    target: torch.Tensor  # [B, V, C, h, w]
