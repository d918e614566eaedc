import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.styled_conv import Prepared, prepare, reference, styled_conv
from eg3d_renderer.ops.upfirdn2d import binomial_filter

ISAS = ("", "portable", "avx2", "avx512", "avx512bf16")
FILTER = binomial_filter()

needs_native = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def kernels() -> None:
    if reason := native.load("styled_conv", "cpu"):
        pytest.skip(reason)


@functools.cache
def available(isa: str) -> bool:
    try:
        with native.chosen("native", isa):
            prepare(torch.zeros(1, 1, 1, 3, 3), FILTER, 1)
    except RuntimeError as error:
        if "this processor" not in str(error):
            raise
        return False
    return True


def layer(
    n: int, inputs: int, outputs: int, height: int, width: int, up: int, sets: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weights as large as modulated ones, bias, noise."""
    x = torch.randn(n, inputs, height, width)
    weights = torch.randn(sets, outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    return x, weights, torch.randn(outputs), torch.randn(height * up, width * up)


def error(y: Tensor, x: Tensor, weights: Tensor, *rest: object) -> Tensor:
    """Of `y`, from the reference in double precision."""
    double = [t.double() if isinstance(t, Tensor) else t for t in (x, weights, *rest)]
    truth = reference.styled_conv(*double)
    assert y.shape == truth.shape
    return y - truth


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    inputs=st.sampled_from([1, 3, 8, 16, 20, 33, 64]),
    outputs=st.sampled_from([1, 3, 16, 31, 32, 40]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    up=st.sampled_from([1, 2]),
    own_weights=st.booleans(),
    with_noise=st.booleans(),
    clamp=st.sampled_from([None, 0.5]),
    isa=st.sampled_from(ISAS),
    layout=st.sampled_from(["channels_first", "channels_last", "strided"]),
    any_filter=st.booleans(),
)
def test_kernels_compute_the_reference(
    n: int, inputs: int, outputs: int, height: int, width: int, up: int, own_weights: bool,
    with_noise: bool, clamp: float | None, isa: str, layout: str, any_filter: bool,
) -> None:  # fmt: skip
    if not available(isa):
        return
    torch.manual_seed(0)  # a failure can be reproduced
    x, weights, bias, noise = layer(n, inputs, outputs, height, width, up, n if own_weights else 1)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.randn(n, inputs, 2 * height, width + 1)[:, :, ::2, 1:]
    f = torch.randn(4, 4) / 4 if any_filter else FILTER
    rest = (bias, noise if with_noise else None, f, up, clamp)
    with native.chosen("native", isa):
        y = styled_conv(x, prepare(weights, f, up), *rest)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, x, weights, *rest).abs().max() < 4e-5


@needs_native
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
def test_fast_is_near_exact(isa: str, up: int) -> None:
    if not available(isa):
        pytest.skip(f"this processor has no {isa}")
    x, weights, bias, noise = layer(2, 256, 48, 21, 18, up)
    rest = (bias, noise, FILTER, up, None)
    with native.chosen("native", isa):
        ready = prepare(weights, FILTER, up, "fast")
    half = ready.packed is not None and ready.packed.dtype == torch.bfloat16
    assert half == (isa in ("", "avx512bf16") and available("avx512bf16"))
    y = styled_conv(x, ready, *rest, impl="native")
    assert y.dtype == (torch.bfloat16 if half else torch.float32)
    relative = error(y, x, weights, *rest).norm() / y.float().norm()
    assert relative < (0.02 if half else 2e-6)

    # both ways to store what was computed, and both ways to read it
    whole = styled_conv(x, ready, *rest, impl="native", dtype=torch.float32)
    assert torch.equal(whole.bfloat16(), y.bfloat16())
    from_half = styled_conv(x.bfloat16(), ready, *rest, impl="native", dtype=torch.float32)
    widened = styled_conv(x.bfloat16().float(), ready, *rest, impl="native", dtype=torch.float32)
    assert torch.equal(from_half, widened)


@needs_native
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("up", [1, 2])
def test_an_image_depends_on_no_other_and_on_no_thread(up: int, precision: str) -> None:
    x, weights, bias, noise = layer(3, 40, 33, 30, 26, up, sets=3)
    threads = torch.get_num_threads()
    results = []
    for count, images in ((1, [0, 1, 2]), (2, [0, 1, 2]), (3, [2, 0]), (2, [1])):
        torch.set_num_threads(count)
        try:
            ready = prepare(weights[images], FILTER, up, precision, impl="native")
            y = styled_conv(x[images], ready, bias, noise, FILTER, up, None, impl="native")
        finally:
            torch.set_num_threads(threads)
        results.append((images, y))
    for images, y in results[1:]:
        assert torch.equal(y, results[0][1][images])


@needs_native
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_stay(isa: str, precision: str) -> None:
    if not available(isa):
        pytest.skip(f"this processor has no {isa}")
    x, weights, bias, noise = layer(1, 20, 24, 13, 14, 1)
    with native.chosen("native", isa):
        ready = prepare(weights, FILTER, 1, precision)
    x[0, 3, 6, 7] = noise[2, 13] = torch.nan
    rest = (bias, noise, FILTER, 1, 1.0)
    y = styled_conv(x, ready, *rest, impl="native")
    assert y[reference.styled_conv(x, weights, *rest).isnan()].isnan().all()
    assert y[..., :4, :4].isfinite().all()

    x[0, 3, 6, 7] = torch.inf
    rest = (bias, None, FILTER, 1, None)
    y = styled_conv(x, ready, *rest, impl="native")
    assert not y[reference.styled_conv(x, weights, *rest).isinf()].isfinite().any()

    rest = (torch.full_like(bias, torch.nan), None, FILTER, 1, 1.0)
    assert styled_conv(x, ready, *rest, impl="native").isnan().all()


@needs_native
def test_no_images_make_no_images() -> None:
    x, weights, bias, noise = layer(0, 8, 5, 6, 7, 2)
    y = styled_conv(x, weights, bias, noise, FILTER, 2, None, impl="native")
    assert y.shape == (0, 5, 12, 14)


@needs_native
def test_native_is_what_large_layers_run() -> None:
    x, weights, bias, _ = layer(1, 8, 8, 32, 32, 1)
    arguments = (x, weights, bias, None, FILTER, 1, None)
    assert torch.equal(styled_conv(*arguments), styled_conv(*arguments, impl="native"))
    small = (x[..., :4, :4], *arguments[1:])
    assert torch.equal(styled_conv(*small), styled_conv(*small, impl="reference"))


def test_a_gradient_comes_from_the_reference() -> None:
    x, weights, bias, noise = layer(1, 6, 5, 20, 20, 1)
    for tensor in (x, weights, bias, noise):
        leaves = [t.clone().requires_grad_(t is tensor) for t in (x, weights, bias, noise)]
        y = styled_conv(*leaves, FILTER, 1, 1.5)
        assert torch.equal(y, reference.styled_conv(*leaves, FILTER, 1, 1.5))
        (gradient,) = torch.autograd.grad(y.square().sum(), [t for t in leaves if t.requires_grad])
        assert gradient.abs().max() > 0
    x = x.requires_grad_()
    y = styled_conv(x, prepare(weights, FILTER, 1), bias, noise, FILTER, 1, 1.5)
    assert y.requires_grad
    with pytest.raises(RendererError, match="gradient"):
        styled_conv(x, weights, bias, noise, FILTER, 1, 1.5, impl="native")


def test_prepared_for_the_reference_is_the_reference() -> None:
    x, weights, bias, noise = layer(2, 6, 5, 20, 20, 2)
    ready = prepare(weights, FILTER, 2, "fast", impl="reference")
    assert ready.packed is None
    y = styled_conv(x, ready, bias, noise, FILTER, 2, 1.5)
    assert torch.equal(y, reference.styled_conv(x, weights, bias, noise, FILTER, 2, 1.5))
    double = [t.double() for t in (x, weights, bias, noise, FILTER)]
    assert styled_conv(*double, 2, 1.5).dtype == torch.float64


@pytest.mark.parametrize("impl", ["auto", "native", "reference"])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x": torch.zeros(6, 20, 20)}, "x"),
        ({"x": torch.zeros(2, 7, 20, 20)}, "x"),
        ({"x": torch.zeros(2, 6, 0, 20)}, "pixels"),
        ({"weights": torch.zeros(5, 6, 3, 3)}, "weights"),
        ({"weights": torch.zeros(1, 5, 6, 1, 1)}, "weights"),
        ({"weights": torch.zeros(3, 5, 6, 3, 3)}, "3 weights for 2 images"),
        ({"bias": torch.zeros(6)}, "bias"),
        ({"noise": torch.zeros(20, 20)}, "noise"),
        ({"f": torch.ones(3, 3)}, "filter"),
        ({"up": 3}, "up"),
        ({"weights": Prepared(torch.zeros(1, 5, 6, 3, 3), FILTER, 1, None, "")}, "prepared"),
    ],
)
def test_what_does_not_fit_is_told(impl: str, change: dict, complaint: str) -> None:
    x, weights, bias, noise = layer(2, 6, 5, 20, 20, 2)
    right = {"x": x, "weights": weights, "bias": bias, "noise": noise, "f": FILTER, "up": 2}
    with pytest.raises(AssertionError, match=complaint):
        styled_conv(**{**right, **change}, clamp=None, impl=impl)


def test_unknown_names_are_told() -> None:
    weights = torch.zeros(1, 5, 6, 3, 3)
    with pytest.raises(RendererError, match="quick"):
        prepare(weights, FILTER, 1, "quick")  # type: ignore[arg-type]
    with pytest.raises(RendererError, match="impl"):
        prepare(weights, FILTER, 1, impl="cuda")
    with pytest.raises(RendererError, match="bfloat16"):
        prepare(weights.bfloat16(), FILTER, 1, impl="native")
