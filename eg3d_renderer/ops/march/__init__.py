"""Rays through one identity's planes: sampling, decoder, importance, compositing, in one pass.

The native kernels read each texel from the cache, decode in registers and keep what they know of a
ray's samples in a few KB beside the processor; the reference writes every sample's features to
memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.marching.depths import Draws
from eg3d_renderer.marching.planes import Axes
from eg3d_renderer.networks.decoder import FEATURES, Decoder
from eg3d_renderer.ops import native
from eg3d_renderer.ops.march.reference import (
    Field,
    Marched,
    Settings,
    march_view,
    ray_limits,
)

KINDS = ("triplane", "trigrid", "spherical")
ACTIVATIONS = ("none", "sigmoid", "lrelu")
MOST_SAMPLES = 256  # of a ray, coarse and fine each, that the kernels have room for

native.define(
    "march(Tensor texels, int[] layout, int[] axes, float[] signs, float scale, Tensor? weight1,"
    " Tensor bias1, Tensor weight2, Tensor bias2, int activation, float[] limits,"
    " Tensor origins, Tensor directions, Tensor start, Tensor end, Tensor coarse, Tensor fine,"
    " int samples, int fine_samples, int[] flags, int threads, str isa, Tensor(a!) features,"
    " Tensor(b!) depth, Tensor(c!) opacity, Tensor(d!) nearest, Tensor(e!) farthest) -> ()"
)


class Limits(NamedTuple):
    """Densities that are left out of the picture; see marching.density. None: all is in."""

    crop: float | None = None  # |x| and |z| in world units
    cull: float | None = None
    binarize: float | None = None


class Texels(NamedTuple):
    """An identity as the kernels read it."""

    values: Tensor  # [planes, H, W, depth, 64 premixed, or 32 in half precision]
    kind: int  # index in KINDS
    axes: list[int]  # of each plane's width, height and depth: which coordinate
    signs: list[float]
    weight1: Tensor | None  # [64, 32], a third of the decoder's first layer; None: premixed
    bias1: Tensor  # [64]
    weight2: Tensor  # [33, 64]
    bias2: Tensor  # [33]
    activation: int  # index in ACTIVATIONS
    limits: Limits


class Scene(NamedTuple):
    """One identity, ready to be marched any number of times."""

    field: Field
    settings: Settings
    texels: Texels | None  # None: the reference marches it


def prepare(
    field: Field,
    settings: Settings,
    planes: Tensor,
    kind: str,
    axes: Axes,
    decoder: Decoder,
    limits: Limits,
    *,
    precision: str = "exact",
    impl: str = "auto",
) -> Scene:
    """What `march` needs of an identity, once.

    `planes` as `field` samples them: "triplane" [3, 32, H, W], "trigrid" [3, depth * 32, H, W]
    slice by slice, "spherical" [2, 3, 32, H, W]. `precision` "exact" marches in float32, "fast"
    reads texels in half precision, on a GPU through its tensor cores. The reference takes over,
    unless `impl` forbids it, where gradients are wanted or the kernels cannot be had.
    """
    fits = max(settings.samples, settings.fine_samples) <= MOST_SAMPLES
    if not fits and native.resolve(impl) == "native":
        raise RendererError(f"march: the kernels take at most {MOST_SAMPLES} samples of a kind")
    tensors = (planes, *decoder.parameters())
    if not native.use("march", impl if fits else "reference", *tensors):
        return Scene(field, settings, None)
    weight1, bias1, weight2, bias2 = decoder.layers()
    texels = planes.movedim(-3, -1)  # [..., H, W, depth * 32]
    height, width, channels = texels.shape[-3:]
    texels = texels.reshape(-1, height, width, channels // FEATURES, FEATURES)
    weight1 = weight1 / 3  # the planes' mean
    half = precision == "fast"
    if half and planes.is_cuda:
        texels = texels.to(torch.float16).contiguous()
    else:
        texels = texels.contiguous() @ weight1.T  # the first layer is linear, as the sampling is
        texels = texels.to(torch.float16) if half else texels
    flat = [axis for frame in axes for axis in frame]
    return Scene(
        field,
        settings,
        Texels(
            texels,
            KINDS.index(kind),
            [max(range(3), key=lambda i: abs(axis[i])) for axis in flat],
            [float(sum(axis)) for axis in flat],
            weight1.contiguous() if half and planes.is_cuda else None,
            bias1.contiguous(),
            weight2.contiguous(),
            bias2.contiguous(),
            ACTIVATIONS.index(decoder.activation),
            limits,
        ),
    )


def march(scene: Scene, origins: Tensor, directions: Tensor, draws: Draws, chunk: int) -> Marched:
    """The rays [M, 3] of one view; depth is clamped over the view as a whole.

    The reference takes `chunk` rays at a time, the kernels all of them.
    """
    if scene.texels is None or (torch.is_grad_enabled() and origins.requires_grad):
        return march_view(scene.field, origins, directions, scene.settings, draws, chunk)
    t, s, rays = scene.texels, scene.settings, len(origins)
    if origins.device != t.values.device:
        raise RendererError(f"march: rays on {origins.device}, texels on {t.values.device}")
    start, end = ray_limits(origins, directions, s)
    features = origins.new_empty(rays, FEATURES)
    depth, opacity, nearest, farthest = (origins.new_empty(rays) for _ in range(4))
    height, width, depth_slices = t.values.shape[1:4]
    torch.ops.diffstyle360.march(
        t.values,
        [t.kind, height, width, depth_slices],
        t.axes,
        t.signs,
        2 / s.box,
        t.weight1,
        t.bias1,
        t.weight2,
        t.bias2,
        t.activation,
        [
            float("inf") if t.limits.crop is None else t.limits.crop,
            -1.0 if t.limits.cull is None else t.limits.cull,
            -1.0 if t.limits.binarize is None else t.limits.binarize,
        ],
        origins.contiguous(),
        directions.contiguous(),
        start.contiguous(),
        end.contiguous(),
        draws.coarse.contiguous(),
        draws.fine.contiguous(),
        s.samples,
        s.fine_samples,
        [s.disparity, s.white_back, s.signed],
        native.launch_argument(origins),
        native.isa(),
        features,
        depth,
        opacity,
        nearest,
        farthest,
    )
    if rays:
        depth = depth.clamp(nearest.min(), farthest.max())
    return Marched(features, depth, opacity)
