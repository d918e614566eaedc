"""The CUDA kernels without a GPU: a CPU runs the marcher's logic.

shim/cuda_shim.h makes plain C++ of a kernel.cu, with a fiber for each thread. What it cannot tell:
how fast the kernels are, and whether the hardware's fragments are laid out as documented.
"""

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer import cameras
from eg3d_renderer.marching.depths import Draws, draw_depths
from eg3d_renderer.networks.decoder import FEATURES
from eg3d_renderer.ops.march import ACTIVATIONS, KINDS, Settings
from eg3d_renderer.ops.march.reference import Marched, march_view, ray_limits
from eg3d_renderer.triplane import TriPlaneGenerator
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.ops.shim.compiling import OPS, compile_for_cpu

SIDE = 16  # of the views, in pixels
EXACT = 1e-4  # of the features' range
# Texels, their blend, hidden units and colours are rounded to halves. What that does depends on how
# steep the densities are: rounding no more than the planes already moves the worst pixel of the
# tiny EG3D by 5e-3, the mean one by 9e-5.
FAST, FAST_MEAN = 2e-2, 1e-3


# The structures of kernel.h


class Scene(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("kind", "height", "width", "depth")),
        ("texels", ctypes.c_void_p),
        ("half", ctypes.c_int),
        ("axis", ctypes.c_int * 9),
        ("sign", ctypes.c_float * 9),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("weight1", "bias1", "weight2", "bias2")),
        ("activation", ctypes.c_int),
        *((name, ctypes.c_float) for name in ("crop", "cull", "binarize")),
    )


class Rays(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("origins", "directions", "start", "end")),
        ("limit_step", ctypes.c_int64),
        ("coarse", ctypes.c_void_p),
        ("coarse_row", ctypes.c_int64),
        ("coarse_step", ctypes.c_int64),
        ("fine", ctypes.c_void_p),
        ("fine_row", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("samples", "fine_samples")),
        *((name, ctypes.c_int) for name in ("disparity", "white_back", "is_signed")),
    )


class Seen(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("features", "depth", "opacity", "nearest", "farthest")
    )


Render = Callable[..., Marched]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The kernels of the marcher, as a function of what `march_view` takes."""
    library = tmp_path_factory.mktemp("shim") / "march.so"
    compile_for_cpu(OPS / "march" / "kernel.cu", library, "-shared", "-fPIC")
    call = ctypes.CDLL(str(library)).render_in_shim
    call.restype = ctypes.c_char_p

    def render(
        generator: TriPlaneGenerator,
        planes: Tensor,
        rays: tuple[Tensor, Tensor],
        settings: Settings,
        draws: Draws,
        *,
        half: bool,
    ) -> Marched:
        scene, tensors = scene_of(generator, planes, half)
        origins, directions = rays
        limits = ray_limits(origins, directions, settings)
        told, count = told_of(rays, limits, settings, draws), len(origins)
        results = []
        for descending in (0, 1):
            features = torch.full([count, FEATURES], 777.0)
            rest = torch.full([4, count], 777.0)  # depth, opacity, nearest, farthest
            seen = Seen(features.data_ptr(), *(row.data_ptr() for row in rest))
            error = call(*(ctypes.byref(s) for s in (scene, told, seen)), descending)
            if error is not None:
                raise RuntimeError(error.decode())
            results.append((features, rest))
        (features, rest), again = results
        # the order in which threads run must make no difference: none is missing a barrier
        torch.testing.assert_close((features, rest), again, rtol=0, atol=0, equal_nan=True)
        depth, opacity, nearest, farthest = rest
        del tensors, limits  # the kernels have read them
        return Marched(features, depth.clamp(nearest.min(), farthest.max()), opacity)

    render.call = call
    return render


def told_of(
    rays: tuple[Tensor, Tensor], limits: tuple[Tensor, Tensor], settings: Settings, draws: Draws
) -> Rays:
    """Rays as the kernels are told of them; it points to the tensors, all contiguous."""
    origins, directions = rays
    start, end = limits
    assert all(t.is_contiguous() for t in (*rays, *limits, *draws))
    one_draw = draws.coarse.numel() == 1
    return Rays(
        len(origins),
        origins.data_ptr(),
        directions.data_ptr(),
        start.data_ptr(),
        end.data_ptr(),
        int(len(start) > 1),
        draws.coarse.data_ptr(),
        0 if one_draw else settings.samples,
        0 if one_draw else 1,
        draws.fine.data_ptr(),
        settings.fine_samples if len(draws.fine) > 1 else 0,
        settings.samples,
        settings.fine_samples,
        settings.disparity,
        settings.white_back,
        settings.signed,
    )


def scene_of(
    generator: TriPlaneGenerator, planes: Tensor, half: bool
) -> tuple[Scene, list[Tensor]]:
    """One identity's planes as the kernels read them; with them the tensors it points to."""
    texels = generator.for_sampling(planes).movedim(-3, -1)
    height, width, channels = texels.shape[-3:]
    depth = channels // FEATURES
    texels = texels.reshape(-1, height, width, depth, FEATURES)
    weight1, bias1, weight2, bias2 = (t.contiguous() for t in generator.decoder.layers())
    weight1 = weight1 / 3
    texels = texels.half().contiguous() if half else texels @ weight1.T
    # what is read beside the planes shows
    around = torch.full([texels.numel() + 2 * 4096], torch.nan, dtype=texels.dtype)
    around[4096:-4096] = texels.flatten()
    axes = [axis for frame in generator.axes for axis in frame]
    crop = generator.triplane_crop
    scene = Scene(
        KINDS.index(generator.sampler),
        height,
        width,
        depth,
        around[4096:].data_ptr(),
        half,
        (ctypes.c_int * 9)(*(max(range(3), key=lambda i: abs(a[i])) for a in axes)),
        (ctypes.c_float * 9)(*map(sum, axes)),
        2 / generator.settings.box,
        weight1.data_ptr() if half else None,
        bias1.data_ptr(),
        weight2.data_ptr(),
        bias2.data_ptr(),
        ACTIVATIONS.index(generator.decoder.activation),
        torch.inf if crop is None else generator.settings.box / 2 - crop,
        -1 if generator.cull_clouds is None else generator.cull_clouds,
        -1 if generator.binarize_clouds is None else generator.binarize_clouds,
    )
    return scene, [around, weight1, bias1, weight2, bias2]


