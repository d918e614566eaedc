import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylize.banks import BankCache
from stylize.config import StylizerError
from stylize.sampling import (
    SAMPLERS,
    Sampling,
    build_scheduler,
    circular_windows,
    guidance_passes,
    stylize_views,
)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 100))
def test_windows_cover_the_circle_evenly(views, window, offset):
    windows = circular_windows(views, window, offset)
    assert windows.shape[1] == min(views, window)
    assert ((windows.diff(dim=1)) % views == 1 % views).all()  # consecutive, modulo V
    assert windows.flatten().bincount(minlength=views).min() >= 1
    starts = sorted(windows[:, 0].tolist())
    gaps = [(b - a) % views or views for a, b in zip(starts, [*starts[1:], starts[0]], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_the_offset_turns_the_windows():
    plain, turned = circular_windows(16, 8, 0), circular_windows(16, 8, 5)
    assert torch.equal((plain + 5) % 16, turned)


@given(st.floats(0, 4), st.floats(0, 4))
def test_guidance_is_the_three_pass_formula(content, style):
    weights = guidance_passes(guided(content, style))
    eps = {"none": 0.3, "content": -1.1, "both": 2.7}
    formula = eps["none"] + content * (eps["content"] - eps["none"])
    formula += style * (eps["both"] - eps["content"])
    assert sum(w * eps[name] for name, w in weights.items()) == pytest.approx(formula)


def test_weights_of_one_cost_one_pass():
    assert guidance_passes(guided(1.0, 1.0)) == {"both": 1.0}
    assert guidance_passes(guided(1.0, 5.0, presence=0.0)) == {"content": 1.0}
    assert guidance_passes(guided(3.0, 3.0)).keys() == {"none", "both"}


def guided(content, style, **options):
    return Sampling(content_guidance=content, style_guidance=style, **options)


def sample(model, triplets, *, style=None, views=6, **options):
    hint = triplets.hint[0, :1].expand(views, -1, -1, -1)
    hint = hint * torch.linspace(0.5, 1, views).view(-1, 1, 1, 1)
    style = triplets.style[0] if style is None else style
    front, back = triplets.front[:1], triplets.back[:1]
    seeds = [options.pop("seed", 1)]
    sampling = Sampling(**{"steps": 3, **options})
    return stylize_views(model, front, back, hint[None], style, sampling, seeds)[0]


def test_views_come_back_as_images_and_repeat_exactly(model, triplets):
    first = sample(model, triplets)
    assert first.shape == (6, 3, 16, 16)
    assert first.abs().max() <= 1
    assert torch.equal(first, sample(model, triplets))
    assert not torch.equal(first, sample(model, triplets, seed=2))


def test_presence_zero_ignores_style_and_its_dials(model, triplets):
    base = sample(model, triplets, presence=0.0)
    for style, temperature in ((triplets.style[1], 1.0), (triplets.style[0], 0.5)):
        off = sample(
            model, triplets, style=style, presence=0.0, temperature=temperature,
            style_guidance=3.0,
        )  # fmt: skip
        assert torch.equal(off, base)
    assert not torch.equal(sample(model, triplets), base)


@pytest.mark.parametrize(
    "options",
    [
        {"content_guidance": 2.0, "style_guidance": 1.5},
        {"temperature": 0.7},
        {"views": 3},
        {"sampler": "dpm++"},
        {"sampler": "unipc"},
        {"eta": 0.5},
        {"start": "hint"},
        {"gated": False},
    ],
)
def test_options_change_the_result_and_stay_finite(model, triplets, options):
    out = sample(model, triplets, **options)
    assert out.isfinite().all()
    assert out.shape[0] == options.get("views", 6)
    assert not torch.equal(out[:3], sample(model, triplets)[:3])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"presence": 1.5}, "presence"),
        ({"temperature": 0.0}, "temperature"),
        ({"steps": 0}, "steps"),
        ({"steps": 501}, "steps: 501 is not in 1..500"),
        ({"steps": 334}, "begin at timestep 667"),
        ({"content_guidance": float("nan")}, "content_guidance"),
        ({"style_guidance": -1.0}, "style_guidance"),
        ({"sampler": "euler"}, "sampler"),
        ({"start": "content"}, "start"),
        ({"sampler": "dpm++", "eta": 0.5}, "eta"),
        ({"style": torch.zeros(3, 8, 8)}, "image"),
    ],
)
def test_bad_options_are_named(model, triplets, options, named):
    with pytest.raises(StylizerError, match=named):
        sample(model, triplets, **options)


def test_sampling_begins_where_the_config_says(tiny):
    trailing = dataclasses.replace(tiny, timestep_spacing="trailing")
    for config, expected in ((tiny, [751, 501, 251, 1]), (trailing, [999, 749, 499, 249])):
        assert build_scheduler(Sampling(steps=4), config).timesteps.tolist() == expected
    for sampler in SAMPLERS:
        assert build_scheduler(Sampling(steps=4, sampler=sampler), trailing).timesteps[0] == 999


def batch_of(triplets, identities=2, views=6):
    """Different identities around the circle."""
    scale = torch.linspace(0.5, 1, views).view(-1, 1, 1, 1)
    hint = triplets.hint[:identities, :1] * scale
    return triplets.front[:identities], triplets.back[:identities], hint


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_company_changes_rounding_alone(model, triplets, sampler, guidance):
    front, back, hint = batch_of(triplets)
    sampling = dataclasses.replace(guided(guidance, 1.5), steps=4, sampler=sampler)
    together = stylize_views(model, front, back, hint, triplets.style, sampling, [7, 8])
    for i in range(2):
        row = slice(i, i + 1)
        alone = stylize_views(
            model, front[row], back[row], hint[row], triplets.style[i], sampling, [7 + i]
        )
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-3)


