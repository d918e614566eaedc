import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylize.attention import References
from stylize.config import StylizerError
from stylize.model import DiffStyle360, PerFrameGroupNorm


def run(model, triplets, style=True, camera=True, **dials):
    noisy = torch.randn(2, 3, 12, 8, 8, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([10, 700])
    with torch.no_grad():
        content = model.content_banks(triplets.front, triplets.back, t)
        banks = model.style_banks(triplets.style, t) if style else {}
        references = References(content, banks, **dials)
        return model.denoise(noisy, t, triplets.hint, references, camera=camera)


def test_every_part_has_an_effect(model, triplets):
    out = run(model, triplets)
    assert out.shape == (2, 3, 12, 8, 8)
    assert not torch.allclose(out, run(model, triplets, style=False))
    assert not torch.allclose(out, run(model, triplets, camera=False))
    other = dataclasses.replace(triplets, back=triplets.front)
    assert not torch.allclose(out, run(model, other))


def test_presence_zero_is_the_base_model_bit_for_bit(model, triplets):
    base = run(model, triplets, style=False)
    for style in (triplets.style, -triplets.style):
        changed = dataclasses.replace(triplets, style=style)
        assert torch.equal(run(model, changed, presence=0.0, temperature=0.7), base)


def test_clips_do_not_mix(model, triplets):
    both = run(model, triplets)
    swapped = dataclasses.replace(triplets, style=triplets.style * torch.tensor([1.0, -1.0]).view(
        2, 1, 1, 1))  # fmt: skip
    after = run(model, swapped)
    torch.testing.assert_close(after[0], both[0])
    assert not torch.allclose(after[1], both[1])


def test_banks_carry_the_denoisers_site_names(model, triplets):
    sites = {
        name.removesuffix(".processor")
        for name, module in model.denoiser.named_modules()
        if type(module).__name__ == "StyleFusionAttention"
    }
    t = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        banks = model.content_banks(triplets.front, triplets.back, t)
        front_only = model.content_banks(triplets.front, None, t)
    assert banks.keys() == sites
    assert len(sites) == 2 + 1 + 4  # down, mid, up at one layer a block
    for site in sites:
        assert banks[site].shape[1] == 2 * front_only[site].shape[1]
        torch.testing.assert_close(banks[site][:, : front_only[site].shape[1]], front_only[site])


def test_weights_follow_the_seed_and_leave_the_global_generator_alone(tiny):
    state = torch.get_rng_state()
    first, again, other = DiffStyle360(tiny), DiffStyle360(tiny, seed=0), DiffStyle360(tiny, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    name = "denoiser.conv_in.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_style_encoder_starts_as_the_reference_net(tiny):
    model = DiffStyle360(tiny)
    reference, encoder = model.reference_net.state_dict(), model.style_encoder.state_dict()
    assert all(torch.equal(encoder[name], tensor) for name, tensor in reference.items())
    attn = model.denoiser.mid_block.attentions[0].transformer_blocks[0].attn1
    assert torch.equal(attn.processor.to_k.weight, attn.to_k.weight)


def test_motion_norms_see_one_view_at_a_time(model):
    norms = [
        m for n, m in model.denoiser.named_modules() if "motion_modules" in n
        and isinstance(m, torch.nn.GroupNorm)
    ]  # fmt: skip
    assert len(norms) == 2 + 4
    assert all(isinstance(norm, PerFrameGroupNorm) for norm in norms)
    norm = norms[0]
    x = torch.randn(2, 8, 3, 4, 4)
    y = x.clone()
    y[:, :, 1:] = y[:, :, 1:] * 5 + 3
    with torch.no_grad():
        assert torch.equal(norm(x)[:, :, 0], norm(y)[:, :, 0])
        frame = torch.nn.functional.group_norm(x[:, :, 1], 4, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(norm(x)[:, :, 1], frame)


def test_views_meet_only_in_the_motion_modules(make_model, tiny, triplets):
    still = make_model(dataclasses.replace(tiny, motion=(0, 0)))
    moving = make_model()
    hint = triplets.hint.clone()
    hint[:, 2] = -hint[:, 2]
    changed = dataclasses.replace(triplets, hint=hint)
    torch.testing.assert_close(run(still, triplets)[:, 0], run(still, changed)[:, 0])
    assert not torch.allclose(run(moving, triplets)[:, 0], run(moving, changed)[:, 0])


def test_hint_residual_starts_at_the_hint(tiny, triplets):
    config = dataclasses.replace(tiny, prediction="sample", hint_residual=True)
    blocks = torch.nn.functional.pixel_unshuffle(triplets.hint, 2)
    for camera in (True, False):
        out = run(DiffStyle360(config).eval(), triplets, camera=camera)
        torch.testing.assert_close(out, blocks)


def test_more_views_than_the_window_are_refused(model):
    with pytest.raises(StylizerError, match="window is 4"):
        model.denoise(
            torch.zeros(1, 5, 12, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 3, 16, 16),
            References({}, {}),
        )  # fmt: skip


def test_gradients_reach_exactly_what_should_train(make_model, triplets):
    model = make_model()
    noisy, t = torch.randn(2, 3, 12, 8, 8), torch.tensor([10, 700])
    style = model.trainable_parameters("style")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in style)
    model(noisy, t, triplets.hint, triplets.front, triplets.back, triplets.style).sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached <= style.keys()
    # Nobody reads what follows the encoder's last bank, and its one prompt token is zero.
    tail = "style_encoder.up_blocks.1.attentions.1"
    prompt = (".norm2.", ".attn2.to_q.", ".attn2.to_k.", ".attn2.to_v.", ".attn2.to_out.0.weight")
    unread = style.keys() - reached
    assert unread
    for name in unread:
        assert name.startswith("style_encoder.")
        assert name.startswith(tail) or (
            "transformer_blocks" in name and any(p in name for p in prompt)
        )
    with pytest.raises(StylizerError, match="train"):
        model.trainable_parameters("everything")


def test_save_and_load_round_trip(model, triplets, tmp_path):
    model.save_pretrained(tmp_path / "stylizer")
    model.save_pretrained(tmp_path / "stylizer")  # replaces
    ordinary = tmp_path / "file"
    ordinary.touch()
    for path in (tmp_path / "stylizer").iterdir():
        assert path.stat().st_mode == ordinary.stat().st_mode, path
    ordinary.unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["stylizer"]
    loaded = DiffStyle360.from_pretrained(tmp_path / "stylizer").eval()
    assert loaded.config == model.config
    assert torch.equal(run(loaded, triplets), run(model, triplets))


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "truncated", "no file"])
def test_faulty_weights_are_refused_in_one_line(model, tmp_path, fault):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    name = "denoiser.conv_in.bias"
    if fault == "missing":
        del state[name]
    elif fault == "unexpected":
        state["denoiser.extra"] = torch.zeros(1)
        name = "denoiser.extra"
    elif fault == "shape":
        state[name] = state[name][:-1].clone()
    else:
        name = "model.safetensors"
    save_file(state, path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "no file":
        path.unlink()
    with pytest.raises(StylizerError, match=name) as caught:
        DiffStyle360.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StylizerError, match=r"nowhere.*config.json"):
        DiffStyle360.from_pretrained(tmp_path / "nowhere")
