"""The whole model against the slow re-statement of its equations in `restatement.py`."""

import dataclasses

import pytest
import torch

from stylize.attention import References
from stylize.config import PREDICTIONS
from stylize.sampling import Sampling, build_scheduler, circular_windows, stylize_views
from tests.stylize import restatement
from tests.stylize.conftest import TINY
from tests.stylize.restatement_motion import motion_module
from tests.stylize.restatement_unet import (
    Net,
    head,
    part,
    resnet_block,
    spatial_transformer,
    time_embedding,
)

CONFIGS = {
    "blocks": dataclasses.replace(TINY, prediction="sample", hint_residual=True, latent_scale=0.5),
    "sd-like": dataclasses.replace(
        TINY,
        channels=(8, 16, 16),
        attention=(True, True, False),
        motion=(1, 1, 1),
        layers=2,
        prompt_tokens=3,
        positions=6,
        latent_scale=2.0,
        style_encoder="lora",
        lora_rank=2,
    ),
}
T = 600
VIEWS = 3
SIZES = (1.0, 1e-3)  # of a part's input: in the small one, what norms add to a variance counts


@pytest.fixture(scope="module", params=CONFIGS)
def whole(request, make_model):
    """A model in which no two weights are alike, not even those that start as copies."""
    model = make_model(CONFIGS[request.param])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.prompt.normal_(generator=generator)
    return model


