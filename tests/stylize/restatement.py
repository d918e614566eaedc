"""DiffStyle360 (arXiv 2511.22411) on DiffPortrait360, re-stated slowly: banks, fusion, sampling.

One identity at a time: a clip is [V, C, h, w], a portrait's latents [C, h, w]. `state` is the whole
model's state dict. Everything is computed in float64.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stylize.config import StylizerConfig
from tests.stylize.restatement_motion import motion_module
from tests.stylize.restatement_unet import (
    Net,
    Weights,
    attend_to,
    controlnet,
    head,
    linear,
    normalized,
    part,
    unet,
)

Banks = dict[str, Tensor]  # site -> tokens [M, C]


@dataclass(frozen=True)
class Dials:
    presence: float = 1.0
    temperature: float = 1.0
    gated: bool = True


# Reference banks


def reference_states(net: Net, latents: Tensor, t: int) -> Banks:
    """What DiffPortrait360's reference net hands over for clean latents [C, h, w]: at each
    self-attention the tokens that enter it, which are the states after norm1."""
    banks: Banks = {}

    def record(net: Net, site: str, tokens: Tensor) -> Tensor:
        banks[site] = tokens[0]
        return attend_to(net, site, tokens, tokens)

    read_at = 0 if net.config.reference_timestep == "zero" else t
    unet(replace(net, self_attention=record), latents.double()[None], read_at)
    return banks


def content_banks(
    state: Weights, config: StylizerConfig, front: Tensor, back: Tensor | None, t: int
) -> Banks:
    """Dual appearance: one net reads both sides of the head; front tokens, then back tokens."""
    net = Net(part(state, "reference_net"), config, state["prompt"].double())
    banks = reference_states(net, front, t)
    if back is None:
        return banks
    behind = reference_states(net, back, t)
    return {site: torch.cat([banks[site], behind[site]]) for site in banks}


def style_banks(state: Weights, config: StylizerConfig, style: Tensor, t: int) -> Banks:
    net = Net(style_encoder_weights(state, config), config, state["prompt"].double())
    return reference_states(net, style, t)


def style_encoder_weights(state: Weights, config: StylizerConfig) -> Weights:
    """The encoder's own weights, or LoRA (Hu et al. 2021): W + B A of the reference net's W."""
    encoder = part(state, "style_encoder")
    if config.style_encoder == "copy":
        return encoder
    weights = part(state, "reference_net")
    for name, a in encoder.items():
        if ".lora_A." in name:
            updated = name.partition(".lora_A.")[0] + ".weight"
            weights[updated] = weights[updated] + encoder[name.replace(".lora_A.", ".lora_B.")] @ a
    return weights


# Style Appearance Module and Style Fusion Attention


def style_appearance(w: Weights, at: str, tokens: Tensor) -> Tensor:
    """S' = LN(S) (1 + gamma(g)) + beta(g); g: mean and deviation of each channel over the tokens
    [M, C]."""
    deviation = (tokens.var(0, correction=0) + 1e-6).sqrt()
    gamma, beta = linear(w, f"{at}.modulation", torch.cat([tokens.mean(0), deviation])).chunk(2)
    return normalized(tokens, (-1,), eps=1e-5) * (1 + gamma) + beta


def style_fusion(
    net: Net, site: str, own: Tensor, content: Tensor | None, style: Tensor | None, dials: Dials
) -> Tensor:
    """One frame's tokens [N, C]: the gated mixture of two attentions, per head and query.

    A_c, L_c: attention and log-partition over [self; front; back], by the denoiser's own
    projections; A_s, L_s: over the style tokens with keys / T, by projections of their own;
    pi = sigmoid(L_s - L_c + log(lambda) + b + w.h); out = W_o [(1 - pi) A_c + pi A_s].
    """
    w, fusion, heads = net.weights, f"{site}.processor", net.config.heads
    if content is None and style is None:
        return attend_to(net, site, own, own)
    joined = own if content is None else torch.cat([own, content])
    if style is None:
        return attend_to(net, site, own, joined)
    query = linear(w, f"{site}.to_q", own).chunk(heads, dim=-1)
    key_c = linear(w, f"{site}.to_k", joined).chunk(heads, dim=-1)
    value_c = linear(w, f"{site}.to_v", joined).chunk(heads, dim=-1)
    styled = style_appearance(w, f"{fusion}.appearance", style)
    key_s = (linear(w, f"{fusion}.to_k", styled) / dials.temperature).chunk(heads, dim=-1)
    value_s = linear(w, f"{fusion}.to_v", styled).chunk(heads, dim=-1)
    gate = linear(w, f"{fusion}.gate", own) if dials.gated else torch.zeros(len(own), heads)

    def branch(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        logits = q @ k.T / math.sqrt(q.shape[-1])
        return logits.softmax(-1) @ v, logits.logsumexp(-1)

    outs = []
    for h in range(heads):
        a_c, l_c = branch(query[h], key_c[h], value_c[h])
        a_s, l_s = branch(query[h], key_s[h], value_s[h])
        presence = torch.tensor(dials.presence).double().log()  # of 0: -inf, and pi is 0
        pi = torch.sigmoid(l_s - l_c + presence + gate[:, h])[:, None]
        outs.append((1 - pi) * a_c + pi * a_s)
    return linear(w, f"{site}.to_out.0", torch.cat(outs, dim=-1))


# The denoiser


def camera_residuals(
    state: Weights, config: StylizerConfig, noisy: Tensor, t: int, hint: Tensor
) -> tuple[list[Tensor], Tensor]:
    """noisy [V, C, h, w], hint images [V, 3, H, W] in [-1, 1]."""
    net = Net(part(state, "camera_net"), config, state["prompt"].double())
    return controlnet(net, noisy.double(), t, hint.double())


def denoise(
    state: Weights,
    config: StylizerConfig,
    noisy: Tensor,
    t: int,
    hint: Tensor,
    content: Banks | None,
    style: Banks | None,
    dials: Dials,
    *,
    camera: bool = True,
) -> Tensor:
    """The prediction for one clip of noisy latents [V, C, h, w]; hint images [V, 3, H, W]."""

    def fuse(net: Net, site: str, tokens: Tensor) -> Tensor:
        at_site = [banks[site] if banks else None for banks in (content, style)]
        return torch.stack([style_fusion(net, site, frame, *at_site, dials) for frame in tokens])

    weights, prompt = part(state, "denoiser"), state["prompt"].double()
    net = Net(weights, config, prompt, self_attention=fuse, motion=motion_module)
    residuals = camera_residuals(state, config, noisy, t, hint) if camera else None
    if not config.hint_residual:
        return head(net, unet(net, noisy.double(), t, residuals))
    base = to_blocks(hint.double(), config)
    seen = torch.cat([noisy.double(), base / config.latent_scale], dim=1)
    return base + config.latent_scale * head(net, unet(net, seen, t, residuals))


# Pixel blocks


def to_blocks(images: Tensor, config: StylizerConfig) -> Tensor:
    """[N, 3, H, W] -> [N, 3 f f, h, w]: channel c f f + i f + j is pixel (i, j) of each block."""
    f = config.latent_factor
    pixels = [images[:, c, i::f, j::f] for c in range(3) for i in range(f) for j in range(f)]
    return torch.stack(pixels, dim=1) * config.latent_scale


def from_blocks(latents: Tensor, config: StylizerConfig) -> Tensor:
    f = config.latent_factor
    count, _, height, width = latents.shape
    images = latents.new_zeros(count, 3, height * f, width * f)
    for channel in range(3 * f * f):
        c, i, j = channel // (f * f), channel // f % f, channel % f
        images[:, c, i::f, j::f] = latents[:, channel] / config.latent_scale
    return images


# Sampling


def signal_levels(config: StylizerConfig) -> Tensor:
    """abar_t [T] = prod (1 - beta), the square roots of beta evenly spaced (LDM)."""
    ends = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
    roots = torch.linspace(*ends, config.train_timesteps, dtype=torch.float64)
    return (1 - roots**2).cumprod(0)


def timesteps(config: StylizerConfig, steps: int) -> list[int]:
    """Every (T / steps)-th from 0 on ("leading"), one later ("steps_offset"), last first."""
    stride = config.train_timesteps // steps
    return [i * stride + 1 for i in reversed(range(steps))]


def split(config: StylizerConfig, x: Tensor, prediction: Tensor, a: Tensor) -> tuple[Tensor, ...]:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) eps: (x_0, eps) of a predicted eps, x_0 or
    v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans & Ho 2022)."""
    signal, noise = a.sqrt(), (1 - a).sqrt()
    if config.prediction == "epsilon":
        return (x - noise * prediction) / signal, prediction
    if config.prediction == "sample":
        return prediction, (x - signal * prediction) / noise
    return signal * x - noise * prediction, signal * prediction + noise * x


