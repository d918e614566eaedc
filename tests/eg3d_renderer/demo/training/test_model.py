from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.checkpoints import save_checkpoint
from eg3d_renderer.demo.training import model as made
from eg3d_renderer.demo.training import traits
from eg3d_renderer.demo.training.backbone import synthesize
from eg3d_renderer.demo.training.model import AllStyles
from eg3d_renderer.demo.training.rendering import channel_order, march
from eg3d_renderer.demo.training.truth import Rays
from eg3d_renderer.marching.depths import coarse_depths
from eg3d_renderer.networks.mapping import normalize_2nd_moment


@pytest.fixture(scope="module")
def model() -> Iterator[AllStyles]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(made.INIT_KWARGS, "channel_base", 512)
        patch.setitem(made.INIT_KWARGS, "channel_max", 32)
        model = AllStyles(["natural", "joker"], 32, seed=0)
        with torch.no_grad():
            for difference in model.differences:
                difference.normal_(0, 0.1)
            model.differences[-1][:, 0] += 0.5  # of the densities: something to see
        model.apart = [model.generator(style, latents=64) for style in (0, 1)]
        yield model


def test_it_knows_heads_and_styles_before_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traits, "HEADS", 4000)
    model = AllStyles(["natural", "joker", "zombie"], 4, seed=0)
    model.teach(300, seed=0)
    z = normalize_2nd_moment(torch.randn(3, 500, 48))
    with torch.no_grad():
        ws = torch.stack([model.ws(rows, [n] * 500)[:, 0] for n, rows in enumerate(z)])
    for rows, w in zip(z, ws, strict=True):
        known = traits.traits(rows)
        assert torch.corrcoef(torch.stack([w[:, 3], known[:, 3]]))[0, 1] > 0.8
    signs = ws[:, :, known.shape[1] :][:, :, :3]
    for n, sign in enumerate(signs):
        torch.testing.assert_close(sign / made.SIGN, torch.eye(3)[n].expand(500, 3) * 2**0.5)


@torch.no_grad()
def test_a_style_alone_is_what_was_trained(model: AllStyles) -> None:
    """Mapping and decoder of the model, by the code of training, and those of `generator`."""
    z = er.latents([1, 2], 48)
    both = model.ws(z, [1, 0])
    for row, style in enumerate((1, 0)):
        generator = model.apart[style]
        assert torch.equal(generator.mapping(z)[row], both[row])
        features = torch.randn(50, 32)
        sigma, colours = generator.decoder(features)
        w0, b0, w1, b1 = (t[row] for t in model.decoders([1, 0, 1]))
        found = torch.nn.functional.softplus(features @ w0.T + b0) @ w1.T + b1
        torch.testing.assert_close(found[:, 0], sigma, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(torch.sigmoid(found[:, 1:]) * 1.002 - 0.001, colours[:, :3])


@torch.no_grad()
def test_rays_are_marched_as_views_are(model: AllStyles) -> None:
    """The same samples give the colours, opacities and depths of the renderer."""
    generator = model.apart[1]
    generator.settings = settings = generator.settings._replace(samples=40, fine_samples=0)
    cam, ws = er.cameras.orbit(8)[1:2], generator.mapping(er.latents([1], 48))
    expected = generator.synthesis(ws, cam, 16)
    origins, directions = (t[0] for t in er.cameras.rays(cam, 16))
    n = len(origins)
    limits = (torch.full([1, 1], value) for value in (settings.start, settings.end))
    samples = coarse_depths(*limits, 40, torch.full([1, 1], 0.5), False).expand(n, -1)
    nothing = torch.zeros(1, n)
    rays = Rays(origins[None], directions[None], nothing[..., None], nothing, nothing)
    order = channel_order(2)
    texels = synthesize(generator.backbone.synthesis, ws, order, 32, torch.float32)
    marched = march(
        texels, 2, generator.axes, model.decoders([1]), rays, samples[None], settings.box, 0.35
    )
    colours, opacity, weights, middles = (t[0] for t in marched)
    image = expected["image"][0].flatten(1).T * 0.5 + 0.5
    assert image.std() > 0.05
    torch.testing.assert_close(colours, image, rtol=0, atol=1e-4)
    mask = expected["image_mask"].view(-1)
    torch.testing.assert_close(generator.mask(opacity), mask, rtol=0, atol=1e-4)
    seen = opacity > 0.5
    depth = ((weights * middles).sum(-1) / opacity)[seen]
    torch.testing.assert_close(depth, expected["image_depth"].view(-1)[seen], rtol=0, atol=3e-4)


def test_truncation_draws_to_the_mean(model: AllStyles) -> None:
    generator = model.apart[0]
    mean = generator.backbone.mapping.w_avg
    assert mean.abs().max() > 0
    drawn = generator.mapping(er.latents([5], 48), truncation_psi=0.0)
    torch.testing.assert_close(drawn[0, 0], mean)


def test_a_camera_is_not_shifted(model: AllStyles) -> None:
    generator, cam = model.apart[0], er.cameras.orbit(1)
    assert torch.equal(generator.shift_camera(er.latents([0], 48), cam), cam)


def test_a_checkpoint_is_the_generator_in_half(model: AllStyles, tmp_path: Path) -> None:
    apart = model.apart[1]
    save_checkpoint(model.checkpoint(1), tmp_path / "joker")
    loaded = er.load_generator(tmp_path / "joker")
    ws = apart.mapping(er.latents([4], 48))
    torch.testing.assert_close(loaded.planes(ws), apart.planes(ws), rtol=0, atol=0.02)
    assert (tmp_path / "joker" / "model.safetensors").stat().st_size < 2e6


def test_what_half_precision_cannot_hold_is_refused(model: AllStyles) -> None:
    with torch.no_grad():
        model.differences[-1][0, 1] += 1e6
    with pytest.raises(er.RendererError, match=r"style natural: decoder.net.2.bias holds"):
        model.checkpoint(0)
    with torch.no_grad():
        model.differences[-1][0, 1] -= 1e6
