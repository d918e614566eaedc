import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.triplane import TriPlaneGenerator
from tests.eg3d_renderer import oracle

IMAGES = {"rtol": 0, "atol": 1e-4}  # rounding alone moves them by less than 6e-5
DEPTH = {"rtol": 0, "atol": 3e-4}
WS = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=oracle.MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def spec(name: str) -> dict:
    return oracle.facts(name)


@pytest.fixture(scope="module")
def generator(spec: dict) -> TriPlaneGenerator:
    return oracle.build(spec)


@pytest.fixture(scope="module")
def truth(name: str) -> dict[str, torch.Tensor]:
    return oracle.numbers(name)


def planes_of(
    generator: TriPlaneGenerator, truth: dict, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ws = generator.mapping(truth[f"s{seed}_z"], truth["c_cond"], 0.7, 14)
    return generator.planes(ws), ws


def test_latents_and_ws(generator: TriPlaneGenerator, spec: dict, truth: dict) -> None:
    for seed in spec["seeds"]:
        z = er.latents([seed], generator.z_dim)
        torch.testing.assert_close(z, truth[f"s{seed}_z"], rtol=0, atol=0)
        for key, psi, cutoff in (("ws", 0.7, 14), ("ws_psi1", 1, None), ("ws_psi05_cut5", 0.5, 5)):
            ws = generator.mapping(z, truth["c_cond"], psi, cutoff)
            torch.testing.assert_close(ws, truth[f"s{seed}_{key}"], **WS)


def test_planes(generator: TriPlaneGenerator, spec: dict, truth: dict) -> None:
    for seed in spec["seeds"]:
        planes, _ = planes_of(generator, truth, seed)
        mean = planes.mean(dim=(-2, -1)).reshape(-1)
        torch.testing.assert_close(mean, truth[f"s{seed}_planes_mean"], **IMAGES)
        for key in truth:
            if key.startswith(f"s{seed}_planes_stride"):
                stride = int(key.rpartition("stride")[2])
                torch.testing.assert_close(planes[..., ::stride, ::stride], truth[key], **IMAGES)


def test_densities_and_colours_of_points(
    generator: TriPlaneGenerator, spec: dict, truth: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "triplane_crop", None)  # upstream crops when it renders
    for seed in spec["seeds"]:
        planes, _ = planes_of(generator, truth, seed)
        sigma, colour = generator.field(planes[0])(truth["points"][0])
        torch.testing.assert_close(sigma[:, None], truth[f"s{seed}_points_sigma"][0], **IMAGES)
        torch.testing.assert_close(colour[:100], truth[f"s{seed}_points_rgb"][0], **IMAGES)


@pytest.mark.parametrize("mode", ["mid", "zero", "rs"])
def test_views(generator: TriPlaneGenerator, spec: dict, truth: dict, mode: str) -> None:
    resolution = spec["neural_rendering_resolution"]
    s = generator.settings
    jitter = oracle.draws(mode, resolution**2, s.samples, s.fine_samples)
    seen = 0
    for seed in spec["seeds"]:
        planes, ws = planes_of(generator, truth, seed)
        for view in range(len(spec["views"])):
            prefix = f"s{seed}_v{view}_{mode}_"
            if f"{prefix}depth" not in truth:
                continue
            cam = truth["c_views"][view : view + 1]
            out = generator.render(planes, ws, cam, jitter=jitter)
            seen += 1
            torch.testing.assert_close(out["image_depth"], truth[f"{prefix}depth"], **DEPTH)
            raw = truth[f"{prefix}image_raw_returned"]
            torch.testing.assert_close(out["image_raw"], raw, **IMAGES)
            for key in ("image_mask", "weights_sum"):
                if f"{prefix}{key}" in truth:
                    torch.testing.assert_close(out["image_mask"], truth[prefix + key], **IMAGES)
            key = next(k for k in truth if k.startswith(f"{prefix}image_stride"))
            stride = int(key.rpartition("stride")[2])
            image = out["image"][..., ::stride, ::stride]
            torch.testing.assert_close(image, truth[key], **IMAGES)
    assert seen > 0


def test_full_forward_conditions_on_the_camera_it_renders(
    generator: TriPlaneGenerator, truth: dict, spec: dict
) -> None:
    cam = truth["c_views"][:1]
    out = generator(truth["s0_z"], cam, 0.7, 14)
    torch.testing.assert_close(out["image_depth"], truth["forward_v0_depth"], **DEPTH)
    key = next(k for k in truth if k.startswith("forward_v0_image_stride"))
    stride = int(key.rpartition("stride")[2])
    torch.testing.assert_close(out["image"][..., ::stride, ::stride], truth[key], **IMAGES)
    if spec["family"] != "eg3d":
        moved = generator.shift_camera(truth["s0_z"], cam, 0.7, 14)
        torch.testing.assert_close(moved, truth["s0_c_new"], **WS)


def test_two_views_in_one_call() -> None:
    """Upstream clamps the depth over both; ours per view, which is as tight or tighter."""
    truth = oracle.numbers("eg3d_tiny_2x")
    generator = oracle.build(oracle.facts("eg3d_tiny_2x"))
    planes, ws = planes_of(generator, truth, 0)
    out = generator.render(planes, ws, truth["c_views"][:2])
    torch.testing.assert_close(out["image"][..., ::4, ::4], truth["batch2_image_stride4"], **IMAGES)
    torch.testing.assert_close(out["image_depth"], truth["batch2_depth"], **DEPTH)
