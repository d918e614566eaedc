import math
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention

from pipeline.demo import softening
from stylize import DiffStyle360, Triplets
from stylize.attention import StyleFusionAttention


@pytest.fixture
def model(tiny_model: Path) -> DiffStyle360:
    return DiffStyle360.from_pretrained(tiny_model)


@pytest.fixture
def clips(model: DiffStyle360) -> list[Triplets]:
    size = model.config.image_size
    draw = torch.Generator().manual_seed(0)

    def image(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, size, size, generator=draw) * 2 - 1

    return [
        Triplets(image(1), image(1), image(1), image(1, 2), image(1, 2), [str(n)]) for n in range(3)
    ]


def sites(model: DiffStyle360) -> list[Attention]:
    found = [
        module
        for module in model.denoiser.modules()
        if isinstance(getattr(module, "processor", None), StyleFusionAttention)
    ]
    assert found
    return found


def scale_queries(model: DiffStyle360, factor: float) -> None:
    with torch.no_grad():
        for attn in sites(model):
            attn.to_q.weight *= factor


def test_queries_of_zero_see_tokens_by_their_number(
    model: DiffStyle360, clips: list[Triplets]
) -> None:
    scale_queries(model, 0.0)
    ahead = math.log(1 / 3) - 2.0  # style over own, front and back, and the gate's bias
    for seen in softening.measure_logits(model, clips):
        assert len(seen.spread) == len(seen.lead) == len(clips)
        for spread, lead in zip(seen.spread, seen.lead, strict=True):
            assert torch.allclose(spread, torch.zeros_like(spread), atol=1e-6)
            assert torch.allclose(lead, torch.full_like(lead, -ahead), atol=1e-5)


def test_hard_attention_becomes_soft(model: DiffStyle360, clips: list[Triplets]) -> None:
    scale_queries(model, 1000.0)
    hard = softening.measure_logits(model, clips)
    assert all(torch.stack(seen.spread).mean() > 3 * softening.SPREAD for seen in hard)
    softening.soften(model, clips)
    for seen in softening.measure_logits(model, clips):  # a site sees others' new outputs
        assert torch.stack(seen.spread).mean(0).max() < 1.25 * softening.SPREAD


def test_soft_attention_keeps_its_queries(model: DiffStyle360, clips: list[Triplets]) -> None:
    scale_queries(model, 1e-3)
    for attn in sites(model):
        torch.nn.init.constant_(attn.processor.gate.bias, 1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    softening.soften(model, clips)
    for name, tensor in model.state_dict().items():
        lowered = softening.LOWERED if name.endswith(".processor.gate.bias") else 0.0
        assert torch.equal(tensor, before[name] - lowered), name


def test_a_style_far_ahead_is_brought_back(model: DiffStyle360, clips: list[Triplets]) -> None:
    """Queries shrink by how far the style leads, too, and nothing is left watching."""
    before = [attn.to_q.weight.clone() for attn in sites(model)]
    for attn in sites(model):
        torch.nn.init.constant_(attn.processor.gate.bias, 2 * softening.LEAD + math.log(3))
    softening.soften(model, clips)
    for attn, queries in zip(sites(model), before, strict=True):
        assert torch.allclose(attn.to_q.weight, queries / 2, rtol=0.2)
        assert not attn._forward_pre_hooks
