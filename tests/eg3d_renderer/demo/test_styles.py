import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.styles import STYLES

OTHERS = [style for style in STYLES if style != "natural"]
AS_NATURAL = ("bronze", "sketch")  # keep the head's shape, whatever it wears
CAM = er.cameras.orbit(8)[1:2]


def view(style: str, ws: Tensor, cam: Tensor = CAM) -> dict[str, Tensor]:
    return ProceduralHeads(style).synthesis(ws, cam, 32)


def code(seed: int, **instance: float) -> Tensor:
    """ws of a seed, some numbers of the instance replaced: `code(3, w0=0.5)`."""
    ws = ProceduralHeads().mapping(er.latents([seed], 48))
    for name, value in instance.items():
        ws[0, 0, 40 + int(name[1:])] = value
    return ws


@pytest.mark.parametrize("style", OTHERS)
def test_style_differs_from_natural(style: str) -> None:
    ws = code(2)
    plain, styled = (view(s, ws) for s in ("natural", style))
    seen = plain["image_mask"].expand_as(plain["image"]) == 1
    assert (plain["image"] - styled["image"])[seen].abs().mean() > 0.12


@pytest.mark.parametrize("style", OTHERS)
def test_style_keeps_the_identity(style: str) -> None:
    """The silhouette stays near the natural one, and nearer than another identity's."""
    ws, other = code(6), code(9)
    plain, styled, another = (
        view(s, w)["image_mask"] for s, w in (("natural", ws), (style, ws), ("natural", other))
    )
    assert (plain - styled).abs().mean() < 0.06
    assert (plain - styled).abs().mean() < (plain - another).abs().mean()


@pytest.mark.parametrize("style", AS_NATURAL)
def test_style_of_colour_alone_keeps_the_depth(style: str) -> None:
    ws = code(4)
    assert torch.equal(view(style, ws)["image_depth"], view("natural", ws)["image_depth"])


@pytest.mark.parametrize("style", OTHERS)
def test_instance_has_at_least_three_ways_to_vary(style: str) -> None:
    still = {f"w{i}": -0.5 for i in range(8)}
    base = view(style, code(2, **still))["image"]
    changes = [
        (view(style, code(2, **still | {f"w{i}": 0.6}))["image"] - base).abs().max()
        for i in range(8)
    ]
    assert sum(change > 0.05 for change in changes) >= 3


def test_instance_does_not_change_natural() -> None:
    one, two = (view("natural", code(2, w0=v, w3=-v, w7=v)) for v in (-0.9, 0.9))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("style", STYLES)
def test_every_kind_of_head_is_shaded(style: str) -> None:
    gen = ProceduralHeads(style)
    cam = er.cameras.orbit(8)
    for seed in range(6):
        image = gen.synthesis(gen.mapping(er.latents([seed], 48)), cam[seed : seed + 1], 32)
        assert torch.isfinite(image["image"]).all()
        assert image["image"].abs().max() <= 1


@pytest.mark.parametrize("style", STYLES)
def test_colours_agree_between_views(style: str) -> None:
    """Patterns lie on the surface: a place has nearly the same colour in the next view."""
    gen, cam = ProceduralHeads(style), er.cameras.orbit(32)[:2]
    cam2world, k = er.cameras.split(cam)
    origins, directions = er.cameras.rays(cam, 48)
    out = gen.synthesis(gen.mapping(er.latents([6], 48)), cam, 48)
    t = out["image_depth"][0].view(-1)
    hit = (out["image_mask"][0].view(-1) == 1) & (t < 3.3)
    world = origins[0][hit] + t[hit, None] * directions[0][hit]
    local = (world - cam2world[1, :3, 3]) @ cam2world[1, :3, :3]
    place = (local / local[:, 2:] @ k[1].T)[None, None, :, :2] * 2 - 1
    there = torch.cat([out["image"], out["image_depth"]], dim=1)[1:]
    seen = torch.nn.functional.grid_sample(there, place, align_corners=False)[0, :, 0]
    visible = (seen[3] - local.norm(dim=1)).abs() < 0.01
    here = out["image"][0].view(3, -1)[:, hit]
    assert (seen[:3] - here)[:, visible].abs().median() < 0.06
