"""The equations of Style Fusion Attention, re-stated plainly."""

import math

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st

from stylize.attention import References, StyleAppearance, StyleFusionAttention, attend_raised

SITE = "mid.attn1"


def make_attention(channels: int = 16, heads: int = 2) -> Attention:
    attn = Attention(query_dim=channels, heads=heads, dim_head=channels // heads)
    fusion = StyleFusionAttention(SITE, attn)
    torch.nn.init.normal_(fusion.appearance.modulation.weight, std=0.3)
    torch.nn.init.normal_(fusion.gate.weight)
    attn.set_processor(fusion)
    return attn


def run(attn: Attention, hidden: torch.Tensor, **references) -> torch.Tensor:
    with torch.no_grad():
        return attn(hidden, references=[References(**references)])


def branch(query, key, value):
    """Attention over one group of tokens and its log-partition."""
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return logits.softmax(-1) @ value, logits.logsumexp(-1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.sampled_from([4, 8, 12]), st.integers(0, 2**31),
    st.floats(-4, 4),
)  # fmt: skip
def test_two_branches_equal_one_raised_softmax(content, style, width, seed, raised):
    generator = torch.Generator().manual_seed(seed)

    def draw(tokens):
        return torch.randn(2, 3, tokens, width, generator=generator, dtype=torch.float64)

    query, k_c, v_c, k_s, v_s = draw(4), draw(content), draw(content), draw(style), draw(style)
    beta = torch.full((2, 3, 4), raised, dtype=torch.float64)
    a_c, l_c = branch(query, k_c, v_c)
    a_s, l_s = branch(query, k_s, v_s)
    pi = (l_s - l_c + beta).sigmoid().unsqueeze(-1)
    expected = (1 - pi) * a_c + pi * a_s
    torch.testing.assert_close(attend_raised(query, [k_c, k_s], [v_c, v_s], beta), expected)


def test_zero_raise_is_the_plain_concatenated_softmax():
    query, k_c, v_c, k_s, v_s = torch.randn(5, 2, 3, 4, 8, dtype=torch.float64).unbind()
    joined, _ = branch(query, torch.cat([k_c, k_s], 2), torch.cat([v_c, v_s], 2))
    raised = torch.zeros(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(attend_raised(query, [k_c, k_s], [v_c, v_s], raised), joined)


@pytest.mark.parametrize(("presence", "temperature"), [(1.0, 1.0), (0.3, 0.8), (1.0, 1.4)])
def test_the_processor_restates_the_paper(presence, temperature):
    attn, fusion = make_attention(), None
    fusion = attn.processor
    hidden, content, style = torch.randn(2, 5, 16), torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    got = run(attn, hidden, content={SITE: content}, style={SITE: style},
              presence=presence, temperature=temperature)  # fmt: skip

    def heads(x):
        return x.unflatten(-1, (2, 8)).transpose(1, 2)

    with torch.no_grad():
        keyed = torch.cat([hidden, content.expand(2, -1, -1)], dim=1)
        appearance = fusion.appearance(style.expand(2, -1, -1))
        query = heads(attn.to_q(hidden))
        a_c, l_c = branch(query, heads(attn.to_k(keyed)), heads(attn.to_v(keyed)))
        kappa = 1 / temperature
        a_s, l_s = branch(
            query, kappa * heads(fusion.to_k(appearance)), heads(fusion.to_v(appearance))
        )
        gate = fusion.gate(hidden).transpose(1, 2)
        pi = (l_s - l_c + math.log(presence) + gate).sigmoid().unsqueeze(-1)
        mixed = ((1 - pi) * a_c + pi * a_s).transpose(1, 2).flatten(2)
        expected = attn.to_out[0](mixed)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_without_a_gate_it_is_one_softmax_over_all_tokens(gated):
    """b = w = 0, or a gate left out, at lambda = T = 1."""
    attn = make_attention()
    fusion = attn.processor
    if gated:
        torch.nn.init.zeros_(fusion.gate.weight)
        torch.nn.init.zeros_(fusion.gate.bias)
    hidden, content, style = torch.randn(2, 5, 16), torch.randn(2, 6, 16), torch.randn(2, 4, 16)
    got = run(attn, hidden, content={SITE: content}, style={SITE: style}, gated=gated)

    def heads(x):
        return x.unflatten(-1, (2, 8)).transpose(1, 2)

    with torch.no_grad():
        styled = fusion.appearance(style)
        keys = [attn.to_k(hidden), attn.to_k(content), fusion.to_k(styled)]
        values = [attn.to_v(hidden), attn.to_v(content), fusion.to_v(styled)]
        joined, _ = branch(
            heads(attn.to_q(hidden)), heads(torch.cat(keys, 1)), heads(torch.cat(values, 1))
        )
        expected = attn.to_out[0](joined.transpose(1, 2).flatten(2))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_presence_zero_is_the_base_bit_for_bit():
    attn = make_attention()
    hidden, content, style = torch.randn(2, 5, 16), torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    base = run(attn, hidden, content={SITE: content}, style={})
    for temperature in (0.5, 2.0):
        off = run(attn, hidden, content={SITE: content}, style={SITE: style}, presence=0.0,
                  temperature=temperature)  # fmt: skip
        assert torch.equal(off, base)
    on = run(attn, hidden, content={SITE: content}, style={SITE: style})
    assert not torch.allclose(on, base)


def test_without_references_it_is_plain_attention():
    attn, hidden = make_attention(), torch.randn(2, 5, 16)
    fused = run(attn, hidden, content={}, style={})
    attn.set_processor(AttnProcessor2_0())
    with torch.no_grad():
        torch.testing.assert_close(fused, attn(hidden))


def test_the_order_of_style_tokens_does_not_matter():
    attn, hidden, style = make_attention(), torch.randn(2, 5, 16), torch.randn(1, 9, 16)
    shuffled = style[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(
        run(attn, hidden, content={}, style={SITE: style}),
        run(attn, hidden, content={}, style={SITE: shuffled}),
    )


def test_an_infinite_temperature_does_not_switch_style_off():
    attn, hidden, style = make_attention(), torch.randn(2, 5, 16), torch.randn(1, 9, 16)
    base = run(attn, hidden, content={}, style={})
    flat = run(attn, hidden, content={}, style={SITE: style}, temperature=1e9)
    assert (flat - base).abs().max() > 0.01


def test_appearance_starts_as_a_plain_normalisation():
    tokens = torch.randn(2, 7, 16) * 3 + 1
    with torch.no_grad():
        out = StyleAppearance(16)(tokens)
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(tokens, (16,)))


def test_gate_starts_at_its_bias():
    attn = Attention(query_dim=16, heads=2, dim_head=8)
    gate = StyleFusionAttention(SITE, attn).gate
    assert not gate.weight.any()
    assert (gate.bias == -2).all()
