"""DiffStyle360: DiffPortrait360's networks with a style encoder and Style Fusion Attention.

    content front, back -> reference net --banks--+
    style image ---------> style encoder --banks--+-> denoiser (UNet + motion modules) -> prediction
    hint views ----------> camera net -----residuals--+

All parts are diffusers models at the configured size. Clips are [B, V, ...]: B identities, V views.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from stylize import codec
from stylize.attention import Banks, References
from stylize.config import StylizerConfig, StylizerError
from stylize.networks import (
    add_lora,
    build_back_denoiser,
    build_camera_net,
    build_denoiser,
    build_reference_net,
    build_unet,
    is_update,
    quiet_diffusers,
    share_weights,
)
from stylize.storage import load_state, replaced_folder

TRAIN = ("all", "style")
FROZEN = ("vae.", "back_")  # in every kind of training


class DiffStyle360(nn.Module):
    """The whole stylizer, its weights drawn from `seed`; `from_pretrained` loads trained ones.

    The prompt is always empty: one constant embedding. All networks start as one UNet, the style
    projections as the denoiser's.
    """

    prompt: torch.Tensor  # [1, tokens, D]

    def __init__(self, config: StylizerConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]), quiet_diffusers():
            torch.manual_seed(seed)
            unet = build_unet(config)
            self.camera_net = build_camera_net(unet, config)
            self.denoiser = build_denoiser(unet, config)
            self.reference_net = build_reference_net(unet, config)
            self.style_encoder = build_reference_net(unet, config)
            self.vae = codec.build_vae(config)
            if config.back_view:
                self.back_denoiser = build_back_denoiser(config)
                self.back_reference_net = build_reference_net(unet, config)
                self.back_camera_net = build_camera_net(unet, config)
            if config.style_encoder == "lora":
                add_lora(self.style_encoder, config.lora_rank)
        tokens = torch.zeros(1, config.prompt_tokens, config.cross_attention_dim)
        self.register_buffer("prompt", tokens)
        if config.style_encoder == "lora":
            share_weights(self.style_encoder, self.reference_net)

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's own weights, and so of what the networks compute in."""
        return self.denoiser.conv_in.weight.dtype

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, H, W] in [-1, 1] to latents [N, C, h, w]."""
        return codec.encode(images, self.config, self.vae)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [N, C, h, w] to images [N, 3, H, W], not clamped."""
        return codec.decode(latents, self.config, self.vae)

    def content_banks(
        self, front: torch.Tensor, back: torch.Tensor | None, t: torch.Tensor
    ) -> Banks:
        """Reference states of the content at timestep t [B]: front tokens, then back tokens.

        front, back: latents [B, C, h, w]; one net reads both (dual appearance).
        """
        t = self.reference_time(t)
        if back is None:
            return self.read(self.reference_net, front, t)
        both = self.read(self.reference_net, torch.cat([front, back]), torch.cat([t, t]))
        return {site: torch.cat(states.chunk(2), dim=1) for site, states in both.items()}

    def style_banks(self, style: torch.Tensor, t: torch.Tensor) -> Banks:
        """Style states of the reference image's latents [B, C, h, w] at timestep t [B]."""
        return self.read(self.style_encoder, style, self.reference_time(t))

    def read(self, net: UNet2DConditionModel, latents: torch.Tensor, t: torch.Tensor) -> Banks:
        """The states that a reference net hands over for clean latents [B, C, h, w] at t [B]."""
        banks: Banks = {}
        net(
            latents.to(self.dtype),
            t,
            encoder_hidden_states=self.prompt,
            cross_attention_kwargs={"banks": banks},
        )
        return banks

    def reference_time(self, t: torch.Tensor) -> torch.Tensor:
        """The timestep at which references are read while t is denoised."""
        return t if self.config.reference_timestep == "same" else torch.zeros_like(t)

    def camera_residuals(
        self, noisy: torch.Tensor, t: torch.Tensor, hint: torch.Tensor
    ) -> list[torch.Tensor]:
        """What the camera net adds to the denoiser's skips, the middle's last: [N, c, h, w] each.

        noisy [N, C, h, w], t [N], hint [N, 3, H, W] or as embedded by `embed_hint`.
        """
        down, middle = self.camera_net(
            noisy.to(self.dtype),
            t,
            encoder_hidden_states=self.prompt,
            controlnet_cond=hint.to(self.dtype),
            return_dict=False,
        )
        return [*down, middle]

    def embed_hint(self, hint: torch.Tensor) -> torch.Tensor:
        """The part of the camera net that no timestep changes: [N, 3, H, W] -> [N, c, h, w]."""
        return self.camera_net.controlnet_cond_embedding(hint.to(self.dtype))

    def predict(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        references: References | Sequence[References],
        residuals: list[torch.Tensor] | None,
        base: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The prediction [B, V, C, h, w] for noisy latents [B, V, C, h, w] at timesteps t [B].

        With K references the batch is K equal parts, each with its own. residuals: as
        `camera_residuals` gives them, for B * V views; None: the camera net takes no part. base:
        the hint's latents [B, V, C, h, w], where the config says `hint_residual`. Raises
        StylizerError where V exceeds the window.
        """
        views = noisy.shape[1]
        if views > self.config.window:
            raise StylizerError(f"{views} views in one pass: the window is {self.config.window}")
        if base is not None:
            noisy = torch.cat([noisy, base / self.config.latent_scale], dim=2)
        down, middle = (residuals[:-1], residuals[-1]) if residuals else (None, None)
        prediction = self.denoiser(
            noisy.to(self.dtype).transpose(1, 2),  # [B, C, V, h, w]
            t,
            encoder_hidden_states=self.prompt,
            cross_attention_kwargs={
                "references": [references] if isinstance(references, References) else references
            },
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].transpose(1, 2)
        if base is not None:
            prediction = base + self.config.latent_scale * prediction
        return prediction

    def denoise(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        hint: torch.Tensor,
        references: References,
        *,
        camera: bool = True,
    ) -> torch.Tensor:
        """`predict` with everything the hint [B, V, 3, H, W] in [-1, 1] gives computed on the way.

        The unconditional pass has no references and, by `camera` False, no residuals.
        """
        views = noisy.shape[1]
        residuals = base = None
        if camera:
            times = t.repeat_interleave(views)
            residuals = self.camera_residuals(noisy.flatten(0, 1), times, hint.flatten(0, 1))
        if self.config.hint_residual:
            base = self.encode(hint.flatten(0, 1)).view_as(noisy)
        return self.predict(noisy, t, references, residuals, base)

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
        """`denoise` with the banks of latents computed on the way; None takes no part."""
        content = {} if front is None else self.content_banks(front, back, t)
        styled = {} if style is None else self.style_banks(style, t)
        return self.denoise(noisy, t, hint, References(content, styled), camera=camera)

    def trainable_parameters(self, train: str = "all") -> dict[str, nn.Parameter]:
        """Parameters to train by name: "all" (but the autoencoder and the back-view generator), or
        "style" (style encoder, appearance, projections and gates, for a base that is trained).

        Of an encoder with low-rank updates, these alone. Raises StylizerError for anything else.
        """
        if train not in TRAIN:
            raise StylizerError(f"train: {train!r} is not one of {TRAIN}")
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith(FROZEN)
            and (train == "all" or name.startswith("style_encoder.") or ".attn1.processor." in name)
        }

    def own_state(self) -> dict[str, torch.Tensor]:
        """The state dict without what the style encoder shares with the reference net."""
        state = self.state_dict()
        if self.config.style_encoder == "copy":
            return state
        return {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith("style_encoder.") or is_update(name)
        }

    def load_own_state(self, state: dict[str, torch.Tensor], *, assign: bool = False) -> None:
        """Load what `own_state` gave; `assign` takes the tensors themselves, without a copy."""
        self.load_state_dict(state, strict=False, assign=assign)
        if self.config.style_encoder == "lora":
            share_weights(self.style_encoder, self.reference_net)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; the folder appears or is replaced whole."""
        with replaced_folder(Path(folder)) as partial:
            (partial / "config.json").write_text(self.config.to_json())
            save_file(self.own_state(), partial / "model.safetensors")

    @classmethod
    def empty(cls, config: StylizerConfig) -> "DiffStyle360":
        """The stylizer on the meta device, without memory: for `load_own_state(assign=True)`."""
        with torch.device("meta"):
            return cls(config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype | None = None
    ) -> "DiffStyle360":
        """Read what `save_pretrained` wrote, as it was stored or in another dtype.

        Raises StylizerError where anything is off.
        """
        folder = Path(folder)
        try:
            config = StylizerConfig.from_json((folder / "config.json").read_text())
        except OSError as error:
            raise StylizerError(f"{folder / 'config.json'}: {error.strerror}") from None
        model = cls.empty(config)
        state = load_state(folder / "model.safetensors", model.own_state())
        model.load_own_state(state, assign=True)
        return model if dtype is None else model.to(dtype)
