import dataclasses

import pytest
import torch

from stylize.codec import build_vae, decode, encode
from stylize.config import StylizerError, demo

BLOCKS = dataclasses.replace(demo(), chroma=1.0, latent_scale=0.25)


def test_decode_inverts_encode_exactly():
    images = torch.rand(3, 3, 128, 128) * 2 - 1
    latents = encode(images, BLOCKS)
    assert latents.shape == (3, 48, 32, 32)
    assert torch.equal(decode(latents, BLOCKS), images)


def test_stronger_colours_are_undone_and_greys_are_as_they_were():
    images = torch.rand(3, 3, 128, 128) * 2 - 1
    saturated = dataclasses.replace(BLOCKS, chroma=3.0)
    torch.testing.assert_close(decode(encode(images, saturated), saturated), images)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(encode(grey, saturated), encode(grey, BLOCKS))
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    r, g, b = (4 * encode(red, saturated))[0].unflatten(0, (3, 16)).flatten(1).unbind()
    torch.testing.assert_close(r, torch.full_like(r, 1 / 3 + 2))  # the mean, and thrice 2/3
    torch.testing.assert_close(g, torch.full_like(g, 1 / 3 - 1))
    torch.testing.assert_close(b, g)


def test_a_latent_pixel_is_one_block():
    images = torch.zeros(1, 3, 128, 128)
    images[..., 8:12, 16:20] = 1
    latents = encode(images, BLOCKS)
    assert (latents[0, :, 2, 4] == 0.25).all()
    assert latents.sum() == 48 * 0.25


def test_other_sizes_are_refused():
    with pytest.raises(StylizerError, match="128"):
        encode(torch.zeros(1, 3, 32, 32), demo())


def test_the_autoencoder_encodes_means_in_slices(monkeypatch):
    small = {"image_size": 64, "vae_channels": (8, 8, 8)}
    config = dataclasses.replace(demo(), **small, latent_scale=0.5, chroma=1.0)
    torch.manual_seed(0)
    vae = build_vae(config).eval()
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = encode(images, config, vae)
        mean = vae.quant_conv(vae.encoder(images))[:, :4]
        torch.testing.assert_close(latents, mean * 0.5)
        monkeypatch.setattr("stylize.codec.PIXELS_AT_ONCE", 1)
        torch.testing.assert_close(encode(images, config, vae), latents)
        decoded = decode(latents, config, vae)
        torch.testing.assert_close(decoded, vae.decode(mean).sample)
    assert latents.shape == (3, 4, 16, 16)
    assert decoded.shape == images.shape