def test_small_pieces_give_what_one_piece_gives(model, triplets):
    front, back, hint = batch_of(triplets)
    sampling = guided(2.0, 3.0, steps=3)
    whole = stylize_views(model, front, back, hint, triplets.style[0], sampling, [7, 8])
    pieces = stylize_views(model, front, back, hint, triplets.style[0], sampling, [7, 8], at_once=1)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-3)


def test_kept_banks_change_nothing(model, triplets):
    front, back, hint = batch_of(triplets)
    sampling = guided(2.0, 3.0, steps=3)
    plain = stylize_views(model, front, back, hint, triplets.style[0], sampling, [7, 8])
    caches = {name: BankCache(1 << 30) for name in ("style_banks", "content_banks")}
    for hits in (0, 3):
        kept = stylize_views(
            model, front, back, hint, triplets.style[0], sampling, [7, 8], **caches
        )
        assert torch.equal(kept, plain)
        assert [cache.hits for cache in caches.values()] == [hits, hits]


@pytest.mark.parametrize("turn", [1, 4])
def test_turning_the_circle_turns_the_result(model, triplets, monkeypatch, turn):
    """Views, noise and windows all turned: where the numbering starts does not matter."""
    front, back, hint = batch_of(triplets)
    sampling = guided(2.0, 1.5, steps=3, eta=0.5)
    plain = stylize_views(model, front, back, hint, triplets.style, sampling, [7, 8])
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **options: draw(*a, **options).roll(turn, 0))
    monkeypatch.setattr(
        "stylize.sampling.circular_windows",
        lambda views, window, offset: circular_windows(views, window, offset + turn),
    )
    hint = hint.roll(turn, 1)
    turned = stylize_views(model, front, back, hint, triplets.style, sampling, [7, 8])
    torch.testing.assert_close(turned, plain.roll(turn, 1), rtol=0, atol=1e-5)


def test_the_seam_is_no_worse_than_what_lies_within(make_model, tiny, monkeypatch):
    """A network that makes all views of a window alike leaves no edge where the circle closes;
    windows on a line, laid out the same way at every step, would."""
    model = make_model(dataclasses.replace(tiny, prediction="sample"))
    monkeypatch.setattr(
        model, "predict", lambda noisy, *_: noisy.mean(1, keepdim=True).expand_as(noisy)
    )
    image, hint = torch.zeros(16, 3, 16, 16), torch.zeros(16, 12, 3, 16, 16)

    def seam_ratio():
        out = stylize_views(
            model, image, None, hint, image[0], Sampling(steps=4), seeds=range(len(hint))
        )
        jumps = (out - out.roll(-1, 1)).abs().mean((0, 2, 3, 4))  # [V]; the last is the seam's
        return jumps[-1] / jumps[:-1].mean()

    assert seam_ratio() < 1.5
    line = torch.tensor([0, 2, 4, 6, 8])[:, None] + torch.arange(4)
    monkeypatch.setattr("stylize.sampling.circular_windows", lambda *_: line)
    assert seam_ratio() > 5


def test_a_start_at_the_hint_keeps_what_one_step_cannot_change(make_model, tiny, triplets):
    """With an epsilon of zero, what comes back is what went in."""
    model = make_model(tiny)
    model.denoiser.conv_out.weight.data.zero_()
    model.denoiser.conv_out.bias.data.zero_()
    hint = triplets.hint[:1] * 0.01
    sampling = Sampling(steps=1, start="hint")
    noise = torch.randn(3, 12, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler = build_scheduler(sampling, tiny)
    kept = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    start = kept.sqrt() * model.encode(hint[0]) + (1 - kept).sqrt() * noise
    out = stylize_views(model, triplets.front[:1], None, hint, triplets.style[0], sampling, [1])
    expected = model.decode(start / kept.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(out[0], expected, rtol=1e-3, atol=1e-4)


def test_references_at_zero_are_read_once(make_model, tiny, triplets, monkeypatch):
    model = make_model(dataclasses.replace(tiny, reference_timestep="zero"))
    calls = []
    read = model.read
    monkeypatch.setattr(model, "read", lambda *args: calls.append(args) or read(*args))
    sample(model, triplets, steps=4)
    assert len(calls) == 2  # content, style
    assert all(not args[2].any() for args in calls)


def test_fresh_noise_follows_the_seed(model, triplets):
    first, again = (sample(model, triplets, eta=1.0) for _ in range(2))
    assert torch.equal(first, again)


def test_a_model_with_an_autoencoder_samples_images(make_model, tiny, triplets):
    model = make_model(dataclasses.replace(tiny, vae_channels=(8, 8), prompt_tokens=3))
    out = sample(model, triplets)
    assert out.shape == (6, 3, 16, 16)
    assert out.isfinite().all()


def test_a_back_view_of_another_size_is_named(model, triplets):
    front, _, hint = batch_of(triplets)
    back = torch.zeros(2, 3, 8, 8)
    with pytest.raises(StylizerError, match=r"image: shape \(3, 8, 8\)"):
        stylize_views(model, front, back, hint, triplets.style[0], Sampling(steps=1), [7, 8])
