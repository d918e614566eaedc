"""The marcher's CPU kernels against the reference, as properties of any scene and any rays."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.marching import density
from eg3d_renderer.marching.depths import Draws, draw_depths
from eg3d_renderer.marching.planes import (
    EG3D_AXES,
    Axes,
    sample_spherical,
    sample_trigrid,
    sample_triplane,
)
from eg3d_renderer.networks.decoder import FEATURES, Decoder
from eg3d_renderer.ops import native
from eg3d_renderer.ops.march import (
    ACTIVATIONS,
    KINDS,
    MOST_SAMPLES,
    Limits,
    Scene,
    Settings,
    march,
    prepare,
)
from eg3d_renderer.ops.march.reference import Marched, ray_limits

BOX = 1.0
# Of the planes: densities vary by a few units and none is steep; importance sampling would amplify
# what either implementation rounds.
GAIN = 3.0
EXACT = 1e-4  # of the features' range
DEPTH = 1e-3

# the examples are the same every time: one in some million lies within rounding of a limit
properties = functools.partial(settings, deadline=None, derandomize=True)
needs_native = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def kernels() -> None:
    if reason := native.load("march", "cpu"):
        pytest.skip(reason)


@dataclasses.dataclass
class Case:
    """A scene and its rays, all of it made from the seed."""

    kind: str = "triplane"
    activation: str = "sigmoid"
    size: tuple[int, int] = (9, 12)  # height and width of the planes
    depth: int = 3  # of tri-grids
    axes: Axes = dataclasses.field(default_factory=lambda: EG3D_AXES)
    limits: Limits = dataclasses.field(default_factory=Limits)
    samples: int = 12
    fine: int = 12
    between: str = "given"  # "given", "auto" or "disparity"
    white_back: bool = False
    signed: bool = False
    rays: int = 12
    jitter: bool = False
    strided: bool = False
    seed: int = 0

    @functools.cached_property
    def random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @functools.cached_property
    def settings(self) -> Settings:
        start, end = (None, None) if self.between == "auto" else (2.25, 3.3)
        disparity = self.between == "disparity"
        return Settings(
            self.samples, self.fine, start, end, BOX, disparity, self.white_back, self.signed
        )

    @functools.cached_property
    def planes(self) -> Tensor:
        slices = self.depth if self.kind == "trigrid" else 1
        leading = (2, 3) if self.kind == "spherical" else (3,)
        channels = slices * FEATURES
        if self.strided:
            values = torch.randn(*leading, *self.size, channels, generator=self.random)
            return GAIN * values.movedim(-1, -3)
        return GAIN * torch.randn(*leading, channels, *self.size, generator=self.random)

    @functools.cached_property
    def decoder(self) -> Decoder:
        decoder = Decoder(self.activation).requires_grad_(False)
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=self.random))
        return decoder

    @functools.cached_property
    def view(self) -> tuple[Tensor, Tensor]:
        """Rays from around the box to points in it, or not far beside."""
        origins, targets = torch.randn(2, self.rays, 3, generator=self.random)
        origins = 2.7 * origins / origins.norm(dim=1, keepdim=True)
        directions = 0.3 * targets - origins
        directions = directions / directions.norm(dim=1, keepdim=True)
        if self.strided:
            return origins.T.contiguous().T, torch.stack([directions, origins], dim=1)[:, 0]
        return origins, directions

    @functools.cached_property
    def draws(self) -> Draws:
        jitter = self.random if self.jitter else None
        return draw_depths(jitter, self.rays, self.samples, self.fine, torch.device("cpu"))

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        sample = {
            "triplane": sample_triplane,
            "trigrid": sample_trigrid,
            "spherical": sample_spherical,
        }[self.kind]
        sigma, features = self.decoder(sample(self.planes, points * (2 / BOX), self.axes))
        if self.limits.crop is not None:
            sigma = density.crop(points, sigma, self.limits.crop)
        if self.limits.cull is not None:
            sigma = density.cull(sigma, self.limits.cull)
        if self.limits.binarize is not None:
            sigma = density.binarize(sigma, self.limits.binarize)
        return sigma, features

    def prepared(self, impl: str, precision: str = "exact") -> Scene:
        return prepare(
            self.field,
            self.settings,
            self.planes,
            self.kind,
            self.axes,
            self.decoder,
            self.limits,
            precision=precision,
            impl=impl,
        )

    def marched(self, impl: str, precision: str = "exact", isa: str = "") -> Marched:
        with torch.no_grad(), native.chosen(impl, isa):
            return march(self.prepared("auto", precision), *self.view, self.draws, 64)


@functools.cache
def isas() -> list[str]:
    """Those of this machine."""
    found = []
    for isa in native.OPS["march"].isas:
        try:
            Case(rays=1).marched("native", isa=isa)
        except RuntimeError as error:
            if "this processor" not in str(error):
                raise
        else:
            found.append(isa)
    return found


def assert_near(made: Marched, expected: Marched) -> None:
    values = expected.features
    extent = float(values.max() - values.min()) if len(values) else 0.0
    # what a scene that is all but empty shows is as precise as what a full one does
    tolerance = EXACT * max(extent, 0.1)
    torch.testing.assert_close(made.features, values, rtol=0, atol=tolerance)
    torch.testing.assert_close(made.opacity, expected.opacity, rtol=0, atol=EXACT)
    full = expected.opacity > 1e-2
    torch.testing.assert_close(made.depth[full], expected.depth[full], rtol=0, atol=DEPTH)


@st.composite
def signed_axes(draw: Callable[..., Any]) -> Axes:
    """Three frames of coordinate axes, in any order and either direction."""
    frames = []
    for _ in range(3):
        order = draw(st.permutations(range(3)))
        signs = draw(st.tuples(*3 * [st.sampled_from((-1.0, 1.0))]))
        frames.append(
            [[sign * (i == k) for i in range(3)] for k, sign in zip(order, signs, strict=True)]
        )
    return frames


limits = st.builds(
    Limits,
    crop=st.sampled_from((None, 0.1, 0.3)),
    cull=st.sampled_from((None, 0.2, 0.3)),
    binarize=st.sampled_from((None, None, 0.25)),
)
sides = st.integers(1, 20)
cases = st.builds(
    Case,
    kind=st.sampled_from(KINDS),
    activation=st.sampled_from(ACTIVATIONS),
    size=st.tuples(sides, sides),
    depth=st.integers(1, 4),
    axes=signed_axes(),
    limits=st.one_of(st.just(Limits()), limits),
    samples=st.integers(4, 40),
    fine=st.integers(0, 40),
    between=st.sampled_from(("given", "auto", "disparity")),
    white_back=st.booleans(),
    signed=st.booleans(),
    rays=st.integers(1, 20),
    jitter=st.booleans(),
    strided=st.booleans(),
    seed=st.integers(0, 2**31),
)


@needs_native
@given(cases, st.data())
@properties(max_examples=300)
def test_native_is_the_reference_to_rounding(case: Case, data: st.DataObject) -> None:
    isa = data.draw(st.sampled_from(isas()))
    assert_near(case.marched("native", isa=isa), case.marched("reference"))


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [(48, 48), (4, 0), (7, 1), (256, 256)])
def test_every_isa_at_any_number_of_samples(kind: str, samples: tuple[int, int]) -> None:
    case = Case(kind=kind, samples=samples[0], fine=samples[1], jitter=True, rays=9)
    expected = case.marched("reference")
    for isa in isas():
        assert_near(case.marched("native", isa=isa), expected)


@needs_native
@pytest.mark.parametrize("fine", [0, 12])
def test_rays_that_all_miss_the_box_are_marched_backwards(fine: int) -> None:
    case = Case(between="auto", fine=fine, rays=5)
    origins, directions = case.view
    case.view = origins + torch.tensor([0.0, 9.0, 0.0]), directions
    start, end = ray_limits(*case.view, case.settings)
    assert (start > end).all()
    for isa in isas():
        assert_near(case.marched("native", isa=isa), case.marched("reference"))


@needs_native
def test_no_rays() -> None:
    for kind in KINDS:
        seen = Case(kind=kind, rays=0).marched("native")
        assert [t.shape for t in seen] == [(0, FEATURES), (0,), (0,)]


@needs_native
@given(cases)
@properties(max_examples=40)
def test_nan_planes_give_nan_features(case: Case) -> None:
    # what is cropped, thin or solid is so whatever the planes hold
    case = dataclasses.replace(case, limits=Limits())
    case.planes = torch.full_like(case.planes, torch.nan)
    for isa in isas():
        assert case.marched("native", isa=isa).features.isnan().all()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_native
@given(cases, st.sampled_from((100, 129)))
@properties(max_examples=25)
def test_bits_do_not_depend_on_threads_order_or_company(case: Case, rays: int) -> None:
    # "auto" gives rays that miss the box the limits of others
    between = "given" if case.between == "auto" else case.between
    case = dataclasses.replace(case, rays=rays, between=between)
    scene = case.prepared("native")
    (origins, directions), draws = case.view, case.draws

    def seen(which: Tensor) -> Marched:
        drawn = Draws(*(t if len(t) == 1 else t[which] for t in draws))
        return march(scene, origins[which], directions[which], drawn, 64)

    with torch.no_grad():
        everything = torch.arange(rays)
        with threads(1):
            expected = seen(everything)
        with threads(3):
            assert_same(seen(everything), expected)
        order = torch.randperm(rays)
        assert_same(seen(order), Marched(*(t[order] for t in expected)))
        for some in (order[:1], order[:7], order[:64]):
            # depth is clamped over a view as a whole
            assert_same(seen(some)[::2], [t[some] for t in expected[::2]])


def assert_same(made: Any, expected: Any) -> None:
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


@needs_native
@given(cases)
@properties(max_examples=60)
def test_half_precision_texels_are_near(case: Case) -> None:
    # without what a hair's breadth of density turns on and off
    case = dataclasses.replace(case, limits=Limits(crop=case.limits.crop))
    exact = case.marched("native")
    extent = max(float(exact.features.max() - exact.features.min()), 0.1)
    for isa in isas():
        fast = case.marched("native", "fast", isa)
        torch.testing.assert_close(fast.features, exact.features, rtol=0, atol=2e-3 * extent)
        torch.testing.assert_close(fast.opacity, exact.opacity, rtol=0, atol=1e-3)


def test_gradients_fall_to_the_reference() -> None:
    case = Case()
    case.planes = case.planes.requires_grad_(True)
    scene = case.prepared("auto")
    assert scene.texels is None
    march(scene, *case.view, case.draws, 64).features.sum().backward()
    assert case.planes.grad is not None
    assert case.planes.grad.abs().sum() > 0


def test_gradients_of_rays_fall_to_the_reference() -> None:
    case = Case()
    origins, directions = case.view
    origins = origins.clone().requires_grad_(True)
    march(case.prepared("auto"), origins, directions, case.draws, 64).features.sum().backward()
    assert origins.grad is not None
    assert origins.grad.abs().sum() > 0


@pytest.mark.parametrize("samples", [(MOST_SAMPLES + 1, 4), (4, MOST_SAMPLES + 1)])
def test_more_samples_than_there_is_room_for_run_on_the_reference(samples: tuple[int, int]) -> None:
    case = Case(samples=samples[0], fine=samples[1], rays=2)
    assert case.prepared("auto").texels is None
    assert case.marched("auto").features.isfinite().all()
    with pytest.raises(RendererError, match="at most 256 samples"):
        case.prepared("native")
