"""Upstream's values and gradients; the kernels, CUDA's too, against the reference."""

import ctypes
import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.bias_act import ACTIVATIONS, bias_act
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.ops.shim.compiling import OPS, compile_for_cpu

TRUTH = oracle.numbers("ops_bias_act")
CASES = oracle.facts("ops_bias_act")["cases"]
SPECIAL = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 1e-30, -1e-5, 90.0, -90.0, 25.0, -25.0])

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
IMPLS = pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_compiler)])
RUN_HERE = {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
ISAS = pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"][:RUN_HERE])


@IMPLS
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['act']}")
def test_values_and_gradients_are_upstreams(case: dict, impl: str) -> None:
    options = {k: v for k, v in case.items() if k in ("alpha", "gain", "clamp")}
    x, b = TRUTH["x"].clone().requires_grad_(), TRUTH["b"].clone().requires_grad_()
    y = bias_act(x, b if case["bias"] else None, case["act"], **options, impl=impl)
    prefix = f"c{case['case']:02d}_"
    torch.testing.assert_close(y, TRUTH[f"{prefix}y"], rtol=0, atol=1e-6)
    y.backward(TRUTH["dy"])
    torch.testing.assert_close(x.grad, TRUTH[f"{prefix}dx"], rtol=0, atol=1e-5)
    if case["bias"]:
        torch.testing.assert_close(b.grad, TRUTH[f"{prefix}db"], rtol=0, atol=1e-4)


@IMPLS
def test_bias_goes_along_the_dimension_named(impl: str) -> None:
    two = bias_act(TRUTH["x2d"], TRUTH["b2d"], "lrelu", impl=impl)
    torch.testing.assert_close(two, TRUTH["y2d_lrelu"])
    last = bias_act(TRUTH["x"], TRUTH["b_dim3"], "lrelu", dim=3, impl=impl)
    torch.testing.assert_close(last, TRUTH["y_dim3_lrelu"])


def test_every_activation_has_a_case() -> None:
    assert {case["act"] for case in CASES} == set(ACTIVATIONS)


def test_second_gradients_exist() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act(x, b, "swish", gain=1.3), (x, b))


