"""On a GPU: each kernel against the CPU's reference, and whole views.

One run on a new GPU tells all of it: `pytest -m gpu tests/eg3d_renderer`, with a CUDA toolkit to
compile the kernels with. What fails to compile or load is the first thing that it tells.
A failure that leaves all later tests with "CUDA error" is the one to look at: run it alone, with
CUDA_LAUNCH_BLOCKING=1 or under compute-sanitizer.
"""

import copy
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.marching.depths import Draws, draw_depths
from eg3d_renderer.ops import march as marching
from eg3d_renderer.ops import native
from eg3d_renderer.ops.bias_act import ACTIVATIONS, bias_act
from eg3d_renderer.ops.march import Limits, Scene, Settings
from eg3d_renderer.ops.march.reference import Marched
from eg3d_renderer.ops.upfirdn2d import binomial_filter, upfirdn2d
from eg3d_renderer.triplane import TriPlaneGenerator
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.ops.test_bias_act import with_specials
from tests.eg3d_renderer.ops.test_cuda_logic import compare, identity_of, rays_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
OPS = [op for op, facts in native.OPS.items() if "cuda" in facts.backends]
MODELS = pytest.mark.parametrize("name", oracle.MODELS)
HALF = pytest.mark.parametrize("half", [False, True], ids=["exact", "fast"])
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)],
    ids=["float32", "float16", "bfloat16"],
)


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.cuda.synchronize()  # what went wrong in a test is told as that test's


@pytest.mark.parametrize("op", OPS)
def test_kernels_compile_and_load(op: str) -> None:
    assert native.load(op, "cuda") is None


# bias_act


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers otherwise in memory; "shifted": not at a multiple of 16 bytes."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "shifted":
        return x.new_empty(x.numel() + 3)[3:].view(x.shape).copy_(x)
    return x


