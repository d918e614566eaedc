import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer.ops.upfirdn2d import (
    binomial_filter,
    downsample2d,
    filter_size,
    pair,
    upfirdn2d,
    upsample2d,
)
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("ops_upfirdn2d")
CASES = oracle.facts("ops_upfirdn2d")["cases"]
OPS = {"upfirdn2d": upfirdn2d, "upsample2d": upsample2d, "downsample2d": downsample2d}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['op']}")
def test_values_and_gradients_are_upstreams(case: dict) -> None:
    options = {k: v for k, v in case.items() if k not in ("case", "op", "f")}
    f = None if case["f"] is None else TRUTH[case["f"]]
    op = OPS.get(case["op"], upfirdn2d)
    if case["op"] == "filter2d":  # centred, at the same size
        fw, fh = filter_size(f)
        p = options.get("padding", 0)
        options["padding"] = (p + fw // 2, p + (fw - 1) // 2, p + fh // 2, p + (fh - 1) // 2)
    x = TRUTH["x"].clone().requires_grad_()
    y = op(x, f, **options)
    prefix = f"c{case['case']:02d}_"
    torch.testing.assert_close(y, TRUTH[f"{prefix}y"], rtol=0, atol=1e-5)
    if f"{prefix}dx" in TRUTH:
        y.backward(TRUTH[f"{prefix}dy"])
        torch.testing.assert_close(x.grad, TRUTH[f"{prefix}dx"], rtol=0, atol=1e-5)


@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.tuples(*[st.integers(-1, 3)] * 4),
)
def test_separable_filter_is_its_outer_product(
    size: tuple, up: int, down: int, padding: tuple
) -> None:
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    taps = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    options = {"up": up, "down": down, "padding": padding, "gain": 1.7}
    left, right, top, bottom = padding
    height, width = (
        (n * up + before + after - 3) // down + 1
        for n, before, after in ((size[0], top, bottom), (size[1], left, right))
    )
    if min(height, width) < 1:
        return
    separable = upfirdn2d(x, taps, **options)
    assert separable.shape == (1, 2, height, width)
    torch.testing.assert_close(separable, upfirdn2d(x, torch.outer(taps, taps), **options))


def test_resampling_keeps_a_constant_inside() -> None:
    x = torch.ones(1, 1, 8, 8)
    up = upsample2d(x, binomial_filter())
    down = downsample2d(x, binomial_filter())
    assert up.shape[-1] == 16
    assert down.shape[-1] == 4
    torch.testing.assert_close(up[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


def test_pairs() -> None:
    assert pair(2) == (2, 2)
    assert pair([3, 1]) == (3, 1)
