"""Images to latents and back: pixel blocks, or the autoencoder of Stable Diffusion.

Blocks need no weights and lose nothing but rounding: each `factor` x `factor` square of pixels
becomes one latent pixel of 3 * factor^2 channels, its colours `chroma` times as far from grey. The
autoencoder (AutoencoderKL) has four channels; a latent is the mean of its posterior, so encoding
draws nothing.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from stylize.config import VAE_LATENT_CHANNELS, StylizerConfig, StylizerError

PIXELS_AT_ONCE = 4 * 512 * 512  # through the autoencoder: about 6 GB of activations in float32


def check_images(images: torch.Tensor, config: StylizerConfig) -> None:
    """Raise StylizerError where images [..., 3, H, W] are not `config.image_size` square."""
    size = config.image_size
    if images.shape[-3:] != (3, size, size):
        raise StylizerError(
            f"image: shape {tuple(images.shape[-3:])}, this stylizer takes (3, {size}, {size})"
        )


def build_vae(config: StylizerConfig) -> AutoencoderKL | None:
    """The autoencoder in the layout of Stable Diffusion's; None where latents are pixel blocks."""
    if not config.vae_channels:
        return None
    levels = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_channels,
        layers_per_block=2,
        latent_channels=VAE_LATENT_CHANNELS,
        norm_num_groups=config.groups,
        sample_size=config.image_size,
        scaling_factor=config.latent_scale,
    )


def encode(
    images: torch.Tensor, config: StylizerConfig, vae: AutoencoderKL | None = None
) -> torch.Tensor:
    """[N, 3, H, W] in [-1, 1] -> [N, C, H/f, W/f] times the latent scale, in slices of a batch."""
    check_images(images, config)
    if vae is None:
        latents = F.pixel_unshuffle(_saturate(images, config.chroma), config.latent_factor)
    else:
        slices = images.to(vae.dtype).split(_images_at_once(config))
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in slices])
    return latents * config.latent_scale


def decode(
    latents: torch.Tensor, config: StylizerConfig, vae: AutoencoderKL | None = None
) -> torch.Tensor:
    """Inverse of `encode`: [N, C, h, w] -> [N, 3, h f, w f], not clamped."""
    latents = latents / config.latent_scale
    if vae is None:
        return _saturate(F.pixel_shuffle(latents, config.latent_factor), 1 / config.chroma)
    slices = latents.to(vae.dtype).split(_images_at_once(config))
    return torch.cat([vae.decode(part, return_dict=False)[0] for part in slices])


def _saturate(images: torch.Tensor, times: float) -> torch.Tensor:
    """Images [N, 3, H, W] with all colours `times` as far from the grey of the same mean."""
    if times == 1:
        return images
    return torch.lerp(images.mean(1, keepdim=True), images, times)


def _images_at_once(config: StylizerConfig) -> int:
    return max(1, PIXELS_AT_ONCE // config.image_size**2)
