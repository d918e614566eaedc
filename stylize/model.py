"""DiffStyle360: DiffPortrait360's networks with a style encoder and Style Fusion Attention.

    content front, back -> reference net --banks--+
    style image ---------> style encoder --banks--+-> denoiser (UNet + motion modules) -> prediction
    hint views ----------> camera net -----residuals--+

All parts are diffusers models at the configured size. Clips are [B, V, ...]: B identities, V views.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.utils import logging
from safetensors.torch import save_file
from torch import nn

from stylize.attention import (
    Banks,
    BankWriter,
    PromptAttention,
    References,
    StyleFusionAttention,
)
from stylize.config import StylizerConfig, StylizerError
from stylize.latents import encode
from stylize.storage import load_state, replaced_folder

TRAIN = ("all", "style")


class DiffStyle360(nn.Module):
    """The whole stylizer, its weights drawn from `seed`; `from_pretrained` loads trained ones.

    The prompt is always empty: one constant zero token. The style encoder starts as a copy of the
    reference net, the style projections as copies of the denoiser's.
    """

    def __init__(self, config: StylizerConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(), _quiet_diffusers():
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(**_unet_arguments(config))
            self.camera_net = ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=config.hint_channels
            )
            self.denoiser = _build_denoiser(unet, config)
            self.reference_net = _build_reference_net(config)
            self.style_encoder = _build_reference_net(config)
        self.style_encoder.load_state_dict(self.reference_net.state_dict())

    def content_banks(
        self, front: torch.Tensor, back: torch.Tensor | None, t: torch.Tensor
    ) -> Banks:
        """Reference states of the content at timestep t [B]: front tokens, then back tokens.

        front, back [B, 3, H, W] in [-1, 1]; one net reads both (dual appearance).
        """
        if back is None:
            return self._read(self.reference_net, front, t)
        both = self._read(self.reference_net, torch.cat([front, back]), torch.cat([t, t]))
        return {site: torch.cat(states.chunk(2), dim=1) for site, states in both.items()}

    def style_banks(self, style: torch.Tensor, t: torch.Tensor) -> Banks:
        """Style states of the reference image [B, 3, H, W] in [-1, 1] at timestep t [B]."""
        return self._read(self.style_encoder, style, t)

    def denoise(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        hint: torch.Tensor,
        references: References,
        *,
        camera: bool = True,
    ) -> torch.Tensor:
        """The prediction [B, V, C, h, w] for noisy latents [B, V, C, h, w] at timesteps t [B].

        hint [B, V, 3, H, W] in [-1, 1]. The unconditional pass has no references and, by
        `camera` False, no residuals of the camera net. Raises StylizerError where V exceeds the
        window.
        """
        clips, views = noisy.shape[:2]
        if views > self.config.window:
            raise StylizerError(f"{views} views in one pass: the window is {self.config.window}")
        prompt = noisy.new_zeros(clips * views, 1, self.config.cross_attention_dim)
        down = middle = None
        if camera:
            down, middle = self.camera_net(
                noisy.flatten(0, 1),
                t.repeat_interleave(views),
                encoder_hidden_states=prompt,
                controlnet_cond=hint.flatten(0, 1),
                return_dict=False,
            )
        prediction = self.denoiser(
            noisy.transpose(1, 2),  # [B, C, V, h, w]
            t,
            encoder_hidden_states=prompt,
            cross_attention_kwargs={"references": references},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].transpose(1, 2)
        if self.config.hint_residual:
            base = encode(hint.flatten(0, 1), self.config).view_as(noisy)
            prediction = base + self.config.latent_scale * prediction
        return prediction

    def forward(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        hint: torch.Tensor,
        front: torch.Tensor | None,
        back: torch.Tensor | None,
        style: torch.Tensor | None,
        *,
        camera: bool = True,
    ) -> torch.Tensor:
        """`denoise` with the banks computed on the way; an image given as None takes no part."""
        content = {} if front is None else self.content_banks(front, back, t)
        styled = {} if style is None else self.style_banks(style, t)
        return self.denoise(noisy, t, hint, References(content, styled), camera=camera)

    def trainable_parameters(self, train: str = "all") -> dict[str, nn.Parameter]:
        """Parameters to train by name: "all", or "style" (style encoder, appearance, projections
        and gates, for a base that is already trained). Raises StylizerError for anything else."""
        if train not in TRAIN:
            raise StylizerError(f"train: {train!r} is not one of {TRAIN}")
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if train == "all" or name.startswith("style_encoder.") or ".attn1.processor." in name
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; the folder appears or is replaced whole."""
        with replaced_folder(Path(folder)) as partial:
            (partial / "config.json").write_text(self.config.to_json())
            save_file(self.state_dict(), partial / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "DiffStyle360":
        """Read what `save_pretrained` wrote. Raises StylizerError where anything is off."""
        folder = Path(folder)
        try:
            config = StylizerConfig.from_json((folder / "config.json").read_text())
        except OSError as error:
            raise StylizerError(f"{folder / 'config.json'}: {error.strerror}") from None
        model = cls(config)
        model.load_state_dict(load_state(folder / "model.safetensors", model.state_dict()))
        return model

    def _read(self, net: UNet2DConditionModel, images: torch.Tensor, t: torch.Tensor) -> Banks:
        banks: Banks = {}
        prompt = images.new_zeros(len(images), 1, self.config.cross_attention_dim)
        latents = encode(images, self.config)
        net(latents, t, encoder_hidden_states=prompt, cross_attention_kwargs={"banks": banks})
        return banks


class PerFrameGroupNorm(nn.GroupNorm):
    """GroupNorm over [B, C, V, h, w] with each view's own statistics, as DiffPortrait360 has it
    (diffusers' motion modules pool them over the clip). Same weights, same names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clips, _, views = x.shape[:3]
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (clips, views)).transpose(1, 2)


def _unet_arguments(config: StylizerConfig) -> dict[str, Any]:
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)]
    return {
        "sample_size": config.latent_size,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": config.channels,
        "layers_per_block": config.layers,
        "attention_head_dim": config.heads,  # the number of heads, by diffusers' old name
        "norm_num_groups": config.groups,
        "cross_attention_dim": config.cross_attention_dim,
    }


def _build_denoiser(unet: UNet2DConditionModel, config: StylizerConfig) -> UNetMotionModel:
    adapter = MotionAdapter(
        block_out_channels=config.channels,
        motion_layers_per_block=config.layers,
        motion_transformer_layers_per_block=config.motion,
        motion_num_attention_heads=config.heads,
        motion_norm_num_groups=config.groups,
        motion_max_seq_length=config.window,
        use_motion_mid_block=False,
    )
    denoiser = UNetMotionModel.from_unet2d(unet, adapter)
    for name, module in denoiser.named_modules():
        if ".motion_modules." in name and isinstance(module, nn.GroupNorm):
            module.__class__ = PerFrameGroupNorm
        if ".motion_modules." in name and name.endswith(".proj_out"):
            nn.init.zeros_(module.weight)  # AnimateDiff: motion starts as the identity
            nn.init.zeros_(module.bias)
    for name, attn in _attentions(denoiser).items():
        spatial = ".motion_modules." not in name
        if spatial and name.endswith(".attn1"):
            attn.set_processor(StyleFusionAttention(name, attn))
        elif spatial:
            attn.set_processor(PromptAttention())
        else:
            attn.set_processor(AttnProcessor2_0())
    if config.hint_residual:
        nn.init.zeros_(denoiser.conv_out.weight)
        nn.init.zeros_(denoiser.conv_out.bias)
    return denoiser


def _build_reference_net(config: StylizerConfig) -> UNet2DConditionModel:
    """A UNet that is only read from: it has no output head."""
    net = UNet2DConditionModel(**_unet_arguments(config))
    net.conv_norm_out = None
    net.conv_out = nn.Identity()
    for name, attn in _attentions(net).items():
        attn.set_processor(BankWriter(name) if name.endswith(".attn1") else PromptAttention())
    return net


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Without the warning on data types that converting an unet to a motion unet always prints."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _attentions(net: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Attention)}
