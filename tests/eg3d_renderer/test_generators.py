from pathlib import Path

import numpy as np
import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.checkpoints import read_official, save_checkpoint
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.demo.weights import style_names
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.checkpoints.official_writer import write_generator
from tests.shipped import needs_demo_weights

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


@needs_demo_weights
@pytest.mark.parametrize("style", STYLES)
def test_every_trained_style_loads_as_a_generator(style: str) -> None:
    generator = er.load_generator(f"demo:{style}")
    heads = er.load_generator(f"procedural:{style}")
    assert isinstance(generator, er.Generator)
    assert generator.style == style
    assert generator.family == "panohead"
    for name in ("z_dim", "instance", "truncation_psi", "img_resolution", "camera"):
        assert getattr(generator, name) == getattr(heads, name), name
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@needs_demo_weights
def test_trained_digests_tell_styles_apart() -> None:
    digests = {style: er.load_generator(f"demo:{style}").digest for style in style_names()}
    assert len(set(digests.values())) == len(digests)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests.values())
    assert er.load_generator("demo").digest == digests["natural"]


@needs_demo_weights
def test_misspelt_trained_style_names_the_nearest() -> None:
    with pytest.raises(er.RendererError, match="did you mean 'demo:natural'") as raised:
        er.load_generator("demo:naturl")
    assert "\n" not in str(raised.value)


@needs_demo_weights
def test_trained_heads_may_be_fast() -> None:
    views = []
    for precision in ("exact", "fast"):
        generator = er.load_generator("demo", precision=precision)
        assert generator.precision == precision
        ws = generator.mapping(er.latents([1], 48), truncation_psi=generator.truncation_psi)
        views.append(generator.synthesis(ws, er.cameras.orbit(2), 48)["image"])
    assert (views[0] - views[1]).square().mean() < 4 * 10**-4.5


@pytest.mark.parametrize("source", ["network", "Procedural", "/nowhere/model"])
def test_unknown_source_names_what_can_be_loaded(source: str) -> None:
    with pytest.raises(er.RendererError, match=r"'procedural' or 'procedural:STYLE'.*'demo'"):
        er.load_generator(source)


@pytest.mark.parametrize("name", ["eg3d_tiny_2x", "panohead_tiny", "spherehead_tiny"])
def test_official_file_and_its_conversion_render_the_same(name: str, tmp_path: Path) -> None:
    spec = oracle.facts(name)
    built = oracle.build(spec)
    write_generator(tmp_path / "model.pkl", spec, oracle.state_of(spec))
    official = er.load_generator(tmp_path / "model.pkl")
    save_checkpoint(read_official(tmp_path / "model.pkl"), tmp_path / "converted")
    converted = er.load_generator(tmp_path / "converted")
    by_file = er.load_generator(tmp_path / "converted" / "model.safetensors")
    assert official.family == spec["family"]
    assert official.neural_rendering_resolution == 32
    assert len({official.digest, converted.digest, by_file.digest}) == 1
    z = er.latents([17], 512)
    expected = built.synthesis(built.mapping(z), er.cameras.orbit(1), 16)
    for generator in (official, converted, by_file):
        assert isinstance(generator, er.Generator)
        assert not any(p.requires_grad for p in generator.parameters())
        views = generator.synthesis(generator.mapping(z), er.cameras.orbit(1), 16)
        assert all(torch.equal(views[key], expected[key]) for key in expected)


