import numpy as np
import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.training import truth
from eg3d_renderer.demo.training.truth import CAMERAS, Heads, Rays

R = 16  # of the images compared


@pytest.fixture(scope="module")
def heads() -> Heads:
    return Heads(["natural", "joker"], 16 * CAMERAS, seed=1, length=4)


def test_a_head_depends_on_its_number_alone(heads: Heads) -> None:
    again = Heads(["natural", "joker"], 16 * CAMERAS, seed=1, length=9)
    again[0]
    for one, other in zip(heads[3][2], again[3][2], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(heads[3][1], again[3][1])
    assert not torch.equal(heads[3][1], heads[2][1])


def test_rays_are_of_their_shapes(heads: Heads) -> None:
    style, z, rays = heads[0]
    n = 16 * CAMERAS
    assert style in (0, 1)
    assert z.shape == (48,)
    assert [t.shape for t in rays] == [(n, 3), (n, 3), (n, 3), (n,), (n,)]
    torch.testing.assert_close(rays.directions.norm(dim=1), torch.ones(n))
    hit = rays.depths.isfinite()
    assert 0.3 < hit.float().mean() < 1
    assert (rays.coverage[hit] > 0).all()
    torch.testing.assert_close(rays.colours[rays.coverage == 0].min(), torch.tensor(1.0))


def test_rays_see_what_a_view_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "CAMERAS", 1)
    monkeypatch.setattr(truth, "RESOLUTION", R)
    cam = er.cameras.orbit(8, elevation=5.0)[1:2]
    monkeypatch.setattr(truth, "draw_cameras", lambda draw: cam)
    centres = (torch.arange(R) + 0.5) / R
    v, u = (t.reshape(-1) for t in torch.meshgrid(centres, centres, indexing="ij"))
    monkeypatch.setattr(truth, "draw_pixels", lambda *_: torch.stack([u, v], dim=1))
    generator = ProceduralHeads("joker")
    z = er.latents([3], 48)
    seen: Rays = truth.look(generator, z[0], R * R, np.random.default_rng(0))
    view = generator.synthesis(generator.mapping(z), cam, R)
    image = view["image"][0].flatten(1).T * 0.5 + 0.5
    assert (seen.colours - image).square().mean() < 3e-4
    assert (seen.coverage - view["image_mask"].view(-1)).abs().mean() < 1e-3
    depth = view["image_depth"].view(-1)
    both = seen.depths.isfinite() & (depth < generator.rendering_kwargs["ray_end"])
    assert both.sum() > 50
    assert (seen.depths - depth)[both].abs().median() < 1e-3


def test_eyes_and_skull_get_their_share() -> None:
    generator = ProceduralHeads()
    ws = generator.mapping(er.latents([0], 48))
    front = er.cameras.orbit(1)[0]
    pixels = truth.draw_pixels(front, generator.head(ws[0]), 4000, np.random.default_rng(0))
    assert ((pixels >= 0) & (pixels <= 1)).all()
    eye_band = ((pixels - 0.5).abs() < torch.tensor([0.16, 0.08])).all(1).float().mean()
    assert 1.5 * 0.32 * 0.16 < eye_band - 0.6 * 0.32 * 0.16 < 0.5
