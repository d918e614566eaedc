"""Style Appearance Module and Style Fusion Attention (DiffStyle360, arXiv 2511.22411).

Banks are the states a reference net hands over: one tensor [B, tokens, C] per attention site, under
the site's name. Content banks are read through the denoiser's own key and value projections
(DiffPortrait360's reference injection); style banks first pass the appearance module and have
projections of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

Banks = dict[str, torch.Tensor]  # site name -> [B, tokens, C]

INITIAL_BIAS = -2.0
COORDINATE_STEP = 8  # flash kernels want the head dimension in multiples of eight


@dataclass(frozen=True)
class References:
    """What the denoiser attends to beside itself; an empty dict joins no tokens at all.

    `presence` in [0, 1] weighs the style tokens as a whole, `temperature` > 0 divides their logits.
    `gated` False leaves b + w.h out: plain concatenation, a baseline.
    """

    content: Banks
    style: Banks
    presence: float = 1.0
    temperature: float = 1.0
    gated: bool = True


class BankWriter(AttnProcessor2_0):
    """Plain self-attention that also leaves its input (the states after norm1) in the banks."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        banks: Banks | None = None,
    ) -> torch.Tensor:
        if banks is not None:
            banks[self.site] = hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


class PromptAttention:
    """Cross-attention to the prompt [1, T, D], which is the same for all: its keys and values are
    computed once, and over a single token they are the result. Takes the other sites' arguments
    and leaves them alone."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        banks: Banks | None = None,
        references: Sequence[References] | None = None,
    ) -> torch.Tensor:
        value = attn.to_v(encoder_hidden_states)  # [1, T, C]
        if value.shape[1] == 1:
            return project_out(attn, value).expand(*hidden_states.shape[:2], -1)
        batch = len(hidden_states)
        out = F.scaled_dot_product_attention(
            split_heads(attn, attn.to_q(hidden_states)),
            split_heads(attn, attn.to_k(encoder_hidden_states)).expand(batch, -1, -1, -1),
            split_heads(attn, value).expand(batch, -1, -1, -1),
        )
        return project_out(attn, join_heads(out))


class StyleAppearance(nn.Module):
    """Style tokens re-read in the light of their own statistics.

    S' = LN(S) * (1 + gamma(g)) + beta(g), g = per-channel mean and deviation over the tokens; gamma
    and beta start at zero. Statistics and LN ignore the tokens' order.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.modulation = nn.Linear(2 * channels, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, N, C] -> [B, N, C]
        deviation = (tokens.var(1, unbiased=False) + 1e-6).sqrt()
        statistics = torch.cat([tokens.mean(1), deviation], dim=-1)  # [B, 2C]
        gamma, beta = self.modulation(statistics).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(tokens) * (1 + gamma) + beta


