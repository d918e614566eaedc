"""Whole stylizers out of small files in the real layouts."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor
from transformers import CLIPTextModel

from stylize.attention import References
from stylize.config import StylizerConfig, StylizerError, sd15
from stylize.model import DiffStyle360
from stylize.weights import Imported, import_weights
from stylize.weights.assembly import part_of
from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import FULL, SMALL

SIZES = {"window": 4, "image_size": 16, "lora_rank": 2}


def load(**sources: object) -> Imported:
    return import_weights(**(SIZES | sources))  # type: ignore[arg-type]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def part(imported: Imported, name: str) -> dict[str, Tensor]:
    return {key: value for key, value in imported.state.items() if part_of(key) == name}


def test_every_form_of_the_same_weights_gives_the_same_stylizer(brought: Path) -> None:
    first = load(
        base=brought / "sd.safetensors", motion=brought / "mm.ckpt", camera=brought / "control.pth"
    )
    assert first.config == StylizerConfig(
        image_size=16,
        latent_factor=2,
        channels=SMALL.channels,
        attention=SMALL.attention,
        motion=(1, 1),
        layers=1,
        heads=8,
        groups=32,
        cross_attention_dim=SMALL.context,
        hint_channels=SMALL.hint,
        window=4,
        latent_scale=0.18215,
        vae_channels=SMALL.vae,
        prompt_tokens=SMALL.tokens,
        positions=SMALL.positions,
        style_encoder="lora",
        lora_rank=2,
    )
    for base in ("sd.ckpt", "sd"):
        second = load(base=brought / base, motion=brought / "mm", camera=brought / "control")
        assert second.config == first.config
        assert_equal(second.state, first.state)


def test_written_loaded_and_run(brought: Path, tmp_path: Path) -> None:
    imported = load(multiview=brought / "model_state.th", back_view=brought / "back_head.th")
    imported.write(tmp_path / "model", torch.float32)
    model = DiffStyle360.from_pretrained(tmp_path / "model")
    assert model.config == imported.config
    assert_equal(model.own_state(), imported.state)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 3, 4, 8, 8, generator=generator)
    hint = torch.rand(1, 3, 3, 16, 16, generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    t = torch.tensor([500])
    with torch.inference_mode():
        plain = model.denoise(noisy, t, hint, References({}, {}))
        styled = model(noisy, t, hint, latents, latents, latents)
        banks = model.content_banks(latents, None, t)
    assert styled.shape == noisy.shape
    assert styled.isfinite().all()
    assert not torch.allclose(styled, plain)
    # in bfloat16, as it is written by default
    imported.write(tmp_path / "half")
    half = DiffStyle360.from_pretrained(tmp_path / "half")
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    assert_equal(
        half.own_state(), {name: tensor.bfloat16() for name, tensor in imported.state.items()}
    )
    assert banks


def test_diffportraits_parts_go_where_they_belong(brought: Path) -> None:
    """control_model, pose_control_model and the UNet hold layers of the same names and shapes."""
    imported = load(multiview=brought / "model_state.th", back_view=brought / "back_head.th")
    for path, prefix in (("model_state.th", ""), ("back_head.th", "back_")):
        tensors = torch.load(brought / path, weights_only=True)
        ours = imported.state
        for start, name in (
            ("model.diffusion_model", f"{prefix}denoiser"),
            ("control_model", f"{prefix}reference_net"),
            ("pose_control_model", f"{prefix}camera_net"),
        ):
            theirs = tensors[f"{start}.input_blocks.1.0.in_layers.2.weight"]
            assert torch.equal(ours[f"{name}.down_blocks.0.resnets.0.conv1.weight"], theirs)
    theirs = tensors["pose_control_model.input_hint_block.0.weight"]
    assert torch.equal(ours["back_camera_net.controlnet_cond_embedding.conv_in.weight"], theirs)
    assert imported.config.back_view
    assert "control_model" not in " ".join(imported.state)


def test_report_counts_every_key(brought: Path) -> None:
    path = brought / "model_state.th"
    imported = load(
        multiview=path, back_view=brought / "back_head.th", base=brought / "sd.safetensors"
    )
    report = imported.report
    total = sum(part.tensors + part.started.total() for part in report.parts)
    assert total == len(imported.state)
    for source in report.sources:
        if source.source.endswith(".safetensors"):
            keys = layouts.stable_diffusion(SMALL)
        elif source.source == str(path):
            keys = layouts.multiview(SMALL)
        else:
            keys = layouts.back_view(SMALL)
        taken = sum(part.keys for part in report.parts if part.source == source.source)
        assert taken + source.ignored.total() + sum(source.unused.values()) == len(keys)
    assert [part.part for part in report.parts] == [
        "denoiser", "motion", "style", "reference_net", "camera_net", "vae", "prompt",
        "back_denoiser", "back_reference_net", "back_camera_net",
    ]  # fmt: skip
    table = report.table()
    assert f"left out of {path}: 8 of a reference net's ends, 13 of the noise schedule" in table
    assert "left out of" in table.splitlines()[-1]


def test_what_only_stable_diffusion_leaves_open(brought: Path) -> None:
    imported = load(base=brought / "sd.ckpt")
    state = imported.state
    for name, tensor in part(imported, "reference_net").items():
        assert torch.equal(tensor, state[name.replace("reference_net.", "denoiser.")])
    camera = part(imported, "camera_net")
    zero = {name for name, tensor in camera.items() if not tensor.any()}
    assert all("controlnet_" in name for name in zero)
    assert len(zero) == 2 * 6  # zero convolutions: four skips, the middle, the hint
    motion = part(imported, "motion")
    outputs = {name for name in motion if ".proj_out." in name}
    assert outputs
    assert not any(motion[name].any() for name in outputs)
    assert all(tensor.any() for name, tensor in motion.items() if name.endswith("weight")
               and name not in outputs)  # fmt: skip
    assert imported.config.positions == 0
    assert not imported.config.back_view
    again = load(base=brought / "sd.ckpt")
    assert_equal(again.state, state)


def test_starts_of_motion_and_camera_are_those_of_a_new_model(
    brought: Path, tmp_path: Path
) -> None:
    """Without motion modules and ControlNet the stylizer is the UNet, view by view."""
    load(base=brought / "sd.ckpt").write(tmp_path / "model", torch.float32)
    model = DiffStyle360.from_pretrained(tmp_path / "model")
    fresh = DiffStyle360(model.config)
    for name, tensor in fresh.own_state().items():
        if name.endswith(".pos_embed.pe"):
            assert torch.equal(model.own_state()[name], tensor)
        if ".gate." in name or ".modulation." in name:
            assert torch.equal(model.own_state()[name], tensor)
    noisy = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hint, t = torch.zeros(1, 3, 3, 16, 16), torch.tensor([300])
    with torch.inference_mode():
        clip = model.denoise(noisy, t, hint, References({}, {}))
        one = model.denoise(noisy[:, 1:2], t, hint[:, 1:2], References({}, {}), camera=False)
    assert torch.allclose(clip[:, 1:2], one, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_style_begins_as_the_base(brought: Path, rank: int) -> None:
    imported = load(multiview=brought / "model_state.th", lora_rank=rank)
    state = imported.state
    sites = {name.partition(".processor.")[0] for name in state if ".processor." in name}
    assert len(sites) == 4  # at the finest level: 1 down, 2 up; and the middle
    for site in sites:
        for projection in ("to_k", "to_v"):
            own = state[f"{site}.processor.{projection}.weight"]
            assert torch.equal(own, state[f"{site}.{projection}.weight"])
        assert not state[f"{site}.processor.appearance.modulation.weight"].any()
        assert not state[f"{site}.processor.gate.weight"].any()
        assert (state[f"{site}.processor.gate.bias"] == -2).all()
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("style_encoder.")}
    if rank:
        assert all(tensor.any() == (".lora_A." in name) for name, tensor in encoder.items())
    else:
        for name, tensor in encoder.items():
            assert torch.equal(tensor, state[name.replace("style_encoder.", "reference_net.")])


def test_the_prompt_is_the_text_encoders(brought: Path) -> None:
    imported = load(base=brought / "sd")
    text = CLIPTextModel.from_pretrained(brought / "sd" / "text_encoder")
    ids = torch.tensor([[49406] + [49407] * (SMALL.tokens - 1)])
    with torch.inference_mode():
        expected = text(input_ids=ids).last_hidden_state
    assert torch.allclose(imported.state["prompt"], expected, atol=1e-6)


def test_published_size_from_files_in_the_published_layout(tmp_path: Path) -> None:
    """4.7 billion numbers, of which the files hold one a tensor, expanded."""
    multiview = layouts.number(layouts.multiview(FULL))
    layouts.save(tmp_path / "model_state.th", multiview)
    layouts.save(tmp_path / "back_head.th", layouts.number(layouts.back_view(FULL)), wrapped=True)
    imported = import_weights(
        multiview=tmp_path / "model_state.th", back_view=tmp_path / "back_head.th"
    )
    assert imported.config == sd15()
    expected = DiffStyle360.empty(sd15()).own_state()
    assert {name: tensor.shape for name, tensor in imported.state.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    counts = {report.part: (report.tensors, report.keys) for report in imported.report.parts}
    assert counts == {
        "denoiser": (686, 686), "motion": (540, 560), "style": (0, 0), "reference_net": (682, 682),
        "camera_net": (340, 340), "vae": (248, 248), "prompt": (1, 196),
        "back_denoiser": (686, 686), "back_reference_net": (682, 682),
        "back_camera_net": (340, 340),
    }  # fmt: skip
    # where each came from: its number
    blocks = {"layers_per_block": 2}
    for name, tensor in convert_ldm_unet_checkpoint(multiview, blocks).items():
        assert imported.state[f"denoiser.{name}"].flatten()[0] == tensor.flatten()[0]


def write_changed(brought: Path, path: Path, **changes: Tensor | None) -> Path:
    """sd.ckpt with keys added, replaced, or (None) removed; `__` in a name stands for a dot."""
    tensors = torch.load(brought / "sd.ckpt", weights_only=True)["state_dict"]
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    return layouts.save(path, tensors)


UNET = "model__diffusion_model__"
HUGE = torch.full((32,), 1e5)  # for float16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({UNET + "out__2__bias": None}, "denoiser: missing: conv_out.bias"),
        (
            {UNET + "label_emb__0__0__weight": torch.zeros(3, 3)},
            "unexpected: model.diffusion_model.label_emb.0.0.weight; where they may be left out",
        ),
        ({"ema_of_something": torch.zeros(3)}, "unexpected: ema_of_something; "),
        (
            {UNET + "input_blocks__0__0__weight": torch.zeros(32, 9, 3, 3)},
            "denoiser: conv_in.weight has shape (32, 9, 3, 3), expected (32, 4, 3, 3)",
        ),
        (
            {UNET + "input_blocks__0__0__weight": torch.zeros(32, 4, 3, 3, dtype=torch.int8)},
            "input_blocks.0.0.weight: int8 numbers (quantised?), expected floating point",
        ),
        (
            {"first_stage_model__encoder__mid__attn_1__q__weight": torch.zeros(64, 64, 3, 3)},
            "vae: encoder.mid_block.attentions.0.to_q.weight has shape (64, 64, 9)",
        ),
        (
            {"cond_stage_model__transformer__text_model__final_layer_norm__bias": None},
            "text encoder: missing: final_layer_norm.bias",
        ),
        (
            {"cond_stage_model__transformer__text_model__final_layer_norm__bias":
             torch.full((32,), torch.nan)},
            "its text encoder gives infinities or NaNs",
        ),
        (
            {"cond_stage_model__transformer__text_model__embeddings__token_embedding__weight":
             torch.zeros(30000, 32)},
            "a text encoder of 30000 tokens, not CLIP's 49408",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    changes: dict[str, Tensor | None], message: str, brought: Path, tmp_path: Path
) -> None:
    path = write_changed(brought, tmp_path / "changed.ckpt", **changes)
    with pytest.raises(StylizerError) as error:
        load(base=path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_unknown_keys_can_be_left_out_on_purpose(brought: Path, tmp_path: Path) -> None:
    added = {"extra__a": torch.zeros(1), "extra__b": torch.zeros(1)}
    path = write_changed(brought, tmp_path / "more.ckpt", **added)
    imported = load(base=path, ignore=["extra."])
    assert imported.report.sources[0].ignored["as asked"] == 2
    assert "left out of" in imported.report.table()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "nothing given has the UNet: name Stable Diffusion 1.5 as the base"),
        ({"motion": "mm.ckpt"}, "nothing given has the UNet"),
        ({"base": "mm.ckpt"}, "mm.ckpt: no unet, no vae, no text in it, only motion"),
        ({"base": "sd", "motion": "control"}, "control: no motion in it, only camera"),
        (
            {"multiview": "back_head.th"},
            "back_head.th: no motion in it, only unet, vae, text, reference, camera",
        ),
        (
            {"base": "sd", "back_view": "model_state.th"},
            "model_state.th: motion modules in it: a multi-view checkpoint, not a back's",
        ),
        (
            {"multiview": "model_state.th", "motion": "mm"},
            "motion: the multi-view checkpoint brings its own; leave one out",
        ),
        (
            {"base": "sd", "motion": "mm", "window": 8},
            "mm: its positional encoding knows 6 places, a window of 8 does not fit",
        ),
        ({"base": "sd", "image_size": 18}, "image_size: 18 is not a multiple of 4"),
        ({"base": "sd", "camera": "sd.ckpt"}, "sd.ckpt: no camera in it, only unet, vae, text"),
        ({"base": "nothing.ckpt"}, "nothing.ckpt: no such file"),
    ],
)
def test_what_does_not_go_together_is_refused(
    sources: dict[str, object], message: str, brought: Path
) -> None:
    placed = {k: brought / v if isinstance(v, str) else v for k, v in sources.items()}
    with pytest.raises(StylizerError) as error:
        load(**placed)
    assert message in str(error.value)


def test_nothing_is_written_over(brought: Path, tmp_path: Path) -> None:
    imported = load(base=brought / "sd.ckpt")
    (tmp_path / "model").mkdir()
    imported.write(tmp_path / "model")
    with pytest.raises(StylizerError, match="model: exists; name another folder, or remove it"):
        imported.write(tmp_path / "model")


def test_a_diverged_checkpoint_is_refused(brought: Path, tmp_path: Path) -> None:
    bad = torch.zeros(32)
    bad[3] = torch.inf
    path = write_changed(brought, tmp_path / "bad.ckpt", **{UNET + "input_blocks__0__0__bias": bad})
    with pytest.raises(StylizerError, match=r"bad.ckpt: denoiser.conv_in.bias holds infinities"):
        load(base=path).write(tmp_path / "model")
    large = write_changed(
        brought,
        tmp_path / "large.ckpt",
        **{UNET + "input_blocks__0__0__bias": HUGE},
    )
    with pytest.raises(StylizerError, match=r"conv_in.bias holds numbers too large for float16"):
        load(base=large).write(tmp_path / "model", torch.float16)
    assert not list(tmp_path.glob("*model*"))
    load(base=large).write(tmp_path / "model", torch.bfloat16)
    shutil.rmtree(tmp_path / "model")
