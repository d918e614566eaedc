import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylize.attention import References, StyleFusionAttention
from stylize.config import StylizerError, sd15
from stylize.model import DiffStyle360
from stylize.networks import PerFrameGroupNorm, attentions


def run(model, triplets, style=True, camera=True, **dials):
    noisy = torch.randn(2, 3, 12, 8, 8, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([10, 700])
    with torch.no_grad():
        front, back, image = map(model.encode, (triplets.front, triplets.back, triplets.style))
        content = model.content_banks(front, back, t)
        banks = model.style_banks(image, t) if style else {}
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


def test_the_order_of_reference_tokens_does_not_matter(model, triplets):
    t = torch.tensor([10, 700])
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 3, 12, 8, 8, generator=generator)

    def shuffled(banks):
        return {
            site: tokens[:, torch.randperm(tokens.shape[1], generator=generator)]
            for site, tokens in banks.items()
        }

    with torch.no_grad():
        front, back = model.encode(triplets.front), model.encode(triplets.back)
        content = model.content_banks(front, back, t)
        style = model.style_banks(model.encode(triplets.style), t)
        plain = model.denoise(noisy, t, triplets.hint, References(content, style))
        for references in (
            References(content, shuffled(style)), References(shuffled(content), style)
        ):  # fmt: skip
            torch.testing.assert_close(
                model.denoise(noisy, t, triplets.hint, references), plain, rtol=0, atol=1e-4
            )


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
        front, back = model.encode(triplets.front), model.encode(triplets.back)
        banks = model.content_banks(front, back, t)
        front_only = model.content_banks(front, None, t)
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


def test_the_hint_comes_in_beside_the_noise(tiny, triplets):
    """Not by the camera net alone: what is added to the hint depends on it without that net."""
    config = dataclasses.replace(tiny, prediction="sample", hint_residual=True, latent_scale=0.5)
    model = DiffStyle360(config).eval()
    with torch.no_grad():
        model.denoiser.conv_out.weight.normal_()
    added = []
    for hint in (triplets.hint, -triplets.hint):
        shown = dataclasses.replace(triplets, hint=hint)
        out = run(model, shown, camera=False)
        added.append(out - model.encode(hint.flatten(0, 1)).view_as(out))
    assert not torch.allclose(*added, atol=1e-2)


def test_all_networks_begin_as_one(tiny):
    model = DiffStyle360(dataclasses.replace(tiny, prediction="sample", hint_residual=True))
    denoiser, reference = model.denoiser.state_dict(), model.reference_net.state_dict()
    own = (".attn1.to_q.", ".attn1.to_k.", "conv_in.weight")
    for name, tensor in reference.items():
        assert torch.equal(tensor, model.style_encoder.state_dict()[name])
        if not any(part in name for part in own):
            assert torch.equal(tensor, denoiser[name]), name
    seen = denoiser["conv_in.weight"].chunk(2, dim=1)
    scale = model.config.latent_scale
    torch.testing.assert_close(seen[1], reference["conv_in.weight"] * scale)
    assert seen[0].std() < seen[1].std() / 5
    for name, attn in attentions(model.denoiser).items():
        if isinstance(attn.processor, StyleFusionAttention):
            assert torch.equal(attn.to_k.weight, attn.to_q.weight), name
            assert torch.equal(attn.processor.to_k.weight, attn.to_k.weight)


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
    images = map(model.encode, (triplets.front, triplets.back, triplets.style))
    model(noisy, t, triplets.hint, *images).sum().backward()
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


def test_lora_shares_the_reference_nets_weights(make_model, tiny, triplets, tmp_path):
    model = make_model(dataclasses.replace(tiny, style_encoder="lora", lora_rank=2))
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert all(".lora_" in name for name in names if name.startswith("style_encoder."))
    loaded = DiffStyle360.from_pretrained(tmp_path).eval()
    for net in (model, loaded):
        assert net.style_encoder.conv_in.weight is net.reference_net.conv_in.weight
    assert torch.equal(run(loaded, triplets), run(model, triplets))
    updates = [n for n in model.trainable_parameters("style") if n.startswith("style_encoder.")]
    assert updates
    assert all(".lora_" in name for name in updates)


def test_an_untrained_lora_encoder_reads_as_the_reference_net(tiny, triplets):
    model = DiffStyle360(dataclasses.replace(tiny, style_encoder="lora", lora_rank=2)).eval()
    t = torch.tensor([5, 5])
    with torch.no_grad():
        latents = model.encode(triplets.style)
        style, content = model.style_banks(latents, t), model.content_banks(latents, None, t)
    for site, states in content.items():
        torch.testing.assert_close(style[site], states)


def test_references_at_zero_do_not_depend_on_the_timestep(make_model, tiny, triplets):
    same, zero = make_model(), make_model(dataclasses.replace(tiny, reference_timestep="zero"))
    for model, depends in ((same, True), (zero, False)):
        with torch.no_grad():
            latents = model.encode(triplets.front)
            first, second = (
                model.content_banks(latents, None, torch.full((2,), t)) for t in (0, 900)
            )
        assert any(not torch.equal(first[site], second[site]) for site in first) == depends


def test_branches_side_by_side_are_the_branches_alone(model, triplets):
    generator = torch.Generator().manual_seed(5)
    noisy, t = torch.randn(2, 3, 12, 8, 8, generator=generator), torch.tensor([10, 700])
    with torch.no_grad():
        front, style = model.encode(triplets.front), model.encode(triplets.style)
        content, banks = model.content_banks(front, None, t), model.style_banks(style, t)
        residuals = model.camera_residuals(
            noisy.flatten(0, 1), t.repeat_interleave(3), triplets.hint.flatten(0, 1)
        )
        branches = [References({}, {}), References(content, {}), References(content, banks, 0.5)]
        together = model.predict(
            torch.cat([noisy] * 3), t.repeat(3), branches, [torch.cat([r] * 3) for r in residuals]
        )
        alone = [model.predict(noisy, t, branch, residuals) for branch in branches]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_an_embedded_hint_passes_through(model, triplets):
    noisy, t = torch.randn(3, 12, 8, 8), torch.tensor([7, 7, 7])
    with torch.no_grad():
        plain = model.camera_residuals(noisy, t, triplets.hint[0])
        embedded = model.camera_residuals(noisy, t, model.embed_hint(triplets.hint[0]))
    assert all(torch.equal(a, b) for a, b in zip(plain, embedded, strict=True))


def test_an_empty_model_takes_no_memory_and_has_the_published_size():
    model = DiffStyle360.empty(sd15())
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    millions = {
        name: round(sum(p.numel() for p in part.parameters()) / 1e6)
        for name, part in model.named_children()
    }
    assert millions["reference_net"] == 860 == millions["back_denoiser"]
    assert millions["camera_net"] == 361
    assert millions["vae"] == 84


def test_half_precision_stays_near(model, triplets, tmp_path):
    model.save_pretrained(tmp_path)
    half = DiffStyle360.from_pretrained(tmp_path, torch.bfloat16).eval()
    assert half.dtype == torch.bfloat16
    exact, fast = run(model, triplets), run(half, triplets).float()
    assert 0 < (exact - fast).abs().mean() < 0.03 * exact.abs().mean()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StylizerError, match=r"nowhere.*config.json"):
        DiffStyle360.from_pretrained(tmp_path / "nowhere")
