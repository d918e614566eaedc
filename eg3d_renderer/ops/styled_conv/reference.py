"""The StyleGAN2 layer in plain PyTorch: differentiable, any device and dtype."""

from torch import Tensor

from eg3d_renderer.ops.bias_act import bias_act
from eg3d_renderer.ops.convolution import modulated_conv2d


def styled_conv(
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    f: Tensor,
    up: int,
    clamp: float | None,
) -> Tensor:
    """x [N, I, H, W], weights [N or 1, O, I, 3, 3] -> [N, O, H * up, W * up], dtype of `x`.

    bias [O], noise [H * up, W * up], f [4, 4].
    """
    check_shapes(x, weights, bias, noise, f, up)
    # an upsampling layer convolves truly, the others correlate: so the weights were trained
    y = modulated_conv2d(x, weights, f, up=up, padding=1, flip_weight=up == 1)
    if noise is not None:
        y = y + noise.to(y.dtype)
    return bias_act(y, bias, "lrelu", clamp=clamp)


def check_shapes(
    x: Tensor, weights: Tensor, bias: Tensor, noise: Tensor | None, f: Tensor, up: int
) -> None:
    """Raises AssertionError, which says what does not fit what."""
    check_weights(weights, f, up)
    assert x.ndim == 4, f"x {list(x.shape)} is not [N, I, H, W]"
    n, inputs, height, width = x.shape
    sets, outputs = weights.shape[:2]
    assert weights.shape[2] == inputs, f"x {list(x.shape)}, weights {list(weights.shape)}"
    assert sets in (1, n), f"{sets} weights for {n} images"
    assert height * width > 0, f"x {list(x.shape)} has no pixels"
    assert bias.shape == (outputs,), f"bias {list(bias.shape)}, weights {list(weights.shape)}"
    if noise is not None:
        wanted = (height * up, width * up)
        assert noise.shape == wanted, f"noise {list(noise.shape)} is not {list(wanted)}"


def check_weights(weights: Tensor, f: Tensor, up: int) -> None:
    """Raises AssertionError for what no layer has."""
    shape = list(weights.shape)
    assert shape == [*shape[:3], 3, 3], f"weights {shape} are not [N, O, I, 3, 3]"
    assert min(shape[1:3]) > 0, f"weights {shape} without channels"
    assert f.shape == (4, 4), f"filter {list(f.shape)} is not [4, 4]"
    assert up in (1, 2), f"up: {up} is neither 1 nor 2"
