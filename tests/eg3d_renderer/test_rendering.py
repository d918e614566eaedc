"""What must hold of every family, whatever the numbers."""

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.triplane import TriPlaneGenerator
from tests.eg3d_renderer import oracle

SMALL = ("eg3d_tiny_2x", "panohead_tiny", "spherehead_tiny")
CAMERA = er.cameras.orbit(4)[1:2]


@pytest.fixture(scope="module", params=SMALL)
def spec(request: pytest.FixtureRequest) -> dict:
    return oracle.facts(request.param)


@pytest.fixture(scope="module")
def generator(spec: dict) -> TriPlaneGenerator:
    return oracle.build(spec)


def identity(generator: TriPlaneGenerator) -> tuple[torch.Tensor, torch.Tensor]:
    ws = generator.mapping(er.latents([0], generator.z_dim), truncation_psi=0.7)
    return generator.planes(ws), ws


def test_a_views_bits_depend_on_nothing_but_itself(generator: TriPlaneGenerator) -> None:
    cam = er.cameras.orbit(5, **generator.camera)
    planes, ws = identity(generator)
    together = generator.render(planes, ws, cam, 16)
    backwards = generator.render(planes, ws, cam.flip(0), 16, memory=1)
    as_identities = generator.render(
        planes.expand(2, *planes.shape[1:]), ws.expand(2, -1, -1), cam[3:], 16
    )
    from_ws = generator.synthesis(ws, cam[2:3], 16)
    for key, views in together.items():
        assert torch.equal(views, backwards[key].flip(0)), key
        assert torch.equal(views[3:], as_identities[key]), key
        assert torch.equal(views[2:3], from_ws[key]), key