def test_axes_of_the_file_are_used(tmp_path: Path) -> None:
    spec = oracle.facts("eg3d_tiny_2x")
    axes = [[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3
    write_generator(tmp_path / "model.pkl", spec, oracle.state_of(spec), plane_axes=axes)
    assert er.load_generator(tmp_path / "model.pkl").axes == axes


def test_checkpoint_without_a_tensor_names_it(tmp_path: Path) -> None:
    spec = oracle.facts("panohead_tiny")
    state = oracle.state_of(spec)
    del state["torgb.weight"]
    write_generator(tmp_path / "model.pkl", spec, state)
    with pytest.raises(er.RendererError, match=r'panohead checkpoint: .*"torgb.weight"') as raised:
        er.load_generator(tmp_path / "model.pkl")
    assert "\n" not in str(raised.value)


def test_half_precision_weights_are_rendered_in_single(tmp_path: Path) -> None:
    spec = oracle.facts("panohead_tiny")
    state = {name: tensor.half() for name, tensor in oracle.state_of(spec).items()}
    write_generator(tmp_path / "model.pkl", spec, state)
    generator = er.load_generator(tmp_path / "model.pkl")
    assert {p.dtype for p in generator.parameters()} == {torch.float32}


KWARGS = oracle.facts("eg3d_tiny_2x")["init_kwargs"]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("eg3dd", {}, "family 'eg3dd': not one of eg3d, panohead, spherehead"),
        ("eg3d", {"chanel_max": 8}, "init_kwargs: 'chanel_max' is not known; did you mean"),
        ("eg3d", {"img_channels": 4}, "img_channels: 4; only 3"),
        ("eg3d", {"img_resolution": 512}, "img_resolution: 512, but SuperresolutionHybrid2X"),
        ("eg3d", {"mapping_kwargs": {"layers": 3}}, "mapping_kwargs: 'layers' is not known"),
        ("eg3d", {"plane_axes": [[[1, 0, 0]] * 3] * 3}, "plane_axes: .* signed coordinate axes"),
        ("eg3d", {"rendering_kwargs": {}}, "rendering_kwargs: 'ray_start' is missing"),
    ],
)
def test_impossible_settings_are_named(family: str, changes: dict, message: str) -> None:
    with pytest.raises(er.RendererError, match=message):
        er.build_generator(family, **{**KWARGS, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_start": 3.0, "ray_end": 2.0}, "ray_start: 3.0 to ray_end 2.0 is no range"),
        ({"ray_start": "auto"}, "ray_start: 'auto' to ray_end 3.3 is no range"),
        ({"depth_resolution": 2}, "depth_resolution: 2 and 12 samples"),
        ({"clamp_mode": "relu"}, "clamp_mode: only 'softplus'"),
        ({"box_warp": 0}, "box_warp: 0 is not a positive number"),
        ({"superresolution_noise_mode": "random"}, "'random' would give other images"),
        ({"superresolution_module": "x.Hybrid"}, "superresolution_module: 'x.Hybrid' is not"),
    ],
)
def test_impossible_rendering_settings_are_named(changes: dict, message: str) -> None:
    rendering = {**KWARGS["rendering_kwargs"], **changes}
    with pytest.raises(er.RendererError, match=message):
        er.build_generator("eg3d", **{**KWARGS, "rendering_kwargs": rendering})


def test_unknown_decoder_activation_is_named() -> None:
    kwargs = oracle.facts("panohead_tiny")["init_kwargs"]
    rendering = {**kwargs["rendering_kwargs"], "decoder_activation": "tanh"}
    with pytest.raises(er.RendererError, match="decoder_activation: 'tanh' is not one of"):
        er.build_generator("panohead", **{**kwargs, "rendering_kwargs": rendering})


@pytest.mark.parametrize(
    ("family", "entries", "millions"),
    [("eg3d", 176, 30.7), ("panohead", 295, 53.7), ("spherehead", 303, 54.7)],
)
def test_full_size_has_the_published_tensors(family: str, entries: int, millions: float) -> None:
    rendering = KWARGS["rendering_kwargs"] | {
        "superresolution_module": "training.superresolution.SuperresolutionHybrid8XDC",
        "use_background": True,
        "use_torgb_raw": True,
        "triplane_depth": 3,
        "triplane_size": 256,
    }
    with torch.device("meta"):
        generator = er.build_generator(
            family,
            img_resolution=512,
            mapping_kwargs={"num_layers": 2},
            rendering_kwargs=rendering,
        )
    assert len(generator.state_dict()) == entries
    total = sum(parameter.numel() for parameter in generator.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 511), (512,)])
def test_latents_of_another_width_are_refused(shape: tuple) -> None:
    generator = er.build_generator("eg3d", **KWARGS)
    with pytest.raises(er.RendererError, match=r"expected \[N, 512\]"):
        generator.mapping(torch.zeros(shape))


def test_non_finite_latent_is_named() -> None:
    generator = er.build_generator("eg3d", **KWARGS)
    z = torch.zeros(3, 512)
    z[1, 7] = torch.nan
    with pytest.raises(er.RendererError, match="non-finite latent in row 1"):
        generator.mapping(z)


def test_precision_is_that_asked_for(tmp_path: Path) -> None:
    spec = oracle.facts("panohead_tiny")
    write_generator(tmp_path / "model.pkl", spec, oracle.state_of(spec))
    generator = er.load_generator(tmp_path / "model.pkl", precision="fast")
    assert generator.precision == generator.superresolution.block1.precision == "fast"
    assert generator.backbone.synthesis.b4.precision == "exact"
    with pytest.raises(er.RendererError, match="'half' is neither 'exact' nor 'fast'"):
        er.load_generator(tmp_path / "model.pkl", precision="half")
    with pytest.raises(er.RendererError, match="procedural heads have no precision 'fast'"):
        er.load_generator("procedural", precision="fast")
