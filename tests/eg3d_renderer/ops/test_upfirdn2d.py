"""Upstream's values and gradients; the kernels, CUDA's too, against the reference."""

import ctypes
import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.upfirdn2d import (
    binomial_filter,
    downsample2d,
    filter_size,
    pair,
    upfirdn2d,
    upsample2d,
)
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.ops.shim.compiling import OPS, compile_for_cpu

TRUTH = oracle.numbers("ops_upfirdn2d")
CASES = oracle.facts("ops_upfirdn2d")["cases"]
FUNCTIONS = {"upfirdn2d": upfirdn2d, "upsample2d": upsample2d, "downsample2d": downsample2d}

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
IMPLS = pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_compiler)])
RUN_HERE = {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
ISAS = pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"][:RUN_HERE])


@IMPLS
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['op']}")
def test_values_and_gradients_are_upstreams(case: dict, impl: str) -> None:
    options = {k: v for k, v in case.items() if k not in ("case", "op", "f")}
    f = None if case["f"] is None else TRUTH[case["f"]]
    op = FUNCTIONS.get(case["op"], upfirdn2d)
    if case["op"] == "filter2d":  # centred, at the same size
        fw, fh = filter_size(f)
        p = options.get("padding", 0)
        options["padding"] = (p + fw // 2, p + (fw - 1) // 2, p + fh // 2, p + (fh - 1) // 2)
    x = TRUTH["x"].clone().requires_grad_()
    y = op(x, f, **options, impl=impl)
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


@IMPLS
def test_resampling_keeps_a_constant_inside(impl: str) -> None:
    x = torch.ones(1, 1, 8, 8)
    up = upsample2d(x, binomial_filter(), impl=impl)
    down = downsample2d(x, binomial_filter(), impl=impl)
    assert up.shape[-1] == 16
    assert down.shape[-1] == 4
    torch.testing.assert_close(up[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


def test_pairs() -> None:
    assert pair(2) == (2, 2)
    assert pair([3, 1]) == (3, 1)


# The kernels


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "every second":
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def assert_same(made: Tensor, expected: Tensor) -> None:
    """Within rounding: 1e-6 of the largest number."""
    finite = expected[expected.isfinite()].abs()
    size = float(finite.max()) if finite.numel() else 1.0
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6 * size, equal_nan=True)


def draw_filter(data: st.DataObject) -> Tensor | None:
    kind = data.draw(st.sampled_from(["4x4", "any", "separable", "none"]))
    if kind == "none":
        return None
    fh, fw = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return torch.randn({"4x4": [4, 4], "any": [fh, fw], "separable": [fw]}[kind])


factors = st.tuples(st.integers(1, 4), st.integers(1, 4))
sides = st.sampled_from([1, 2, 3, 5, 8, 21, 70])


@needs_compiler
@ISAS
@settings(deadline=None)
@given(data=st.data())
def test_kernels_are_the_reference(isa: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 9)))
    n, c = data.draw(st.tuples(st.integers(0, 2), st.sampled_from([1, 3, 16, 33])))
    x = torch.randn(n, c, data.draw(sides), data.draw(sides))
    if data.draw(st.booleans()):
        x.view(-1)[::97] = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    x = laid_out(
        x, data.draw(st.sampled_from(["plain", "channels last", "transposed", "every second"]))
    )
    f = draw_filter(data)
    options = {
        "up": data.draw(st.sampled_from([1, 2]) | factors),
        "down": data.draw(st.sampled_from([1, 2]) | factors),
        "padding": data.draw(st.tuples(*[st.integers(-3, 6)] * 4)),
        "flip_filter": data.draw(st.booleans()),
        "gain": data.draw(st.sampled_from([1.0, 4.0, 0.3])),
    }
    try:
        y = upfirdn2d(x.requires_grad_(), f, **options, impl="reference")
    except RuntimeError:  # smaller than the filter
        assume(False)
    assume(min(y.shape[2:]) > 0)
    dy = torch.randn_like(y)
    with native.chosen("native", isa):
        made = upfirdn2d(x, f, **options)
        (made_dx,) = torch.autograd.grad(made, x, dy)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert made.shape == y.shape
    assert_same(made.detach(), y.detach())
    assert_same(made_dx, dx)


