"""Stable Diffusion's UNet, re-stated slowly from its papers: no diffusers, no nn.Module.

Latent diffusion (LDM): Rombach et al. 2022; its timesteps and residual blocks are those of DDPM (Ho
et al. 2020). Weights are a state dict under diffusers' names; `at` is the dotted name of a part.
Frames are [N, C, h, w], tokens [N, tokens, C]; all frames are at one timestep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stylize.config import StylizerConfig

Weights = dict[str, Tensor]
SelfAttention = Callable[["Net", str, Tensor], Tensor]  # (net, site, tokens after norm1) -> tokens
Motion = Callable[["Net", str, int, Tensor], Tensor]  # (net, name, layers, frames) -> frames


def plain_self_attention(net: "Net", site: str, tokens: Tensor) -> Tensor:
    return attend_to(net, site, tokens, tokens)


def no_motion(net: "Net", at: str, layers: int, frames: Tensor) -> Tensor:
    return frames


@dataclass(frozen=True)
class Net:
    """One UNet: its weights, and what stands at its self-attentions and after its layers."""

    weights: Weights
    config: StylizerConfig
    prompt: Tensor  # [1, T, D], the same for every frame
    self_attention: SelfAttention = plain_self_attention
    motion: Motion = no_motion


def part(weights: Weights, prefix: str) -> Weights:
    """The weights under a prefix, in float64, by the rest of their names."""
    prefix += "."
    return {k.removeprefix(prefix): v.double() for k, v in weights.items() if k.startswith(prefix)}


# Layers


def linear(w: Weights, at: str, x: Tensor) -> Tensor:
    """y = W x + b over the last axis; a 1x1 convolution's weight is such a W."""
    y = x @ w[f"{at}.weight"].flatten(1).T
    return y + w[f"{at}.bias"] if f"{at}.bias" in w else y


