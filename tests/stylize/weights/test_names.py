"""The rule tables against diffusers' own converters, key for key, at the published size."""

from collections.abc import Mapping

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor

from stylize.config import StylizerError
from stylize.weights import names
from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import FULL, SMALL

BLOCKS = {"layers_per_block": 2, "down_block_types": [""] * 4, "up_block_types": [""] * 4}


def convert(tensors: Mapping[str, Tensor], rules: tuple[names.Rule, ...]) -> dict[str, Tensor]:
    counts = names.count_blocks(tensors, "test")
    renamed = {}
    for key, tensor in tensors.items():
        found = names.rename(key, rules, counts)
        assert found is not None, key
        name, linear = found
        renamed[name] = tensor.flatten(2).squeeze(2) if linear and tensor.ndim > 2 else tensor
    return renamed


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same names, and under each a tensor of the same shape from the same key."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        assert tensor.flatten()[0] == theirs[name].flatten()[0], name


def shapes_of(model: type, **config: object) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: t.shape for name, t in model(**config).state_dict().items()}


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def test_unet() -> None:
    tensors = layouts.number(layouts.unet(FULL))
    ours = convert(tensors, names.UNET)
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in tensors.items()}
    assert_same(ours, convert_ldm_unet_checkpoint(prefixed, BLOCKS))
    assert shapes(ours) == shapes_of(UNet2DConditionModel, cross_attention_dim=768)


def test_controlnet() -> None:
    tensors = layouts.number(layouts.controlnet(FULL))
    ours = convert(tensors, names.CONTROLNET)
    assert_same(ours, convert_controlnet_checkpoint(tensors, BLOCKS))
    assert shapes(ours) == shapes_of(ControlNetModel, cross_attention_dim=768)


def test_autoencoder() -> None:
    tensors = layouts.number(layouts.vae(FULL))
    ours = convert(tensors, names.VAE)
    prefixed = {f"first_stage_model.{key}": tensor for key, tensor in tensors.items()}
    assert_same(ours, convert_ldm_vae_checkpoint(prefixed, BLOCKS))
    assert shapes(ours) == shapes_of(
        AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=FULL.vae,
        layers_per_block=2,
    )


def test_autoencoder_with_names_from_before_diffusers_0_17() -> None:
    new = convert(layouts.number(layouts.vae(FULL)), names.VAE)
    old = {}
    for name, tensor in new.items():
        for part, earlier in (
            ("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")
        ):  # fmt: skip
            name = name.replace(f"attentions.0.{part}.", f"attentions.0.{earlier}.")
        old[name] = tensor
    assert old.keys() != new.keys()
    assert_same(convert(old, names.DIFFUSERS_VAE), new)
    assert_same(convert(new, names.DIFFUSERS_VAE), new)


def test_animatediff() -> None:
    tensors = layouts.number(layouts.animatediff(FULL))
    ours = convert(tensors, names.ANIMATEDIFF)
    encodings = {name for name in ours if name.endswith(".pos_embed.pe")}
    theirs = convert_animatediff_checkpoint_to_diffusers(tensors)  # drops the encodings
    assert_same({name: ours[name] for name in ours.keys() - encodings}, theirs)
    expected = shapes_of(MotionAdapter, use_motion_mid_block=False, motion_max_seq_length=24)
    assert shapes(ours) == expected
    assert len(encodings) == 20


def test_diffportrait_motion() -> None:
    tensors = layouts.number(layouts.diffportrait_motion(FULL))
    # the layers' numbers come from the UNet around the motion modules
    counts = names.count_blocks(layouts.unet(FULL), "test")
    for half, ours, count in (("input", "down", 2), ("output", "up", 3)):
        for n in range(4 * count):
            key = f"{half}_blocks_motion_module.{n}.0.temporal_transformer.norm.weight"
            name = f"{ours}_blocks.{n // count}.motion_modules.{n % count}.norm.weight"
            assert names.rename(key, names.DIFFPORTRAIT_MOTION, counts) == (name, False)
    renamed = [names.rename(key, names.DIFFPORTRAIT_MOTION, counts) for key in tensors]
    animatediff = convert(layouts.number(layouts.animatediff(FULL)), names.ANIMATEDIFF)
    assert {found[0] for found in renamed if found} == animatediff.keys()
    assert None not in renamed


def test_other_widths_and_depths() -> None:
    """The rules hold no size of Stable Diffusion's."""
    ours = convert(layouts.number(layouts.unet(SMALL)), names.UNET)
    assert shapes(ours) == shapes_of(
        UNet2DConditionModel,
        block_out_channels=SMALL.channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=SMALL.context,
    )
    ours = convert(layouts.number(layouts.controlnet(SMALL)), names.CONTROLNET)
    assert shapes(ours) == shapes_of(
        ControlNetModel,
        block_out_channels=SMALL.channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=SMALL.context,
        conditioning_embedding_out_channels=SMALL.hint,
    )


@pytest.mark.parametrize(
    "key",
    [
        "label_emb.0.0.weight",
        "input_blocks.0.1.norm.weight",
        "input_blocks.1.0.in_layers.1.weight",
        "input_blocks.1.2.norm.weight",
        "middle_block.3.in_layers.0.weight",
        "time_embed.4.weight",
        "zzz",
    ],
)
def test_unknown_layers_have_no_name(key: str) -> None:
    assert names.rename(key, names.UNET, names.Counts(2, 4, 14)) is None


@pytest.mark.parametrize("number", ["1", "16", "3"])
def test_hint_layers_are_even_and_end_with_the_last(number: str) -> None:
    key = f"input_hint_block.{number}.weight"
    assert names.rename(key, names.CONTROLNET, names.Counts(2, 4, 14)) is None


def test_a_unet_without_levels_is_refused() -> None:
    with pytest.raises(StylizerError, match="x: no downsampling in input_blocks"):
        names.count_blocks(["input_blocks.1.0.in_layers.0.weight"], "x")
