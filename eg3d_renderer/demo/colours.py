"""Colours, patterns and noise on vectors.

Light is added up in linear colours, taken as the square of what the image shows (gamma 2): `paint`
and `ramp` give linear colours [3, 1], `show` goes back.
"""

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor


def paint(code: str, like: Tensor) -> Tensor:
    """The linear colour [3, 1] of "#rrggbb", on the device of `like`."""
    return linear([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], like)


def ramp(codes: Sequence[str], at: float, like: Tensor) -> Tensor:
    """The colour [3, 1] at -1 to 1 along a row of colours, between neighbours mixed."""
    place = min(max((at + 1) / 2, 0.0), 1.0) * (len(codes) - 1)
    first = min(int(place), len(codes) - 2)
    return mix(paint(codes[first], like), paint(codes[first + 1], like), place - first)


def hsv(hue: float, saturation: float, value: float, like: Tensor) -> Tensor:
    """The linear colour [3, 1] of a cyclic hue, and a saturation and value from 0 to 1."""
    saturation, value = (min(max(v, 0.0), 1.0) for v in (saturation, value))
    return linear(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), like)


def linear(rgb: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor([[c * c] for c in rgb], dtype=torch.float32, device=like.device)


def mix(below: Tensor, above: Tensor, amount: Tensor | float) -> Tensor:
    """`below` where the amount is 0, `above` where it is 1."""
    return below + (above - below) * amount


def show(rgb: Tensor) -> Tensor:
    """Linear colours -> what the image shows, in [0, 1]."""
    return rgb.clamp(0, 1).sqrt_()


def ease(v: Tensor, low: float, high: float) -> Tensor:
    """Smooth step: 0 below `low`, 1 above `high` (or the other way round)."""
    t = ((v - low) * (1 / (high - low))).clamp_(0, 1)
    return t * t * (3 - 2 * t)


def spot(
    x: Tensor, y: Tensor, z: Tensor, centre: tuple[float, float, float], radius: float
) -> Tensor:
    """A soft round spot in space: 1 in its centre, about 0 from `radius` on."""
    square = (x - centre[0]).square_()
    square.add_((y - centre[1]).square_()).add_((z - centre[2]).square_())
    return (1 - square * (1 / radius**2)).clamp_(0, 1).square_()


def noise(x: Tensor, y: Tensor, z: Tensor, frequency: float, seed: float = 0.0) -> Tensor:
    """Smooth solid noise in about [-1, 1]: two octaves of products of bent sines."""
    total = torch.zeros_like(x)
    for octave, weight in ((1.0, 0.65), (2.17, 0.35)):
        f = frequency * octave
        a, b, c = x * f + 1.7 * seed, y * f + 2.3 * seed + 1.1, z * f + 3.1 * seed + 2.4
        bent_a, bent_b, bent_c = a + 1.3 * b.sin(), b + 1.3 * c.sin(), c + 1.3 * a.sin()
        total += weight * (bent_a.sin() + bent_b.sin() + bent_c.sin()).mul_(0.55)
    return total