def ddim_step(
    config: StylizerConfig, x: Tensor, prediction: Tensor, t: int, following: int | None
) -> tuple[Tensor, Tensor]:
    """Song et al. 2021, equation 12 with sigma 0: x at the following timestep, and x_0.

    After the last timestep comes abar_0, not 1 ("set_alpha_to_one" False).
    """
    abar = signal_levels(config)
    clean, eps = split(config, x, prediction, abar[t])
    next_a = abar[0 if following is None else following]
    return next_a.sqrt() * clean + (1 - next_a).sqrt() * eps, clean


def stylize_views(
    state: Weights,
    config: StylizerConfig,
    front: Tensor,
    back: Tensor,
    hint: Tensor,
    style: Tensor,
    noise: Tensor,
    windows: list[list[list[int]]],
    guidance: tuple[float, float],
    dials: Dials,
) -> Tensor:
    """DDIM (Song et al. 2021) with eta 0, from noise [V, C, h, w] to images [V, 3, H, W].

    Images in [-1, 1]: front, back, style [3, H, W], hint [V, 3, H, W]. `windows`: at each step,
    lists of views; where they overlap, predictions are averaged before the step. Guidance:
    eps_0 + w_c (eps_c - eps_0) + w_s (eps_cs - eps_c), eps_0 without references and camera.
    """
    times = timesteps(config, len(windows))
    front, back, style = to_blocks(torch.stack([front, back, style]).double(), config)
    x, (w_c, w_s) = noise.double(), guidance
    for t, following, windows_now in zip(times, [*times[1:], None], windows, strict=True):
        content = content_banks(state, config, front, back, t)
        styled = style_banks(state, config, style, t)
        views: list[list[Tensor]] = [[] for _ in x]
        for window in windows_now:
            clip = (state, config, x[window], t, hint[window])
            eps_0 = denoise(*clip, None, None, dials, camera=False)
            eps_c = denoise(*clip, content, None, dials)
            eps_cs = denoise(*clip, content, styled, dials)
            guided = eps_0 + w_c * (eps_c - eps_0) + w_s * (eps_cs - eps_c)
            for view, prediction in zip(window, guided, strict=True):
                views[view].append(prediction)
        prediction = torch.stack([torch.stack(found).mean(0) for found in views])
        x, clean = ddim_step(config, x, prediction, t, following)
    return from_blocks(clean, config).clamp(-1, 1)
