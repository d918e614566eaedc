from collections import Counter

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.hair import HAIRCUTS
from eg3d_renderer.demo.heads import IDENTITY, head_from
from eg3d_renderer.demo.styles import STYLES

SEEDS = 200
VOLUME, HAIRCUT, GLASSES, HAT = 31, 30, 35, 36


@pytest.fixture(scope="module")
def codes() -> list[list[float]]:
    ws = ProceduralHeads().mapping(er.latents(range(SEEDS), 48))
    return ws[:, 0, :IDENTITY].tolist()


def test_every_haircut_and_hat_occurs(codes: list[list[float]]) -> None:
    heads = [head_from(code) for code in codes]
    haircuts = Counter(head.haircut for head in heads)
    assert haircuts.keys() == set(HAIRCUTS)
    assert min(haircuts.values()) >= 10
    assert Counter(head.hat for head in heads).keys() == {"none", "beanie", "brim"}


def test_beards_and_glasses_are_worn_by_some(codes: list[list[float]]) -> None:
    heads = [head_from(code) for code in codes]
    for worn in ("beard", "moustache", "glasses", "freckles"):
        share = sum(getattr(head, worn) > 0 for head in heads) / SEEDS
        assert 0.08 < share < 0.5, worn


def test_skin_tones_are_even(codes: list[list[float]]) -> None:
    quarters = Counter(int((head_from(code).skin_tone + 1) * 2) for code in codes)
    assert quarters.keys() == {0, 1, 2, 3}
    assert min(quarters.values()) > 0.15 * SEEDS


def test_every_dimension_is_in_use() -> None:
    """Each of the 40 numbers changes some head."""
    sorts = [[0.9] * IDENTITY, [0.5] * IDENTITY, [0.0] * IDENTITY]
    sorts[1][33] = -0.5
    for i in range(IDENTITY):
        changed = [[*code[:i], code[i] - 0.7, *code[i + 1 :]] for code in sorts]
        pairs = zip(sorts, changed, strict=True)
        assert any(head_from(old) != head_from(new) for old, new in pairs), i


def inside_the_frame(mask: torch.Tensor) -> bool:
    """Whether a row of pixels stays free along all edges of masks [V, 1, R, R] but the lower."""
    return not (mask[..., :1, :].any() or mask[..., :1].any() or mask[..., -1:].any())


def test_heads_stay_inside_the_frame() -> None:
    gen, cam = ProceduralHeads(), er.cameras.orbit(8)
    for seed in range(24):
        ws = gen.mapping(er.latents([seed], 48))
        mask = gen.synthesis(ws, cam[[seed % 8, (seed + 3) % 8]], 32)["image_mask"]
        assert inside_the_frame(mask), seed
        assert mask[..., -1, :].any(), seed  # the shoulders go on below
        assert mask.mean() > 0.25, seed


@pytest.mark.parametrize("style", STYLES)
def test_largest_heads_stay_inside_the_frame(style: str) -> None:
    gen, cam = ProceduralHeads(style), er.cameras.orbit(4, elevation=10)[:3]
    for i in range(len(HAIRCUTS)):
        w = torch.full((1, 1, 48), 0.99)
        w[..., HAIRCUT] = 2 * (i + 0.5) / len(HAIRCUTS) - 1
        w[..., HAT] = (0.99, 0.75, 0.0)[i % 3]
        assert inside_the_frame(gen.synthesis(w, cam[i % 3 : i % 3 + 1], 32)["image_mask"]), i
