"""AnimateDiff's motion module (Guo et al. 2023, version 1), re-stated slowly."""

import torch
from torch import Tensor

from tests.stylize.restatement_unet import (
    Net,
    attend_to,
    feed_forward,
    group_norm,
    layer_norm,
    linear,
)


def motion_module(net: Net, at: str, layers: int, frames: Tensor) -> Tensor:
    """One clip [V, C, h, w]: every pixel's V states are a sequence that attends to itself.

    Frames are normalized one by one, as in DiffPortrait360, and the result is added to them.
    """
    w = net.weights
    normed = group_norm(net, f"{at}.norm", frames, eps=1e-6)
    sequences = linear(w, f"{at}.proj_in", normed.flatten(2).permute(2, 0, 1))  # [h w, V, C]
    for i in range(layers):
        sequences = temporal_block(net, f"{at}.transformer_blocks.{i}", sequences)
    out = linear(w, f"{at}.proj_out", sequences).permute(1, 2, 0)  # [V, C, h w]
    return frames + out.view_as(frames)


def temporal_block(net: Net, at: str, x: Tensor) -> Tensor:
    """Two self-attentions over the views, both told the places, and a feed-forward."""
    places = positional_encoding(*x.shape[1:])
    for attention, norm in (("attn1", "norm1"), ("attn2", "norm2")):
        placed = layer_norm(net.weights, f"{at}.{norm}", x) + places
        x = x + attend_to(net, f"{at}.{attention}", placed, placed)
    return x + feed_forward(net.weights, f"{at}.ff", layer_norm(net.weights, f"{at}.norm3", x))


def positional_encoding(places: int, channels: int) -> Tensor:
    """Vaswani et al. 2017: [places, channels], sines and cosines in turns."""
    encoding = torch.zeros(places, channels).double()
    for i in range(0, channels, 2):
        angles = torch.arange(places).double() / 10000 ** (i / channels)
        encoding[:, i], encoding[:, i + 1] = angles.sin(), angles.cos()
    return encoding
