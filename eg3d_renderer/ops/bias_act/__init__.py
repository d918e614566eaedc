"""Bias, activation, gain and clamp in one call, and in one pass over memory."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eg3d_renderer.ops import native
from eg3d_renderer.ops.bias_act import reference
from eg3d_renderer.ops.bias_act.reference import ACTIVATIONS, Activation

__all__ = ["ACTIVATIONS", "Activation", "bias_act"]

# out: y, or the gradient by x where dy is given; number i of x has bias[i // step % len(bias)]
native.define(
    "bias_act(Tensor(a!) out, Tensor x, Tensor? bias, Tensor? dy, int step, int activation,"
    " float alpha, float gain, float clamp, int launch, str isa) -> ()"
)


class _Settings(NamedTuple):
    act: str
    dim: int
    alpha: float
    gain: float
    clamp: float | None


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "linear",
    *,
    dim: int = 1,
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """clamp(act(x + bias) * gain, -clamp, clamp).

    `bias` [x.shape[dim]] is added along `dim`; `act` is a key of ACTIVATIONS, whose own `alpha` and
    `gain` hold where none is given. Returns the shape and dtype of `x`. `impl` is "auto", "native"
    or "reference"; all orders of gradients are there for each.
    """
    kind = ACTIVATIONS[act]
    settings = _Settings(
        act, dim, kind.alpha if alpha is None else alpha, kind.gain if gain is None else gain, clamp
    )
    if not native.use("bias_act", impl, *(t for t in (x, bias) if t is not None)):
        return reference.bias_act(x, bias, **settings._asdict())
    if bias is not None:
        assert bias.shape == (x.shape[dim],), f"bias {list(bias.shape)}, x {list(x.shape)}"
        bias = bias.to(x.dtype)
    return _BiasAct.apply(x, bias, settings)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.settings = settings
        return _run(x, bias, None, settings)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # of higher order: autograd knows the reference
            y = reference.bias_act(x, bias, **ctx.settings._asdict())
            wanted = [t for t in (x, bias) if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
            dx, db = (next(found) if needed else None for needed in ctx.needs_input_grad[:2])
            return dx, db, None
        dx = _run(x, bias, dy, ctx.settings)
        others = [i for i in range(x.ndim) if i != ctx.settings.dim]
        db = dx.sum(others) if ctx.needs_input_grad[1] and others else dx
        return dx, db if ctx.needs_input_grad[1] else None, None


def _run(x: Tensor, bias: Tensor | None, dy: Tensor | None, settings: _Settings) -> Tensor:
    """y, or with `dy` the gradient by x; in the memory format of x."""
    if not x.is_contiguous() and not (
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ):
        x = x.contiguous()
    out = torch.empty_like(x)
    if dy is not None and dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    step = 1
    if bias is not None:
        bias, step = bias.contiguous(), x.stride(settings.dim) if len(bias) > 1 else 1
        if x.device.type == "cpu" and step < 64:  # a pattern, long enough for vectors
            period = max(step * len(bias), 1)
            bias, step = bias.repeat_interleave(step).repeat(-(-256 // period)), 1
    torch.ops.diffstyle360.bias_act(
        out,
        x,
        bias,
        dy,
        step,
        list(ACTIVATIONS).index(settings.act),
        settings.alpha,
        settings.gain,
        -1.0 if settings.clamp is None else settings.clamp,
        native.launch_argument(x),
        native.isa(),
    )
    return out