@DTYPES
@pytest.mark.parametrize("layout", ["plain", "channels last", "shifted"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act(act: str, layout: str, dtype: torch.dtype, tolerance: float) -> None:
    for shape, clamp, has_bias in product(
        ([2, 24, 16, 16], [3, 17, 5, 7], [1, 1, 1, 1], [0, 4, 4, 4]), (None, 0.8), (True, False)
    ):
        x, dy = (3 * torch.randn(shape).to(dtype) for _ in range(2))
        inputs = [x, torch.randn(shape[1]).to(dtype)] if has_bias else [x]
        exact = [t.double().requires_grad_() for t in inputs]
        expected = bias_act(*exact, act=act, clamp=clamp)
        gradients = torch.autograd.grad(expected, exact, dy.double())
        there = [laid_out(x.cuda(), layout), *(t.cuda() for t in inputs[1:])]
        there = [t.requires_grad_() for t in there]
        made = bias_act(*there, act=act, clamp=clamp, impl="native")
        made_gradients = torch.autograd.grad(made, there, dy.cuda())
        for a, b in zip((made, *made_gradients[:1]), (expected, *gradients[:1]), strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.cpu().double(), b, rtol=tolerance, atol=tolerance)
        if has_bias:  # a sum
            atol = tolerance * max(1.0, (x.numel() / shape[1]) ** 0.5) * 3
            db = made_gradients[1].cpu().double()
            torch.testing.assert_close(db, gradients[1], rtol=tolerance, atol=atol)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_of_infinities_and_of_nan(act: str) -> None:
    x = with_specials(torch.randn(3, 70))
    x[1, 1::7] = torch.nan
    results = []
    for device, impl in (("cpu", "reference"), ("cuda", "native")):
        leaf = x.to(device).requires_grad_()
        y = bias_act(leaf, act=act, clamp=30.0, impl=impl)
        (dx,) = torch.autograd.grad(y.sum(), leaf)
        results.append((y.detach().cpu(), dx.cpu()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_second_gradients_of_bias_act() -> None:
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        x = torch.randn(4, 6).to(device).requires_grad_()
        y = bias_act(x, act="swish", impl="auto")
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), x)[0].cpu())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


# upfirdn2d


@DTYPES
@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("layout", ["plain", "channels last", "shifted"])
@pytest.mark.parametrize(
    ("taps", "up", "down"),
    [("4x4", 1, 1), ("4x4", 2, 1), ("4x4", 1, 2), ("4x4", 2, 2), ("3x5", (3, 1), (1, 2)),
     ("6", 2, 1), ("none", 2, 1)],
    ids=str,
)  # fmt: skip
def test_upfirdn2d(
    taps: str,
    up: int | tuple[int, int],
    down: int | tuple[int, int],
    layout: str,
    channels: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    f = {"4x4": binomial_filter(), "3x5": torch.randn(3, 5), "6": torch.rand(6), "none": None}[taps]
    for size, padding in ((19, 21), (2, 1, 2, 1)), ((8, 130), (1, 2, 3, -1)):
        x = torch.randn(2, channels, *size).to(dtype)
        exact = x.double().requires_grad_()
        resample = partial(upfirdn2d, up=up, down=down, padding=padding, gain=2.0)
        expected = resample(exact, None if f is None else f.double())
        dy = torch.randn(expected.shape).to(dtype)
        (gradient,) = torch.autograd.grad(expected, exact, dy.double())
        there = laid_out(x.cuda(), layout).requires_grad_()
        made = resample(there, None if f is None else f.cuda(), impl="native")
        (made_gradient,) = torch.autograd.grad(made, there, dy.cuda())
        for a, b in ((made, expected), (made_gradient, gradient)):
            assert a.dtype == dtype
            atol = tolerance * max(1.0, float(b.abs().max()))
            torch.testing.assert_close(a.cpu().double(), b, rtol=tolerance, atol=atol)


# march


def prepared(
    generator: TriPlaneGenerator, planes: Tensor, s: Settings, half: bool, device: str = "cuda"
) -> Scene:
    crop = generator.triplane_crop
    return marching.prepare(
        generator.field(planes),
        s,
        generator.for_sampling(planes).to(device),
        generator.sampler,
        generator.axes,
        copy.deepcopy(generator.decoder).to(device),
        Limits(
            None if crop is None else generator.settings.box / 2 - crop,
            generator.cull_clouds,
            generator.binarize_clouds,
        ),
        precision="fast" if half else "exact",
        impl="native",
    )


@torch.no_grad()
def render(
    generator: TriPlaneGenerator,
    planes: Tensor,
    rays: tuple[Tensor, Tensor],
    settings: Settings,
    draws: Draws,
    *,
    half: bool,
    device: str = "cuda",
) -> Marched:
    """For `compare`: a GPU's results, which are the same bits every time if there is no race."""
    scene = prepared(generator, planes, settings, half, device)
    assert scene.texels is not None
    assert scene.texels.values.dtype == (torch.float16 if half else torch.float32)
    inputs = [t.to(device) for t in (*rays, *draws)]
    results = [
        Marched(*(t.cpu() for t in marching.march(scene, *inputs[:2], Draws(*inputs[2:]), 1)))
        for _ in range(3)
    ]
    for again in results[1:]:
        torch.testing.assert_close(again, results[0], rtol=0, atol=0, equal_nan=True)
    return results[0]


@HALF
@MODELS
@pytest.mark.parametrize("jitter", [None, 3], ids=["mid", "random"])
@pytest.mark.parametrize("side", [64, 37])  # in tiles of pixels, or not
def test_march(name: str, jitter: int | None, side: int, half: bool) -> None:
    generator, planes = identity_of(name)
    made, _ = compare(render, generator, planes, rays_of(generator, side), jitter, half=half)
    assert made.opacity.max() - made.opacity.min() > 0.1


@HALF
@MODELS
@pytest.mark.parametrize("activation", marching.ACTIVATIONS)
def test_march_with_every_activation(name: str, activation: str, half: bool) -> None:
    generator, planes = identity_of(name)
    generator.decoder.activation = activation
    compare(render, generator, planes, rays_of(generator, 16), 2, half=half)


@HALF
@pytest.mark.parametrize(
    "settings",
    [
        {"fine_samples": 0},
        {"samples": 4, "fine_samples": 1},
        {"samples": 17, "fine_samples": 40},
        {"samples": 96, "fine_samples": 96},
        {"samples": 256, "fine_samples": 256},
        {"white_back": True},
        {"signed": True},
        {"disparity": True},
        {"start": None, "end": None},
    ],
    ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()),
)
@pytest.mark.parametrize("name", ["panohead_tiny", "spherehead_tiny"])
def test_march_with_settings(name: str, settings: dict, half: bool) -> None:
    generator, planes = identity_of(name)
    for jitter in (None, 5):
        compare(render, generator, planes, rays_of(generator, 9), jitter, half=half, **settings)


@HALF
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("triplane_crop", None),
        ("triplane_crop", 0.3),
        ("cull_clouds", 0.9),
        ("binarize_clouds", 0.5),
    ],
)
def test_march_leaves_out_densities(name: str, value: float | None, half: bool) -> None:
    generator, planes = identity_of("panohead_tiny")
    setattr(generator, name, value)
    compare(render, generator, planes, rays_of(generator, 16), half=half)