@needs_compiler
def test_gradients_of_every_order_are_the_references() -> None:
    f = torch.randn(4, 3)
    options = {"up": (2, 1), "down": (1, 3), "padding": (1, -1, 2, 4)}
    x, dy = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 4, 14)
    results = []
    for impl in ("native", "reference"):
        inputs = [t.clone().requires_grad_() for t in (x, dy)]
        y = upfirdn2d(inputs[0], f, **options, impl=impl)
        (dx,) = torch.autograd.grad(y, inputs[0], inputs[1], create_graph=True)
        value = dx.exp().sum() + y.exp().sum()
        second = torch.autograd.grad(value, inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in second), inputs))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_second_gradients_exist() -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    f = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: upfirdn2d(x, f, up=2, down=3, padding=2), x)
    assert torch.autograd.gradgradcheck(lambda x: upfirdn2d(x, f, up=2, down=3, padding=2), x)


@needs_compiler
@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize("options", [{}, {"up": 2}, {"down": 2}, {"up": 3, "down": 2}], ids=str)
def test_threads_and_batch_change_no_bit(options: dict, layout: str) -> None:
    x = laid_out(torch.randn(3, 19, 61, 57), layout)
    f = torch.randn(4, 4)
    y = upfirdn2d(x, f, padding=1, **options, impl="native")
    assert y.is_contiguous() == x.is_contiguous()
    assert torch.equal(y[1:2], upfirdn2d(x[1:2], f, padding=1, **options, impl="native"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    again = upfirdn2d(x, f, padding=1, **options, impl="native")
    torch.set_num_threads(threads)
    assert torch.equal(y, again)


def test_what_the_kernels_lack_is_for_the_reference() -> None:
    x, f = torch.randn(1, 1, 6, 6), binomial_filter().requires_grad_()
    assert upfirdn2d(x, f).requires_grad
    with pytest.raises(RendererError, match="no gradient by f"):
        upfirdn2d(x, f, impl="native")
    with pytest.raises(RendererError, match=r"no kernel for torch\.float64"):
        upfirdn2d(x.double(), f.detach().double(), impl="native")


# CUDA's kernels on a CPU


class Axis(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_int) for name in ("up", "down", "before", "taps")),
    )


class Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "channels")),
        *((name, Axis) for name in ("x", "y")),
        *((name, ctypes.c_void_p) for name in ("image", "filter", "out")),
    )


@pytest.fixture(scope="module")
def run_in_shim(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    library = tmp_path_factory.mktemp("shim") / "upfirdn2d.so"
    compile_for_cpu(OPS / "upfirdn2d" / "kernel.cu", library, "-shared", "-fPIC")
    return ctypes.CDLL(str(library)).upfirdn2d_run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("up", "down", "taps", "padding"),
    [
        ((1, 1), (1, 1), (4, 4), (1, 1, 1, 1)),
        ((2, 2), (1, 1), (4, 4), (2, 1, 2, 1)),
        ((2, 2), (1, 1), (4, 4), (1, 3, -3, 4)),
        ((1, 1), (2, 2), (4, 4), (1, 1, 2, -2)),
        ((1, 1), (1, 1), (3, 5), (2, 2, 0, 1)),
        ((3, 2), (2, 5), (4, 4), (4, 3, -1, 6)),
        ((1, 1), (1, 1), (4, 4), (9, 9, 9, 9)),
    ],
)
def test_cuda_logic(
    run_in_shim: Callable,
    up: tuple[int, int],
    down: tuple[int, int],
    taps: tuple[int, int],
    padding: tuple[int, int, int, int],
    channels_last: bool,
    dtype: torch.dtype,
) -> None:
    # an image of NaN around it shows what is read beside it
    around = torch.full([2 * 3 * 11 * 47 + 2000], torch.nan, dtype=dtype)
    shape = (2, 11, 47, 3) if channels_last else (2, 3, 11, 47)
    image = around[1000:-1000].view(shape)
    image.copy_(torch.randn(shape))
    x = image.permute(0, 3, 1, 2) if channels_last else image
    f = torch.randn(taps[1], taps[0])
    options = {"up": up, "down": down, "padding": padding, "flip_filter": True}
    expected = upfirdn2d(x.double(), f.double(), **options)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.full(expected.shape, 777.0, dtype=dtype).contiguous(memory_format=memory_format)
    job = Job(
        2 if channels_last else 6,
        3 if channels_last else 1,
        Axis(47, expected.shape[3], up[0], down[0], padding[0], taps[0]),
        Axis(11, expected.shape[2], up[1], down[1], padding[2], taps[1]),
        image.data_ptr(),
        f.data_ptr(),
        out.data_ptr(),
    )
    run_in_shim(ctypes.byref(job), dtype.itemsize)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
