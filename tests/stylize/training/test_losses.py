import dataclasses

import pytest
import torch

from stylize.attention import References
from stylize.training import FinetuneSettings
from stylize.training import losses as L
from stylize.training.draws import Draws, draw_training
from stylize.training.losses import clip_losses, encode_batch, predict, total_loss

SETTINGS = FinetuneSettings(steps=1, batch=2)
SHAPE = (3, 12, 8, 8)


def keeping(t: list[int], content=True, back=True, style=True, presence=1.0) -> Draws:
    """Draws of len(t) clips, of which the first keeps only what is asked for, so far present."""
    generator = torch.Generator().manual_seed(0)
    kept = [torch.tensor([part] + [True] * (len(t) - 1)) for part in (content, back, style)]
    weighs = torch.tensor([presence] + [1.0] * (len(t) - 1))
    noise = torch.randn(len(t), *SHAPE, generator=generator)
    return Draws(noise, torch.tensor(t), *kept, presence=weighs)


@pytest.fixture(scope="module")
def batch(make_clips):
    return make_clips(range(2))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(
    make_model, tiny, batch, prediction, monkeypatch: pytest.MonkeyPatch
):
    """Each kind of truth, worked out from noisy and clean latents by its definition."""
    model = make_model(dataclasses.replace(tiny, prediction=prediction))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()
    clean = torch.nn.functional.pixel_unshuffle(batch.target, 2)

    def oracle(model, noisy, hint, latents, draws):
        kept = (1 - betas).cumprod(0)[draws.t].view(-1, 1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction]

    monkeypatch.setattr(L, "predict", oracle)
    settings = dataclasses.replace(
        SETTINGS, view_consistency=1.0, identity=2.0, style=3.0, detail=4.0
    )
    latents = encode_batch(model, batch, settings)
    losses = clip_losses(model, batch, latents, keeping([50, 200]), settings)
    for name in ("denoising", "view_consistency", "identity", "detail"):
        assert losses[name].max() < 1e-6, name
    assert losses["style"].min() > 0.01  # another picture than the target
    torch.testing.assert_close(total_loss(losses, settings), 3 * losses["style"], atol=1e-5, rtol=0)


def test_terms_are_of_low_noise_and_only_of_those_that_have_a_weight(model, batch):
    settings = dataclasses.replace(SETTINGS, identity=1.0, terms_below=0.3)
    latents = encode_batch(model, batch, settings)
    with torch.no_grad():
        losses = clip_losses(model, batch, latents, keeping([299, 300]), settings)
    assert losses.keys() == {"denoising", "identity"}
    assert losses["identity"][0] > 0
    assert losses["identity"][1] == 0


@pytest.mark.parametrize(
    ("parts", "given"),
    [
        ({}, ("front", "back", "style")),
        ({"back": False}, ("front", "style")),
        ({"style": False}, ("front", "back")),
        ({"content": False}, ("style",)),
        ({"content": False, "style": False}, ()),
    ],
)
def test_each_clip_has_the_parts_it_keeps_as_in_sampling(model, batch, parts, given):
    """What the first clip has lost is not there for it, and the second one is left alone."""
    latents = encode_batch(model, batch, SETTINGS)
    draws = keeping([100, 700], **parts)
    noisy = latents.target + draws.noise
    with torch.no_grad():
        found = predict(model, noisy, batch.hint, latents, draws)
        for clip, names in ((0, given), (1, ("front", "back", "style"))):
            rows = slice(clip, clip + 1)
            images = {n: getattr(latents, n)[rows] if n in names else None
                      for n in ("front", "back", "style")}  # fmt: skip
            expected = model(
                noisy[rows], draws.t[rows], batch.hint[rows], **images, camera="front" in names
            )
            torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-5)


def test_a_style_is_as_present_in_its_clip_as_in_sampling(model, batch):
    latents = encode_batch(model, batch, SETTINGS)
    draws = keeping([100, 700], presence=0.3)
    noisy = latents.target + draws.noise
    with torch.no_grad():
        found = predict(model, noisy, batch.hint, latents, draws)
        for clip, presence in ((0, 0.3), (1, 1.0)):
            rows = slice(clip, clip + 1)
            t = draws.t[rows]
            references = References(
                model.content_banks(latents.front[rows], latents.back[rows], t),
                model.style_banks(latents.style[rows], t),
                presence,
            )
            expected = model.denoise(noisy[rows], t, batch.hint[rows], references)
            torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-5)


def test_faint_latents_make_no_faint_loss(make_model, tiny, batch):
    """The error of a predicted sample is measured before the latents' scale."""
    losses = []
    for scale in (1.0, 0.1):
        config = dataclasses.replace(tiny, prediction="sample", latent_scale=scale)
        model = make_model(config)
        latents = encode_batch(model, batch, SETTINGS)
        off = latents._replace(target=latents.target + 0.5 * scale)
        prediction = latents.target
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L, "predict", lambda *of, prediction=prediction: prediction)
            draws = keeping([50, 200])
            losses.append(clip_losses(model, batch, off, draws, SETTINGS)["denoising"])
    torch.testing.assert_close(losses[0], torch.full((2,), 0.25))
    torch.testing.assert_close(losses[1], losses[0])


def test_latents_may_be_given_instead_of_images(model, batch):
    whole = encode_batch(model, batch, SETTINGS)
    names = frozenset({"front", "target"})
    partly = dataclasses.replace(batch, front=whole.front, target=whole.target, encoded=names)
    for found, expected in zip(encode_batch(model, partly, SETTINGS), whole, strict=True):
        assert torch.equal(found, expected)


def test_no_gradient_enters_the_codec(make_model, tiny, batch):
    model = make_model(
        dataclasses.replace(tiny, vae_channels=(8, 8), hint_channels=(4, 8), latent_factor=2)
    )
    settings = dataclasses.replace(SETTINGS, style=1.0, terms_below=1.0)
    for parameter in model.trainable_parameters().values():
        parameter.requires_grad_(True)
    model.vae.requires_grad_(False)
    latents = encode_batch(model, batch, settings)
    assert not latents.target.requires_grad
    draws = draw_training(range(2), latents.target.shape[1:], settings, 1000)
    losses = clip_losses(model, batch, latents, draws, settings)
    losses["style"].sum().backward()  # through the decoder to the denoiser
    assert all(parameter.grad is None for parameter in model.vae.parameters())
    assert model.denoiser.conv_out.weight.grad.any()
