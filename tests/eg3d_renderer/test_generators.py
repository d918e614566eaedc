from pathlib import Path

import numpy as np
import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.demo.styles import STYLES

ORACLE = np.load(Path(__file__).parents[1] / "data" / "cameras.npz")


def test_latents_are_upstreams() -> None:
    z = er.latents(range(4), 512)
    assert z.shape == (4, 512)
    assert z.dtype == torch.float32
    np.testing.assert_array_equal(z[:, :8].numpy(), ORACLE["z_first8_seeds0to3"].astype(np.float32))


def test_latent_of_a_seed_does_not_depend_on_its_company() -> None:
    assert torch.equal(er.latents([7, 3, 5], 48)[1], er.latents([3], 48)[0])


def test_latents_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    first = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    er.latents([1], 48)
    assert np.random.rand() == first  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_loads_as_a_generator(style: str) -> None:
    generator = er.load_generator(f"procedural:{style}")
    assert isinstance(generator, er.Generator)
    assert generator.style == style
    assert generator.instance == slice(40, 48)


def test_plain_name_is_natural() -> None:
    plain, natural = er.load_generator("procedural"), er.load_generator("procedural:natural")
    assert plain.style == "natural"
    assert plain.digest == natural.digest


def test_digests_tell_styles_apart() -> None:
    digests = {er.load_generator(f"procedural:{style}").digest for style in STYLES}
    assert len(digests) == len(STYLES)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


def test_misspelt_style_names_the_nearest() -> None:
    with pytest.raises(er.RendererError, match="did you mean 'procedural:zombie'") as raised:
        er.load_generator("procedural:zombi")
    assert "\n" not in str(raised.value)
    assert all(style in str(raised.value) for style in STYLES)


@pytest.mark.parametrize("source", ["network.pkl", "", "Procedural"])
def test_unknown_source_names_what_can_be_loaded(source: str) -> None:
    with pytest.raises(er.RendererError, match="'procedural' or 'procedural:STYLE'"):
        er.load_generator(source)
