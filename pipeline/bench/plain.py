"""Sampling by the method's equations, nothing shared or fused: what the sampler is held to.

It takes the weights of a `DiffStyle360` and gives what `stylize_views` gives, slowly.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor

from stylize import DiffStyle360, Sampling
from stylize.attention import (
    References,
    StyleFusionAttention,
    join_heads,
    per_view,
    project_out,
    split_heads,
)
from stylize.sampling import build_scheduler, circular_windows, guidance_passes


def stylize_plainly(
    model: DiffStyle360,
    content: torch.Tensor,
    styles: torch.Tensor,
    sampling: Sampling,
    *,
    fused: bool = False,
) -> torch.Tensor:
    """Identities [I, V, 3, S, S] in styles [K, 3, S, S], seeds 0..I-1: [K, I, V, 3, S, S].

    `fused` leaves the model's own attention in place.
    """
    with torch.inference_mode(), nullcontext() if fused else plain_attention(model):
        return torch.stack(
            [
                torch.stack(
                    [
                        stylize_identity(model, views, style, sampling, seed)
                        for seed, views in enumerate(content)
                    ]
                )
                for style in styles
            ]
        )


def stylize_identity(
    model: DiffStyle360, views: torch.Tensor, style: torch.Tensor, sampling: Sampling, seed: int
) -> torch.Tensor:
    """One identity [V, 3, S, S] in one style [3, S, S], every window and pass by itself."""
    config, count = model.config, len(views)
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.latent_channels, config.latent_size, config.latent_size)
    latents = torch.randn(shape, generator=generator).to(views.device)
    scheduler = build_scheduler(sampling, config)
    front, back, styled = (model.encode(x[None]) for x in (views[0], views[count // 2], style))
    for t in scheduler.timesteps:
        time = t.reshape(1).to(views.device)
        total, hits = torch.zeros_like(latents), latents.new_zeros(count, 1, 1, 1)
        offset = int(torch.randint(count, (), generator=generator))
        for window in circular_windows(count, config.window, offset).to(views.device):
            for name, weight in guidance_passes(sampling).items():
                content = {} if name == "none" else model.content_banks(front, back, time)
                banks = model.style_banks(styled, time) if name == "both" else {}
                references = References(
                    content, banks, sampling.presence, sampling.temperature, sampling.gated
                )
                prediction = model.denoise(
                    latents[None, window], time, views[None, window], references,
                    camera=name != "none",
                )  # fmt: skip
                total[window] += weight * prediction[0].float()
            hits[window] += 1
        step = scheduler.step(total / hits, t, latents)
        latents = step.prev_sample
    clean = step.pred_original_sample if sampling.sampler == "ddim" else latents
    return model.decode(clean).float().clamp(-1, 1)


@contextmanager
def plain_attention(model: DiffStyle360) -> Iterator[None]:
    """Within, the denoiser and the camera net attend by the equations."""
    swapped = []
    for net in (model.denoiser, model.camera_net):
        for name, attn in net.named_modules():
            if isinstance(attn, Attention):
                swapped.append((attn, attn.processor))
                attn.set_processor(_plain_of(name, attn))
    try:
        yield
    finally:
        for attn, processor in swapped:
            attn.set_processor(processor)


def _plain_of(name: str, attn: Attention) -> object:
    if isinstance(attn.processor, StyleFusionAttention):
        return _Fusion(attn.processor)
    if ".motion_modules." in name or name.endswith(".attn1"):
        return AttnProcessor()
    return _Prompt()


class _Prompt(AttnProcessor):
    """Cross-attention to the prompt, repeated for every view."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        references: Sequence[References] | None = None,
    ) -> torch.Tensor:
        prompt = encoder_hidden_states.repeat(len(hidden_states), 1, 1)
        return super().__call__(attn, hidden_states, prompt, attention_mask)


class _Fusion:
    """(1 - pi) A_c + pi A_s, pi = sigmoid(L_s - L_c + log(presence) + b + w.h): two attentions,
    content's over the joined tokens of each view."""

    def __init__(self, fusion: StyleFusionAttention) -> None:
        self.fusion = fusion

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        references: Sequence[References] = (),
    ) -> torch.Tensor:
        [given], fusion, views = references, self.fusion, len(hidden_states)
        query, joined = split_heads(attn, attn.to_q(hidden_states)), hidden_states
        if fusion.site in given.content:
            joined = torch.cat([joined, per_view(given.content[fusion.site], views)], dim=1)
        out, mass = _attend(attn, attn, query, joined)
        if given.presence > 0 and fusion.site in given.style:
            tokens = fusion.appearance(per_view(given.style[fusion.site], views))
            styled, style_mass = _attend(attn, fusion, query, tokens, given.temperature)
            gate = fusion.gate(hidden_states).transpose(1, 2) if given.gated else 0.0
            share = (style_mass - mass + math.log(given.presence) + gate).sigmoid().unsqueeze(-1)
            out = (1 - share) * out + share * styled
        return project_out(attn, join_heads(out))


def _attend(
    attn: Attention,
    by: Attention | StyleFusionAttention,
    query: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [b, heads, N, d] and log-partition [b, heads, N] over tokens [b, M, C]."""
    key, value = (split_heads(attn, project(tokens)) for project in (by.to_k, by.to_v))
    logits = query @ key.transpose(-1, -2) / (math.sqrt(query.shape[-1]) * temperature)
    return logits.softmax(-1) @ value, logits.logsumexp(-1)