@HALF
@pytest.mark.parametrize("far", [1e4, 3e38, torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["eg3d_tiny_2x", "panohead_tiny", "spherehead_tiny"])
def test_march_reads_nothing_outside_of_the_planes(name: str, far: float, half: bool) -> None:
    generator, planes = identity_of(name)
    origins, directions = (t.clone() for t in rays_of(generator, 4))
    origins[3] = far
    origins[7, 1] = far
    s = generator.settings
    draws = draw_depths(None, 16, s.samples, s.fine_samples, torch.device("cpu"))
    made = render(generator, planes, (origins, directions), s, draws, half=half)
    assert made.features[[i for i in range(16) if i not in (3, 7)]].isfinite().all()


@HALF
def test_march_of_nan_and_of_nothing(half: bool) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    s = generator.settings
    nothing = render(
        generator, planes, (torch.empty(0, 3), torch.empty(0, 3)), s,
        Draws(torch.full([1, 1], 0.5), torch.rand(1, s.fine_samples)), half=half,
    )  # fmt: skip
    assert nothing.features.shape == (0, marching.FEATURES)
    planes = planes.clone()
    planes[0, 5, 120:130, 120:130] = torch.nan
    rays = rays_of(generator)
    draws = draw_depths(None, len(rays[0]), s.samples, s.fine_samples, torch.device("cpu"))
    made = render(generator, planes, rays, s, draws, half=half)
    spoilt = made.opacity.isnan()
    assert 0 < spoilt.sum() < len(spoilt)
    assert torch.equal(made.features.isnan().all(dim=1), spoilt)


# Whole views


def views(name: str, device: str, precision: str = "exact", impl: str = "auto") -> dict:
    """Four views of an identity."""
    generator = oracle.build(oracle.facts(name)).to(device)
    generator.set_precision(precision)
    for block in (generator.superresolution.block0, generator.superresolution.block1):
        block.fp16 = True  # in "fast" alone
    cam = er.cameras.orbit(4, elevation=10, **generator.camera).to(device)
    with torch.no_grad(), native.chosen(impl):
        ws = generator.mapping(er.latents([0], 512).to(device), truncation_psi=0.7)
        made = generator.synthesis(ws, cam)
    return {key: tensor.cpu() for key, tensor in made.items()}


@MODELS
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_exact_views_are_those_of_the_cpu(name: str, impl: str) -> None:
    expected, made = views(name, "cpu", impl="reference"), views(name, "cuda", impl=impl)
    for key in ("image_raw", "image_mask", "image_depth"):
        torch.testing.assert_close(made[key], expected[key], rtol=0, atol=5e-3)
    error = (made["image"] - expected["image"]).square().mean()
    assert error / expected["image"].square().mean() < 1e-8


@MODELS
def test_fast_views_are_within_45_db_of_exact(name: str) -> None:
    exact, fast = views(name, "cuda"), views(name, "cuda", "fast")
    for key in ("image", "image_raw"):
        assert fast[key].isfinite().all()
        extent = exact[key].max() - exact[key].min()
        error = (fast[key] - exact[key]).square().mean()
        assert 10 * torch.log10(extent**2 / error) > 45, key
    torch.testing.assert_close(fast["image_mask"], exact["image_mask"], rtol=0, atol=0.02)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("name", ["eg3d_tiny_2x", "panohead_tiny"])
def test_views_are_the_same_from_less_memory(name: str, impl: str) -> None:
    generator = oracle.build(oracle.facts(name)).cuda()
    cam = er.cameras.orbit(5, **generator.camera).cuda()
    with torch.no_grad(), native.chosen(impl):
        ws = generator.mapping(er.latents([0], 512).cuda(), truncation_psi=0.7)
        planes = generator.planes(ws)
        expected = generator.render(planes, ws, cam)
        for memory in (64 << 20, 1 << 28):
            made = generator.render(planes, ws, cam, memory=memory)
            for key, tensor in expected.items():
                torch.testing.assert_close(made[key], tensor, rtol=0, atol=2e-3, msg=key)


def test_every_op_runs_native_by_itself() -> None:
    generator = oracle.build(oracle.facts("eg3d_tiny_2x")).cuda()
    for op in OPS:
        assert generator.implementations[op] == "native", op
