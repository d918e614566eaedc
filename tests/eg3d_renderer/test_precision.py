"""Whole views through the kernels: exact is the reference to rounding, fast is near it."""

import shutil

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.views import march_camera
from tests.eg3d_renderer import oracle

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


def views(name: str, impl: str, precision: str = "exact", isa: str = "") -> dict:
    """Four views of an identity, of 24 rays a side where the super-resolution enlarges them."""
    spec = oracle.facts(name)
    generator = oracle.build(spec)
    generator.set_precision(precision)
    cam = er.cameras.orbit(4, elevation=10, **generator.camera)
    with torch.no_grad(), native.chosen(impl, isa):
        ws = generator.mapping(er.latents([1], 512), truncation_psi=0.7)
        return generator.synthesis(ws, cam, 24)


@pytest.mark.parametrize("name", oracle.MODELS)
def test_exact_is_the_reference_to_rounding(name: str) -> None:
    expected = views(name, "reference")
    made = views(name, "native")
    for key, tolerance in (("image", 1e-4), ("image_raw", 1e-4), ("image_mask", 1e-4)):
        extent = float(expected[key].max() - expected[key].min())
        torch.testing.assert_close(made[key], expected[key], rtol=0, atol=tolerance * extent)
    full = expected["image_mask"] > 1e-2  # depth is a quotient by the opacity
    depths = (of["image_depth"][full] for of in (made, expected))
    torch.testing.assert_close(*depths, rtol=0, atol=3e-4)


@pytest.mark.parametrize("name", oracle.MODELS)
def test_fast_is_within_45_db_of_exact(name: str) -> None:
    exact, fast = views(name, "native"), views(name, "native", "fast")
    for key in ("image", "image_raw"):
        extent = exact[key].max() - exact[key].min()
        error = (fast[key] - exact[key]).square().mean()
        assert 10 * torch.log10(extent**2 / error) > 45, key
    torch.testing.assert_close(fast["image_mask"], exact["image_mask"], rtol=0, atol=0.01)


def test_bits_do_not_depend_on_threads() -> None:
    generator = oracle.build(oracle.facts("panohead_tiny"))
    label = er.cameras.orbit(1, elevation=10, **generator.camera)
    with torch.no_grad(), native.chosen("native"):
        ws = generator.mapping(er.latents([1], 512), truncation_psi=0.7)
        identity = generator.prepare(generator.planes(ws), ws, 24)
        features = torch.randn(1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
        made = []
        for threads in (1, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                seen = march_camera(generator, identity, label, 24)
                layer = generator.superresolution.block1.conv1
                made.append([*seen, layer(features, identity.weights[1][1], "none")])
            finally:
                torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*made, strict=True))


def test_native_says_why_it_cannot_be() -> None:
    spec = oracle.facts("eg3d_tiny_2x")
    generator = oracle.build(spec).requires_grad_(True)
    with native.chosen("native"), pytest.raises(RendererError, match="has no gradient"):
        generator.synthesis(generator.mapping(er.latents([1], 512)), er.cameras.orbit(1), 8)
