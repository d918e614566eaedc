"""Images to latents and back.

Latents are blocks of pixels: each `factor` x `factor` square becomes one latent pixel of
3 * factor^2 channels. That codec needs no weights and loses nothing. A learned codec (the
AutoencoderKL of Stable Diffusion, four channels) takes its place behind these two functions.
"""

import torch
import torch.nn.functional as F

from stylize.config import StylizerConfig, StylizerError


def check_images(images: torch.Tensor, config: StylizerConfig) -> None:
    """Raise StylizerError where images [..., 3, H, W] are not `config.image_size` square."""
    size = config.image_size
    if images.shape[-3:] != (3, size, size):
        raise StylizerError(
            f"image: shape {tuple(images.shape[-3:])}, this stylizer takes (3, {size}, {size})"
        )


def encode(images: torch.Tensor, config: StylizerConfig) -> torch.Tensor:
    """[N, 3, H, W] in [-1, 1] -> [N, 3 f^2, H/f, W/f] times the latent scale."""
    check_images(images, config)
    return F.pixel_unshuffle(images, config.latent_factor) * config.latent_scale


def decode(latents: torch.Tensor, config: StylizerConfig) -> torch.Tensor:
    """Inverse of `encode`: [N, 3 f^2, h, w] -> [N, 3, h f, w f], not clamped."""
    return F.pixel_shuffle(latents / config.latent_scale, config.latent_factor)
