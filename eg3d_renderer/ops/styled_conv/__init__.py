"""A layer of StyleGAN2 in one pass: modulated 3x3 convolution, noise, bias, leaky ReLU, clamp.

reference   plain PyTorch
kernel.cpp  Winograd's convolution for CPUs; an upsampling layer's filter costs it nothing
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.styled_conv import reference

native.define(
    "styled_conv_prepare(Tensor weights, Tensor f, int up, bool fast, int threads, str isa)"
    " -> Tensor"
)
native.define(
    "styled_conv(Tensor x, Tensor packed, Tensor bias, Tensor? noise, int up, float? clamp,"
    " Tensor(a!) out, int threads, str isa) -> ()"
)


class Prepared(NamedTuple):
    """The weights of a layer, made ready once for many images."""

    weights: Tensor  # of `modulate`, [N or 1, O, I, 3, 3]
    f: Tensor  # [4, 4]
    up: int
    packed: Tensor | None  # as the kernels take them, [N or 1, any]; None where there are none
    isa: str  # of the kernels


def check_precision(precision: str) -> None:
    """Raises RendererError for what is neither "exact" nor "fast"."""
    if precision not in ("exact", "fast"):
        raise RendererError(f"precision: {precision!r} is neither 'exact' nor 'fast'")


def prepare(
    weights: Tensor,
    f: Tensor,
    up: int,
    precision: str = "exact",
    impl: str = "auto",
) -> Prepared:
    """What `styled_conv` needs of a layer's weights, to give to it in their place.

    weights [N or 1, O, I, 3, 3] of `modulate`, f [4, 4] the filter of an upsampling layer (`up` 2).
    "fast" rounds the factors of all products to bfloat16 where the processor multiplies such; an
    error of about 1 % of the output's spread. Elsewhere it is "exact", float32.
    """
    reference.check_weights(weights, f, up)
    check_precision(precision)
    fits = weights.dtype == torch.float32
    if impl == "native" and not fits:
        raise RendererError(f"styled_conv: there is no kernel for weights of {weights.dtype}")
    packed = None
    if native.use("styled_conv", impl, weights) and fits:
        packed = torch.ops.diffstyle360.styled_conv_prepare(
            weights.detach().contiguous(),
            f.float().contiguous(),
            up,
            precision == "fast",
            native.launch_argument(weights),
            native.isa(),
        )
    return Prepared(weights, f, up, packed, native.isa())


def styled_conv(
    x: Tensor,
    weights: Tensor | Prepared,
    bias: Tensor,
    noise: Tensor | None,
    f: Tensor,
    up: int,
    clamp: float | None,
    impl: str = "auto",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """clamp(lrelu(conv(x) + noise + bias) * sqrt(2), -clamp, clamp), the image `up` times as large.

    x [N, I, H, W]; weights [N or 1, O, I, 3, 3] of `modulate`, or of `prepare` with the same `f`
    and `up`; bias [O]; noise [H * up, W * up] or None, times its strength; f [4, 4]. Returns
    [N, O, H * up, W * up] of `dtype`; by default bfloat16 for weights that were prepared "fast" on
    a processor that multiplies such, else the dtype of `x`. Native results are channels-last in
    memory. An image's result does not depend on the others, nor on the number of threads. A NaN
    among the inputs makes NaN of all pixels in the 4x4 tiles that it reaches, an infinity may.

    `impl` "auto" runs the kernels where they are and pay, "native" always, "reference" never.
    """
    ready = weights if isinstance(weights, Prepared) else None
    plain = weights if isinstance(weights, Tensor) else weights.weights
    reference.check_shapes(x, plain, bias, noise, f, up)
    assert ready is None or ready.up == up, f"prepared for up {ready.up}, not {up}"
    if not _runs_native(x, plain, ready, bias, noise, up, impl):
        y = reference.styled_conv(x, plain, bias, noise, f, up, clamp)
        return y if dtype is None else y.to(dtype)
    if ready is None or ready.packed is None:
        ready = prepare(plain, f, up, impl="native")
    assert ready.packed is not None
    half = ready.packed.dtype == torch.bfloat16
    computed = torch.bfloat16 if half and dtype in (None, torch.bfloat16) else torch.float32
    rows = x.permute(0, 2, 3, 1)  # [N, H, W, I]
    rows = (rows if half else rows.float()).contiguous()
    n, height, width, _ = rows.shape
    out = torch.empty(n, height * up, width * up, plain.shape[1], dtype=computed)
    torch.ops.diffstyle360.styled_conv(
        rows,
        ready.packed,
        bias.float().contiguous(),
        None if noise is None else noise.float().contiguous(),
        up,
        clamp,
        out,
        native.launch_argument(x),
        ready.isa,
    )
    return out.permute(0, 3, 1, 2).to(dtype or (computed if half else x.dtype))


def _runs_native(
    x: Tensor,
    weights: Tensor,
    ready: Prepared | None,
    bias: Tensor,
    noise: Tensor | None,
    up: int,
    impl: str,
) -> bool:
    if native.resolve(impl) == "auto":
        if not _pays(x, up, ready):
            return False
        if ready is None and x.dtype != torch.float32:
            return False  # who asks for another precision gets it
        if ready is not None and ready.packed is None:
            return False
    return native.use("styled_conv", impl, x, weights, bias, *([] if noise is None else [noise]))


def _pays(x: Tensor, up: int, ready: Prepared | None) -> bool:
    """Are the kernels faster than PyTorch here? As measured on 2 cores with AVX-512.

    Upsampling they multiply as often as the transposed convolution does, and gain by the filter
    alone unless in bfloat16; their weights are 16 times as large, so that few pixels do not pay for
    making or reading them.
    """
    pixels = x.shape[2] * x.shape[3]
    if up == 1:
        return pixels >= (16 * 16 if ready is None else 8 * 8)
    half = ready is not None and ready.packed is not None and ready.packed.dtype == torch.bfloat16
    return pixels >= (32 * 32 if half else 128 * 128)
