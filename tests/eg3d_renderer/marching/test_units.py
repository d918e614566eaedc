"""Sampling, depths and compositing of every family against the published code, piece by piece."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer import cameras
from eg3d_renderer.families import FAMILIES
from eg3d_renderer.marching import planes as sampling
from eg3d_renderer.marching.compositing import expected_depth, interval_weights, sample_weights
from eg3d_renderer.marching.depths import (
    box_limits,
    coarse_depths,
    draw_depths,
    fine_depths,
)
from eg3d_renderer.ops.march.reference import march_view, ray_limits
from tests.eg3d_renderer import oracle

PLANES = {
    "eg3d": (3, 32, 16, 16),
    "panohead": (3, 96, 16, 16),
    "spherehead": (2, 3, 32, 16, 16),
}
CLOSE = {"rtol": 0, "atol": 1e-4}


def planes_of(family: str) -> Tensor:
    values = np.random.RandomState(500).standard_normal((1, *PLANES[family])) * 2
    return torch.from_numpy(values).float()[0]


def bare(family: str, rendering: dict, activation: str = "none") -> torch.nn.Module:
    """A generator of which the decoder and the marching are asked, and nothing else."""
    kwargs = rendering | {
        "superresolution_module": "SuperresolutionHybrid2X",
        "decoder_activation": activation,
        "triplane_size": 8,
    }
    generator = FAMILIES[family](
        rendering_kwargs=kwargs, img_resolution=128, channel_base=64, channel_max=4, w_dim=8
    )
    oracle.fill_module(generator.decoder, "decoder.", sigma_gain=20, sigma_bias=4)
    return generator.requires_grad_(False)


def cases() -> list:
    return [
        pytest.param(family, case, id=f"{family}-{case['case']}-{case['mode']}")
        for family in PLANES
        for case in oracle.facts(f"render_units_{family}")["cases"]
    ]


@pytest.mark.parametrize(("family", "case"), cases())
def test_marching(family: str, case: dict) -> None:
    truth = oracle.numbers(f"render_units_{family}")
    generator = bare(family, case["options"])
    for name, value in case["forward_kwargs"].items():
        setattr(generator, name, value)
    s = generator.settings
    field = generator.field(planes_of(family))
    for view in range(2):
        origins, directions = (t[0] for t in cameras.rays(truth["c"][view : view + 1], 8))
        mode = oracle.draws(case["mode"], 64, s.samples, s.fine_samples)
        jitter = draw_depths(mode, 64, s.samples, s.fine_samples, torch.device("cpu"))
        prefix = f"{case['case']}_{case['mode']}_r{view}_"
        limits = ray_limits(origins, directions, s)
        coarse = coarse_depths(*limits, s.samples, jitter.coarse, s.disparity).expand(64, -1)
        torch.testing.assert_close(coarse, truth[f"{prefix}depths_coarse"][0], **CLOSE)
        if s.fine_samples:
            sigma = field((origins[:, None] + coarse[..., None] * directions[:, None]).view(-1, 3))
            weights = interval_weights(coarse, sigma[0].view(64, -1))
            torch.testing.assert_close(weights, truth[f"{prefix}weights_coarse"][0], **CLOSE)
            fine = fine_depths(coarse, weights, jitter.fine)
            torch.testing.assert_close(fine, truth[f"{prefix}depths_fine"][0], **CLOSE)
        seen = march_view(field, origins, directions, s, jitter, 64)
        torch.testing.assert_close(seen.features, truth[f"{prefix}feat"][0], **CLOSE)
        torch.testing.assert_close(seen.depth, truth[f"{prefix}depth"][0, :, 0], rtol=0, atol=3e-4)
        torch.testing.assert_close(seen.opacity, truth[f"{prefix}wsum"][0, :, 0], **CLOSE)


@pytest.mark.parametrize("family", PLANES)
def test_sampled_features(family: str) -> None:
    truth = oracle.numbers(f"render_units_{family}")
    generator = bare(family, oracle.facts(f"render_units_{family}")["cases"][0]["options"])
    assert truth["plane_axes"].tolist() == generator.axes
    planes = generator.for_sampling(planes_of(family))
    features = generator.features(planes, truth["points"][0] * 2)
    torch.testing.assert_close(features, truth["sampled"][0].mean(0), **CLOSE)


def test_trigrid_is_trilinear_whatever_its_depth() -> None:
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    for depth in (1, 2, 3, 5):
        planes = torch.randn(3, 32 * depth, 6, 7)
        volumes = planes.unflatten(1, (32, depth))
        grids = sampling.project(points, sampling.PANOHEAD_AXES)
        expected = torch.stack(
            [
                F.grid_sample(v[None], g[None, None, None], align_corners=False)[0, :, 0, 0].T
                for v, g in zip(volumes, grids, strict=True)
            ]
        ).mean(0)
        ordered = sampling.by_slice(planes)
        features = sampling.sample_trigrid(ordered, points, sampling.PANOHEAD_AXES)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "activation"),
    [
        ("eg3d", "sigmoid"),
        *itertools.product(("panohead", "spherehead"), ("none", "sigmoid", "lrelu")),
    ],
)
def test_decoder(family: str, activation: str) -> None:
    truth = oracle.numbers(f"render_units_{family}")
    options = oracle.facts(f"render_units_{family}")["cases"][0]["options"]
    generator = bare(family, options, activation)
    generator.triplane_crop = None
    sigma, colour = generator.field(planes_of(family))(truth["points"][0])
    torch.testing.assert_close(sigma[:, None], truth[f"points_sigma_{activation}"][0], **CLOSE)
    torch.testing.assert_close(colour, truth[f"points_rgb_{activation}"][0], **CLOSE)


def test_compositing() -> None:
    truth = oracle.numbers("render_units_eg3d")
    colours, sigma, depths = (
        truth[f"march_in_{name}"][0] for name in ("colors", "density", "depths")
    )
    weights = interval_weights(depths[..., 0], sigma[..., 0])
    torch.testing.assert_close(weights, truth["march_weights"][0, ..., 0], **CLOSE)
    rgb = (sample_weights(weights)[..., None] * colours).sum(1) * 2 - 1
    torch.testing.assert_close(rgb, truth["march_rgb_0"][0], **CLOSE)
    depth = expected_depth(weights, depths[..., 0]).clamp(depths.min(), depths.max())
    torch.testing.assert_close(depth, truth["march_depth"][0, :, 0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", ["1", "03"])
def test_box_limits(side: str) -> None:
    truth = oracle.numbers("render_units_eg3d")
    origins, directions = cameras.rays(truth["c"], 8)
    start, end = box_limits(
        origins.reshape(-1, 3), directions.reshape(-1, 3), 1.0 if side == "1" else 0.3
    )
    expected_start, expected_end = (
        truth[f"limits_box{side}_{name}"].reshape(-1, 1) for name in ("start", "end")
    )
    hit = expected_start > 0  # the others are -1 to -2 before upstream fills them in
    assert hit.any()
    torch.testing.assert_close(start[hit], expected_start[hit], **CLOSE)
    torch.testing.assert_close(end[hit], expected_end[hit], **CLOSE)
    assert (start[~hit] == expected_start[hit].min()).all()
    assert (end[~hit] == expected_start[hit].max()).all()
