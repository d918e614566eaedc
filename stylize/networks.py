"""The parts of DiffStyle360 as diffusers models at the configured size, each with its attention.

All begin as one UNet, so that what is not trained yet sees an image as the others do.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.utils import logging
from torch import nn

from stylize.attention import (
    BankWriter,
    PromptAttention,
    ReferenceAttention,
    StyleFusionAttention,
)
from stylize.config import StylizerConfig

SHARPNESS = 2.0  # of attention by likeness: random keys and queries alone tell nothing apart
NOISE_SHARE = 0.1  # of the noisy latents beside the hint's, in the first convolution's weights
LORA_TARGETS = r".*\.attn1\.(to_q|to_k|to_v|to_out\.0)"


class PerFrameGroupNorm(nn.GroupNorm):
    """GroupNorm over [B, C, V, h, w] with each view's own statistics, as DiffPortrait360 has it
    (diffusers' motion modules pool them over the clip). Same weights, same names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clips, _, views = x.shape[:3]
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (clips, views)).transpose(1, 2)


class HintEmbedding(ControlNetConditioningEmbedding):
    """The camera net's first layers [N, 3, H, W] -> [N, C, h, w]; what is embedded passes through,
    so that a hint is embedded once for all timesteps."""

    def forward(self, conditioning: torch.Tensor) -> torch.Tensor:
        if conditioning.shape[1] == self.conv_out.out_channels:
            return conditioning
        return super().forward(conditioning)


class Still(nn.Module):
    """In place of the motion modules of a level without temporal layers."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return x


def build_unet(config: StylizerConfig) -> UNet2DConditionModel:
    """Stable Diffusion's UNet: what all other networks are made from."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)]
    return UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        attention_head_dim=config.heads,  # the number of heads, by diffusers' old name
        norm_num_groups=config.groups,
        cross_attention_dim=config.cross_attention_dim,
    )


def build_denoiser(unet: UNet2DConditionModel, config: StylizerConfig) -> UNetMotionModel:
    """The UNet with motion modules (AnimateDiff, starting as the identity) and Style Fusion
    Attention.

    Where the config says `hint_residual`, the hint's latents come in beside the noisy ones, as
    further channels, and nothing is added to the hint to begin with.
    """
    adapter = MotionAdapter(
        block_out_channels=config.channels,
        motion_layers_per_block=config.layers,
        motion_transformer_layers_per_block=config.motion,
        motion_num_attention_heads=config.heads,
        motion_norm_num_groups=config.groups,
        motion_max_seq_length=config.positions or config.window,
        use_motion_mid_block=False,
    )
    denoiser = UNetMotionModel.from_unet2d(unet, adapter)
    levels = [*denoiser.down_blocks, *reversed(denoiser.up_blocks)]
    for level, layers in zip(levels, config.motion * 2, strict=True):
        if layers == 0:
            level.motion_modules = nn.ModuleList(Still() for _ in level.motion_modules)
    for name, module in denoiser.named_modules():
        if ".motion_modules." in name and isinstance(module, nn.GroupNorm):
            module.__class__ = PerFrameGroupNorm
        if ".motion_modules." in name and name.endswith(".proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for name, attn in attentions(denoiser).items():
        if ".motion_modules." in name:
            attn.set_processor(AttnProcessor2_0())
        elif name.endswith(".attn1"):
            attend_by_likeness(attn)
            attn.set_processor(StyleFusionAttention(name, attn))
        else:
            attn.set_processor(PromptAttention())
    if config.hint_residual:
        denoiser.conv_in = see_hint(unet.conv_in)
        nn.init.zeros_(denoiser.conv_out.weight)
        nn.init.zeros_(denoiser.conv_out.bias)
    return denoiser


def attend_by_likeness(attn: Attention) -> None:
    """Make random weights attend to what is like the query: keys are queries, far enough apart.

    Colours are carried from what is alike after hundreds of steps of training then, where random
    keys take thousands. Weights that are loaded take the place of these.
    """
    with torch.no_grad():
        attn.to_q.weight *= SHARPNESS
        attn.to_k.weight.copy_(attn.to_q.weight)


def see_hint(conv_in: nn.Conv2d) -> nn.Conv2d:
    """A first convolution for noisy latents and the hint's, one after another: it sees the hint as
    `conv_in` sees latents, and the noise faintly."""
    wide = copy.deepcopy(conv_in)
    wide.in_channels = 2 * conv_in.in_channels
    seen = torch.cat([NOISE_SHARE * conv_in.weight, conv_in.weight], dim=1)
    wide.weight = nn.Parameter(seen.detach())
    return wide


def build_reference_net(unet: UNet2DConditionModel, config: StylizerConfig) -> UNet2DConditionModel:
    """A copy of the UNet that is only read from: it has no output head.

    Of pixel blocks it sees no noise, but latents fainter than that: its first weights begin as much
    stronger, or the hues of what it reads would drown.
    """
    net = copy.deepcopy(unet)
    if not config.vae_channels:
        with torch.no_grad():
            net.conv_in.weight /= config.latent_scale
    net.conv_norm_out = None
    net.conv_out = nn.Identity()
    for name, attn in attentions(net).items():
        attn.set_processor(BankWriter(name) if name.endswith(".attn1") else PromptAttention())
    return net


def build_camera_net(unet: UNet2DConditionModel, config: StylizerConfig) -> ControlNetModel:
    """A ControlNet started as the UNet's encoder."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=config.hint_channels)
    if config.hint_residual:
        with torch.no_grad():
            net.conv_in.weight *= NOISE_SHARE
    net.controlnet_cond_embedding.__class__ = HintEmbedding
    for name, attn in attentions(net).items():
        attn.set_processor(AttnProcessor2_0() if name.endswith(".attn1") else PromptAttention())
    return net


def build_back_denoiser(config: StylizerConfig) -> UNet2DConditionModel:
    """The back-view generator's UNet: one image, no motion, no style."""
    net = build_unet(config)
    for name, attn in attentions(net).items():
        processor = ReferenceAttention(name) if name.endswith(".attn1") else PromptAttention()
        attn.set_processor(processor)
    return net


def add_lora(encoder: UNet2DConditionModel, rank: int) -> None:
    """Low-rank updates on the encoder's self-attentions (Hu et al. 2021), zero at the start.

    The last has none: states are read before an attention, and nothing is read after this one.
    """
    from peft import LoraConfig  # takes seconds to import

    sites = [name for name in attentions(encoder) if name.endswith(".attn1")]
    last = [name for name in sites if name.startswith("up_blocks.")][-1]
    encoder.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=LORA_TARGETS,
            exclude_modules=rf"{last}\..*",
        )
    )


def share_weights(encoder: nn.Module, base: nn.Module) -> None:
    """Make `encoder`, a net with low-rank updates, use the very parameters of `base`."""
    for name, module in encoder.named_modules():
        if not is_update(name):
            source = base.get_submodule(name.replace(".base_layer", ""))
            for key in module._parameters:
                module._parameters[key] = source._parameters[key]


def is_update(name: str) -> bool:
    """Is this the name of a low-rank update?"""
    return ".lora_" in name


def attentions(net: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Attention)}


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without the warning on data types that converting a UNet to a motion UNet always prints."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