def test_batches_as_on_a_gpu_give_the_same_views(
    generator: TriPlaneGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = er.cameras.orbit(5, **generator.camera)
    planes, ws = identity(generator)
    by_one = generator.render(planes, ws, cam, 16)
    for module in ("triplane", "views"):
        name = f"eg3d_renderer.{module}.together"
        monkeypatch.setattr(name, lambda tensor, on_cpu, elsewhere: max(1, elsewhere))
    for memory in (1 << 30, 40 << 20, 1 << 20):
        batched = generator.render(planes, ws, cam, 16, memory=memory)
        for key, views in by_one.items():
            torch.testing.assert_close(batched[key], views, rtol=0, atol=1e-4)
    z = er.latents([3, 1], generator.z_dim)
    torch.testing.assert_close(generator.mapping(z)[1:], generator.mapping(z[1:]))


def test_where_memory_runs_out_fewer_views_are_rendered(
    generator: TriPlaneGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = er.cameras.orbit(5, **generator.camera)
    planes, ws = identity(generator)
    expected = generator.render(planes, ws, cam, 16)
    raw_image, most = generator.raw_image, 2

    def enlarge(features: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
        if len(features) > most:
            raise torch.OutOfMemoryError
        return raw_image(features, ws)

    monkeypatch.setattr(generator, "raw_image", enlarge)
    monkeypatch.setattr(
        "eg3d_renderer.views.together", lambda tensor, on_cpu, elsewhere: max(1, elsewhere)
    )
    with pytest.warns(UserWarning, match="out of memory on cpu: rendering within"):
        views = generator.render(planes, ws, cam, 16, memory=1 << 30)
    for key, view in expected.items():
        torch.testing.assert_close(views[key], view, rtol=0, atol=1e-4)
    most = 0
    with (
        pytest.warns(UserWarning, match="out of memory on cpu: rendering within"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        generator.render(planes, ws, cam, 16, memory=1 << 30)


def test_an_identitys_bits_do_not_depend_on_its_company(generator: TriPlaneGenerator) -> None:
    z = er.latents([3, 1, 4], generator.z_dim)
    ws, alone = generator.mapping(z), generator.mapping(z[1:2])
    assert torch.equal(ws[1:2], alone)
    planes = generator.planes(ws)
    assert torch.equal(planes[1:2], generator.planes(ws[1:2]))


def test_stratified_samples_are_drawn_as_seeded(
    generator: TriPlaneGenerator,
) -> None:
    planes, ws = identity(generator)
    first, again, other = (
        generator.render(planes, ws, CAMERA, 16, jitter=torch.Generator().manual_seed(seed))[
            "image_raw"
        ]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_super_resolution_the_image_is_what_is_rendered(spec: dict) -> None:
    kwargs = spec["init_kwargs"]
    rendering = {**kwargs["rendering_kwargs"], "superresolution_module": "none"}
    rendering["use_background"] = False
    generator = er.build_generator(spec["family"], **{**kwargs, "rendering_kwargs": rendering})
    state = oracle.state_of(spec)
    kept = {name: tensor for name, tensor in state.items() if name in generator.state_dict()}
    assert {name.partition(".")[0] for name in state.keys() - kept} <= {
        "superresolution",
        "bcg_synthesis",
    }
    generator.load_state_dict(kept, strict=True)
    assert generator.img_resolution is None
    planes, ws = identity(generator.requires_grad_(False))
    cam = er.cameras.orbit(3)
    for precision in ("exact", "fast"):
        generator.set_precision(precision)
        for resolution in (8, 11):
            views = generator.render(planes, ws, cam, resolution, memory=1)
            assert views["image"].shape == (3, 3, resolution, resolution)
            assert torch.equal(views["image"], views["image_raw"])


def test_a_background_asks_for_super_resolution() -> None:
    kwargs = oracle.facts("panohead_tiny")["init_kwargs"]
    rendering = {
        **kwargs["rendering_kwargs"],
        "superresolution_module": "none",
        "use_background": True,
    }
    with pytest.raises(er.RendererError, match=r"use_background: .* is 'none'"):
        er.build_generator("panohead", **{**kwargs, "rendering_kwargs": rendering})


def test_gradients_reach_the_latent(generator: TriPlaneGenerator) -> None:
    z = er.latents([0], generator.z_dim).requires_grad_()
    ws = generator.mapping(z)
    out = generator.synthesis(ws, er.cameras.orbit(1), 8)
    (gradient,) = torch.autograd.grad(out["image"].square().mean() + out["image_mask"].mean(), z)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_snapshots_statistic_is_accepted(generator: TriPlaneGenerator, spec: dict) -> None:
    fresh = er.build_generator(spec["family"], **spec["init_kwargs"])
    state = generator.state_dict() | {"dataset_label_std": torch.ones(25)}
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh.state_dict()["dataset_label_std"], torch.ones(25))


def test_auto_limits_meet_the_box(spec: dict) -> None:
    kwargs = spec["init_kwargs"]
    auto = {**kwargs["rendering_kwargs"], "ray_start": "auto", "ray_end": "auto"}
    generator = er.build_generator(spec["family"], **{**kwargs, "rendering_kwargs": auto})
    generator.load_state_dict(oracle.state_of(spec))
    cam = er.cameras.orbit(3)
    near, far = generator.depth_range(cam)
    with torch.no_grad():
        depth = generator.synthesis(generator.mapping(torch.zeros(1, 512)), cam, 8)["image_depth"]
    assert near <= float(depth.min()) <= float(depth.max()) <= far


def test_density_field_agrees_with_what_is_rendered(generator: TriPlaneGenerator) -> None:
    """Through a solid field a ray sees the colour of the field where its depth says."""
    planes, ws = identity(generator)
    field = generator.density_field(planes, ws)
    points = (torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.6
    sigma, colours = field(points)
    inner_sigma, features = generator.field(planes[0])(points)
    assert torch.equal(sigma, inner_sigma)
    assert colours.shape == (50, 3)
    if generator.family == "eg3d":
        torch.testing.assert_close(colours, features[:, :3] * 2 - 1)
    else:
        weights = generator.torgb.modulate(ws[:, -1])[0, :, :, 0, 0]
        torch.testing.assert_close(colours, features @ weights.T + generator.torgb.bias)


@pytest.mark.parametrize("disparity", [False, True])
def test_depth_stays_within_its_range(spec: dict, disparity: bool) -> None:
    kwargs = spec["init_kwargs"]
    rendering = {**kwargs["rendering_kwargs"], "disparity_space_sampling": disparity}
    generator = er.build_generator(spec["family"], **{**kwargs, "rendering_kwargs": rendering})
    generator.load_state_dict(oracle.state_of(spec))
    cam = er.cameras.orbit(2)
    near, far = generator.depth_range(cam)
    late = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ws = generator.mapping(torch.zeros(1, 512))
        depth = generator.synthesis(ws, cam, 8, jitter=late)["image_depth"]
    assert near <= float(depth.min()) <= float(depth.max()) <= far
    assert far < near + 2 * (3.3 - 2.25)
