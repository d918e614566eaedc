"""Each op on a handful of numbers, by its kernels and by its reference: do they agree here?"""

import torch

from eg3d_renderer.marching.depths import draw_depths
from eg3d_renderer.marching.planes import PANOHEAD_AXES, by_slice, sample_trigrid
from eg3d_renderer.networks.decoder import Decoder
from eg3d_renderer.ops import native
from eg3d_renderer.ops.bias_act import bias_act
from eg3d_renderer.ops.march import Limits, Settings, march, prepare
from eg3d_renderer.ops.styled_conv import styled_conv
from eg3d_renderer.ops.upfirdn2d import binomial_filter, upsample2d

TOLERANCE = 1e-4  # of the range of the reference's values


@torch.no_grad()
def disagreement(op: str, device: torch.device) -> float:
    """The greatest difference between native and reference, over the reference's range.

    Raises RendererError where the op has no kernels that could be had on this device.
    """
    case = {"bias_act": _bias_act, "upfirdn2d": _upfirdn2d, "styled_conv": _styled_conv}
    results = []
    for impl in ("native", "reference"):
        with native.chosen(impl):
            results.append(case.get(op, _march)(device))
    made, expected = results
    return float((made - expected).abs().max() / (expected.max() - expected.min()))


def _normal(*shape: int, device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(device)


def _bias_act(device: torch.device) -> torch.Tensor:
    x, bias = _normal(2, 5, 7, 9, device=device), _normal(5, device=device)
    return bias_act(x, bias, "lrelu", clamp=2.0)


def _upfirdn2d(device: torch.device) -> torch.Tensor:
    return upsample2d(_normal(2, 5, 7, 9, device=device), binomial_filter().to(device))


def _styled_conv(device: torch.device) -> torch.Tensor:
    x, weights = _normal(1, 24, 9, 11, device=device), _normal(1, 40, 24, 3, 3, device=device)
    bias = _normal(40, device=device)
    return styled_conv(x, weights, bias, None, binomial_filter().to(device), 2, 100.0)


def _march(device: torch.device) -> torch.Tensor:
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    decoder = Decoder("sigmoid").to(device)
    torch.set_rng_state(torch_state)
    planes = by_slice(_normal(3, 96, 12, 12, device=device))
    settings = Settings(12, 12, 2.25, 3.3, 1.0, disparity=False, white_back=True, signed=True)
    scene = prepare(
        lambda points: decoder(sample_trigrid(planes, 2 * points, PANOHEAD_AXES)),
        settings,
        planes,
        "trigrid",
        PANOHEAD_AXES,
        decoder,
        Limits(),
    )
    directions = _normal(64, 3, device=device) * 0.05 + torch.tensor([0.0, 0.0, -1.0]).to(device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    origins = torch.tensor([[0.0, 0.0, 2.7]]).to(device).repeat(64, 1)
    seen = march(scene, origins, directions, draw_depths(None, 64, 12, 12, device), 64)
    return torch.cat([seen.features, seen.opacity[:, None], seen.depth[:, None]], dim=1)
