import pytest
import torch

from eg3d_renderer.demo.training.backbone import enlarge, synthesize
from eg3d_renderer.networks.synthesis import Synthesis
from eg3d_renderer.ops.upfirdn2d import binomial_filter, upsample2d


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    torch.manual_seed(0)
    made = Synthesis(16, 32, 12, channel_base=256, channel_max=16)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return made


def test_it_is_the_synthesis_network(synthesis: Synthesis) -> None:
    ws = torch.randn(3, synthesis.num_ws, 16)
    order = torch.randperm(12)
    image = synthesize(synthesis, ws, order, 32, torch.float32)
    expected = synthesis(ws, "none")[:, order].permute(0, 2, 3, 1)
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_synthesis_networks(synthesis: Synthesis) -> None:
    ws, weights = torch.randn(2, synthesis.num_ws, 16), torch.randn(2, 12, 32, 32)
    found = []
    for image in (
        synthesize(synthesis, ws, torch.arange(12), 32, torch.float32).permute(0, 3, 1, 2),
        synthesis(ws, "none"),
    ):
        synthesis.zero_grad()
        (image * weights).sum().backward()
        found.append(
            {n: p.grad for n, p in synthesis.named_parameters() if not n.endswith("strength")}
        )
    for name, expected in found[1].items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[0][name], expected, rtol=0, atol=1e-4 * scale, msg=name)


def test_bfloat16_is_near(synthesis: Synthesis) -> None:
    ws = torch.randn(2, synthesis.num_ws, 16)
    exact, half = (
        synthesize(synthesis, ws, torch.arange(12), 32, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.bfloat16
    assert (half - exact).square().mean() < 1e-3 * exact.square().mean()


def test_smaller_planes_leave_the_last_blocks_out(synthesis: Synthesis) -> None:
    ws = torch.randn(2, synthesis.num_ws, 16)
    for size in (4, 16):
        image = synthesize(synthesis, ws, torch.arange(12), size, torch.float32)
        smaller = Synthesis(16, size, 12, channel_base=256, channel_max=16)
        smaller.load_state_dict(synthesis.state_dict(), strict=False)
        expected = smaller(ws[:, : smaller.num_ws], "none").permute(0, 2, 3, 1)
        torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_enlarging_is_upsampling() -> None:
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(enlarge(x), upsample2d(x, binomial_filter()))
