"""One small set of weights in every form that users have them in."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import SMALL

BLOCKS = {"layers_per_block": 1, "down_block_types": [""] * 2, "up_block_types": [""] * 2}
DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")


@pytest.fixture(scope="session")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sd (folder), sd.safetensors, sd.ckpt; mm.ckpt, mm (folder); control.pth,
    control (folder): the same numbers each; and model_state.th, back_head.th."""
    folder = tmp_path_factory.mktemp("brought")
    base = layouts.fill(layouts.stable_diffusion(SMALL))
    layouts.save(folder / "sd.safetensors", base)
    ids = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(9)}
    layouts.save(folder / "sd.ckpt", base | ids, wrapped=True)
    motion = layouts.fill(layouts.animatediff(SMALL), seed=1)
    layouts.save(folder / "mm.ckpt", {f"module.{key}": value for key, value in motion.items()})
    control = layouts.fill(layouts.prefixed("control_model.", layouts.controlnet(SMALL)), seed=2)
    layouts.save(folder / "control.pth", control)
    _save_pipeline(folder / "sd", base)
    adapter = MotionAdapter(
        block_out_channels=SMALL.channels,
        motion_layers_per_block=1,
        motion_max_seq_length=SMALL.positions,
        use_motion_mid_block=False,
    )
    converted = convert_animatediff_checkpoint_to_diffusers(motion)
    pe = {name: tensor for name, tensor in adapter.state_dict().items() if name.endswith(".pe")}
    for name in pe:
        start, _, end = name.partition(".transformer_blocks.0.")
        key = f"{start}.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
        assert end == "pos_embed.pe"
        pe[name] = motion[key]
    _save(adapter, converted | pe, folder / "mm")
    net = ControlNetModel(
        block_out_channels=SMALL.channels,
        down_block_types=DOWN,
        layers_per_block=1,
        cross_attention_dim=SMALL.context,
        conditioning_embedding_out_channels=SMALL.hint,
    )
    state = convert_controlnet_checkpoint(control, BLOCKS)
    last = "control_model.input_hint_block.6"
    end = "controlnet_cond_embedding.conv_out"  # which diffusers looks for in the published place
    state |= {f"{end}.{kind}": control[f"{last}.{kind}"] for kind in ("weight", "bias")}
    state = {name: state[name] for name in net.state_dict()}
    _save(net, state, folder / "control")
    layouts.save(folder / "model_state.th", layouts.fill(layouts.multiview(SMALL), seed=3))
    layouts.save(folder / "back_head.th", layouts.fill(layouts.back_view(SMALL), seed=4))
    return folder


def _save_pipeline(folder: Path, base: dict[str, torch.Tensor]) -> None:
    unet = UNet2DConditionModel(
        block_out_channels=SMALL.channels,
        down_block_types=DOWN,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=SMALL.context,
    )
    _save(unet, convert_ldm_unet_checkpoint(base, BLOCKS), folder / "unet")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=SMALL.vae,
        layers_per_block=2,
    )
    _save(vae, convert_ldm_vae_checkpoint(base, BLOCKS), folder / "vae")
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=SMALL.context,
            intermediate_size=4 * SMALL.context,
            num_hidden_layers=SMALL.text_layers,
            num_attention_heads=1,
            max_position_embeddings=SMALL.tokens,
        )
    )
    start = "cond_stage_model.transformer.text_model."
    own = {key.removeprefix(start): value for key, value in base.items() if key.startswith(start)}
    getattr(text, "text_model", text).load_state_dict(own)
    text.save_pretrained(folder / "text_encoder")


def _save(model: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    model.load_state_dict(state)
    model.save_pretrained(folder)