def conv(w: Weights, at: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = w[f"{at}.weight"]
    return F.conv2d(x, kernel, w[f"{at}.bias"], stride, padding=kernel.shape[-1] // 2)


def normalized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()


def group_norm(net: Net, at: str, x: Tensor, eps: float) -> Tensor:
    """Wu & He 2018: each frame, and in it each group of channels, has its own statistics."""
    scale, shift = net.weights[f"{at}.weight"], net.weights[f"{at}.bias"]
    grouped = x.unflatten(1, (net.config.groups, -1))  # [N, groups, C / groups, h, w]
    y = normalized(grouped, (2, 3, 4), eps).flatten(1, 2)
    return y * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def layer_norm(w: Weights, at: str, x: Tensor) -> Tensor:
    return normalized(x, (-1,), eps=1e-5) * w[f"{at}.weight"] + w[f"{at}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


# Attention


def attend_to(net: Net, at: str, tokens: Tensor, context: Tensor) -> Tensor:
    """Vaswani et al. 2017: queries of `tokens`, keys and values of `context`, projected out."""
    w = net.weights
    query, key = linear(w, f"{at}.to_q", tokens), linear(w, f"{at}.to_k", context)
    value = linear(w, f"{at}.to_v", context)
    heads = zip(*(x.chunk(net.config.heads, dim=-1) for x in (query, key, value)), strict=True)
    out = [(q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v for q, k, v in heads]
    return linear(w, f"{at}.to_out.0", torch.cat(out, dim=-1))


def feed_forward(w: Weights, at: str, x: Tensor) -> Tensor:
    """GEGLU (Shazeer 2020): W_2 (a * gelu(b)), [a, b] = W_1 x."""
    a, b = linear(w, f"{at}.net.0.proj", x).chunk(2, dim=-1)
    return linear(w, f"{at}.net.2", a * gelu(b))


def spatial_transformer(net: Net, at: str, x: Tensor) -> Tensor:
    """LDM's SpatialTransformer: the frame's pixels attend to each other, then to the prompt."""
    w, block = net.weights, f"{at}.transformer_blocks.0"
    height, width = x.shape[-2:]
    tokens = group_norm(net, f"{at}.norm", x, eps=1e-6).flatten(2).mT  # [N, h w, C]
    tokens = linear(w, f"{at}.proj_in", tokens)
    normed = layer_norm(w, f"{block}.norm1", tokens)
    tokens = tokens + net.self_attention(net, f"{block}.attn1", normed)
    normed = layer_norm(w, f"{block}.norm2", tokens)
    tokens = tokens + attend_to(net, f"{block}.attn2", normed, net.prompt)
    tokens = tokens + feed_forward(w, f"{block}.ff", layer_norm(w, f"{block}.norm3", tokens))
    return x + linear(w, f"{at}.proj_out", tokens).mT.unflatten(-1, (height, width))


# The network


def time_embedding(net: Net, t: int) -> Tensor:
    """[4 C]: cosines, then sines (LDM), of t at frequencies 10000^(-i / half), and an MLP."""
    half = net.config.channels[0] // 2
    angles = torch.tensor([t * 10000 ** (-i / half) for i in range(half)]).double()
    waves = torch.cat([angles.cos(), angles.sin()])
    hidden = silu(linear(net.weights, "time_embedding.linear_1", waves))
    return linear(net.weights, "time_embedding.linear_2", hidden)


def resnet_block(net: Net, at: str, x: Tensor, time: Tensor) -> Tensor:
    w = net.weights
    h = conv(w, f"{at}.conv1", silu(group_norm(net, f"{at}.norm1", x, eps=1e-5)))
    h = h + linear(w, f"{at}.time_emb_proj", silu(time)).view(-1, 1, 1)
    h = conv(w, f"{at}.conv2", silu(group_norm(net, f"{at}.norm2", h, eps=1e-5)))
    changes_width = x.shape[1] != h.shape[1]
    return h + (conv(w, f"{at}.conv_shortcut", x) if changes_width else x)


def layer(net: Net, block: str, level: int, i: int, x: Tensor, time: Tensor) -> Tensor:
    """One layer of a level: residual block, transformer where the level attends, motion."""
    x = resnet_block(net, f"{block}.resnets.{i}", x, time)
    if net.config.attention[level]:
        x = spatial_transformer(net, f"{block}.attentions.{i}", x)
    return net.motion(net, f"{block}.motion_modules.{i}", net.config.motion[level], x)


def encoder(net: Net, x: Tensor, time: Tensor) -> list[Tensor]:
    """From the states after the first convolution, the skips; the last one is the coarsest."""
    config, skips = net.config, [x]
    for level in range(len(config.channels)):
        block = f"down_blocks.{level}"
        for i in range(config.layers):
            x = layer(net, block, level, i, x, time)
            skips.append(x)
        if level < len(config.channels) - 1:
            x = conv(net.weights, f"{block}.downsamplers.0.conv", x, stride=2)
            skips.append(x)
    return skips


def middle(net: Net, x: Tensor, time: Tensor) -> Tensor:
    x = resnet_block(net, "mid_block.resnets.0", x, time)
    x = spatial_transformer(net, "mid_block.attentions.0", x)
    return resnet_block(net, "mid_block.resnets.1", x, time)


def decoder(net: Net, x: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
    config, skips = net.config, list(skips)
    for up, level in enumerate(reversed(range(len(config.channels)))):
        block = f"up_blocks.{up}"
        for i in range(config.layers + 1):
            x = layer(net, block, level, i, torch.cat([x, skips.pop()], dim=1), time)
        if level > 0:
            doubled = x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)  # nearest
            x = conv(net.weights, f"{block}.upsamplers.0.conv", doubled)
    assert not skips
    return x


def head(net: Net, x: Tensor) -> Tensor:
    return conv(net.weights, "conv_out", silu(group_norm(net, "conv_norm_out", x, eps=1e-5)))


def controlnet(net: Net, frames: Tensor, t: int, hint: Tensor) -> tuple[list[Tensor], Tensor]:
    """ControlNet (Zhang et al. 2023): a copy of the encoder that also sees the hint, read out
    through zero convolutions: what it adds to the UNet's skips, and to its middle.

    frames [N, C, h, w]; hint images [N, 3, H, W] in [-1, 1], brought to the latents' size by
    convolutions of which every second one has stride 2.
    """
    w, time, hinted = net.weights, time_embedding(net, t), "controlnet_cond_embedding"
    x = silu(conv(w, f"{hinted}.conv_in", hint))
    for i in range(2 * (len(net.config.hint_channels) - 1)):
        x = silu(conv(w, f"{hinted}.blocks.{i}", x, stride=1 + i % 2))
    x = conv(w, "conv_in", frames) + conv(w, f"{hinted}.conv_out", x)
    skips = encoder(net, x, time)
    down = [conv(w, f"controlnet_down_blocks.{i}", skip) for i, skip in enumerate(skips)]
    return down, conv(w, "controlnet_mid_block", middle(net, skips[-1], time))


def unet(
    net: Net, frames: Tensor, t: int, residuals: tuple[list[Tensor], Tensor] | None = None
) -> Tensor:
    """The states before the head, for frames [N, C, h, w]; residuals as `controlnet` gives them."""
    time = time_embedding(net, t)
    skips = encoder(net, conv(net.weights, "conv_in", frames), time)
    x = middle(net, skips[-1], time)
    if residuals is not None:
        down, deepest = residuals
        skips = [skip + added for skip, added in zip(skips, down, strict=True)]
        x = x + deepest
    return decoder(net, x, skips, time)
