import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.demo import anatomy, tracing
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.styles import STYLES


def a_head(seed: int, style: str = "natural") -> Head:
    gen = ProceduralHeads(style)
    return gen.head(gen.mapping(er.latents([seed], 48))[0])


def cloud(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, y, z = (
        low + tracing.CELL * cells * torch.rand(n, generator=rng)
        for low, cells in zip(tracing.LOW, tracing.CELLS, strict=True)
    )
    return x, y, z


@pytest.mark.parametrize("seed", [0, 2, 7, 12])
@pytest.mark.parametrize("style", ["natural", "werewolf"])
def test_skipped_features_never_hide_a_surface(seed: int, style: str) -> None:
    p, head = cloud(40_000), a_head(seed, style)
    whole, bound = (anatomy.distance(*p, head, whole=w) for w in (True, False))
    near = whole.abs() < 0.02
    assert ((bound - whole)[near].abs() < 6e-3).all()
    assert ((bound - whole)[whole < 0].abs() < 1e-3).all()
    assert (bound[whole > 0.02] > 0.01).all()


@pytest.mark.parametrize("style", STYLES)
def test_distance_grows_no_faster_than_the_tracer_expects(style: str) -> None:
    """Near the surface, where a step too long would cross it."""
    step = 1e-3
    for seed in (0, 3, 5):
        x, y, z = (v.double() for v in cloud(30_000, seed))
        head = a_head(seed, style)
        here = anatomy.distance(x, y, z, head, whole=True)
        slope = torch.stack(
            [
                (anatomy.distance(*moved, head, whole=True) - here) / step
                for moved in ((x + step, y, z), (x, y + step, z), (x, y, z + step))
            ]
        ).norm(dim=0)
        near = (here > -0.02) & (here < 0.05)
        assert slope[near].quantile(0.995) < 1 / tracing.CAUTION


def test_eyes_lie_in_their_sockets() -> None:
    for seed in range(8):
        head = a_head(seed)
        front = torch.tensor([anatomy.EYE_Z + head.eye_radius])
        at = (torch.tensor([head.eye_x]), torch.tensor([0.0]), front)
        parts = anatomy.parts(*at, head)
        assert parts["eye"].abs() < 1e-5
        assert parts["skin"] > 0.01  # open lids
        assert all(d > 0 for name, d in parts.items() if name != "eye")


def test_eyelids_close_over_the_eye_above_and_below() -> None:
    head = a_head(0)
    for angle in (-0.9, 0.9):
        y = torch.tensor([head.eye_radius * angle])
        z = anatomy.EYE_Z + (head.eye_radius**2 - y**2).sqrt()
        parts = anatomy.parts(torch.tensor([head.eye_x]), y, z, head)
        assert parts["skin"] < 0


@pytest.mark.parametrize("style", STYLES)
def test_no_light_falls_between_nose_and_face(style: str) -> None:
    """From the middle of the head forwards there is one surface, at any height of the nose."""
    z = torch.linspace(0.3, 1.8, 601)
    for seed in (3, 9, 14, 22):
        head = a_head(seed, style)
        for y in torch.linspace(-0.05, head.nose_y + 0.04, 6).tolist():
            parts = anatomy.parts(torch.zeros_like(z), torch.full_like(z, y), z, head, whole=True)
            crossings = ((parts["skin"] > 0).int().diff() != 0).sum()
            assert crossings == 1, (seed, y)
