import numpy as np
import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.networks.superresolution import (
    PLANS,
    NoSuperResolution,
    SuperResolution,
    resize,
)
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("sr_units")
CASES = oracle.facts("sr_units")["cases"]


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = np.random.RandomState(91).standard_normal((1, 32, size, size)) * 0.5
    rgb = np.random.RandomState(92).standard_normal((1, 3, size, size)) * 0.5
    return torch.from_numpy(rgb).float(), torch.from_numpy(features).float()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_modules_are_upstreams(case: dict) -> None:
    module = SuperResolution(case["cls"], case["img_resolution"], sr_num_fp16_res=4)
    oracle.fill_module(module, "superresolution.")
    weights = module.prepare(TRUTH["ws"])
    for noise in ("none", "const"):
        image = module(*inputs(case["input_hw"]), weights, noise)
        assert image.shape == (1, 3, case["img_resolution"], case["img_resolution"])
        prefix = f"{case['name']}_{noise}_"
        stride = case["img_resolution"] // 32
        torch.testing.assert_close(
            image[..., ::stride, ::stride], TRUTH[f"{prefix}stride"], rtol=0, atol=1e-4
        )
        moments = torch.stack([image.mean(), image.std()])
        torch.testing.assert_close(moments, TRUTH[f"{prefix}mean_std"], rtol=0, atol=1e-4)


def test_every_module_has_a_case() -> None:
    assert {case["cls"] for case in CASES} == set(PLANS)


@pytest.mark.parametrize("size", [64, 40, 20, 16, 9])
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_is_upstreams(size: int, antialias: bool) -> None:
    truth = oracle.numbers("resize")
    expected = truth[f"resize_{size}_{'aa' if antialias else 'noaa'}"]
    torch.testing.assert_close(resize(truth["resize_x"], size, antialias), expected)


def test_unknown_module_is_named() -> None:
    with pytest.raises(er.RendererError, match=r"'training\.x\.Hybrid9X' is not known; known: S"):
        SuperResolution("training.x.Hybrid9X", 512)


def test_wrong_size_is_named() -> None:
    with pytest.raises(er.RendererError, match=r"256, but SuperresolutionHybrid2X makes .* 128"):
        SuperResolution("SuperresolutionHybrid2X", 256)


def test_features_too_large_for_4x_are_refused() -> None:
    module = SuperResolution("SuperresolutionHybrid4X", 256)
    with pytest.raises(er.RendererError, match="neural_rendering_resolution: 160 is more than"):
        module(*inputs(160), module.prepare(torch.zeros(1, 1, 512)))


def test_without_a_module_the_image_is_what_is_rendered() -> None:
    module = NoSuperResolution()
    rgb, features = inputs(9)
    assert module(rgb, features, module.prepare(torch.zeros(1, 1, 512))) is rgb
