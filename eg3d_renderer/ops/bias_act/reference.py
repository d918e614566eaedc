"""Bias, activation, gain and clamp in one call."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Activation(NamedTuple):
    function: Callable[[Tensor, float], Tensor]  # of x and alpha
    gain: float = 1.0  # keeps the second moment of a normal input
    alpha: float = 0.0


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x),
    "relu": Activation(lambda x, _: F.relu(x), math.sqrt(2)),
    "lrelu": Activation(F.leaky_relu, math.sqrt(2), 0.2),
    "tanh": Activation(lambda x, _: torch.tanh(x)),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x)),
    "elu": Activation(lambda x, _: F.elu(x)),
    "selu": Activation(lambda x, _: F.selu(x)),
    "softplus": Activation(lambda x, _: F.softplus(x)),
    "swish": Activation(lambda x, _: torch.sigmoid(x) * x, math.sqrt(2)),
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "linear",
    *,
    dim: int = 1,
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(act(x + bias) * gain, -clamp, clamp).

    `bias` [x.shape[dim]] is added along `dim`; `act` is a key of ACTIVATIONS, whose own `alpha` and
    `gain` hold where none is given. Returns the shape and dtype of `x`.
    """
    if bias is not None:
        assert bias.shape == (x.shape[dim],), f"bias {list(bias.shape)}, x {list(x.shape)}"
        x = x + bias.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    kind = ACTIVATIONS[act]
    x = kind.function(x, kind.alpha if alpha is None else alpha)
    gain = kind.gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
