import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer.ops.convolution import conv2d_resample, modulate, modulated_conv2d
from eg3d_renderer.ops.upfirdn2d import binomial_filter
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("ops_conv_layers")
CASES = oracle.facts("ops_conv_layers")["cases"]


def cases(op: str) -> list[dict]:
    return [case for case in CASES if case["op"] == op]


@pytest.mark.parametrize("case", cases("conv2d_resample"), ids=lambda c: str(c["case"]))
def test_resampling_convolution_is_upstreams(case: dict) -> None:
    options = {k: v for k, v in case.items() if k not in ("case", "op", "ksize", "f")}
    f = None if case["f"] is None else TRUTH[case["f"]]
    weight = TRUTH[f"conv{case['case']:02d}_w"]
    y = conv2d_resample(TRUTH["x"], weight, f, **options)
    torch.testing.assert_close(y, TRUTH[f"conv{case['case']:02d}_y"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("case", cases("modulated_conv2d"), ids=lambda c: str(c["case"]))
def test_modulated_convolution_is_upstreams(case: dict) -> None:
    prefix = f"mod{case['case']:02d}_"
    x, weight, styles = (
        t.clone().requires_grad_() for t in (TRUTH["x"], TRUTH[f"{prefix}w"], TRUTH["styles"])
    )
    weights = modulate(weight, styles, case.get("demodulate", True))
    y = modulated_conv2d(
        x,
        weights,
        TRUTH["f"],
        up=case.get("up", 1),
        padding=case.get("padding", 0),
        flip_weight=case.get("flip_weight", True),
    )
    if case["noise"]:
        y = y + TRUTH[f"{prefix}noise"]
    torch.testing.assert_close(y, TRUTH[f"{prefix}fused_y"], rtol=0, atol=1e-5)
    torch.testing.assert_close(y, TRUTH[f"{prefix}unfused_y"], rtol=0, atol=1e-4)
    y.backward(TRUTH[f"{prefix}dy"])
    for tensor, key in ((x, "dx"), (weight, "dw"), (styles, "dstyles")):
        torch.testing.assert_close(tensor.grad, TRUTH[prefix + key], rtol=1e-4, atol=1e-3)


@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_fused_upsampling_is_the_plain_one(height: int, width: int, flip: bool) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    f = binomial_filter().double()
    options = {"up": 2, "flip_weight": flip}
    fused = conv2d_resample(x, weight, f, padding=1, **options)
    # one more pixel on one side is not the fused case
    plain = conv2d_resample(x, weight, f, padding=(1, 2, 1, 2), **options)[:, :, :-1, :-1]
    torch.testing.assert_close(fused, plain)


def test_an_image_does_not_depend_on_the_others() -> None:
    x, weights = torch.randn(3, 4, 8, 8), torch.randn(3, 6, 4, 3, 3)
    together = modulated_conv2d(x, weights, padding=1)
    assert torch.equal(together[1:2], modulated_conv2d(x[1:2], weights[1:2], padding=1))


def test_demodulated_weights_have_unit_length() -> None:
    weights = modulate(torch.randn(5, 4, 3, 3), torch.randn(2, 4) * 100)
    length = weights.square().sum(dim=(2, 3, 4)).sqrt()
    torch.testing.assert_close(length, torch.ones(2, 5), rtol=1e-4, atol=1e-4)