# The kernels


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "channels last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "every second":
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def with_specials(x: Tensor) -> Tensor:
    """Every seventh number is a special one."""
    x = x.clone()
    every = x.view(-1)[::7]
    every.copy_(SPECIAL.repeat(len(every) // len(SPECIAL) + 1)[: len(every)])
    return x


def assert_same(made: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Within rounding: a millionth of the largest number, or of 1, which is what slopes are."""
    finite = expected[expected.isfinite()].abs()
    size = float(torch.cat([finite, torch.ones(1)]).max())
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance * size, equal_nan=True)


@needs_compiler
@ISAS
@settings(deadline=None)
@given(data=st.data())
def test_kernels_are_the_reference(isa: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 17, 21]), min_size=1, max_size=4))
    dim = data.draw(st.integers(0, len(shape) - 1))
    options = {
        "act": data.draw(st.sampled_from(list(ACTIVATIONS))),
        "alpha": data.draw(st.sampled_from([None, 0.0, 0.3])),
        "gain": data.draw(st.sampled_from([None, 1.0, -1.7])),
        "clamp": data.draw(st.sampled_from([None, 0.7, 3.3])),
    }
    torch.manual_seed(data.draw(st.integers(0, 9)))
    x = laid_out(
        with_specials(3 * torch.randn(shape)),
        data.draw(st.sampled_from(["plain", "channels last", "transposed", "every second"])),
    )
    bias = torch.randn(shape[dim]) if data.draw(st.booleans()) else None
    dy = torch.randn(shape)
    results = []
    for impl in ("native", "reference"):
        inputs = [t.detach().requires_grad_() for t in (x, bias) if t is not None]
        with native.chosen(impl, isa):
            y = bias_act(*inputs, dim=dim, **options)
            results.append((y.detach(), *torch.autograd.grad(y, inputs, dy)))
    (y, dx, *db), (expected_y, expected_dx, *expected_db) = results
    assert_same(y, expected_y)
    assert_same(dx, expected_dx)
    for made, expected in zip(db, expected_db, strict=True):  # sums, added in another order
        assert_same(made, expected, tolerance=1e-5)


@needs_compiler
@ISAS
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_functions_are_good_everywhere(act: str, isa: str) -> None:
    """To 4e-7 of each number, not of the range; and a NaN stays one."""
    x = torch.cat([torch.linspace(-80, 80, 20001), torch.logspace(-30, 1, 999)])
    with native.chosen("native", isa):
        y = bias_act(x, act=act)
        assert bias_act(torch.full([5], torch.nan), act=act, clamp=1.0).isnan().all()
    exact = bias_act(x.double(), act=act)
    torch.testing.assert_close(y.double(), exact, rtol=4e-7, atol=1e-37)


@needs_compiler
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_second_gradients_are_the_references(act: str) -> None:
    x, bias, dy = torch.randn(2, 3, 4), torch.randn(3), torch.randn(2, 3, 4)
    results = []
    for impl in ("native", "reference"):
        inputs = [t.clone().requires_grad_() for t in (x, bias, dy)]
        y = bias_act(*inputs[:2], act, gain=1.3, clamp=1.0, impl=impl)
        dx, db = torch.autograd.grad(y, inputs[:2], inputs[2], create_graph=True)
        (dx.square().sum() + db.exp().sum()).backward()
        results.append([t.grad for t in inputs])
    torch.testing.assert_close(*results)


@needs_compiler
@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_threads_and_batch_change_no_bit(layout: str) -> None:
    x, bias = laid_out(torch.randn(3, 37, 41, 43), layout), torch.randn(37)
    y = bias_act(x, bias, "swish", impl="native")
    assert y.stride() == x.stride()
    assert torch.equal(y[1:2], bias_act(x[1:2], bias, "swish", impl="native"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    again = bias_act(x, bias, "swish", impl="native")
    torch.set_num_threads(threads)
    assert torch.equal(y, again)


def test_doubles_are_for_the_reference() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(bias_act(x, act="tanh"), x.tanh())
    with pytest.raises(RendererError, match=r"no kernel for torch\.float64"):
        bias_act(x, impl="native")


# CUDA's kernels on a CPU


class Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "step", "channels")),
        *((name, ctypes.c_void_p) for name in ("x", "bias", "dy", "out")),
        ("activation", ctypes.c_int),
        *((name, ctypes.c_float) for name in ("alpha", "gain", "clamp")),
    )


@pytest.fixture(scope="module")
def run_in_shim(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    library = tmp_path_factory.mktemp("shim") / "bias_act.so"
    compile_for_cpu(OPS / "bias_act" / "kernel.cu", library, "-shared", "-fPIC")
    return ctypes.CDLL(str(library)).bias_act_run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_cuda_logic(run_in_shim: Callable, act: str, dtype: torch.dtype) -> None:
    kind = ACTIVATIONS[act]
    for shape, dim, offset in (([3, 5, 24], 1, 0), ([7, 11, 13], 1, 0), ([21, 16], 1, 3)):
        count, channels = torch.Size(shape).numel(), shape[dim]
        # a margin around each, to see what is written there; an offset spoils the alignment
        x, dy, out = (torch.randn(count + 16).to(dtype) for _ in range(3))
        x, dy, inside = (t[offset : offset + count].view(shape) for t in (x, dy, out))
        bias = torch.randn(channels).to(dtype)
        before = out.clone()
        for has_bias, has_dy, clamp in ((1, 0, -1), (0, 0, 0.8), (1, 1, -1), (1, 1, 0.8)):
            job = Job(
                count, x.stride(dim), channels, x.data_ptr(), bias.data_ptr() if has_bias else None,
                dy.data_ptr() if has_dy else None, inside.data_ptr(), list(ACTIVATIONS).index(act),
                kind.alpha, kind.gain, clamp,
            )  # fmt: skip
            run_in_shim(ctypes.byref(job), x.element_size())
            v = x.detach().double().requires_grad_()
            b = bias.double() if has_bias else None
            expected = bias_act(v, b, act, dim=dim, clamp=clamp if clamp > 0 else None)
            if has_dy:
                (expected,) = torch.autograd.grad(expected, v, dy.double())
            tolerance = 1e-6 if dtype == torch.float32 else 1e-3
            torch.testing.assert_close(inside.double(), expected, rtol=tolerance, atol=tolerance)
            changed = out.ne(before).nonzero()
            assert offset <= changed.min()
            assert changed.max() < offset + count