def draw(model, *shape, seed):
    """Images, uniform in [-1, 1]."""
    size = model.config.image_size
    images = torch.rand(*shape, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images * 2 - 1


def gaussian(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def noise(model, *shape):
    size = model.config.latent_size
    return gaussian(*shape, model.config.latent_channels, size, size)


def latents(model, *shape, seed):
    return model.encode(draw(model, *shape, seed=seed).flatten(0, -4)).unflatten(0, shape)


def assert_same(got, expected):
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_reference_banks(whole):
    state, t = whole.state_dict(), torch.tensor([T, 20])
    front, back = latents(whole, 2, seed=0), latents(whole, 2, seed=1)
    with torch.no_grad():
        got = whole.content_banks(front, back, t), whole.content_banks(front, None, t)
        styled = whole.style_banks(front, t)
    for clip, time in enumerate(t.tolist()):
        for banks, behind in zip(got, (back[clip], None), strict=True):
            expected = restatement.content_banks(state, whole.config, front[clip], behind, time)
            assert banks.keys() == expected.keys()
            for site, tokens in expected.items():
                assert_same(banks[site][clip], tokens)
        expected = restatement.style_banks(state, whole.config, front[clip], time)
        assert styled.keys() == expected.keys()
        for site, tokens in expected.items():
            assert_same(styled[site][clip], tokens)


def test_references_read_at_timestep_zero(whole, make_model):
    config = dataclasses.replace(whole.config, reference_timestep="zero")
    model = make_model(config)
    front, t = latents(model, 1, seed=0), torch.tensor([T])
    with torch.no_grad():
        content, style = model.content_banks(front, None, t), model.style_banks(front, t)
    state = model.state_dict()
    for told, time in ((config, T), (whole.config, 0)):
        expected_content = restatement.content_banks(state, told, front[0], None, time)
        expected_style = restatement.style_banks(state, told, front[0], time)
        for site in content:
            assert_same(content[site][0], expected_content[site])
            assert_same(style[site][0], expected_style[site])


def test_camera_residuals(whole):
    noisy, hint = noise(whole, VIEWS), draw(whole, VIEWS, seed=2)
    with torch.no_grad():
        got = whole.camera_residuals(noisy, torch.full((VIEWS,), T), hint)
        embedded = whole.embed_hint(hint)
        again = whole.camera_residuals(noisy, torch.full((VIEWS,), T), embedded)
    down, middle = restatement.camera_residuals(whole.state_dict(), whole.config, noisy, T, hint)
    for found, found_again, expected in zip(got, again, [*down, middle], strict=True):
        assert_same(found, expected)
        assert torch.equal(found, found_again)


@pytest.fixture(scope="module")
def denoiser(whole):
    return Net(part(whole.state_dict(), "denoiser"), whole.config, whole.prompt.double())


@pytest.mark.parametrize("size", SIZES)
def test_motion_modules(whole, denoiser, size):
    config = whole.config
    modules = {
        name: module
        for name, module in whole.denoiser.named_modules()
        if type(module).__name__ == "AnimateDiffTransformer3D"
    }
    assert len(modules) == len(config.channels) * (2 * config.layers + 1)  # none in the middle
    for name, module in modules.items():
        frames = size * gaussian(2 * VIEWS, module.in_channels, 3, 5)
        with torch.no_grad():
            got = module(frames, num_frames=VIEWS) - frames
        for clip in (slice(0, VIEWS), slice(VIEWS, 2 * VIEWS)):
            expected = motion_module(denoiser, name, 1, frames[clip].double())
            assert_same(got[clip], expected - frames[clip])


@pytest.mark.parametrize("size", SIZES)
def test_blocks(whole, denoiser, size):
    net, block = whole.denoiser, whole.denoiser.down_blocks[1]
    x = size * gaussian(2, whole.config.channels[0], 4, 4)
    deep = size * gaussian(2, whole.config.channels[1], 4, 4)
    with torch.no_grad():
        for t in (0, 1, 500, 999):
            time = net.time_embedding(net.time_proj(torch.tensor([t])))
            assert_same(time[0], time_embedding(denoiser, t))
        resnet = block.resnets[0](x, time)
        attention = block.attentions[0](deep, whole.prompt, return_dict=False)[0] - deep
        out = net.conv_out(net.conv_act(net.conv_norm_out(x)))
    at = "down_blocks.1"
    assert_same(resnet, resnet_block(denoiser, f"{at}.resnets.0", x.double(), time[0].double()))
    expected = spatial_transformer(denoiser, f"{at}.attentions.0", deep.double()) - deep
    assert_same(attention, expected)
    assert_same(out, head(denoiser, x.double()))


@pytest.mark.parametrize("size", SIZES)
def test_style_appearance(whole, denoiser, size):
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"
    appearance = whole.denoiser.get_submodule(site).processor.appearance
    tokens = size * gaussian(2, 5, whole.config.channels[-1])
    with torch.no_grad():
        got = appearance(tokens)
    for clip in (0, 1):
        expected = restatement.style_appearance(
            denoiser.weights, f"{site}.processor.appearance", tokens[clip].double()
        )
        assert_same(got[clip], expected)


@pytest.mark.parametrize(
    "dials",
    [
        {},
        {"presence": 0.4, "temperature": 0.7},
        {"presence": 0.8, "temperature": 1.4, "gated": False},
        {"presence": 0.0},
    ],
)
def test_denoise_with_references_and_camera(whole, dials):
    config, state, t = whole.config, whole.state_dict(), torch.tensor([T, 20])
    front, back, style = (latents(whole, 2, seed=seed) for seed in range(3))
    noisy, hint = noise(whole, 2, VIEWS), draw(whole, 2, VIEWS, seed=3)
    with torch.no_grad():
        content, styled = whole.content_banks(front, back, t), whole.style_banks(style, t)
        got = whole.denoise(noisy, t, hint, References(content, styled, **dials))
    for clip, time in enumerate(t.tolist()):
        expected = restatement.denoise(
            state, config, noisy[clip], time, hint[clip],
            restatement.content_banks(state, config, front[clip], back[clip], time),
            restatement.style_banks(state, config, style[clip], time),
            restatement.Dials(**dials),
        )  # fmt: skip
        assert_same(got[clip], expected)


@pytest.mark.parametrize("parts", ["nothing", "camera", "front", "style"])
def test_denoise_with_some_parts_left_out(whole, parts):
    config, state = whole.config, whole.state_dict()
    image, hint = latents(whole, 1, seed=0), draw(whole, 1, VIEWS, seed=3)
    noisy = noise(whole, 1, VIEWS)
    front = image if parts == "front" else None
    style = image if parts == "style" else None
    with torch.no_grad():
        got = whole(noisy, torch.tensor([T]), hint, front, None, style, camera=parts == "camera")
    expected = restatement.denoise(
        state, config, noisy[0], T, hint[0],
        None if front is None else restatement.content_banks(state, config, front[0], None, T),
        None if style is None else restatement.style_banks(state, config, style[0], T),
        restatement.Dials(), camera=parts == "camera",
    )  # fmt: skip
    assert_same(got[0], expected)


def test_stylized_views_around_the_head(whole):
    """Two identities at once, in windows that overlap and wrap around."""
    config, views, seeds = whole.config, 6, [11, 12]
    guidance = {"content_guidance": 1.7, "style_guidance": 1.4}
    dials = {"presence": 0.7, "temperature": 0.8}
    sampling = Sampling(steps=3, **guidance, **dials)
    front, back, style = (draw(whole, 2, seed=seed) for seed in range(3))
    hint = draw(whole, 2, views, seed=3)
    got = stylize_views(whole, front, back, hint, style[0], sampling, seeds)
    for i, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        c, s = config.latent_channels, config.latent_size
        start = torch.randn(views, c, s, s, generator=generator)
        windows = []
        for _ in range(sampling.steps):
            offset = int(torch.randint(views, (), generator=generator))
            windows.append(circular_windows(views, config.window, offset).tolist())
        assert [len(window) for step in windows for window in step] == [4] * 6
        expected = restatement.stylize_views(
            whole.state_dict(), config, front[i], back[i], hint[i], style[0], start, windows,
            tuple(guidance.values()), restatement.Dials(**dials),
        )  # fmt: skip
        assert (expected.abs() < 1).double().mean() > 0.4
        assert_same(got[i], expected)


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim(prediction, steps):
    config = dataclasses.replace(TINY, prediction=prediction)
    scheduler = build_scheduler(Sampling(steps=steps), config)
    times = restatement.timesteps(config, steps)
    assert scheduler.timesteps.tolist() == times
    x, *drawn = gaussian(steps + 1, 50).double()
    expected = x
    for t, following, predicted in zip(times, [*times[1:], None], drawn, strict=True):
        step = scheduler.step(predicted, t, x)
        x = step.prev_sample
        expected, clean = restatement.ddim_step(config, expected, predicted, t, following)
        assert_same(x, expected)
        assert_same(step.pred_original_sample, clean)