# Identities and rays


@pytest.fixture(scope="module", params=["eg3d_tiny_2x", "panohead_tiny", "spherehead_tiny"])
def identity(request: pytest.FixtureRequest) -> tuple[TriPlaneGenerator, Tensor]:
    return identity_of(request.param)


def identity_of(name: str) -> tuple[TriPlaneGenerator, Tensor]:
    generator = oracle.build(oracle.facts(name))
    ws = generator.mapping(er.latents([0], generator.z_dim), truncation_psi=0.7)
    return generator, generator.planes(ws)[0]


def rays_of(generator: TriPlaneGenerator, side: int = SIDE) -> tuple[Tensor, Tensor]:
    label = er.cameras.orbit(5, **generator.camera)[1:2]
    origins, directions = (t[0].contiguous() for t in cameras.rays(label, side))
    return origins, directions


def compare(
    render: Render,
    generator: TriPlaneGenerator,
    planes: Tensor,
    rays: tuple[Tensor, Tensor],
    jitter: int | Draws | None = None,
    *,
    half: bool,
    **settings: object,
) -> tuple[Marched, Marched]:
    """What the kernel and the reference make of rays, the same within the tolerance."""
    s = generator.settings._replace(**settings)
    if isinstance(jitter, int):
        jitter = torch.Generator().manual_seed(jitter)
    draws = draw_depths(jitter, len(rays[0]), s.samples, s.fine_samples, torch.device("cpu"))
    expected = march_view(generator.field(planes), *rays, s, draws, len(rays[0]))
    made = render(generator, planes, rays, s, draws, half=half)
    values = expected.features[expected.features.isfinite()]
    sizes = float(values.max() - values.min()), 1.0, 1.0
    for name, a, b, size in zip(Marched._fields, made, expected, sizes, strict=True):
        tolerance = (FAST if half else EXACT) * size
        if name == "depth" and not half:  # a quotient by the opacity: as precise as that is large
            a, b = a * expected.opacity, b * expected.opacity
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
        )
        assert not half or (a - b).nan_to_num().abs().mean() <= FAST_MEAN * size, name
    return made, expected


HALF = pytest.mark.parametrize("half", [False, True], ids=["exact", "fast"])


@HALF
@pytest.mark.parametrize("jitter", [None, 3], ids=["mid", "random"])
def test_views(
    render: Render, identity: tuple[TriPlaneGenerator, Tensor], jitter: int | None, half: bool
) -> None:
    generator, planes = identity
    made, _ = compare(render, generator, planes, rays_of(generator), jitter, half=half)
    assert made.opacity.max() - made.opacity.min() > 0.1


