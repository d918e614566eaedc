"""Softening attention that has become hard, so that the dial can turn.

A small stylizer that learns fast lets its logits grow until a query reads one token and one group
alone. `presence` adds log(presence) to the style's logits: beside logits of tens that does nothing
until it does everything. Queries are scaled down, head by head, until logits are of the order of
one again, and gates lowered, so that the style is not far ahead where it is fully present. What is
lost by it is learned again in less than a thousand steps, and the dial stays even: what to read is
known by then.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from stylize import DiffStyle360, Sampling, Triplets, stylize_views
from stylize.attention import StyleFusionAttention, per_view, project_bank, split_heads

SPREAD = 1.5  # the most that a head's logits may deviate over a query's tokens
LEAD = 2.25  # the most that the style's group may be ahead or behind, |L_s - L_c + beta|
LOWERED = 2.5  # what is taken off the gates' bias b


@dataclass
class Logits:
    """What was seen at one attention site, a tensor [heads] a pass."""

    spread: list[torch.Tensor] = field(default_factory=list)
    lead: list[torch.Tensor] = field(default_factory=list)


def soften(model: DiffStyle360, clips: list[Triplets]) -> None:
    """Scale `model`'s queries and lower its gates, in place, by what they do on `clips`."""
    sites = _fusion_sites(model)
    for attn, seen in zip(sites, measure_logits(model, clips), strict=True):
        spread, lead = (torch.stack(passes).mean(0) for passes in (seen.spread, seen.lead))
        factor = torch.minimum(SPREAD / spread, LEAD / lead).clamp(max=1.0)  # [heads]
        with torch.no_grad():
            queries = attn.to_q.weight.unflatten(0, (attn.heads, -1))  # [heads, d, C], a view
            queries *= factor[:, None, None]
            attn.processor.gate.bias -= LOWERED


def measure_logits(model: DiffStyle360, clips: list[Triplets]) -> list[Logits]:
    """The logits at each site of fused attention, in the modules' order, where each clip is
    stylized in one step."""
    with _watching(_fusion_sites(model)) as seen:
        for number, clip in enumerate(clips):
            one_step = Sampling(steps=1)
            stylize_views(model, clip.front, clip.back, clip.hint, clip.style, one_step, [number])
    return seen


def _fusion_sites(model: DiffStyle360) -> list[Attention]:
    return [
        module
        for module in model.denoiser.modules()
        if isinstance(module, Attention) and isinstance(module.processor, StyleFusionAttention)
    ]


@contextmanager
def _watching(sites: list[Attention]) -> Iterator[list[Logits]]:
    """Within, every pass through `sites` leaves its logits in what is returned."""
    seen = [Logits() for _ in sites]

    def watch(logits: Logits) -> Any:
        def look(attn: Attention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            _look(attn, args[0], kwargs["references"][0], logits)

        return look

    handles = [
        attn.register_forward_pre_hook(watch(logits), with_kwargs=True)
        for attn, logits in zip(sites, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _look(attn: Attention, hidden: torch.Tensor, references: Any, logits: Logits) -> None:
    """Add the logits of queries `hidden` [b, N, C] to what was seen."""
    fusion = attn.processor
    query = split_heads(attn, attn.to_q(hidden))  # [b, heads, N, d]
    bank = torch.cat([hidden, per_view(references.content[fusion.site], len(hidden))], dim=1)
    content, _ = project_bank(attn, attn, bank)
    style, _ = project_bank(attn, fusion, fusion.appearance(references.style[fusion.site]))
    by_content, by_style = (
        query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
        for keys in (content, per_view(style, len(query)))
    )  # [b, heads, N, tokens]
    spread = torch.cat([by_content, by_style], dim=-1).std(-1)  # [b, heads, N]
    gate = fusion.gate(hidden).transpose(1, 2)
    lead = by_style.logsumexp(-1) - by_content.logsumexp(-1) + gate
    logits.spread.append(spread.mean((0, 2)))
    logits.lead.append(lead.abs().mean((0, 2)))