class StyleFusionAttention(nn.Module):
    """One softmax over [self; content; style], style logits raised by beta.

    beta(h) = log(presence) + b + w.h, per head and query h.
    This is the gated mixture (1 - pi) A_c + pi A_s with pi = sigmoid(L_s - L_c + beta), A and L the
    attention and log-partition over each group. The raise is one extra coordinate of every head:
    q' = [q, beta sqrt(d)] and k' = [k, 1 for style, 0 otherwise], padded with zeros, so that it
    runs on any fused attention kernel. w starts at zero, b at -2.

    Presence 0 joins no style tokens: the result is the base attention's, bit for bit.
    """

    def __init__(self, site: str, attn: Attention) -> None:
        super().__init__()
        channels = attn.to_q.in_features
        self.site = site
        self.appearance = StyleAppearance(channels)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_k.load_state_dict(attn.to_k.state_dict())
        self.to_v.load_state_dict(attn.to_v.state_dict())
        self.gate = nn.Linear(channels, attn.heads)  # w and b
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, INITIAL_BIAS)

    def __call__(  # diffusers reads the argument names off `__call__`
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        references: Sequence[References] | None = None,
    ) -> torch.Tensor:
        """[K * B * V, N, C] -> the same: K equal parts of the batch, each with its references.

        Banks [B or 1, M, C] serve all views of their clip, or all clips.
        """
        branches = references or [References({}, {})]
        parts = [
            tuple(split_heads(attn, x) for x in projected)
            for projected in zip(
                *(project(hidden_states).chunk(len(branches)) for project in
                  (attn.to_q, attn.to_k, attn.to_v)),
                strict=True,
            )
        ]  # fmt: skip
        gates = self.gate(hidden_states).transpose(1, 2).chunk(len(branches))
        outs, read, content = [], None, None
        for part, gate, branch in zip(parts, gates, branches, strict=True):
            if branch.content is not read:  # branches in a row often share theirs
                read = branch.content
                content = project_bank(attn, attn, read[self.site]) if self.site in read else None
            outs.append(self._attend(attn, part, gate, branch, content))
        return project_out(attn, join_heads(torch.cat(outs)))

    def _attend(
        self,
        attn: Attention,
        own: tuple[torch.Tensor, ...],
        gate: torch.Tensor,
        branch: References,
        content: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """One branch: own query, key, value [b, heads, N, d], gate [b, heads, N]; content keys and
        values [B or 1, heads, M, d]."""
        query, key, value = own
        keys, values = [key], [value]
        if content is not None:
            keys.append(per_view(content[0], len(query)))
            values.append(per_view(content[1], len(query)))
        if not (branch.presence > 0 and self.site in branch.style):
            return F.scaled_dot_product_attention(query, torch.cat(keys, 2), torch.cat(values, 2))
        tokens = self.appearance(branch.style[self.site])
        key, value = project_bank(attn, self, tokens)
        keys.append(per_view(key / branch.temperature, len(query)))
        values.append(per_view(value, len(query)))
        raised = gate if branch.gated else torch.zeros_like(gate)
        return attend_raised(query, keys, values, raised + math.log(branch.presence))


class ReferenceAttention:
    """Reference injection alone (DiffPortrait360): one softmax over [self; content]."""

    def __init__(self, site: str) -> None:
        self.site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        references: References | None = None,
    ) -> torch.Tensor:
        query = split_heads(attn, attn.to_q(hidden_states))
        tokens = hidden_states
        if references is not None and self.site in references.content:
            content = per_view(references.content[self.site], len(hidden_states))
            tokens = torch.cat([hidden_states, content], dim=1)
        key, value = project_bank(attn, attn, tokens)
        return project_out(attn, join_heads(F.scaled_dot_product_attention(query, key, value)))


def project_bank(
    attn: Attention, by: Attention | StyleFusionAttention, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, heads, M, d] of tokens [B, M, C], by the projections of `by`."""
    return split_heads(attn, by.to_k(tokens)), split_heads(attn, by.to_v(tokens))


def per_view(x: torch.Tensor, batch: int) -> torch.Tensor:
    """[B, ...] -> [batch, ...], each for as many views in a row."""
    return x.repeat_interleave(batch // len(x), dim=0)


def split_heads(attn: Attention, x: torch.Tensor) -> torch.Tensor:
    """[b, n, C] -> [b, heads, n, d]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """[b, heads, n, d] -> [b, n, C]."""
    return x.transpose(1, 2).flatten(2)


def project_out(attn: Attention, x: torch.Tensor) -> torch.Tensor:
    return attn.to_out[1](attn.to_out[0](x))


def attend_raised(
    query: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    raised: torch.Tensor,
) -> torch.Tensor:
    """Attention over all groups joined, the LAST group's logits raised by `raised` per query.

    query [B, heads, N, d]; keys, values: lists of [B, heads, M_i, d]; raised [B, heads, N].
    """
    width = query.shape[-1]
    extra = COORDINATE_STEP - width % COORDINATE_STEP
    coordinate = F.pad(raised.unsqueeze(-1) * math.sqrt(width), (0, extra - 1))
    joined_query = torch.cat([query, coordinate], dim=-1)
    marked = [F.pad(key, (0, extra)) for key in keys[:-1]]
    marked.append(F.pad(F.pad(keys[-1], (0, 1), value=1.0), (0, extra - 1)))
    out = F.scaled_dot_product_attention(
        joined_query,
        torch.cat(marked, dim=2),
        F.pad(torch.cat(values, dim=2), (0, extra)),
        scale=1 / math.sqrt(width),
    )
    return out[..., :width]