@HALF
@pytest.mark.parametrize(
    "settings",
    [
        {"fine_samples": 0},
        {"samples": 4, "fine_samples": 1},
        {"samples": 13, "fine_samples": 7},
        {"samples": 17, "fine_samples": 40},
        {"samples": 100, "fine_samples": 70},
        {"white_back": True},
        {"signed": True},
        {"disparity": True},
        {"start": None, "end": None},
    ],
    ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()),
)
def test_settings(render: Render, settings: dict, half: bool) -> None:
    generator, planes = identity_of("panohead_tiny")
    rays = tuple(t[:37] for t in rays_of(generator, 7))
    for jitter in (None, 5):
        compare(render, generator, planes, rays, jitter, half=half, **settings)


@HALF
@pytest.mark.parametrize("activation", ["sigmoid", "lrelu"])
def test_activations(render: Render, activation: str, half: bool) -> None:
    generator, planes = identity_of("spherehead_tiny")
    generator.decoder.activation = activation
    compare(render, generator, planes, rays_of(generator, 8), 2, half=half)


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
def test_densities_left_out(render: Render, name: str, value: float | None, half: bool) -> None:
    generator, planes = identity_of("panohead_tiny")
    rays = rays_of(generator, 8)
    usual, _ = compare(render, generator, planes, rays, half=half)
    setattr(generator, name, value)
    made, _ = compare(render, generator, planes, rays, half=half)
    assert (made.opacity - usual.opacity).abs().max() > 0.1


@HALF
def test_draws_in_any_order_and_equal_ones(render: Render, half: bool) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    rays = rays_of(generator, 8)
    s = generator.settings
    fine = torch.rand(64, s.fine_samples, generator=torch.Generator().manual_seed(0))
    fine[:, ::3] = fine[:, :1]
    fine[::2, -1], fine[1::2, -1] = 1, 0
    compare(render, generator, planes, rays, Draws(torch.zeros(1, 1), fine), half=half)


@HALF
def test_many_samples(render: Render, half: bool) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    rays = tuple(t[::60][:3].contiguous() for t in rays_of(generator))
    compare(render, generator, planes, rays, 1, half=half, samples=256, fine_samples=256)


@HALF
def test_a_ray_that_meets_nan_is_nan(render: Render, half: bool) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    planes = planes.clone()
    planes[0, 5, 120:130, 120:130] = torch.nan
    made, _ = compare(render, generator, planes, rays_of(generator), half=half)
    spoilt = made.opacity.isnan()
    assert 0 < spoilt.sum() < len(spoilt)
    assert torch.equal(made.features.isnan().all(dim=1), spoilt)


@HALF
@pytest.mark.parametrize("far", [1e4, 1e12, 3e38, torch.inf, -torch.inf, torch.nan])
def test_nothing_is_read_outside_of_the_planes(
    render: Render, identity: tuple[TriPlaneGenerator, Tensor], far: float, half: bool
) -> None:
    generator, planes = identity
    origins, directions = (t.clone() for t in rays_of(generator, 4))
    origins[3] = far
    origins[7, 1] = far
    s = generator.settings
    draws = draw_depths(None, 16, s.samples, s.fine_samples, torch.device("cpu"))
    made = render(generator, planes, (origins, directions), s, draws, half=half)
    others = [i for i in range(16) if i not in (3, 7)]
    assert made.features[others].isfinite().all()


def test_what_cannot_be_rendered_is_refused(render: Render) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    rays = rays_of(generator, 4)
    for wrong in ({"samples": 3}, {"samples": 257}, {"fine_samples": 257}):
        with pytest.raises(RuntimeError, match="takes 4 to 256 samples a ray"):
            compare(render, generator, planes, rays, half=False, **wrong)


@HALF
def test_what_is_not_aligned_or_too_large_is_refused(render: Render, half: bool) -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    scene, tensors = scene_of(generator, planes, half)
    origins, directions = rays_of(generator, 4)
    s = generator.settings
    draws = draw_depths(None, 16, s.samples, s.fine_samples, torch.device("cpu"))
    told = told_of((origins, directions), ray_limits(origins, directions, s), s, draws)
    seen = Seen()
    for change, reason in (
        ({"texels": scene.texels + 8}, b"multiple of 16 bytes"),
        ({"height": 1 << 16, "width": 1 << 16}, b"too many texels"),
        ({"half": not half}, b"half and not premixed, or float and premixed"),
    ):
        wrong = Scene.from_buffer_copy(scene)
        for name, value in change.items():
            setattr(wrong, name, value)
        error = render.call(*(ctypes.byref(one) for one in (wrong, told, seen)), 0)
        assert reason in (error or b"")
    told.count = 0  # no rays: nothing is launched, and nothing written
    assert render.call(*(ctypes.byref(one) for one in (scene, told, seen)), 0) is None
    del tensors
