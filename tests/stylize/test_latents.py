import pytest
import torch

from stylize.config import StylizerError, demo
from stylize.latents import decode, encode


def test_decode_inverts_encode_exactly():
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    latents = encode(images, demo())
    assert latents.shape == (3, 192, 8, 8)
    assert torch.equal(decode(latents, demo()), images)


def test_a_latent_pixel_is_one_block():
    images = torch.zeros(1, 3, 64, 64)
    images[..., 8:16, 16:24] = 1
    latents = encode(images, demo())
    assert (latents[0, :, 1, 2] == 0.25).all()
    assert latents.sum() == 192 * 0.25


def test_other_sizes_are_refused():
    with pytest.raises(StylizerError, match="64"):
        encode(torch.zeros(1, 3, 32, 32), demo())
